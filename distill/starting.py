"""From a configuration alone to a finished run: build the student it names, then train.

What `distill train`, the demo and the ladder share. A run is a function of its `RunConfig`.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from distill.config import RunConfig, StudentConfig
from distill.inheriting import plan_from_data
from distill.locked_students import locked_width, without_locked_encoders
from distill.model_loading import load_model
from distill.recipes.demo import SPECS
from distill.same_run import check_same_run
from distill.stages import stage_configs
from distill.training import TrainResult, run, run_several
from reinforced_data import ReinforcedDataset, open_dataset
from students import (
    CATALOG,
    OpenClipSpec,
    Student,
    StudentSpec,
    apply_plan,
    build_student,
    load_student,
)
from students.student import CONFIG_FILE
from teachers import ClipModel, WordTokenizer


def train_from_config(config: RunConfig, *, show: bool = True) -> TrainResult:
    """Train what a configuration names, its stages first; finished stages stay as they are.

    Raises:
        ValueError: the configuration is not one of a run, or a stage's folder holds another.
    """
    *before, last = stage_configs(config)
    for stage in before:
        if (Path(stage.out) / "result.json").is_file():
            check_same_run(stage, Path(stage.out))
        else:
            _train_one(stage, show)
    return _train_one(last, show)


def _train_one(config: RunConfig, show: bool) -> TrainResult:
    """Open the store, build the student with `config.seed`, and train it."""
    dataset = open_dataset(config.data.store, config.data.view_set)
    return run(student_of(config, dataset), dataset, config, show=show)


def train_several(
    configs: Sequence[RunConfig],
    *,
    students: Sequence[Student] | None = None,
    show: bool = True,
) -> list[TrainResult]:
    """Train several students from one pass over a store: each batch is read and decoded once.

    Each run has the folder, log, checkpoints and result that it would have alone, on the CPU to the
    last bit; the same call resumes each of them.

    Args:
        configs: complete, each with a folder of its own. They must agree in what is read: store,
            batch, seed, steps, captions, teachers; and so must the students in the size of their
            pictures and in their tokenizer.
        students: built already, one for each; what each configuration names when None.
        show: draw a progress bar for each.

    Raises:
        DivergedError: a run diverged; the others are finished first.
        ValueError: what cannot share a pass, and in what it differs.
    """
    folders = [config.out for config in configs]
    stores = {config.data.store for config in configs}
    if len(configs) == 0 or len(set(folders)) < len(folders) or not all(folders):
        raise ValueError(f"each run needs a folder of its own in `out`, got {folders}")
    if len(stores) > 1:
        raise ValueError(f"one pass is over one store, got {', '.join(sorted(stores))}")
    dataset = open_dataset(configs[0].data.store, configs[0].data.view_set)
    built = students or [student_of(config, dataset) for config in configs]
    return run_several(built, dataset, configs, show=show)


def student_of(config: RunConfig, dataset: ReinforcedDataset) -> Student:
    """Build a configuration's student, without the encoders that the store stands for."""
    name, student = Path(config.out).name, None
    if len(config.lock.sides) < 2:
        width = locked_width(dataset, config)
        student = build_from_config(
            config.student, dataset, name=name, seed=config.seed, embed_dim=width
        )
    if student is not None and not config.lock.sides:
        return student
    named = replace(config, student=replace(config.student, name=name))
    return without_locked_encoders(student, dataset, named)


def build_from_config(
    config: StudentConfig,
    dataset: ReinforcedDataset,
    *,
    name: str | None = None,
    seed: int = 0,
    embed_dim: int | None = None,
) -> Student:
    """Build the student that a configuration names, with a donor's weights when it says so.

    `embed_dim` replaces the width of its embeddings, unless it has trained weights.

    The small demo students read words; their vocabulary comes from the donor, or from the
    captions of `dataset`. Equal seeds give equal image towers, with and without a donor.
    """
    if (Path(config.name) / CONFIG_FILE).is_file():
        for field in ("text_from", "donor"):
            given = getattr(config, field)
            if given:
                raise ValueError(
                    f"student.{field}={given!r} would replace the weights of the trained student "
                    f"{config.name!r}; give one of the two"
                )
        return load_student(config.name)
    if config.text_from and config.donor:
        raise ValueError(
            f"student.text_from={config.text_from!r} and student.donor={config.donor!r}: a donor "
            "gives both towers; give one of the two"
        )
    donor: ClipModel | None = load_student(config.text_from) if config.text_from else None
    if config.donor:
        donor = load_model(config.donor)
    # With both towers the student keeps a tokenizer of its own: shared tokens are inherited.
    tokenizer = donor.tokenizer if donor is not None and config.text_from else None
    # After the donor is loaded: that draws random weights too.
    torch.manual_seed(seed)
    what = _of_width(config.name, embed_dim)
    if config.name in SPECS:
        length = SPECS[config.name].text.context_length
        tokenizer = tokenizer or WordTokenizer.fit(list(dataset.captions()), context_length=length)
    student = build_student(what, tokenizer=tokenizer, name=name or config.name, kind=config.kind)
    if donor is not None:
        plan = plan_from_data(
            student,
            donor,
            selector=config.selector,
            depth=config.depth,
            towers=("text",) if config.text_from else ("image", "text"),
            data=dataset.path,
            folder=config.donor or "",
        )
        apply_plan(plan, student, donor)
    return student


def _of_width(name: str, embed_dim: int | None) -> str | StudentSpec | OpenClipSpec:
    """A student's specification with another width; a name where nothing has to change."""
    if name in SPECS:
        spec = SPECS[name]
    elif name in CATALOG:
        spec = CATALOG[name].build
    else:
        spec = name
    if embed_dim is None or "/" in name:  # published weights have the width that they have
        return SPECS.get(name, name)
    if isinstance(spec, str):
        spec = OpenClipSpec(model=spec)
    return replace(spec, embed_dim=embed_dim)
