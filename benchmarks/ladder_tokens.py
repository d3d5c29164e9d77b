"""Rows of a small ViT that computes fewer tokens, and of the ViT itself at the same work.

The ViT is distilled as every row is; what differs is the token policy. Every policy has as many
steps as "vit"; "vit-N-same-work" has every token, and N percent of the steps: what a policy is
worth whose work that is. Work is counted in multiplications of both towers, forward.
"""

from dataclasses import replace

from ladder_rows import Place, Row, distilled

from distill.config import RunConfig
from students.tokens.merging import per_block, tokens_per_block
from students.tokens.policy import TokenPolicy
from students.tokens.sizing import smaller_side

# A ViT of 64 patches in 4 blocks of 32 channels, about as many numbers as "demo-student" has; a
# text tower of one block of 128 channels, 12 tokens.
VIT, ATTENDED = "vit", "vit-attentive-teacher"
TOKEN_POLICIES = {
    VIT: TokenPolicy(),
    "vit-random": TokenPolicy(image="random", image_keep=0.5),
    "vit-grid": TokenPolicy(image="grid", image_keep=0.5),
    "vit-block": TokenPolicy(image="block", image_keep=0.5),
    "vit-attentive-ema": TokenPolicy(image="attentive", image_keep=0.5, image_scores="ema"),
    ATTENDED: TokenPolicy(image="attentive", image_keep=0.5),
    "vit-merge": TokenPolicy(image="merge", image_keep=0.5),
    "vit-resize": TokenPolicy(image="resize", image_keep=0.5),
    "vit-text-truncate": TokenPolicy(text="truncate", text_length=6),
    "vit-text-random": TokenPolicy(text="random", text_length=6),
    "vit-text-block": TokenPolicy(text="block", text_length=6),
    "vit-text-syntax": TokenPolicy(text="syntax", text_length=6),
    "vit-text-frequency": TokenPolicy(text="frequency", text_length=6),
}
# The last tenth of the steps is on every token, as CLIPA tunes.
_REDUCED = 0.9


def relative_work(policy: TokenPolicy) -> float:
    """A step's multiplications as a share of those with every token, for the "demo-vit"."""
    image: float = 64
    if policy.image == "merge":
        image = sum(tokens_per_block(64, per_block(64, 4, policy.image_keep))) / 4
    elif policy.image == "resize":
        image = (smaller_side(32, policy.image_keep, None) // 4) ** 2
    elif policy.image == "block":
        image = round(8 * policy.image_keep**0.5) ** 2
    elif policy.image != "all":
        image = 64 * policy.image_keep
    scoring = 1 / 3 if policy.image_scores == "ema" and policy.image == "attentive" else 0.0
    whole = _work(65, 32, 4) + _work(12, 128, 1)
    reduced = _work(1 + image, 32, 4) + _work(policy.text_length or 12, 128, 1)
    return (reduced + scoring * _work(65, 32, 4)) / whole


def _work(tokens: float, width: int, layers: int) -> float:
    return layers * tokens * (12 * width**2 + 2 * tokens * width)


def _tokens_row(policy: TokenPolicy, share: float = 1.0) -> Row:
    """A ViT with a token policy, for this share of the ladder's steps."""
    reduces = policy.reduces_image or policy.reduces_text

    def row(place: Place, steps: int) -> RunConfig:
        config = distilled(place, max(2, round(share * steps)))
        return replace(
            config,
            student=replace(config.student, name="demo-vit"),
            # What is looked at is said by a ViT, which teaches nothing else.
            data=replace(config.data, teachers=("teacher-a", "teacher-b")),
            tokens=replace(policy, until=_REDUCED) if reduces else policy,
            ema_decay=0.996 if policy.image_scores == "ema" else None,
            channels_last=False,
        )

    return row


_SHARES = {
    name: round(_REDUCED * relative_work(policy) + 1 - _REDUCED, 2)
    for name, policy in TOKEN_POLICIES.items()
    if name != VIT
}
# By policy, the row of the ViT itself with as much work.
SAME_WORK = {name: f"vit-{round(100 * share)}-same-work" for name, share in _SHARES.items()}
TOKEN_ROWS: dict[str, Row] = {
    **{name: _tokens_row(policy) for name, policy in TOKEN_POLICIES.items()},
    **{SAME_WORK[name]: _tokens_row(TokenPolicy(), share) for name, share in _SHARES.items()},
}
