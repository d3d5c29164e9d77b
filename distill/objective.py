"""The objective: named, weighted terms, and the module that computes them.

`Objective` is the plain description that recipes carry and the command line overrides;
`Objective.build` makes the module, because the feature term has adapters that train along.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor, nn

from distill.losses import FeatureLoss
from distill.ops import Embeddings, gather_embeddings, image_text_loss
from distill.ops.gathering import gather_rows
from distill.ops.image_text import Targets
from teachers.contract import Kind

# Student and teachers of one batch in, a scalar out.
Term = Callable[[Embeddings, Sequence[Embeddings]], Tensor]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Weights of the terms and how the targets are made. A weight of 0 switches a term off.

    Attributes:
        contrastive: hard image-text loss (InfoNCE or sigmoid).
        affinity: affinity mimicking against the teachers' similarities (TinyCLIP, MobileCLIP).
        feature: squared distance to the teachers' rows through a linear adapter (CLIP-KD).
        kind: softmax or sigmoid, for contrastive and affinity alike; when None, what the student
            was built for (`build_student(kind=...)`): sigmoid if it has a bias.
        targets: how several teachers are averaged.
        teacher_scale: factor on each teacher's own logit scale in the affinity targets. Below 1
            softens them; MobileCLIP2 found it to matter more than any weight.
        teacher_weights: one per teacher; equal when None.
        label_smoothing: of the hard targets.
        equal_captions_are_positives: equal captions in a batch are each other's positives.
        custom: your own terms by name: (weight, function of student and teachers).
    """

    contrastive: float = 1.0
    affinity: float = 0.0
    feature: float = 0.0
    kind: Kind | None = None
    targets: Targets = "mean_prob"
    teacher_scale: float = 1.0
    teacher_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    equal_captions_are_positives: bool = True
    custom: Mapping[str, tuple[float, Term]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse weights that cannot train anything."""
        weights = self.weights()
        bad = {name: weight for name, weight in weights.items() if weight < 0}
        if bad or not any(weights.values()):
            raise ValueError(f"weights must be >= 0 and one of them above 0, got {weights}")
        if self.teacher_scale <= 0:
            raise ValueError(f"teacher_scale must be positive, got {self.teacher_scale}")
        clash = {"contrastive", "affinity", "feature", "total"} & set(self.custom)
        if clash:
            raise ValueError(f"custom terms may not be called {sorted(clash)}")

    def weights(self) -> dict[str, float]:
        """Every term's weight by name."""
        named = {name: weight for name, (weight, _) in self.custom.items()}
        return {
            "contrastive": self.contrastive,
            "affinity": self.affinity,
            "feature": self.feature,
            **named,
        }

    @property
    def needs_teachers(self) -> bool:
        """Whether a term reads stored teacher embeddings."""
        return bool(self.affinity or self.feature or self.custom)

    def build(self, student_dim: int, teacher_dims: Sequence[int]) -> "ObjectiveModule":
        """Make the module for a student and teachers of these widths."""
        if (self.affinity or self.feature) and not teacher_dims:
            raise ValueError(
                "the objective has affinity or feature terms but the data has no teacher "
                "embeddings; reinforce with a teacher, or set objective.affinity and "
                "objective.feature to 0"
            )
        return ObjectiveModule(self, student_dim, teacher_dims)


class ObjectiveModule(nn.Module):
    """Computes every term of an `Objective` on the rows of all ranks."""

    def __init__(self, objective: Objective, student_dim: int, teacher_dims: Sequence[int]) -> None:
        """Build what trains: the feature term's adapters, custom terms that are modules."""
        super().__init__()
        self.objective = objective
        self.feature = FeatureLoss(student_dim, teacher_dims) if objective.feature else None
        modules = {n: t for n, (_, t) in objective.custom.items() if isinstance(t, nn.Module)}
        self.custom = nn.ModuleDict(modules)

    def forward(
        self,
        student: Embeddings,
        teachers: Sequence[Embeddings],
        caption_ids: Int64[Tensor, " n"],
        group: dist.ProcessGroup | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """Return each raw term by name, and `total`, their weighted sum.

        Rows are gathered over `group` once, here; all terms then see the whole batch.
        """
        spec = self.objective
        student = gather_embeddings(student, group)
        teachers = [gather_embeddings(teacher, group) for teacher in teachers]
        terms: dict[str, Tensor] = {}
        if spec.contrastive or spec.affinity:
            ids = gather_rows(caption_ids, group) if spec.equal_captions_are_positives else None
            softened = [_soften(teacher, spec.teacher_scale) for teacher in teachers]
            pair = image_text_loss(
                student,
                softened if spec.affinity else (),
                teacher_weights=spec.teacher_weights if spec.affinity else None,
                kind=spec.kind or ("softmax" if student.logit_bias is None else "sigmoid"),
                targets=spec.targets,
                positives=ids,
                label_smoothing=spec.label_smoothing,
            )
            terms["contrastive"] = pair.contrastive
            if spec.affinity:
                terms["affinity"] = pair.affinity
        if self.feature is not None:
            terms["feature"] = self.feature(student, teachers)
        for name, (_, term) in spec.custom.items():
            terms[name] = term(student, teachers)
        weights = spec.weights()
        weighted = [weights[name] * value for name, value in terms.items() if weights[name]]
        # DDP wants a gradient for every parameter, also when no weighted term reads the scale.
        heads = [head for head in (student.logit_scale, student.logit_bias) if head is not None]
        unused = sum((0 * head for head in heads), torch.zeros_like(student.logit_scale))
        return {**terms, "total": sum(weighted, unused)}


def _soften(teacher: Embeddings, factor: float) -> Embeddings:
    """Scale a teacher's logits, bias and all."""
    bias = teacher.logit_bias
    return teacher._replace(
        logit_scale=teacher.logit_scale * factor,
        logit_bias=None if bias is None else bias * factor,
    )
