"""The terms of an `Objective`, computed on the rows of all ranks.

A module, because some terms have adapters that train along, and one remembers every sample. What
each term is: docs/losses.md.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor, nn

from distill.losses.adapters import Standards, Width, width_of
from distill.losses.fastclip import FastCLIPLoss
from distill.losses.feature import FeatureLoss
from distill.losses.image_text import contrastive_and_affinity
from distill.losses.interactive import InteractiveLoss
from distill.losses.relational import relational_loss
from distill.losses.teacher_subsets import teacher_shares
from distill.objective import Objective
from distill.ops import Embeddings, gather_embeddings
from distill.ops.gathering import gather_rows


class ObjectiveModule(nn.Module):
    """Computes every term of an `Objective` on the rows of all ranks."""

    def __init__(
        self,
        objective: Objective,
        student_dim: int,
        teacher_dims: Sequence[Width],
        standards: Sequence[Standards] | None = None,
        num_samples: int = 0,
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
        self.feature = self.interactive = self.fastclip = None
        if objective.fastclip:
            self.fastclip = FastCLIPLoss(
                num_samples,
                version=objective.fastclip_version,
                gamma=objective.fastclip_gamma,
                gamma_epochs=objective.fastclip_gamma_epochs,
                rho=objective.fastclip_rho,
                temperature=objective.fastclip_temperature,
                temperature_lr=objective.fastclip_temperature_lr,
            )
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
        numbers: Int64[Tensor, " n"] | None = None,
        epoch: int = 0,
    ) -> dict[str, Float[Tensor, ""]]:
        """Return each raw term by name, and `total`, their weighted sum.

        All terms see the whole batch of `group`; where others than the image-text loss are on,
        every rank gathers all rows. `seed` is what the step draws from (teacher dropping), the same
        on every rank, `samples` a number of each sample's own. `row_weights` weigh the pairs of
        contrastive and affinity, of no other term. `numbers` number the samples through the data,
        and `epoch` counts its passes, for the running means.
        """
        spec = self.objective
        ids = caption_ids if spec.equal_captions_are_positives else None
        p = spec.affinity_teacher_dropping
        shares = None if samples is None else teacher_shares(samples, self._shares, p, seed)
        terms = self._image_text(student, teachers, ids, row_weights, group, shares)
        if self.fastclip is not None:
            assert numbers is not None
            terms["fastclip"] = self.fastclip(
                student, numbers, epoch=epoch, positives=ids, group=group
            )
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

    def put_back(self) -> None:
        """Forget what the last forward remembered of its samples: its step is left out."""
        if self.fastclip is not None:
            self.fastclip.put_back()

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
