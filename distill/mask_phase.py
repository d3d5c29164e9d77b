"""The part of a run that is trained with masks, and the step to the smaller, ordinary student.

OUT/stages/1-masks is a run of its own over the schedule's first `masks.steps` steps. Its end is
folded: the smaller student goes to OUT/stages/2-folded, and with AdamW's moments, cut as the
weights are, it becomes the ordinary checkpoint OUT/checkpoints/step-N from which the run goes on.
Everything between is a function of the masked run's last checkpoint, so a run that is killed
anywhere goes on to the same bits.
"""

import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from distill.checkpoint import newest_checkpoint, save_checkpoint
from distill.config import RunConfig
from distill.feeding import numbered_samples, teacher_dims
from distill.fit_result import FitResult
from distill.mask_learning import MaskLearner
from distill.mask_report import SIZES_FILE, found_sizes, sizes_table
from distill.preparing import accelerator_for
from distill.run_log import write_json
from distill.standardizing import standards_of_run
from distill.stepping import Stepper
from distill.trainer import fit
from reinforced_data import ReinforcedDataset
from students import Student, load_student
from students.inheritance import Annotation, annotate
from students.masks import Masks, Size, fold, shrunk_student, sizes_of
from students.masks.costs import Cost, latency_cost, latency_features, parameter_cost
from students.masks.families import unmasked_towers
from students.masks.folding import check_foldable, write_masks
from students.masks.moments import carry_moments
from students.profiling import latency_ms

# How many sizes a latency model is fitted to, and calls of each.
_MEASURED, _CALLS = 12, 7


def shrink(
    student: Student, dataset: ReinforcedDataset, config: RunConfig, *, show: bool
) -> Student:
    """Train with masks as far as that goes, fold, and return the student that the run goes on with.

    Raises:
        ValueError: no folder to keep both parts in, or no size of the student can shrink.
    """
    if not config.out:
        raise ValueError("masks.keep trains in two parts, which need a folder: give out")
    out = Path(config.out)
    masked, smaller = out / "stages" / "1-masks", out / "stages" / "2-folded"
    if newest_checkpoint(out / "checkpoints") is not None:
        return load_student(smaller)
    # A moving average of what is still shrinking is of no use; compiled towers cannot be folded.
    first = replace(config, out=str(masked), ema_decay=None, compile=False)
    annotation = annotate(student)
    sizes = sizes_of(
        student, annotation, towers=config.masks.towers, smallest=config.masks.smallest
    )
    check_foldable(student, annotation, sizes)
    says = show and accelerator_for(config.precision).is_main_process
    if says:
        _say_what_stays(student, annotation, config)
    cost = _cost(student, annotation, sizes, config, masked)
    _check_reach(cost, sizes, config)
    learner = MaskLearner(student, Masks(sizes, annotation), annotation, cost, config.masks)
    done = fit(student, dataset, first, show=show, learner=learner)
    _fold(student, annotation, learner, done, dataset, config, masked, smaller)
    if says:
        found = json.loads((smaller / SIZES_FILE).read_text())
        Console(stderr=True).print(sizes_table(found), highlight=False)
    return load_student(smaller)


def _say_what_stays(student: Student, annotation: Annotation, config: RunConfig) -> None:
    for tower, why in unmasked_towers(student, annotation).items():
        if tower in config.masks.towers:
            text = f"warning: masks leave the {tower} tower as it is: {why}"
            Console(stderr=True).print(text, style="yellow", markup=False)


def _check_reach(cost: Cost, sizes: tuple[Size, ...], config: RunConfig) -> None:
    """Refuse a share below what the smallest sizes leave, before anything is trained."""
    least = float(cost.of({size.name: size.least for size in sizes}))
    full = float(cost.of({size.name: size.total for size in sizes}))
    if least > config.masks.keep * full:
        raise ValueError(
            f"masks.keep={config.masks.keep:g} cannot be reached: at the smallest sizes "
            f"{least / full:.1%} of the {cost.unit} stay. Raise it, lower masks.smallest "
            f"({config.masks.smallest:g}), or let both towers shrink (masks.towers)"
        )


def _fold(
    student: Student,
    annotation: Annotation,
    learner: MaskLearner,
    done: FitResult,
    dataset: ReinforcedDataset,
    config: RunConfig,
    masked: Path,
    smaller: Path,
) -> None:
    """Write the full-size student, the smaller one, and the checkpoint to go on from."""
    kept = learner.sizes()
    folded = fold(student, learner.masks, kept, name=Path(config.out).name)
    accelerator = accelerator_for(config.precision)
    dims = teacher_dims(dataset, config)
    standards = standards_of_run(dataset, config, accelerator)
    count = numbered_samples(dataset, config)
    stepper = Stepper(folded.student, config, dims, accelerator, standards, num_samples=count)
    heads = (done.stepper.module.objective, stepper.module.objective)
    heads[1].load_state_dict(heads[0].state_dict())
    optimizers = (done.stepper.optimizer, stepper.optimizer)
    for one, two in zip(heads[0].parameters(), heads[1].parameters(), strict=True):
        optimizers[1].state[two].update(optimizers[0].state[one])
    modules = (student.module, folded.student.module)
    large, small = (dict(module.named_parameters()) for module in modules)
    carry_moments(folded.plan, (optimizers[0], large), (optimizers[1], small))
    stepper.restore()
    if accelerator.is_main_process:
        student.save(masked)
        write_masks(masked, learner.masks, kept)
        folded.student.save(smaller)
        found = found_sizes(student, folded.student, annotation, learner.masks.sizes, kept)
        write_json(smaller / SIZES_FILE, found)
        # Last: what is there once this is there is whole.
        extra = {"refused": done.refused, "watch": done.stepper.watch.as_json()}
        folder = Path(config.out) / "checkpoints"
        save_checkpoint(folder, done.steps, stepper.modules(), stepper.optimizer, extra)
    accelerator.wait_for_everyone()


def _cost(
    student: Student,
    annotation: Annotation,
    sizes: tuple[Size, ...],
    config: RunConfig,
    folder: Path,
) -> Cost:
    """What the sizes cost; a measured cost is measured once a run."""
    if config.masks.cost == "parameters":
        return parameter_cost(annotation, sizes)
    path = folder / "cost.json"
    accelerator = accelerator_for(config.precision)
    if accelerator.is_main_process and not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, measured_cost(student, annotation, sizes, config.seed).as_json())
    accelerator.wait_for_everyone()
    return Cost.from_json(json.loads(path.read_text()))


def measured_cost(
    student: Student,
    annotation: Annotation,
    sizes: tuple[Size, ...],
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> Cost:
    """Time students of drawn sizes, one picture and one text, and fit the linear model.

    Args:
        student: not masked.
        annotation: of the student.
        sizes: that may shrink.
        seed: of the drawn sizes.
        clock: in seconds; the processor's own time where other programs disturb.
    """
    drawn = random.Random(seed)
    state = torch.get_rng_state()
    measured: list[tuple[dict[str, int], float]] = []
    for number in range(_MEASURED):
        # The first is the student itself, the second the smallest.
        asked = {
            size.name: drawn.randrange(size.least, size.total + 1, size.step)
            if number > 1
            else (size.least if number else size.total)
            for size in sizes
        }
        small = shrunk_student(student, asked).to(student.device).eval()
        measured.append((asked, pair_ms(small, clock)))
    torch.set_rng_state(state)
    assert statistics.fmean(ms for _, ms in measured) > 0
    return latency_cost(latency_features(annotation, sizes), measured)


def pair_ms(student: Student, clock: Callable[[], float] = time.perf_counter) -> float:
    """Milliseconds of one picture and one text."""
    side = student.preprocess.image_size
    pixels = torch.zeros(1, 3, side, side, device=student.device)
    tokens = student.tokenizer(["a"]).to(student.device)

    def once() -> None:
        with torch.inference_mode():
            student.encode_image(pixels)
            float(student.encode_text(tokens).sum())  # waits for a device

    return latency_ms(once, 2, _CALLS, clock)[0]
