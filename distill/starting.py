"""From a configuration alone to a finished run: build the student it names, then train.

What `distill train`, the demo and the ladder share. A run is a function of its `RunConfig`.
"""

from pathlib import Path

import torch

from distill.config import RunConfig, StudentConfig
from distill.recipes.demo import SPECS
from distill.training import TrainResult, run
from reinforced_data import ReinforcedDataset, open_dataset
from students import Student, build_student, load_student
from students.student import CONFIG_FILE
from students.text_transfer import copy_text_tower
from teachers import ClipModel, WordTokenizer


def train_from_config(config: RunConfig, *, show: bool = True) -> TrainResult:
    """Open the store, build the student with `config.seed`, and train it."""
    dataset = open_dataset(config.data.store)
    student = build_from_config(
        config.student, dataset, name=Path(config.out).name, seed=config.seed
    )
    return run(student, dataset, config, show=show)


def build_from_config(
    config: StudentConfig, dataset: ReinforcedDataset, *, name: str | None = None, seed: int = 0
) -> Student:
    """Build the student that a configuration names, with a donor's text tower when it says so.

    The small demo students read words; their vocabulary comes from the donor, or from the
    captions of `dataset`. Equal seeds give equal image towers, with and without a donor.
    """
    if (Path(config.name) / CONFIG_FILE).is_file():
        if config.text_from:
            raise ValueError(
                f"student.text_from={config.text_from!r} would replace the text tower of the "
                f"trained student {config.name!r}; give one of the two"
            )
        return load_student(config.name)
    donor: ClipModel | None = load_student(config.text_from) if config.text_from else None
    tokenizer = donor.tokenizer if donor is not None else None
    # After the donor is loaded: that draws random weights too.
    torch.manual_seed(seed)
    if config.name in SPECS:
        spec = SPECS[config.name]
        length = spec.text.context_length
        tokenizer = tokenizer or WordTokenizer.fit(list(dataset.captions()), context_length=length)
        student = build_student(
            spec, tokenizer=tokenizer, name=name or config.name, kind=config.kind
        )
    else:
        student = build_student(
            config.name, tokenizer=tokenizer, name=name or config.name, kind=config.kind
        )
    if donor is not None:
        copy_text_tower(student, donor)
    return student
