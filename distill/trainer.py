"""The training loop, on Accelerate: one process, DDP or gloo on the CPU, the same code.

Batches and dropout are functions of (seed, step): a resumed run goes on where it stopped. What one
step does is `distill.stepping`; what the processes of a run tell each other beside gradients (one
was told to stop, samples were refused) is said with every log line and checkpoint.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from accelerate.utils import set_seed
from torch import Tensor

from distill.checkpoint import (
    load_checkpoint,
    newest_checkpoint,
    remove_old_checkpoints,
    save_checkpoint,
)
from distill.clock import Clock
from distill.config import RunConfig, check_same_run
from distill.diverging import DivergedError, note_skipped, write_dump
from distill.evaluation.splits import evaluate_splits
from distill.feeding import batches, locked_rows, teacher_dims
from distill.fit_result import FitResult
from distill.health import Health
from distill.mask_learning import MaskLearner
from distill.preparing import accelerator_for
from distill.run_log import RunLog, write_json
from distill.standardizing import standards_of_run
from distill.stepping import Stepper
from distill.stopping import Stopped
from reinforced_data import Batch, ReinforcedDataset
from reinforced_data.stop_signals import StopSignals
from students import Student


def fit(
    student: Student,
    dataset: ReinforcedDataset,
    config: RunConfig,
    *,
    show: bool = True,
    learner: MaskLearner | None = None,
) -> FitResult:
    """Train `student` in place as `config` says; resume from the newest checkpoint in its folder.

    Args:
        student: built, with donor weights already in it.
        dataset: an opened store; `config.data.store` is not looked at here.
        config: the whole run. An empty `out` writes nothing.
        show: draw a progress bar on the main process.
        learner: of the masks in `student`: takes the steps with masks alone, and saves no student.

    Raises:
        DivergedError: too many bad steps in a row.
        Stopped: SIGTERM, SIGUSR1 or Ctrl-C came; the run is saved.
        ValueError: the folder cannot be written to or holds another run, or the data is unusable.
    """
    return _Fit(student, dataset, config, show=show, learner=learner).run()


class _Fit:
    """The parts of one run and the loop over them."""

    def __init__(
        self,
        student: Student,
        dataset: ReinforcedDataset,
        config: RunConfig,
        *,
        show: bool,
        learner: MaskLearner | None,
    ) -> None:
        set_seed(config.seed)
        self.config, self.dataset, self.show = config, dataset, show
        self.accelerator = accelerator_for(config.precision)
        self.student = student
        self.folder = Path(config.out) if config.out else None
        dims, rows = teacher_dims(dataset, config), locked_rows(dataset, config)
        standards = standards_of_run(dataset, config, self.accelerator)
        self.stepper = Stepper(student, config, dims, self.accelerator, standards, rows, learner)
        self.stepper.tokens.count(dataset)
        self.learner = learner
        self.last = config.masks.steps if learner is not None else config.schedule.num_steps
        self.refused = Counter[str]()  # over all processes, up to the last exchange
        self._refused_since = Counter[str]()  # by this process, since then
        self._saved_at = time.monotonic()
        self.health = Health(config.objective)

    def run(self) -> FitResult:
        """Loop from the newest checkpoint, or from the start, to the last step."""
        first, total = self._resume(), self.last
        main = self.accelerator.is_main_process
        with (
            self._named_errors(),
            RunLog(
                self.folder if main else None,
                title=self.folder.name if self.folder else "train",
                num_steps=total,
                first_step=first,
                show=self.show and main,
            ) as log,
        ):
            clock = Clock()
            with StopSignals() as signals:
                self._loop(first, log, clock, signals)
            seconds = clock.seconds()
            self.stepper.restore()
            if self.config.lock.sides and first < total:
                self._save(total)  # loading the locked encoder may fail
            if self.folder is not None and main and self.learner is None:
                self.stepper.finished().save(self.folder)  # before anything after it can fail
            metrics = self._evaluate(total, log)
        return FitResult(
            student=self.stepper.finished(),
            metrics=metrics,
            steps=total,
            seconds=seconds,
            refused=dict(self.refused),
            warnings=self.health.all,
            cost=self.stepper.tokens.costs(),
            is_main_process=main,
            stepper=self.stepper,
        )

    def _loop(self, first: int, log: RunLog, clock: Clock, signals: StopSignals) -> None:
        config, total = self.config, self.last
        for step, batch in enumerate(clock.waiting(self._loader(first)), start=first + 1):
            self._refused_since.update(batch.refused)
            values, skipped = self.stepper.step(batch, step)
            log.advance(step)
            logged = step % config.log_every == 0 or step == total
            if skipped is not None:
                self._skip(step, batch.keys, skipped, values, log)
            elif logged:
                samples = (step - first) * config.data.batch_size
                self._write(log, step, values, samples / clock.seconds())
                self._look(log, step, batch, clock)
            end_of_masks = step == total and self.learner is not None
            due = end_of_masks or self._due(step, config.save_every)
            if due or logged or self.accelerator.num_processes == 1:
                stop, late = self._exchange(signals)
                stop = stop if step < total else 0
                if due or late or stop:
                    self._save(step)
                if stop:
                    raise Stopped(stop, step, config.out)
            if self._due(step, config.evaluate_every) and step < total:
                with clock.stopped():
                    self._evaluate(step, log)

    def _exchange(self, signals: StopSignals) -> tuple[int, bool]:
        """Add up what was refused; return the signal that any process got, and if saving is late.

        The main process's clock decides for all, so that all write and wait together.
        """
        minutes = (time.monotonic() - self._saved_at) / 60
        late = 0 < self.config.save_every_minutes <= minutes
        said = [(signals.received, late, dict(self._refused_since))]
        if self.accelerator.num_processes > 1:
            said *= self.accelerator.num_processes
            dist.all_gather_object(said, said[0])
        for _, _, refused in said:
            self.refused.update(refused)
        self._refused_since.clear()
        return max(signal for signal, _, _ in said), said[0][1]

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Say in an error which of several processes it happened in; the launcher ends the rest."""
        try:
            yield
        except Exception as error:
            rank, size = self.accelerator.process_index, self.accelerator.num_processes
            if size > 1:
                error.add_note(f"in process {rank} of {size}")
            raise

    def _due(self, step: int, every: int) -> bool:
        return every > 0 and step % every == 0

    def _loader(self, first: int) -> Iterable[Batch]:
        """Batches of this rank, from step `first` on."""
        return batches(
            self.dataset,
            self.student,
            self.config,
            first=first,
            last=self.last,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )

    def _look(self, log: RunLog, step: int, batch: Batch, clock: Clock) -> None:
        """Warn of what stands in the way of learning."""
        for text in self.health.warnings(
            logit_scale=float(self.student.logit_scale.detach().exp()),
            share_waited=clock.share_waited(),
            teachers=self.stepper.taught_by(batch),
        ):
            log.warn(step, text)

    def _skip(
        self, step: int, keys: list[str], reason: str, values: dict[str, Tensor], log: RunLog
    ) -> None:
        """Write down a step that was left out; after too many in a row give up."""
        every_key = [keys] * self.accelerator.num_processes
        if self.accelerator.num_processes > 1:
            dist.all_gather_object(every_key, keys)
        scalars = {name: str(float(value)) for name, value in values.items()}
        record = {"step": step, "skipped": reason, "values": scalars, "keys": every_key}
        if self.folder is not None and self.accelerator.is_main_process:
            note_skipped(self.folder, record)
        log.warn(step, f"step {step} left out: {reason}")
        count = self.stepper.watch.skips_in_a_row
        if count >= self.config.watch.max_skips:
            self._give_up(count, record)

    def _give_up(self, count: int, record: dict[str, Any]) -> None:
        """Go back to the newest checkpoint, leave a dump, and raise."""
        dump = newest = None
        if self.folder is not None:
            if self.accelerator.is_main_process:
                dump = write_dump(self.folder, self.stepper.module, self.config, record)
            newest = newest_checkpoint(self.folder / "checkpoints")
        if newest is not None:
            load_checkpoint(newest, self.stepper.modules(), self.stepper.optimizer)
        raise DivergedError(
            f"{count} steps in a row, up to step {record['step']}, were left out "
            f"({record['skipped']}). The weights are those of {newest or 'before them'}; "
            f"{dump or 'without an out folder no dump'} holds the last of them for "
            "distill.diverging.replay_step. Lower optimizer.lr, look at the keys, or raise "
            "watch.spike_factor"
        )

    def _write(self, log: RunLog, step: int, values: dict[str, Tensor], speed: float) -> None:
        """Log one line; the only place that waits for the device."""
        scalars = {f"loss/{name}": float(value) for name, value in values.items()}
        scalars["learning_rate"] = max(g["lr"] for g in self.stepper.optimizer.param_groups)
        scalars["logit_scale"] = float(self.student.logit_scale.detach().exp())
        scalars["samples_per_second"] = speed
        scalars |= self.stepper.tokens.scalars()
        scalars |= {} if self.learner is None else self.learner.scalars()
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
            extra = {"refused": dict(self.refused), "watch": self.stepper.watch.as_json()}
            save_checkpoint(folder, step, self.stepper.modules(), self.stepper.optimizer, extra)
            remove_old_checkpoints(folder, self.config.keep_checkpoints)
        self._saved_at = time.monotonic()
        self.accelerator.wait_for_everyone()

    def _resume(self) -> int:
        """Load the newest checkpoint; return how many steps are done."""
        if self.folder is None:
            return 0
        newest = newest_checkpoint(self.folder / "checkpoints")
        if newest is not None:
            check_same_run(self.config, self.folder)
        if self.accelerator.is_main_process:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_json(self.folder / "config.json", self.config.as_json())
            except OSError as error:
                raise ValueError(
                    f"out={str(self.folder)!r} cannot be written to ({error}); give another folder"
                ) from error
        self.accelerator.wait_for_everyone()
        if newest is None:
            return 0
        modules, optimizer = self.stepper.modules(), self.stepper.optimizer
        step, extra = load_checkpoint(newest, modules, optimizer)
        self.refused.update(extra["refused"])
        self.stepper.watch.restore(extra["watch"])
        return step
