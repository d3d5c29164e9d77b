"""One data set of the ladder: splits, two teachers, the reinforced dataset."""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from distill.config import RunConfig
from distill.recipes.demo import GLYPH_VIEWS, demo_teacher
from distill.side_by_side import finished_result, train_side_by_side
from reinforced_data import open_source, pack_glyphs, reinforce
from reinforced_data.shard_writer import write_shards
from students import load_student
from teachers import load_teacher

_TEACHERS = {"teacher-a": "demo-teacher-large", "teacher-b": "demo-teacher-small"}


@dataclass(frozen=True, kw_only=True)
class World:
    """Where one data set's things are.

    Attributes:
        name: of the data set.
        folder: everything of it.
        train: source shards that students and teachers learn from.
        splits: what is evaluated; "validation" is what rates are chosen on.
        teacher_steps: training steps of each teacher.
    """

    name: str
    folder: Path
    train: str
    splits: dict[str, str]
    teacher_steps: int
    num_views: int = 4

    @property
    def store(self) -> Path:
        """The reinforced dataset."""
        return self.folder / "reinforced"

    @property
    def teacher_folder(self) -> Path:
        """The larger teacher, whose text tower some rows take over."""
        return self.folder / "teacher-a"

    @property
    def held_out(self) -> list[str]:
        """The splits that are reported."""
        return [split for split in self.splits if split != "validation"]

    def teacher_results(self) -> list[dict]:
        """Scores of both teachers."""
        results = [finished_result(config) for config in self.teacher_configs()]
        return [result for result in results if result is not None]

    def teacher_configs(self) -> list[RunConfig]:
        """How the teachers are trained."""
        configs = []
        for name, spec in _TEACHERS.items():
            config = demo_teacher(spec)
            schedule = replace(config.schedule, num_steps=self.teacher_steps)
            configs.append(
                replace(
                    config,
                    data=replace(config.data, store=str(self.store)),
                    schedule=schedule,
                    evaluate_on=self.splits,
                    out=str(self.folder / name),
                )
            )
        return configs

    def prepare(self, processes: int, console: Console) -> None:
        """Train the teachers and write their knowledge down; what is there stays."""
        console.print(f"[bold]{self.name}: views and teachers[/]", highlight=False)
        self._reinforce([])
        train_side_by_side(self.teacher_configs(), processes=processes, console=console)
        console.print(f"[bold]{self.name}: reinforcing[/]", highlight=False)
        self._reinforce([self.folder / name for name in _TEACHERS])

    def _reinforce(self, folders: list[Path]) -> None:
        reinforce(
            self.train,
            self.store,
            teachers=[load_teacher(load_student(folder)) for folder in folders],
            num_views=self.num_views,
            policy=GLYPH_VIEWS,
        )


def glyphs(out: Path) -> World:
    """The embedded default."""
    folder = out / "glyphs"
    paths = pack_glyphs(folder / "source")
    splits = ("validation", "unseen_pairs", "unseen_characters")
    return World(
        name="glyphs",
        folder=folder,
        train=str(paths["train"]),
        splits={split: str(paths[split]) for split in splits},
        teacher_steps=700,
    )


def own_source(data: str, out: Path) -> World:
    """A folder with `train` and `heldout` shards; a tenth of train becomes validation."""
    source = Path(data)
    for split in ("train", "heldout"):
        if not (source / split).is_dir():
            raise SystemExit(f"{source} has no folder {split!r} with shards in it")
    folder = out / source.name
    for split, part in (("validation", range(0, 10)), ("train", range(10, 100))):
        _write_part(source / "train", folder / "source" / split, part)
    return World(
        name=source.name,
        folder=folder,
        train=str(folder / "source" / "train"),
        splits={
            "validation": str(folder / "source" / "validation"),
            "heldout": str(source / "heldout"),
        },
        teacher_steps=1_200,
    )


def _write_part(source: Path, target: Path, part: range) -> None:
    """Copy the samples whose key falls into a part of a hundred; bytes stay as they are."""
    if target.is_dir():
        return
    partial = target.with_name(f"partial-{target.name}")
    shutil.rmtree(partial, ignore_errors=True)
    write_shards(partial, _samples(source, part), samples_per_shard=1_000)
    partial.rename(target)


def _samples(source: Path, part: range) -> Iterator[dict]:
    for sample in open_source(source):
        if int(hashlib.sha256(sample.key.encode()).hexdigest()[:8], 16) % 100 in part:
            meta = {"captions": list(sample.captions), "label": sample.label}
            yield {"__key__": sample.key, sample.extension: sample.image, "json": meta}
