"""One optimizer step: batch in, detached loss terms out.

Student and objective are one wrapped module with one `forward`, so that DDP sees every parameter
and every gather. Leaves out the loop, checkpoints and logs (`distill.trainer`).
"""

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distill.config import RunConfig
from distill.gradient_cache import MicroBatch, cached_backward
from distill.locking import LockedRows, lock_tower
from distill.losses.adapters import Standards, Width
from distill.mask_learning import MaskLearner
from distill.optimization import Groups, build_optimizer, learning_rate, set_learning_rate
from distill.parameter_groups import parameter_groups
from distill.preparing import compile_towers, restore_towers
from distill.sharding import Sharding, check_can_shard, sharding_plugin
from distill.shards import gathered
from distill.token_phases import TokenSteps, phases
from distill.training_module import Taught, TrainingModule
from distill.watching import RunningStatistics, Watch
from reinforced_data import Batch
from reinforced_data.reading.order import caption_id
from students import Student
from students.composing import PartialStudent
from students.rounding import Rounding
from teachers import Embeddings


def step_seed(seed: int, step: int, rank: int, micro_batch: int = 0) -> int:
    """What dropout draws from in one step; a resumed run needs no saved random state."""
    text = f"step/{seed}/{step}/{rank}/{micro_batch}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Stepped(NamedTuple):
    """Scalars of one step, on the device, and why it was left out, or None."""

    values: dict[str, Tensor]
    skipped: str | None


class Stepper:
    """The trained parts of a run, and what one step does to them.

    Args:
        student: trained in place.
        config: the whole run.
        teacher_dims: widths of the objective's teachers, the first ones of a batch's.
        accelerator: of this process.
        standards: of each teacher, where the objective standardises (`distill.standardizing`).
        locked_rows: where in a batch the rows of encoders are that are not there.
        learner: of the masks in the student, while there are any.
        num_samples: of the store, where the objective remembers each.
    """

    def __init__(
        self,
        student: Student,
        config: RunConfig,
        teacher_dims: Sequence[Width],
        accelerator: Accelerator,
        standards: Sequence[Standards] | None = None,
        locked_rows: LockedRows = LockedRows(),  # noqa: B008 - frozen
        learner: MaskLearner | None = None,
        num_samples: int = 0,
    ) -> None:
        """Build objective and optimizer, and wrap everything for this process."""
        self.config, self.accelerator, self.student = config, accelerator, student
        self.group = dist.group.WORLD if accelerator.num_processes > 1 else None
        plugin = sharding_plugin(accelerator)
        if plugin is not None:
            check_can_shard(config)
        self.locked, self.rows = lock_tower(student, config.lock.tower), locked_rows
        self._teachers = len(teacher_dims)
        if config.activation_checkpointing:
            student.set_grad_checkpointing(True)
        objective = config.objective.build(student.embed_dim, teacher_dims, standards, num_samples)
        self.module = TrainingModule(student, objective)
        if config.channels_last:
            self.module.to(memory_format=torch.channels_last)
        groups = parameter_groups(self.module, config.optimizer)
        self.module.to(accelerator.device)
        self.sharding = None if plugin is None else Sharding(student, plugin, accelerator)
        self.ema = None
        if config.ema_decay is not None:
            self.ema = ModelEmaV3(
                student, decay=config.ema_decay, use_warmup=True, foreach=self.sharding is None
            )
        # After the moving average, which is a copy: its towers always compute every token.
        self.tokens = TokenSteps(student, config, None if self.ema is None else self.ema.module)
        self.module.reduction = self.tokens.reduction
        if config.quantize != "none":
            self.module.rounding = Rounding(student, config.quantize)
        if config.compile:
            compile_towers(student)
        self.learner = None if learner is None else learner.to(accelerator.device)
        self.wrapped, self.optimizer = self._wrapped(groups)
        self.watch, self.statistics = Watch(config.watch), RunningStatistics(self.module)
        self._begins = {phase.last + 1 for phase in phases(config)}

    def _wrapped(self, groups: Groups) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The module as this process calls it, and the optimizer over its part of the weights."""
        if self.sharding is not None:
            self.sharding.cut_with_groups(self.module, self.student, groups)
            if self.ema is not None:
                self.sharding.cut(self.ema.module)
            return self.module, build_optimizer(groups, self.config.optimizer)
        if self.config.objective.fastclip:  # equal on all, and too large to be sent at each step
            kept = [
                n for n, _ in self.module.named_buffers() if n.startswith("objective.fastclip.")
            ]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.module, kept)
        return self.accelerator.prepare(self.module, build_optimizer(groups, self.config.optimizer))

    def modules(self) -> dict[str, nn.Module]:
        """Everything a checkpoint holds besides the optimizer."""
        modules: dict[str, nn.Module] = {"model": self.module}
        if self.learner is not None:
            modules["masks"] = self.learner
        return modules if self.ema is None else {**modules, "ema": self.ema.module}

    def finished(self) -> Student:
        """The student to evaluate and to save: the moving average where there is one.

        Of a sharded one the whole; then every process has to ask.
        """
        student = self.student if self.ema is None else self.ema.module
        student = student if self.sharding is None else self.sharding.whole(student)
        # Through training mode: see teachers.clip_model.evaluating.
        student = student.train().eval()
        return student.completed() if isinstance(student, PartialStudent) else student

    def taught_by(self, batch: Batch) -> Sequence[Embeddings]:
        """The objective's teachers in a batch; those of locked encoders come after them."""
        return batch.teachers[: self._teachers]

    def step(self, batch: Batch, step: int) -> Stepped:
        """Take step number `step` (from 1), or leave it out and change nothing."""
        if self.sharding is not None:
            self.sharding.put_away()
        set_learning_rate(
            self.optimizer,
            learning_rate(step - 1, self.config.optimizer.lr, self.config.schedule),
        )
        if self.learner is not None:
            # Noise is a function of the step, the same on every process.
            self.learner.begin(step_seed(self.config.seed, step, 0))
        if step in self._begins:
            self.watch.begin_anew()
        with self.statistics.kept(), self.tokens.timed():
            values = self.gradients(batch, step)
            skipped = self._judge(values)
            if skipped is not None:
                self.statistics.put_back()
                self.module.objective.put_back()
                self.optimizer.zero_grad()
                return Stepped(values, skipped)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.learner is not None:
            self.learner.learn(step, self.group)
        with torch.no_grad():
            self.student.logit_scale.clamp_(0.0, math.log(self.config.max_logit_scale))
        if self.ema is not None:
            self.ema.update(self.student, step=step)
        return Stepped(values, None)

    def gradients(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Leave this step's clipped gradients in the parameters; return terms and `grad_norm`."""
        self.wrapped.train()
        for module in self.locked.modules:
            module.eval()
        batch, seeds = self.tokens.begin(batch, step)
        device = self.accelerator.device
        batch, seeds = batch.to(device, non_blocking=True), seeds.to(device, non_blocking=True)
        with self.tokens.reduction.active(self.tokens.policy):
            values = self._backward(batch, seeds, step)
        if self.sharding is not None:
            self.sharding.average(self.module.parameters())
        most = self.config.optimizer.max_grad_norm
        if most is not None or self.config.watch.enabled:
            # A bound of infinity measures and changes nothing.
            norm = self.accelerator.clip_grad_norm_(self.wrapped.parameters(), most or math.inf)
            assert norm is not None
            values["grad_norm"] = gathered(norm)
        return values

    def _judge(self, values: dict[str, Tensor]) -> str | None:
        """Say why all processes leave this step out, or None; waits for the device."""
        if not self.config.watch.enabled:
            return None
        loss, norm = float(values["total"]), float(values["grad_norm"])
        reason = self.watch.judge(loss, norm)
        if self.group is not None:
            # Loss and gradient are the same everywhere but for the last bit.
            flag = torch.tensor(int(reason is not None), device=self.accelerator.device)
            dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.group)
            reason = reason or ("another process saw a bad step" if flag.item() else None)
        self.watch.remember(loss, norm, reason is not None)
        return reason

    def _backward(self, batch: Batch, seeds: Tensor, step: int) -> dict[str, Tensor]:
        """Leave the gradients in the parameters; return the terms."""
        micro_batches = self._micro_batches(batch, seeds, step)
        shared_seed = step_seed(self.config.seed, step, 0)  # what all processes draw alike
        samples = None
        spec = self.config.objective
        if spec.affinity and spec.affinity_teacher_dropping:
            samples = torch.tensor(list(map(caption_id, batch.keys)), device=seeds.device)
        taught = [
            Taught(
                texts.teachers[: self._teachers],
                texts.caption_ids,
                batch.weights,
                samples,
                batch.numbers,
                batch.epoch,
            )
            for texts in batch.texts
        ]
        if len(micro_batches) > 1:
            return cached_backward(
                self.wrapped,
                micro_batches,
                accelerator=self.accelerator,
                taught=taught,
                group=self.group,
                seed=shared_seed,
            )
        (whole,) = micro_batches
        torch.manual_seed(whole.seed)
        with self.accelerator.autocast():  # a sharded student is not accelerate's to wrap
            terms = self.wrapped(
                whole.images,
                whole.tokens,
                taught,
                group=self.group,
                seed=shared_seed,
                kept=whole.kept,
            )
        self.accelerator.backward(terms["total"])
        return {name: value.detach() for name, value in terms.items()}

    def _micro_batches(self, batch: Batch, seeds: Tensor, step: int) -> list[MicroBatch]:
        """Cut this process's share; a size of 0, or one that holds all, cuts nothing."""
        chosen = self.tokens
        every_text = [
            chosen.texts(texts.tokens, seeds, number) if rows is None else rows
            for number, texts in enumerate(batch.texts)
            for rows in [self.rows.texts(texts)]
        ]
        found = []
        for number, part in enumerate(self._parts(len(batch.keys))):
            images, kept = self.rows.images(batch, part), None
            if images is None:
                images = self.student.preprocess.normalize(batch.pixels[part])
                attention = None if batch.attention is None else batch.attention[part]
                with self.accelerator.autocast():
                    kept = chosen.patches(images, seeds[part], attention)
                images = chosen.reduction.sized(images, chosen.policy)
                if self.config.channels_last:
                    images = images.to(memory_format=torch.channels_last)
            seed = step_seed(self.config.seed, step, self.accelerator.process_index, number)
            tokens = [texts[part] for texts in every_text]
            found.append(MicroBatch(images=images, tokens=tokens, seed=seed, kept=kept))
        return found

    def _parts(self, length: int) -> list[slice]:
        """Where a share of so many samples is cut.

        Shards are gathered in every forward, of which all processes need the same number, also
        where a sample was refused.
        """
        data = self.config.data
        size = data.micro_batch_size or data.batch_size
        if self.sharding is None:
            return [slice(start, start + size) for start in range(0, length, size)]
        count = math.ceil(data.batch_size // self.accelerator.num_processes / size)
        return [slice(length * n // count, length * (n + 1) // count) for n in range(count)]

    def restore(self) -> None:
        """Give the towers their own forward back, and what was locked its gradients."""
        restore_towers(self.student)
        for student in (self.student, None if self.ema is None else self.ema.module):
            self.locked.unlock(student)
        self.tokens.detach()
