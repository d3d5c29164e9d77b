"""A student's towers, made to compute fewer tokens for the time of a training step.

The towers' own forward runs, with a hook where positions have been added and before the first block
(dropping), blocks that merge (merging), and positions that fit (smaller pictures). Without an
active policy every hook passes on what it gets. Parameters and their names stay as they are.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from students.student import Student
from students.tokens.checking import check_policy
from students.tokens.choosing import CHOICES, best_patches, how_many
from students.tokens.merging import Merging, per_block, tokens_per_block
from students.tokens.policy import ALL_TOKENS, TokenPolicy
from students.tokens.sizing import fitted_positions, resize, smaller_side
from teachers.vision_transformers import find_vit


def keep_patches(
    rows: Float[Tensor, "n l width"], kept: Int64[Tensor, "n kept"], prefix: int
) -> Float[Tensor, "n fewer width"]:
    """Class and register tokens, and the patches of these indices."""
    # A gather of indices and not of a mask: the result's shape is known without looking at it.
    places = (kept + prefix)[..., None].expand(-1, -1, rows.shape[-1])
    return torch.cat([rows[:, :prefix], rows.gather(1, places)], dim=1)


class TokenReduction:
    """What the policies of one run need of one student.

    Args:
        student: its image tower gets hooks; `detach` takes them away.
        policies: every one that will be active.

    Raises:
        ValueError: a tower cannot do what a policy says.
    """

    def __init__(self, student: Student, policies: Sequence[TokenPolicy]) -> None:
        """Check and attach."""
        for policy in policies:
            check_policy(student, policy)
        self._side = student.preprocess.image_size
        self._vit = find_vit(student.module)
        self._kept: Tensor | None = None
        self._policy = ALL_TOKENS
        self._merging: Merging | None = None
        self._hooks: list[Any] = []
        kinds = {policy.image for policy in policies if policy.reduces_image}
        vit = self._vit
        if vit is not None and any(policy.drops for policy in policies):
            self._hooks.append(vit.before_blocks.register_forward_pre_hook(self._drop))
        if vit is not None and "merge" in kinds:
            self._merging = Merging(vit)
        text: Any = getattr(student.module, "text", None)
        if any(policy.reduces_text for policy in policies) and hasattr(text, "transformer"):
            hook = text.transformer.register_forward_pre_hook(_cut_mask, with_kwargs=True)
            self._hooks.append(hook)

    def detach(self) -> None:
        """Leave the towers as they were."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        if self._merging is not None:
            self._merging.detach()
            self._merging = None

    @contextmanager
    def active(self, policy: TokenPolicy) -> Iterator[None]:
        """Follow a policy, in forward and backward passes, until the context ends."""
        self._policy = policy
        if self._merging is not None and policy.image == "merge" and policy.reduces_image:
            self._merging.plan = self._plan(policy)
        try:
            yield
        finally:
            self._policy = ALL_TOKENS
            if self._merging is not None:
                self._merging.plan = None

    @contextmanager
    def rows(self, kept: Tensor | None) -> Iterator[None]:
        """Embed pictures from which `kept` patches stay, all when None."""
        vit, policy = self._vit, self._policy
        resizing = vit is not None and policy.image == "resize" and policy.reduces_image
        self._kept = kept
        try:
            with fitted_positions(vit, self.side(policy)) if vit and resizing else nullcontext():
                yield
        finally:
            self._kept = None

    def side(self, policy: TokenPolicy) -> int:
        """The side of a picture in pixels, as the tower sees it."""
        if policy.image != "resize" or not policy.reduces_image:
            return self._side
        return smaller_side(self._side, policy.image_keep, self._vit)

    def sized(
        self, images: Float[Tensor, "n 3 h w"], policy: TokenPolicy
    ) -> Float[Tensor, "n 3 side side"]:
        """Pictures at the size that the policy wants."""
        side = self.side(policy)
        return images if side == images.shape[-1] else resize(images, side)

    def choose(
        self,
        policy: TokenPolicy,
        seeds: Int64[Tensor, " n"],
        scores: Float[Tensor, "n rows columns"] | None = None,
    ) -> Int64[Tensor, "n kept"] | None:
        """The patches of each picture that stay; None for all.

        Args:
            policy: of the step.
            seeds: of each sample; see `sample_seeds`.
            scores: what attentive dropping goes by, on any grid.
        """
        if not policy.drops:
            return None
        assert self._vit is not None
        if policy.image == "attentive":
            assert scores is not None
            return best_patches(scores, self._vit.grid, policy.image_keep)
        return CHOICES[policy.image](seeds, self._vit.grid, policy.image_keep)

    def image_tokens(self, policy: TokenPolicy) -> float | None:
        """Tokens of a picture in a block, class token included, as a mean over the blocks.

        None for a tower without tokens.
        """
        vit = self._vit
        if vit is None:
            return None
        patches: float = vit.patches
        if policy.reduces_image and policy.image == "merge":
            counts = tokens_per_block(vit.patches, self._plan(policy))
            patches = sum(counts) / len(counts)
        elif policy.reduces_image and policy.image == "resize":
            patches = (self.side(policy) // vit.patch) ** 2
        elif policy.reduces_image and policy.image == "block":
            sides = [max(1, round(side * policy.image_keep**0.5)) for side in vit.grid]
            patches = sides[0] * sides[1]
        elif policy.drops:
            patches = how_many(vit.patches, policy.image_keep)
        return float(vit.prefix + patches)

    def _plan(self, policy: TokenPolicy) -> list[int]:
        assert self._vit is not None
        return per_block(self._vit.patches, len(self._vit.blocks), policy.image_keep)

    def _drop(self, module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self._kept is None:
            return None
        assert self._vit is not None
        return (keep_patches(given[0], self._kept, self._vit.prefix),)


def _cut_mask(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """open_clip hands its blocks the causal mask of a whole context, whatever a text's length."""
    mask, length = kwargs.get("attn_mask"), args[0].shape[1]
    if mask is not None and mask.shape[-1] > length:
        kwargs = {**kwargs, "attn_mask": mask[..., :length, :length]}
    return args, kwargs
