"""Whether a student's towers can do what a policy says; the errors say what they can do instead."""

from open_clip.transformer import TextTransformer
from torch import nn

from students.convolutional_text import ConvolutionalText
from students.student import Student
from students.tokens.choosing import how_many
from students.tokens.merging import per_block
from students.tokens.policy import TokenPolicy
from students.tokens.sizing import smaller_side, takes
from teachers.clip_model import evaluating
from teachers.vision_transformers import Vit, find_vit, is_plain


def check_policy(student: Student, policy: TokenPolicy) -> None:
    """Refuse a policy that the student's towers cannot follow, or that would change nothing.

    Raises:
        ValueError: says which tower, why, and what it can do.
    """
    if policy.image != "all":
        _check_image(student, policy)
    if policy.reduces_text:
        _check_text(student, policy)


def can_merge(vit: Vit) -> str | None:
    """Why a tower's tokens cannot be merged; None if they can."""
    if vit.pooling == "other":
        return "it pools by attention or over class tokens, which merged tokens would skew"
    if not all(is_plain(block) for block in vit.blocks):
        return f"its blocks ({type(vit.blocks[0]).__name__}) have no plain attention"
    return None


def _check_image(student: Student, policy: TokenPolicy) -> None:
    vit, side = find_vit(student.module), student.preprocess.image_size
    asked = f"tokens.image={policy.image!r}"
    if policy.image_keep == 1:
        return
    if policy.image == "resize":
        smaller = smaller_side(side, policy.image_keep, vit)
        _check_changes(smaller, side, policy, "pixels of side")
        with evaluating(student.module):
            reason = takes(student.module, vit, smaller)
        if reason is not None:
            raise ValueError(
                f"{student.name}: its image tower does not take pictures of {smaller} pixels "
                f"({reason}), so {asked} cannot be; {_can(vit, without='resize')}"
            )
        return
    if vit is None:
        tower = type(getattr(student.module, "visual", student.module)).__name__
        raise ValueError(
            f"{student.name}: {asked} needs an image tower made of tokens, open_clip's or timm's "
            f"VisionTransformer; {tower} is none. It can do tokens.image='resize'"
        )
    if policy.image == "merge":
        reason = can_merge(vit)
        if reason is not None:
            raise ValueError(
                f"{student.name}: {asked} cannot be: {reason}; {_can(vit, without='merge')}"
            )
        left = vit.patches - sum(per_block(vit.patches, len(vit.blocks), policy.image_keep))
    elif policy.image == "block":
        left = round(vit.grid[0] * policy.image_keep**0.5) * round(
            vit.grid[1] * policy.image_keep**0.5
        )
    else:
        left = how_many(vit.patches, policy.image_keep)
    _check_changes(left, vit.patches, policy, "patches")
    if policy.image == "attentive" and policy.image_scores == "ema":
        _check_attention(student, vit)


def _check_attention(student: Student, vit: Vit) -> None:
    if not all(is_plain(block) for block in vit.blocks):
        raise ValueError(
            f"{student.name}: tokens.image_scores='ema' needs plain attention to read, its blocks "
            f"({type(vit.blocks[0]).__name__}) have none; take tokens.image_scores='teacher'"
        )


def _check_changes(left: int, whole: int, policy: TokenPolicy, what: str) -> None:
    if left >= whole:
        raise ValueError(
            f"tokens.image_keep={policy.image_keep} leaves all {whole} {what} with "
            f"tokens.image={policy.image!r}: give a smaller share, or tokens.image='all'"
        )


def _can(vit: Vit | None, *, without: str) -> str:
    """What a tower can do besides."""
    if vit is None:
        return "no policy makes it cheaper; leave tokens.image out"
    can = ["random", "grid", "block", "attentive", "resize"]
    if can_merge(vit) is None:
        can.append("merge")
    return f"it can do {', '.join(name for name in can if name != without)}"


def _check_text(student: Student, policy: TokenPolicy) -> None:
    tower = getattr(student.module, "text", None)
    name = type(tower or student.module).__name__
    if not takes_short_texts(tower):
        raise ValueError(
            f"{student.name}: its text tower ({name}) does not take texts of any length pooled at "
            "the end token; open_clip's TextTransformer with pool_type='argmax' and the mct tower "
            "do. Leave tokens.text, text_length and text_padding out"
        )
    longest = student.tokenizer.context_length
    if policy.text_length >= longest:
        raise ValueError(
            f"tokens.text_length={policy.text_length} changes nothing: {student.name}'s texts have "
            f"{longest} tokens; give fewer, or leave it out"
        )
    if policy.text_padding == "longest" and not is_exact_when_trimmed(tower):
        raise ValueError(
            f"{student.name}: its text tower ({name}) sees the padding behind a text, so that "
            "tokens.text_padding='longest' would change embeddings; leave it out. Causal towers "
            "pooled at the end token can do it"
        )


def takes_short_texts(tower: nn.Module | None) -> bool:
    """Whether rows of ids may be shorter than the tower's context."""
    if isinstance(tower, TextTransformer):
        return tower.pool_type == "argmax" and tower.cls_emb is None
    return isinstance(tower, ConvolutionalText)


def is_exact_when_trimmed(tower: nn.Module | None) -> bool:
    """Whether padding behind the end token changes nothing: it is never looked at."""
    return isinstance(tower, TextTransformer) and tower.attn_mask is not None
