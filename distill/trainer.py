"""The training loop, on Accelerate: one process, DDP or gloo on the CPU, the same code.

Batches are a function of (seed, step): a resumed run goes on where it stopped. What one step does
is `distill.stepping`.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from accelerate.utils import set_seed
from torch import Tensor

from distill.checkpoint import (
    load_checkpoint,
    newest_checkpoint,
    remove_old_checkpoints,
    save_checkpoint,
)
from distill.config import RunConfig, check_same_run
from distill.evaluation.splits import evaluate_splits
from distill.preparing import accelerator_for, restore_towers
from distill.run_log import RunLog, write_json
from distill.stepping import Stepper
from reinforced_data import ReinforcedDataset
from students import Student


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What the loop did.

    Attributes:
        student: the trained student (its moving average when there is one), in eval mode.
        metrics: of the last evaluation, `split/metric`.
        steps: optimizer steps in all, those before a resume included.
        seconds: of this call's training steps, evaluations left out.
        refused: samples left out, by reason.
        is_main_process: whether this process is the one that writes.
    """

    student: Student
    metrics: dict[str, float]
    steps: int
    seconds: float
    refused: dict[str, int]
    is_main_process: bool


def fit(
    student: Student, dataset: ReinforcedDataset, config: RunConfig, *, show: bool = True
) -> FitResult:
    """Train `student` in place as `config` says; resume from the newest checkpoint in its folder.

    Args:
        student: built, with donor weights already in it.
        dataset: an opened store; `config.data.store` is not looked at here.
        config: the whole run. An empty `out` writes nothing.
        show: draw a progress bar on the main process.
    """
    return _Fit(student, dataset, config, show=show).run()


class _Fit:
    """The parts of one run and the loop over them."""

    def __init__(
        self, student: Student, dataset: ReinforcedDataset, config: RunConfig, *, show: bool
    ) -> None:
        set_seed(config.seed)
        self.config, self.dataset, self.show = config, dataset, show
        self.accelerator = accelerator_for(config.precision)
        names = config.data.teachers
        self.teacher_names = () if not config.objective.needs_teachers else names
        stored = [] if self.teacher_names == () else list(dataset.teachers)
        if names is not None and stored:  # batches carry them in the order named
            known = {teacher.name: teacher for teacher in stored}
            stored = [known[name] for name in names if name in known]
        dims = [teacher.embed_dim for teacher in stored]
        self.student = student
        self.stepper = Stepper(student, config, dims, self.accelerator)
        self.folder = Path(config.out) if config.out else None
        self.refused: dict[str, int] = {}

    def run(self) -> FitResult:
        """Loop from the newest checkpoint, or from the start, to the last step."""
        first, total = self._resume(), self.config.schedule.num_steps
        main = self.accelerator.is_main_process
        with RunLog(
            self.folder if main else None,
            title=self.folder.name if self.folder else "train",
            num_steps=total,
            first_step=first,
            show=self.show and main,
        ) as log:
            clock = _Clock()
            for step, batch in enumerate(self._loader(first), start=first + 1):
                self._count(batch.refused)
                values = self.stepper.step(batch, step)
                log.advance(step)
                if step % self.config.log_every == 0 or step == total:
                    samples = (step - first) * self.config.data.batch_size
                    self._write(log, step, values, samples / clock.seconds())
                if self._due(step, self.config.save_every):
                    self._save(step)
                if self._due(step, self.config.evaluate_every) and step < total:
                    with clock.stopped():
                        self._evaluate(step, log)
            seconds = clock.seconds()
            restore_towers(self.student)
            if self.folder is not None and main:
                self.stepper.finished().save(self.folder)  # before anything after it can fail
            metrics = self._evaluate(total, log)
        return FitResult(
            student=self.stepper.finished(),
            metrics=metrics,
            steps=total,
            seconds=seconds,
            refused=self.refused,
            is_main_process=main,
        )

    def _due(self, step: int, every: int) -> bool:
        return every > 0 and step % every == 0

    def _loader(self, first: int):
        """Batches of this rank, from step `first` on."""
        config = self.config
        return self.dataset.loader(
            preprocess=self.student.preprocess,
            tokenizer=self.student.tokenizer,
            batch_size=config.data.batch_size,
            num_steps=config.schedule.num_steps,
            start_step=first,
            seed=config.seed,
            teachers=self.teacher_names,
            views=config.data.views,
            window_shards=config.data.window_shards,
            num_workers=config.data.num_workers,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )

    def _count(self, refused: dict[str, int]) -> None:
        for reason, count in refused.items():
            self.refused[reason] = self.refused.get(reason, 0) + count

    def _write(self, log: RunLog, step: int, values: dict[str, Tensor], speed: float) -> None:
        """Log one line; the only place that waits for the device."""
        scalars = {f"loss/{name}": float(value) for name, value in values.items()}
        scalars["learning_rate"] = self.stepper.optimizer.param_groups[0]["lr"]
        scalars["logit_scale"] = float(self.student.logit_scale.detach().exp())
        scalars["samples_per_second"] = speed
        note = f"loss {scalars['loss/total']:.3f}  {speed:,.0f} samples/s"
        log.write(step, scalars, note=note)

    def _evaluate(self, step: int, log: RunLog) -> dict[str, float]:
        """Run the evaluator on the main process over every split; others wait."""
        metrics: dict[str, float] = {}
        if self.accelerator.is_main_process:
            config = self.config
            metrics = evaluate_splits(
                self.stepper.finished(), config.evaluate_on, templates=config.templates
            )
            if metrics:
                log.write(step, metrics)
        self.accelerator.wait_for_everyone()
        return metrics

    def _save(self, step: int) -> None:
        """Checkpoint on the main process."""
        if self.folder is not None and self.accelerator.is_main_process:
            folder = self.folder / "checkpoints"
            save_checkpoint(folder, step, self.stepper.modules(), self.stepper.optimizer)
            remove_old_checkpoints(folder, self.config.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> int:
        """Load the newest checkpoint; return how many steps are done."""
        if self.folder is None:
            return 0
        newest = newest_checkpoint(self.folder / "checkpoints")
        if newest is not None:
            check_same_run(self.config, self.folder)
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "config.json", self.config.as_json())
        self.accelerator.wait_for_everyone()
        if newest is None:
            return 0
        return load_checkpoint(newest, self.stepper.modules(), self.stepper.optimizer)


class _Clock:
    """Seconds of training, evaluations left out."""

    def __init__(self) -> None:
        self._started, self._left_out = time.perf_counter(), 0.0

    def seconds(self) -> float:
        return time.perf_counter() - self._started - self._left_out

    @contextmanager
    def stopped(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._left_out += time.perf_counter() - began
