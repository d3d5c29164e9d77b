"""Linear probe (CLIP, arXiv:2103.00020, section 3.2): logistic regression on frozen unit rows.

The penalty is chosen on a tenth of the training rows, as CLIP does on a validation split, and the
probe is then fitted to all of them. LBFGS, full batch, float64. Left out: CLIP's features before
the projection, which not every tower has.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from distill.evaluation.embedding import AnySource, embed_source
from teachers.clip_model import ClipModel

_PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
_STEPS = 500


def linear_probe(
    model: ClipModel, train: AnySource, test: AnySource, *, limit: int | None = None
) -> dict[str, float]:
    """Fit to the labels of `train`; return `probe_top1` on `test` and the `probe_penalty` chosen.

    Args:
        model: whose image rows.
        train: source with labels.
        test: source with labels, which must be among those of `train`.
        limit: stop after so many samples of `test`.

    Raises:
        ValueError: a source without labels, fewer than two classes or ten samples to learn from,
            or a label that `train` does not have.
    """
    rows, labels = embed_source(model, train).labelled("probe")
    names = sorted(set(labels))
    if len(names) < 2 or len(labels) < 10:
        raise ValueError(
            f"a probe needs at least 2 classes and 10 labelled samples to learn from, got "
            f"{len(names)} and {len(labels)}"
        )
    test_rows, test_labels = embed_source(model, test, limit=limit).labelled("probe")
    unknown = sorted(set(test_labels) - set(names))
    if unknown:
        raise ValueError(
            f"the test source has labels that the training source lacks: {', '.join(unknown[:5])}"
        )
    targets = _indices(labels, names, rows)
    penalty = _best_penalty(rows, targets, len(names))
    weights = fit_probe(rows, targets, len(names), penalty)
    chosen = _logits(test_rows, weights).argmax(1)
    right = (chosen == _indices(test_labels, names, rows)).double().mean()
    return {"probe_top1": float(right), "probe_penalty": penalty}


def fit_probe(
    rows: Float[Tensor, "n d"], targets: Int64[Tensor, " n"], classes: int, penalty: float
) -> Float[Tensor, "c d1"]:
    """Return weights, the last column the bias, of mean cross-entropy + penalty * |weights|^2."""
    weights = torch.zeros(
        classes, rows.shape[1] + 1, dtype=torch.float64, device=rows.device, requires_grad=True
    )
    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=_STEPS,
        tolerance_grad=1e-8,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(_logits(rows, weights), targets)
        loss = loss + penalty * weights[:, :-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weights.detach()


def held_out_tenth(count: int) -> Bool[Tensor, " n"]:
    """Draw the rows that the penalty is chosen on, the same for every model.

    Drawn, not every tenth: shards in which ten classes take turns would lose one of them.
    """
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    held_out = torch.zeros(count, dtype=torch.bool)
    held_out[drawn[: count // 10]] = True
    return held_out


def _best_penalty(rows: Tensor, targets: Tensor, classes: int) -> float:
    held_out = held_out_tenth(len(rows)).to(rows.device)
    scores = []
    for penalty in _PENALTIES:
        weights = fit_probe(rows[~held_out], targets[~held_out], classes, penalty)
        chosen = _logits(rows[held_out], weights).argmax(1)
        scores.append(float((chosen == targets[held_out]).double().mean()))
    # Of equally good ones the strongest.
    best = max(scores)
    return max(p for p, score in zip(_PENALTIES, scores, strict=True) if score == best)


def _logits(rows: Tensor, weights: Tensor) -> Tensor:
    return rows.double() @ weights[:, :-1].T + weights[:, -1]


def _indices(labels: Sequence[str], names: Sequence[str], beside: Tensor) -> Tensor:
    index = {name: place for place, name in enumerate(names)}
    return torch.tensor([index[label] for label in labels], device=beside.device)
