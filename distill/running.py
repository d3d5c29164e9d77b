"""One run around its steps: log, checkpoints, evaluations, and steps that are left out.

What one step does is `distill.stepping`, who calls for steps `distill.trainer`. What the processes
of a run tell each other beside gradients (one was told to stop, samples were refused) is said with
every log line and checkpoint.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from accelerate.utils import set_seed
from rich.progress import Progress
from torch import Tensor

from distill.checkpoint import (
    load_checkpoint,
    newest_checkpoint,
    remove_old_checkpoints,
    save_checkpoint,
)
from distill.clock import Clock
from distill.config import RunConfig
from distill.diverging import DivergedError, note_skipped, write_dump
from distill.evaluation.splits import evaluate_splits
from distill.feeding import locked_rows, numbered_samples, teacher_dims
from distill.fit_result import FitResult
from distill.health import Health
from distill.mask_learning import MaskLearner
from distill.preparing import accelerator_for
from distill.run_log import RunLog, write_json
from distill.same_run import check_same_run
from distill.shards import gathered
from distill.standardizing import standards_of_run
from distill.stepping import Stepper
from distill.tracking import tracked
from reinforced_data import Batch, ReinforcedDataset
from reinforced_data.stop_signals import StopSignals
from students import Student


class Run:
    """The parts of one run.

    Args:
        student, dataset, config, learner: as for `distill.trainer.fit`.

    Attributes:
        first: steps that are done before this call; 0 until `begin`.
        last: the last step.
    """

    def __init__(
        self,
        student: Student,
        dataset: ReinforcedDataset,
        config: RunConfig,
        learner: MaskLearner | None = None,
    ) -> None:
        """Build what is trained."""
        set_seed(config.seed)
        self.config = config
        self.accelerator = accelerator_for(config.precision)
        self.student = student
        self.folder = Path(config.out) if config.out else None
        dims, rows = teacher_dims(dataset, config), locked_rows(dataset, config)
        standards = standards_of_run(dataset, config, self.accelerator)
        self.stepper = Stepper(
            student,
            config,
            dims,
            self.accelerator,
            standards,
            rows,
            learner,
            numbered_samples(dataset, config),
        )
        self.stepper.tokens.count(dataset)
        self.learner = learner
        self.first = 0
        self.last = config.masks.steps if learner is not None else config.schedule.num_steps
        self.refused = Counter[str]()  # over all processes, up to the last exchange
        self._refused_since = Counter[str]()  # by this process, since then
        self._saved, self._saved_at = 0, time.monotonic()
        self.health = Health(config.objective)
        self.clock = Clock()

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes."""
        return self.accelerator.is_main_process

    @contextmanager
    def begun(self, bars: Progress) -> Iterator[None]:
        """Go on from the newest checkpoint, or from the start, with an open log."""
        self.first = self._resume()
        folder = self.folder if self.is_main_process else None
        title = self.folder.name if self.folder else "train"
        with (
            tracked(self.config, folder, self.first) as send,
            RunLog(
                folder,
                title=title,
                num_steps=self.last,
                first_step=self.first,
                bars=bars,
                send=send,
            ) as self.log,
        ):
            self.clock = Clock()
            yield

    def take(self, batch: Batch, step: int, signals: StopSignals) -> int:
        """Take a step, and write down what is due; return the signal that any process got, or 0.

        Then the run is saved, and nothing but the end may follow.

        Raises:
            DivergedError: too many bad steps in a row.
        """
        config = self.config
        self._refused_since.update(batch.refused)
        values, skipped = self.stepper.step(batch, step)
        self.log.advance(step)
        logged = step % config.log_every == 0 or step == self.last
        if skipped is not None:
            self._skip(step, batch.keys, skipped, values)
        elif logged:
            samples = (step - self.first) * config.data.batch_size
            self._write(step, values, samples / self.clock.seconds())
            self._look(step, batch)
        end_of_masks = step == self.last and self.learner is not None
        due = end_of_masks or self._due(step, config.save_every)
        if not (due or logged or self.accelerator.num_processes == 1):
            return 0
        stop, late = self._exchange(signals.received)  # also one that came during the step
        stop = stop if step < self.last else 0
        if due or late or stop:
            self.save(step)
        return stop

    def evaluates_after(self, step: int) -> bool:
        """Whether an evaluation is due that is not the last."""
        return self._due(step, self.config.evaluate_every) and step < self.last

    def finish(self) -> FitResult:
        """Save the student, and evaluate it."""
        seconds = self.clock.seconds()
        self.stepper.restore()
        if self.config.lock.sides and self.first < self.last:
            self.save(self.last)  # loading the locked encoder may fail
        finished = self.stepper.finished()
        if self.folder is not None and self.is_main_process and self.learner is None:
            finished.save(self.folder)  # before anything after it can fail
        return FitResult(
            student=finished,
            metrics=self.evaluate(self.last),
            steps=self.last,
            seconds=seconds,
            refused=dict(self.refused),
            warnings=self.health.all,
            cost=self.stepper.tokens.costs(),
            is_main_process=self.is_main_process,
            stepper=self.stepper,
        )

    def _exchange(self, signal: int) -> tuple[int, bool]:
        """Add up what was refused; return the signal that any process got, and if saving is late.

        The main process's clock decides for all, so that all write and wait together.
        """
        minutes = (time.monotonic() - self._saved_at) / 60
        late = 0 < self.config.save_every_minutes <= minutes
        said = [(signal, late, dict(self._refused_since))]
        if self.accelerator.num_processes > 1:
            said *= self.accelerator.num_processes
            dist.all_gather_object(said, said[0])
        for _, _, refused in said:
            self.refused.update(refused)
        self._refused_since.clear()
        return max(signal for signal, _, _ in said), said[0][1]

    def _due(self, step: int, every: int) -> bool:
        return every > 0 and step % every == 0

    def _look(self, step: int, batch: Batch) -> None:
        """Warn of what stands in the way of learning."""
        for text in self.health.warnings(
            logit_scale=float(self.student.logit_scale.detach().exp()),
            share_waited=self.clock.share_waited(),
            teachers=self.stepper.taught_by(batch),
        ):
            self.log.warn(step, text)

    def _skip(self, step: int, keys: list[str], reason: str, values: dict[str, Tensor]) -> None:
        """Write down a step that was left out; after too many in a row give up."""
        every_key = [keys] * self.accelerator.num_processes
        if self.accelerator.num_processes > 1:
            dist.all_gather_object(every_key, keys)
        scalars = {name: str(float(value)) for name, value in values.items()}
        record = {"step": step, "skipped": reason, "values": scalars, "keys": every_key}
        if self.folder is not None and self.is_main_process:
            note_skipped(self.folder, record)
        self.log.warn(step, f"step {step} left out: {reason}")
        count = self.stepper.watch.skips_in_a_row
        if count >= self.config.watch.max_skips:
            self._give_up(count, record)

    def _give_up(self, count: int, record: dict[str, Any]) -> None:
        """Go back to the newest checkpoint, leave a dump, and raise."""
        dump = newest = None
        state = {
            f"{part}/{name}": gathered(value)
            for part, module in self.stepper.modules().items()
            for name, value in module.state_dict().items()
        }
        if self.folder is not None:
            if self.is_main_process:
                dump = write_dump(self.folder, state, self.config, record)
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

    def _write(self, step: int, values: dict[str, Tensor], speed: float) -> None:
        """Log one line; the only place that waits for the device."""
        scalars = {f"loss/{name}": float(value) for name, value in values.items()}
        scalars["learning_rate"] = max(g["lr"] for g in self.stepper.optimizer.param_groups)
        scalars["logit_scale"] = float(self.student.logit_scale.detach().exp())
        scalars["samples_per_second"] = speed
        scalars |= self.stepper.tokens.scalars()
        scalars |= {} if self.learner is None else self.learner.scalars()
        note = f"loss {scalars['loss/total']:.3f}  {speed:,.0f} samples/s"
        self.log.write(step, scalars, note=note)

    def evaluate(self, step: int) -> dict[str, float]:
        """Run the evaluator on the main process over every split; others wait."""
        metrics: dict[str, float] = {}
        config, student = self.config, self.stepper.finished()
        if self.is_main_process:
            metrics = evaluate_splits(student, config.evaluate_on, templates=config.templates)
            if metrics:
                self.log.write(step, metrics)
        self.accelerator.wait_for_everyone()
        return metrics

    def save(self, step: int) -> None:
        """Checkpoint on the main process, once a step; the others hand it their shards."""
        if step == self._saved:
            return
        main, stepper = self.is_main_process, self.stepper
        if self.folder is not None and (main or stepper.sharding is not None):
            folder = self.folder / "checkpoints"
            extra = {"refused": dict(self.refused), "watch": stepper.watch.as_json()}
            save_checkpoint(folder, step, stepper.modules(), stepper.optimizer, extra, writes=main)
            if main:
                remove_old_checkpoints(folder, self.config.keep_checkpoints, step)
        self._saved = step
        self._saved_at = time.monotonic()
        self.accelerator.wait_for_everyone()

    def _resume(self) -> int:
        """Load the newest checkpoint; return how many steps are done."""
        if self.folder is None:
            return 0
        newest = newest_checkpoint(self.folder / "checkpoints")
        if newest is not None:
            check_same_run(self.config, self.folder)
        if self.is_main_process:
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
        step, extra = load_checkpoint(newest, self.stepper.modules(), self.stepper.optimizer)
        self.refused.update(extra["refused"])
        self.stepper.watch.restore(extra["watch"])
        return step
