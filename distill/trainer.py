"""The training loop, on Accelerate: one process, DDP or gloo on the CPU, the same code.

Student and objective are one wrapped module with one `forward`, so that DDP sees every parameter
and every gather. Batches are a function of (seed, step): a resumed run goes on where it stopped.
Leaves out gradient accumulation (the exact form is a gradient cache, not a smaller loss).
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate.utils import set_seed
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from distill.checkpoint import (
    load_checkpoint,
    newest_checkpoint,
    remove_old_checkpoints,
    save_checkpoint,
)
from distill.config import RunConfig, check_same_run
from distill.evaluation.splits import evaluate_splits
from distill.objective import ObjectiveModule
from distill.optimization import build_optimizer, learning_rate, set_learning_rate
from distill.preparing import accelerator_for, compile_towers, lock_text, restore_towers
from distill.run_log import RunLog, write_json
from reinforced_data import Batch, ReinforcedDataset
from students import Student
from teachers.contract import Embeddings


class TrainingModule(nn.Module):
    """Student and objective behind one forward: batch in, loss terms out."""

    def __init__(self, student: Student, objective: ObjectiveModule) -> None:
        """Keep both; the optimizer trains both."""
        super().__init__()
        self.student = student
        self.objective = objective

    def forward(
        self,
        images: Tensor,
        tokens: Tensor,
        teachers: Sequence[Embeddings],
        caption_ids: Tensor,
        group: dist.ProcessGroup | None = None,
    ) -> dict[str, Tensor]:
        """Return raw terms by name and `total`."""
        return self.objective(self.student(images, tokens), teachers, caption_ids, group)


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
        self.group = dist.group.WORLD if self.accelerator.num_processes > 1 else None
        names = config.data.teachers
        self.teacher_names = () if not config.objective.needs_teachers else names
        stored = [] if self.teacher_names == () else list(dataset.teachers)
        if names is not None and stored:  # batches carry them in the order named
            known = {teacher.name: teacher for teacher in stored}
            stored = [known[name] for name in names if name in known]
        self.locked = lock_text(student) if config.student.lock_text else []
        if config.activation_checkpointing:
            student.set_grad_checkpointing(True)
        objective = config.objective.build(student.embed_dim, [t.embed_dim for t in stored])
        self.student, self.module = student, TrainingModule(student, objective)
        if config.channels_last:
            self.module.to(memory_format=torch.channels_last)
        self.optimizer = build_optimizer(self.module, config.optimizer)
        self.module.to(self.accelerator.device)
        self.ema = None
        if config.ema_decay is not None:
            self.ema = ModelEmaV3(student, decay=config.ema_decay, use_warmup=True)
        if config.compile:
            compile_towers(student)
        self.wrapped, self.optimizer = self.accelerator.prepare(self.module, self.optimizer)
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
                rate = learning_rate(step - 1, self.config.optimizer.lr, self.config.schedule)
                set_learning_rate(self.optimizer, rate)
                values = self._step(batch, step)
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
                self._finished().save(self.folder)  # before anything after it can fail
            metrics = self._evaluate(total, log)
        return FitResult(
            student=self._finished(),
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

    def _step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """One optimizer step; returns detached scalars without waiting for the device."""
        self.wrapped.train()
        for module in self.locked:
            module.eval()
        for reason, count in batch.refused.items():
            self.refused[reason] = self.refused.get(reason, 0) + count
        batch = batch.to(self.accelerator.device, non_blocking=True)
        images = self.student.preprocess.normalize(batch.pixels)
        if self.config.channels_last:
            images = images.to(memory_format=torch.channels_last)
        terms = self.wrapped(
            images, batch.tokens, batch.teachers, batch.caption_ids, group=self.group
        )
        self.accelerator.backward(terms["total"])
        values = {name: value.detach() for name, value in terms.items()}
        if self.config.optimizer.max_grad_norm is not None:
            values["grad_norm"] = self.accelerator.clip_grad_norm_(
                self.wrapped.parameters(), self.config.optimizer.max_grad_norm
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            self.student.logit_scale.clamp_(0.0, math.log(self.config.max_logit_scale))
        if self.ema is not None:
            self.ema.update(self.student, step=step)
        return values

    def _write(self, log: RunLog, step: int, values: dict[str, Tensor], speed: float) -> None:
        """Log one line; the only place that waits for the device."""
        scalars = {f"loss/{name}": float(value) for name, value in values.items()}
        scalars["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        scalars["logit_scale"] = float(self.student.logit_scale.detach().exp())
        scalars["samples_per_second"] = speed
        note = f"loss {scalars['loss/total']:.3f}  {speed:,.0f} samples/s"
        log.write(step, scalars, note=note)

    def _finished(self) -> Student:
        """The student to evaluate and to save."""
        student = self.student if self.ema is None else self.ema.module
        return student.eval()

    def _evaluate(self, step: int, log: RunLog) -> dict[str, float]:
        """Run the evaluator on the main process over every split; others wait."""
        metrics: dict[str, float] = {}
        if self.accelerator.is_main_process:
            config = self.config
            metrics = evaluate_splits(
                self._finished(), config.evaluate_on, templates=config.templates
            )
            if metrics:
                log.write(step, metrics)
        self.accelerator.wait_for_everyone()
        return metrics

    def _modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {"model": self.module}
        return modules if self.ema is None else {**modules, "ema": self.ema.module}

    def _save(self, step: int) -> None:
        """Checkpoint on the main process."""
        if self.folder is not None and self.accelerator.is_main_process:
            folder = self.folder / "checkpoints"
            save_checkpoint(folder, step, self._modules(), self.optimizer)
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
        return load_checkpoint(newest, self._modules(), self.optimizer)


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
