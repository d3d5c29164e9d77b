"""A loss over more pairs than fit in memory: the gradient cache.

Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (2021). First
all micro-batches are embedded without a graph; the loss of the whole batch gives each row its
gradient; then every micro-batch is embedded again, with a graph, and its rows' gradients are sent
back. The result is the whole batch's gradient, at the price of a second forward. Dropout draws the
same numbers in both, since each micro-batch seeds its own. BatchNorm normalises within a
micro-batch, as under DDP, and its running statistics see each micro-batch once, in the second
forward. open_clip accumulates so too, but not with distillation.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distill.training_module import RowGradients, Taught, TrainingModule
from teachers.contract import Embeddings


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Part of a process's share of a batch, with the seed of what is random in it.

    `tokens` and `kept` are as `TrainingModule.forward` takes them.
    """

    images: Tensor
    tokens: Sequence[Tensor]
    seed: int
    kept: Tensor | None = None


def cached_backward(
    wrapped: nn.Module,
    micro_batches: Sequence[MicroBatch],
    *,
    accelerator: Accelerator,
    taught: Sequence[Taught],
    group: dist.ProcessGroup | None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Leave in every parameter the gradient of the whole batch's loss; return its terms.

    Args:
        wrapped: a `TrainingModule` as accelerate prepared it.
        micro_batches: this process's share, in order.
        accelerator: of this process; other processes do the same at the same time.
        taught: for each text of a picture, what it is held against, over the whole share.
        group: as for `ObjectiveModule`.
        seed: as for `ObjectiveModule`.
    """
    module = accelerator.unwrap_model(wrapped)
    assert isinstance(module, TrainingModule)
    rows = _embed(module, micro_batches, accelerator)
    terms, image, texts, others = _row_gradients(module, rows, accelerator, taught, group, seed)
    start = 0
    for number, part in enumerate(micro_batches):
        last = number == len(micro_batches) - 1
        end = start + len(part.images)
        pulling = RowGradients(
            image=image[start:end],
            texts=[gradient[start:end] for gradient in texts],
            others=others if last else (),
        )
        # Processes add up once, in the last backward; shards at once, to hold no whole gradients.
        ddp = wrapped if isinstance(wrapped, DistributedDataParallel) else None
        with nullcontext() if ddp is None or last else ddp.no_sync():
            torch.manual_seed(part.seed)
            with accelerator.autocast():
                pulled = wrapped(part.images, part.tokens, pulling=pulling, kept=part.kept)
            accelerator.backward(pulled["total"])
        start = end
    return terms


@torch.no_grad()
def _embed(
    module: TrainingModule, micro_batches: Sequence[MicroBatch], accelerator: Accelerator
) -> tuple[Embeddings, ...]:
    """Embed every micro-batch in training mode; nothing but the rows is kept."""
    parts: list[tuple[Embeddings, ...]] = []
    with accelerator.autocast(), still_statistics(module):
        for part in micro_batches:
            torch.manual_seed(part.seed)
            parts.append(module.embed(part.images, part.tokens, part.kept))
    image = torch.cat([rows[0].image for rows in parts])
    return tuple(
        of_text[0]._replace(image=image, text=torch.cat([rows.text for rows in of_text]))
        for of_text in zip(*parts, strict=True)
    )


def _row_gradients(
    module: TrainingModule,
    rows: Sequence[Embeddings],
    accelerator: Accelerator,
    taught: Sequence[Taught],
    group: dist.ProcessGroup | None,
    seed: int,
) -> tuple[dict[str, Tensor], Tensor, list[Tensor], list[tuple[Tensor, Tensor]]]:
    """The loss's terms; gradients of image and text rows; parameters outside the towers' too."""
    image = rows[0].image.requires_grad_()
    texts = [pairs.text.requires_grad_() for pairs in rows]
    with accelerator.autocast():
        student = [module.student.with_head(image, text) for text in texts]
        terms = module.terms(student, taught, group, seed)
    outside = [p for p in module.outside_towers() if p.requires_grad]
    wanted = [image, *texts, *outside]
    found = torch.autograd.grad(terms["total"], wanted, allow_unused=True)
    # DDP waits for every parameter, also for those that no term reads.
    found = [
        torch.zeros_like(value) if gradient is None else gradient
        for value, gradient in zip(wanted, found, strict=True)
    ]
    last = 1 + len(texts)
    others: list[tuple[Tensor, Tensor]] = list(zip(outside, found[last:], strict=True))
    return {n: value.detach() for n, value in terms.items()}, found[0], found[1:last], others


@contextmanager
def still_statistics(module: nn.Module) -> Iterator[None]:
    """Let BatchNorm normalise by the batch without remembering it."""
    norms = [m for m in module.modules() if getattr(m, "track_running_stats", False)]
    for norm in norms:
        vars(norm)["track_running_stats"] = False
    try:
        yield
    finally:
        for norm in norms:
            vars(norm)["track_running_stats"] = True
