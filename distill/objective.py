"""The objective: named, weighted terms, and the module that computes them.

`Objective` is the plain description that recipes carry and the command line overrides;
`Objective.build` makes the module, because some terms have adapters that train along. What each
term is: docs/losses.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, get_args, runtime_checkable

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor, nn

from distill.losses.adapters import AdapterKind, Standards, Width, width_of
from distill.losses.feature import Distance, FeatureLoss
from distill.losses.image_text import contrastive_and_affinity
from distill.losses.interactive import InteractiveLoss
from distill.losses.relational import RelationalKind, relational_loss
from distill.losses.teacher_subsets import teacher_shares
from distill.ops import Embeddings, gather_embeddings
from distill.ops.gathering import gather_rows
from distill.ops.image_text import Targets
from teachers.contract import Kind


@runtime_checkable
class Term(Protocol):
    """A function, or a module, of student and teachers; returns a scalar."""

    def __call__(self, student: Embeddings, teachers: Sequence[Embeddings], /) -> Tensor:
        """Return the term's value."""
        ...


_TAUGHT = ("affinity", "feature", "interactive", "relational")
_TERMS = ("contrastive", *_TAUGHT)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Weights of the terms and how the targets are made. A weight of 0 switches a term off.

    Attributes:
        contrastive: hard image-text loss (InfoNCE or sigmoid).
        affinity: affinity mimicking against the teachers' similarities (TinyCLIP, MobileCLIP).
        feature: distance to the teachers' rows through an adapter (CLIP-KD).
        interactive: contrastive loss of the student's rows against the teachers' (CLIP-KD).
        relational: similarities within a modality against the teachers' (CompRess, RKD).
        kind: softmax or sigmoid, for contrastive and affinity alike; when None, what the student
            was built for (`build_student(kind=...)`): sigmoid if it has a bias. The affinity of a
            sigmoid student stays softmax where a teacher has no bias.
        targets: how several teachers are averaged.
        teacher_scale: factor on each teacher's own logit scale in the affinity targets. Below 1
            softens them; MobileCLIP2 found it to matter more than any weight.
        teacher_scales: one factor per teacher in its place; `distill calibrate` sweeps them.
        teacher_weights: one per teacher, for every term that reads teachers; equal when None.
        affinity_teacher_dropping: per sample, probability of leaving out each teacher; one stays.
        label_smoothing: of the hard targets.
        equal_captions_are_positives: equal captions in a batch are each other's positives.
        feature_distance: mse (squared) or cosine.
        feature_adapter: linear or mlp.
        feature_standardize: fit PHI-S to each teacher's stored rows and learn standardised ones.
        feature_teacher_dropping: per sample, probability of leaving out each teacher but the one
            with the largest feature loss (UNIC).
        relational_kind: softmax (KL between neighbourhoods) or distance (RKD).
        relational_scale: of the similarities in the softmax, for student and teachers.
        custom: your own terms by name: (weight, function of student and teachers).
    """

    contrastive: float = 1.0
    affinity: float = 0.0
    feature: float = 0.0
    interactive: float = 0.0
    relational: float = 0.0
    kind: Kind | None = None
    targets: Targets = "mean_prob"
    teacher_scale: float = 1.0
    teacher_scales: tuple[float, ...] | None = None
    teacher_weights: tuple[float, ...] | None = None
    affinity_teacher_dropping: float = 0.0
    label_smoothing: float = 0.0
    equal_captions_are_positives: bool = True
    feature_distance: Distance = "mse"
    feature_adapter: AdapterKind = "linear"
    feature_standardize: bool = False
    feature_teacher_dropping: float = 0.0
    relational_kind: RelationalKind = "softmax"
    relational_scale: float = 25.0
    custom: Mapping[str, tuple[float, Term]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse weights that cannot train anything, and settings that mean nothing."""
        weights = self.weights()
        bad = {name: weight for name, weight in weights.items() if weight < 0}
        if bad or not any(weights.values()):
            raise ValueError(f"weights must be >= 0 and one of them above 0, got {weights}")
        for name in ("teacher_scale", "teacher_scales", "relational_scale"):
            given = getattr(self, name)
            if given is not None and min(given if isinstance(given, tuple) else (given,)) <= 0:
                raise ValueError(f"{name} must be positive, got {given}")
        for name in ("feature_teacher_dropping", "affinity_teacher_dropping"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.affinity_teacher_dropping and self.targets == "mean_logit":
            raise ValueError("affinity_teacher_dropping goes with targets='mean_prob' alone")
        shares = self.teacher_weights
        if shares is not None and (min(shares, default=0) < 0 or not any(shares)):
            raise ValueError(f"teacher_weights must be >= 0 and not all 0, got {shares}")
        for name, values in _CHOICES.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {values}, got {getattr(self, name)!r}")
        if self.feature_standardize and self.feature_distance == "cosine":
            raise ValueError(
                "feature_standardize moves the mean, which changes cosines; use it with "
                "feature_distance='mse'"
            )
        clash = {*_TERMS, "total"} & set(self.custom)
        if clash:
            raise ValueError(f"custom terms may not be called {sorted(clash)}")

    def weights(self) -> dict[str, float]:
        """Every term's weight by name."""
        named = {name: weight for name, (weight, _) in self.custom.items()}
        return {**{name: getattr(self, name) for name in _TERMS}, **named}

    @property
    def needs_teachers(self) -> bool:
        """Whether a term reads stored teacher embeddings."""
        return bool(self._taught or self.custom)

    @property
    def standardizes(self) -> bool:
        """Whether a term needs `standards` (see `build`)."""
        return bool(self.feature) and self.feature_standardize

    @property
    def _taught(self) -> list[str]:
        """Terms that read teachers and are switched on."""
        return [name for name in _TAUGHT if getattr(self, name)]

    def build(
        self,
        student_dim: int,
        teacher_dims: Sequence[Width],
        standards: Sequence[Standards] | None = None,
    ) -> "ObjectiveModule":
        """Make the module for a student and teachers of these widths.

        Args:
            student_dim: width of the student's embeddings.
            teacher_dims: of each teacher; (image, text) where they differ, 0 for one it lacks.
            standards: what `fit_standardization` found per teacher; `feature_standardize` needs it.

        Raises:
            ValueError: the objective asks for teachers, or for what they do not have.
        """
        taught = self._taught
        if taught and not teacher_dims:
            raise ValueError(
                f"the objective has the terms {', '.join(taught)} but the data has no teacher "
                "embeddings; reinforce with a teacher, or set "
                + " and ".join(f"objective.{name}" for name in taught)
                + " to 0"
            )
        for name in ("teacher_weights", "teacher_scales"):
            given, count = getattr(self, name), len(teacher_dims)
            if count and given is not None and len(given) != count:
                raise ValueError(f"{name} has {len(given)} numbers for {count} teachers")
        if self.standardizes and standards is None:
            raise ValueError("feature_standardize needs `standards`; see fit_standardization")
        return ObjectiveModule(self, student_dim, teacher_dims, standards)


_CHOICES = {
    "feature_distance": get_args(Distance),
    "feature_adapter": get_args(AdapterKind),
    "relational_kind": get_args(RelationalKind),
}


class ObjectiveModule(nn.Module):
    """Computes every term of an `Objective` on the rows of all ranks."""

    def __init__(
        self,
        objective: Objective,
        student_dim: int,
        teacher_dims: Sequence[Width],
        standards: Sequence[Standards] | None = None,
    ) -> None:
        """Build what trains: the terms' adapters, custom terms that are modules."""
        super().__init__()
        self.objective = objective
        widths = [(width_of(dims, "image"), width_of(dims, "text")) for dims in teacher_dims]
        shares = objective.teacher_weights or [1.0] * len(widths)
        # Affinity and interactive terms compare a teacher's images with its texts.
        self._both = [k for k, (x, s) in enumerate(widths) if x == s > 0 and shares[k]]
        if (objective.affinity or objective.interactive) and not self._both:
            raise ValueError(
                "affinity and interactive terms need a teacher with image and text embeddings; "
                "set objective.affinity and objective.interactive to 0"
            )
        self._shares = [shares[k] for k in self._both]
        scales = objective.teacher_scales or [objective.teacher_scale] * len(widths)
        self._scales = [scales[k] for k in self._both]
        self.feature = self.interactive = None
        if objective.feature:
            self.feature = FeatureLoss(
                student_dim,
                teacher_dims,
                distance=objective.feature_distance,
                adapter=objective.feature_adapter,
                weights=objective.teacher_weights,
                dropping=objective.feature_teacher_dropping,
                standards=standards if objective.feature_standardize else None,
            )
        if objective.interactive:
            both = [widths[k][0] for k in self._both]
            self.interactive = InteractiveLoss(student_dim, both, self._shares)
        modules = {n: t for n, (_, t) in objective.custom.items() if isinstance(t, nn.Module)}
        self.custom = nn.ModuleDict(modules)

    def forward(
        self,
        student: Embeddings,
        teachers: Sequence[Embeddings],
        caption_ids: Int64[Tensor, " n"],
        group: dist.ProcessGroup | None = None,
        seed: int = 0,
        row_weights: Float[Tensor, " n"] | None = None,
        samples: Int64[Tensor, " n"] | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """Return each raw term by name, and `total`, their weighted sum.

        All terms see the whole batch of `group`; where others than the image-text loss are on,
        every rank gathers all rows. `seed` is what the step draws from (teacher dropping), the same
        on every rank, `samples` a number of each sample's own. `row_weights` weigh the pairs of
        contrastive and affinity, of no other term.
        """
        spec = self.objective
        ids = caption_ids if spec.equal_captions_are_positives else None
        p = spec.affinity_teacher_dropping
        shares = None if samples is None else teacher_shares(samples, self._shares, p, seed)
        terms = self._image_text(student, teachers, ids, row_weights, group, shares)
        if self.feature or self.interactive or spec.relational or spec.custom:
            student = gather_embeddings(student, group)
            teachers = [gather_embeddings(teacher, group) for teacher in teachers]
            ids = ids if ids is None else gather_rows(ids, group)
        if self.feature is not None:
            terms["feature"] = self.feature(student, teachers, seed)
        if self.interactive is not None:
            terms["interactive"] = self.interactive(student, [teachers[k] for k in self._both], ids)
        if spec.relational:
            terms["relational"] = relational_loss(
                student,
                teachers,
                kind=spec.relational_kind,
                scale=spec.relational_scale,
                weights=spec.teacher_weights,
            )
        for name, (_, term) in spec.custom.items():
            terms[name] = term(student, teachers)
        weights = spec.weights()
        weighted = [weights[name] * value for name, value in terms.items() if weights[name]]
        # DDP wants a gradient for every parameter, also when no weighted term reads the scale.
        heads = [head for head in (student.logit_scale, student.logit_bias) if head is not None]
        unused = sum((0 * head for head in heads), torch.zeros_like(student.logit_scale))
        return {**terms, "total": sum(weighted, unused)}

    def _image_text(
        self,
        student: Embeddings,
        teachers: Sequence[Embeddings],
        ids: Tensor | None,
        row_weights: Tensor | None,
        group: dist.ProcessGroup | None,
        shares: Tensor | None,
    ) -> dict[str, Tensor]:
        """Contrastive and affinity terms, as far as they are switched on."""
        spec = self.objective
        if not (spec.contrastive or spec.affinity):
            return {}
        pair = contrastive_and_affinity(
            student,
            [teachers[k] for k in self._both] if spec.affinity else (),
            kind=spec.kind,
            teacher_weights=self._shares,
            teacher_scale=self._scales,
            teacher_shares=shares,
            targets=spec.targets,
            positives=ids,
            label_smoothing=spec.label_smoothing,
            row_weights=row_weights,
            group=group,
        )
        terms = {"contrastive": pair.contrastive}
        return {**terms, "affinity": pair.affinity} if spec.affinity else terms
