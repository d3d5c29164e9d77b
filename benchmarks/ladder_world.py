"""One data set of the ladder: splits, two teachers, the reinforced dataset."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ladder_rows import Place, Row
from rich.console import Console

from distill.config import RunConfig
from distill.demo.settings import DemoSettings, teacher_configs
from distill.launching import Reinforcement, launch
from distill.recipes.demo import GLYPH_VIEWS, teacher_precision
from distill.run_log import write_json
from distill.side_by_side import finished_result, train_side_by_side
from reinforced_data import caption, open_dataset, open_source, pack_glyphs
from reinforced_data.reinforce_work import ReinforceSettings
from reinforced_data.shard_writer import write_shards
from students import load_student
from teachers import load_teacher

# 100 epochs of emoji64's 6,900 pictures left for training, and what a new artist would vary. With
# the demo's four milder views the larger teacher had 38.1 instead of 39.2 % on held-out emoji64,
# both after 1,800 steps.
_OWN_TEACHER_STEPS = 2_700
# What half an hour on two cores bears, teachers and three students.
_QUICK_TEACHER_STEPS = 900
_OWN_TEACHER_VIEWS = replace(
    GLYPH_VIEWS,
    scale=(0.7, 1.0),
    ratio=(0.85, 1.18),
    num_ops=2,
    magnitude=0.25,
    operations=(*GLYPH_VIEWS.operations, "brightness", "contrast", "color"),
)

# A tenth of the picture or all of it: what DataCompDR's crops do (0.08), where a view says little
# of the others.
_CROPPED_VIEWS = {
    "num_views": 4,
    "policy": replace(GLYPH_VIEWS, scale=(0.1, 1.0), ratio=(0.75, 1.33)),
}


@dataclass(frozen=True, kw_only=True)
class World:
    """Where one data set's things are.

    Attributes:
        name: of its results (`results_name`).
        folder: where the rows' runs go.
        train: source shards that students and teachers learn from.
        store: the reinforced dataset.
        teachers: how they are trained; the first is the larger one.
        teacher_views: how views are drawn for them, in a store of their own.
        splits: what is evaluated; "validation" is what rates are chosen on.
    """

    name: str
    folder: Path
    train: str
    store: Path
    teachers: list[RunConfig]
    splits: dict[str, str]
    teacher_views: dict[str, Any]

    @property
    def teacher_folder(self) -> Path:
        """The larger teacher, whose text tower some rows take over."""
        return Path(self.teachers[0].out)

    def place(self, store: Path | None = None, teaching: float = 0.0) -> Place:
        """Where a row finds its things; another store than the usual one if given."""
        return Place(
            store=str(store or self.store),
            donor=self.teachers[0].out,
            other=self.teachers[-1].out,
            splits=self.splits,
            runs=self.folder,
            teaching=teaching,
            pictures=open_dataset(self.store).num_samples,
        )

    @property
    def held_out(self) -> list[str]:
        """The splits that are reported."""
        return [split for split in self.splits if split != "validation"]

    def teacher_results(self) -> list[dict]:
        """Scores of both teachers."""
        results = [finished_result(config) for config in self.teachers]
        return [result for result in results if result is not None]

    def prepare(self, processes: int, console: Console) -> None:
        """Train the teachers and write their knowledge down; what is there stays."""
        console.print(f"[bold]{self.name}: views and teachers[/]", highlight=False)
        views = Path(self.teachers[0].data.store)
        self._reinforce([], processes, console, store=views, **self.teacher_views)
        train_side_by_side(self.teachers, processes=processes, console=console)
        console.print(f"[bold]{self.name}: reinforcing[/]", highlight=False)
        self._reinforce(self._folders, processes, console)

    def store_with(self, codec: str, processes: int, console: Console) -> Path:
        """The reinforced dataset once more, its embeddings in another codec."""
        store = self.store.with_name(f"{self.store.name}-{codec}")
        larger, other = self._folders
        self._reinforce([larger], processes, console, store=store, codec=codec)
        codec = "pq96" if codec.startswith("pq") else codec  # 96 numbers: no other pq divides them
        self._reinforce([other], processes, console, store=store, codec=codec)
        return store

    def store_of_many_views(self, processes: int, console: Console) -> Path:
        """The reinforced dataset with sixteen views, drawn as the teachers' own were."""
        store = self.store.with_name(f"{self.store.name}-sixteen-views")
        many = {"store": store, **self.teacher_views, "num_views": 16}
        self._reinforce(self._folders, processes, console, **many)
        return store

    def write_captions(self) -> None:
        """Add two sets of captions by rules, one a picture, and the teachers' rows for them.

        With a single set "uniform" would be "mix"; with two it reads the source's a third of the
        time. Rows that read the source's alone stay what they are, to the last bit.
        """
        teachers = [
            load_teacher(load_student(folder), precision=teacher_precision())
            for folder in self._folders
        ]
        for seed in range(2):
            name = f"rules-{seed}"
            caption(self.store, "rules", name=name, num_captions=1, seed=seed, teachers=teachers)

    def store_of_cropped_views(self, processes: int, console: Console) -> Path:
        """The reinforced dataset with as many views, most of them of a part of the picture."""
        store = self.store.with_name(f"{self.store.name}-cropped-views")
        self._reinforce(self._folders, processes, console, store=store, **_CROPPED_VIEWS)
        return store

    def store_misreplayed(self, processes: int, console: Console, *, cropped: bool = False) -> Path:
        """A reinforced dataset with other views under the same embeddings.

        What a student sees then is the right picture, cropped and turned otherwise than what its
        teachers saw.
        """
        right = self.store_of_cropped_views(processes, console) if cropped else self.store
        store = right.with_name(f"{right.name}-misreplayed")
        if store.is_dir():
            return store
        others = right.with_name(f"{right.name}-other-views")
        drawn = _CROPPED_VIEWS if cropped else {}
        self._reinforce([], processes, console, store=others, seed=1, **drawn)
        partial = store.with_name(f"partial-{store.name}")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(right, partial)
        _take_views(others, partial)
        partial.rename(store)
        return store

    def store_attended(
        self,
        vit: Row,
        steps: int,
        processes: int,
        console: Console,
    ) -> Path:
        """The reinforced dataset once more, with what a ViT looks at, trained for that alone.

        The teachers are convolutional and have no attention to store.
        """
        scorer = self.folder / f"{steps}-steps" / "attention-teacher"
        config = replace(vit(self.place(), steps), out=str(scorer))
        train_side_by_side([config], processes=processes, console=console)
        store = self.store.with_name(f"{self.store.name}-attended-{steps}-steps")
        teachers = [*self._folders, scorer]
        self._reinforce(teachers, processes, console, store=store, attention=scorer.name)
        return store

    @property
    def _folders(self) -> list[Path]:
        return [Path(config.out) for config in self.teachers]

    def _reinforce(
        self, folders: list[Path], processes: int, console: Console, **changes: Any
    ) -> None:
        store = changes.pop("store", self.store)
        # Not the default codec: the rows of the committed tables are paired with these.
        usual = {"num_views": 4, "policy": GLYPH_VIEWS, "codec": "float16"}
        settings: dict[str, Any] = {**usual, **changes}
        work = Reinforcement(
            source=self.train,
            out=str(store),
            teachers=[str(folder) for folder in folders],
            precision=teacher_precision(),
            settings=ReinforceSettings(**settings),
        )
        launch(work, "processes", workers=processes, progress=not console.quiet)


def _take_views(others: Path, store: Path) -> None:
    """Put another store's views in the place of this one's."""
    (own,) = (store / "commits").glob("views-*")
    (other,) = (others / "commits").glob("views-*")
    for path in other.glob("*.json"):
        commit = json.loads(path.read_text())
        data = commit["data"].replace(other.name, own.name)
        shutil.copyfile(others / commit["data"], store / data)
        commit |= {"column": own.name, "data": data}
        commit.pop("checksum", None)  # of what it said before
        write_json(own / path.name, commit)


def results_name(data: str) -> str:
    """Name a data set's table: its teachers are others where the processor has no bf16.

    Rows are paired with rows of the same teachers only: two tables, never one.
    """
    return data if teacher_precision() == "bf16" else f"{data}-{teacher_precision()}"


def glyphs(out: Path) -> World:
    """The embedded default, with the demo's own teachers."""
    settings = DemoSettings()
    paths = pack_glyphs(settings.glyphs)
    splits = ("validation", "unseen_pairs", "unseen_characters")
    return World(
        name=results_name("glyphs"),
        folder=out / "glyphs",
        train=str(paths["train"]),
        store=out / "glyphs" / "reinforced",
        teachers=teacher_configs(settings),
        splits={split: str(paths[split]) for split in splits},
        teacher_views={"num_views": settings.num_views, "policy": GLYPH_VIEWS},
    )


def own_source(data: str, out: Path, *, quick: bool = False) -> World:
    """A folder with `train` and `heldout` shards; a tenth of train becomes validation.

    A quick one has teachers of a third of the steps, in a folder of its own.

    Of a sample's captions the first is kept, in every split: where the others are lists of
    keywords (emoji64), the ladder's text towers of twelve tokens cut them off, and a teacher that
    learns from all three has 28 % zero-shot top-1 instead of 34 % after fewer steps.
    """
    source = Path(data)
    for split in ("train", "heldout"):
        if not (source / split).is_dir():
            raise SystemExit(f"{source} has no folder {split!r} with shards in it")
    name = f"{source.name}-quick" if quick else source.name
    folder, parts = out / name, out / source.name / "source"
    _write_part(source / "train", parts / "validation", range(0, 10))
    _write_part(source / "train", parts / "train", range(10, 100))
    _write_part(source / "heldout", parts / "heldout", range(0, 100))
    splits = {split: str(parts / split) for split in ("validation", "heldout")}
    steps = _QUICK_TEACHER_STEPS if quick else _OWN_TEACHER_STEPS
    settings = DemoSettings(out=folder, teacher_steps=steps)
    views = str(folder / "teacher-views")
    teachers = [
        replace(config, evaluate_on=splits, data=replace(config.data, store=views))
        for config in teacher_configs(settings)
    ]
    return World(
        name=results_name(name),
        folder=folder,
        train=str(parts / "train"),
        store=settings.store,
        teachers=teachers,
        splits=splits,
        teacher_views={"num_views": 16, "policy": _OWN_TEACHER_VIEWS},
    )


def _write_part(source: Path, target: Path, part: range) -> None:
    """Copy samples whose key falls into a part of a hundred; the pictures' bytes stay."""
    if target.is_dir():
        return
    partial = target.with_name(f"partial-{target.name}")
    shutil.rmtree(partial, ignore_errors=True)
    write_shards(partial, _samples(source, part), samples_per_shard=1_000)
    partial.rename(target)


def _samples(source: Path, part: range) -> Iterator[dict]:
    for sample in open_source(source):
        if int(hashlib.sha256(sample.key.encode()).hexdigest()[:8], 16) % 100 in part:
            meta = json.dumps({"caption": sample.captions[0], "label": sample.label})
            yield {"__key__": sample.key, sample.extension: sample.image, "json": meta}
