"""The objective: named, weighted terms, as recipes carry them and the command line changes them.

`Objective.build` makes the module that computes them (`distill.objective_module`). What each term
is: docs/losses.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, get_args, runtime_checkable

from torch import Tensor

from distill.losses.adapters import AdapterKind, Standards, Width
from distill.losses.fastclip import Version
from distill.losses.feature import Distance
from distill.losses.relational import RelationalKind
from distill.ops import Embeddings
from distill.ops.image_text import Targets
from teachers.contract import Kind

if TYPE_CHECKING:
    from distill.objective_module import ObjectiveModule


@runtime_checkable
class Term(Protocol):
    """A function, or a module, of student and teachers; returns a scalar."""

    def __call__(self, student: Embeddings, teachers: Sequence[Embeddings], /) -> Tensor:
        """Return the term's value."""
        ...


TAUGHT = ("affinity", "feature", "interactive", "relational")
TERMS = ("contrastive", "fastclip", *TAUGHT)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Weights of the terms and how the targets are made. A weight of 0 switches a term off.

    Attributes:
        contrastive: hard image-text loss (InfoNCE or sigmoid).
        fastclip: contrastive loss against the whole data set (FastCLIP), by a running mean for each
            sample; in place of `contrastive`, and softmax alone.
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
        fastclip_version: v0, v1 (the scale stays as it is), v2 (a temperature for each sample) or
            v3 (the scale learns against `rho`).
        fastclip_gamma: where the share of new values in the running mean ends.
        fastclip_gamma_epochs: passes over the data until then, half of them in the paper.
        fastclip_rho: how far v2 and v3 keep temperatures from 0.
        fastclip_temperature: where each sample's temperature starts in v2.
        fastclip_temperature_lr: their learning rate in v2.
        relational_kind: softmax (KL between neighbourhoods) or distance (RKD).
        relational_scale: of the similarities in the softmax, for student and teachers.
        custom: your own terms by name: (weight, function of student and teachers).
    """

    contrastive: float = 1.0
    fastclip: float = 0.0
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
    fastclip_version: Version = "v3"
    fastclip_gamma: float = 0.2
    fastclip_gamma_epochs: int = 18
    fastclip_rho: float = 6.5
    fastclip_temperature: float = 0.03
    fastclip_temperature_lr: float = 0.0133
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
        if self.fastclip and self.kind == "sigmoid":
            raise ValueError("fastclip is a softmax loss: leave kind='sigmoid' or fastclip out")
        clash = {*TERMS, "total"} & set(self.custom)
        if clash:
            raise ValueError(f"custom terms may not be called {sorted(clash)}")

    def weights(self) -> dict[str, float]:
        """Every term's weight by name."""
        named = {name: weight for name, (weight, _) in self.custom.items()}
        return {**{name: getattr(self, name) for name in TERMS}, **named}

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
        return [name for name in TAUGHT if getattr(self, name)]

    def build(
        self,
        student_dim: int,
        teacher_dims: Sequence[Width],
        standards: Sequence[Standards] | None = None,
        num_samples: int = 0,
    ) -> "ObjectiveModule":
        """Make the module for a student and teachers of these widths.

        Args:
            student_dim: width of the student's embeddings.
            teacher_dims: of each teacher; (image, text) where they differ, 0 for one it lacks.
            standards: what `fit_standardization` found per teacher; `feature_standardize` needs it.
            num_samples: of the data, each with a number of its own; `fastclip` needs it.

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
        if self.fastclip and num_samples < 1:
            raise ValueError("fastclip keeps a mean for each sample: how many are there?")
        from distill.objective_module import ObjectiveModule  # which reads this description

        return ObjectiveModule(self, student_dim, teacher_dims, standards, num_samples)


_CHOICES = {
    "feature_distance": get_args(Distance),
    "feature_adapter": get_args(AdapterKind),
    "fastclip_version": get_args(Version),
    "relational_kind": get_args(RelationalKind),
}
