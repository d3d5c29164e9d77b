"""What a step leaves out of pictures and texts, as plain values.

A policy is for training alone: evaluation and the saved student use every token. Papers: random
dropping is FLIP's (arXiv:2212.00794); grid and block dropping, smaller pictures and all text
policies but one are compared by CLIPA (arXiv:2305.07017); masking by word frequency is CLIPF's
(arXiv:2412.16148); attentive dropping is A-CLIP's (arXiv:2212.08653); merging is ToMe
(arXiv:2210.09461).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from teachers.suggestions import unknown_name

ImageTokens = Literal["all", "random", "grid", "block", "attentive", "merge", "resize"]
TextTokens = Literal["all", "truncate", "random", "block", "syntax", "frequency"]
Scores = Literal["teacher", "ema"]
Padding = Literal["context", "longest"]

DROPPING: tuple[ImageTokens, ...] = ("random", "grid", "block", "attentive")


@dataclass(frozen=True, kw_only=True)
class TokenPolicy:
    """Which tokens a training step computes.

    Attributes:
        image: which patches stay. all; random; grid (as evenly from every 2 x 2 as can be); block
            (one rectangle); attentive (the most looked at); merge (none is dropped, alike ones
            become one, block by block); resize (a smaller picture; the only one for convolutions).
        image_keep: the share of patches that stay (merge: after the last block; resize: of the
            picture's area).
        image_scores: who says what is looked at, for attentive: the attention that a teacher left
            in the store (`distill reinforce --attention`), or the run's own moving average, which
            costs a forward pass of whole pictures.
        text: which tokens of a text stay where it is longer than text_length. truncate keeps the
            first; random any, in order; block neighbours; syntax nouns before adjectives before
            verbs before the rest; frequency rare ones rather than common ones.
        text_length: tokens a text may have, start and end included; 0: the tokenizer's.
        text_padding: how long a batch of texts is: text_length, or its longest text, which is
            exact for causal towers pooled at the end token and only for those.
        until: the share of the run's steps after which the next policy counts, or all tokens.
    """

    image: ImageTokens = "all"
    image_keep: float = 1.0
    image_scores: Scores = "teacher"
    text: TextTokens = "all"
    text_length: int = 0
    text_padding: Padding = "context"
    until: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what says nothing, or two things."""
        for name, kinds in (
            ("image", ImageTokens),
            ("image_scores", Scores),
            ("text", TextTokens),
            ("text_padding", Padding),
        ):
            if getattr(self, name) not in get_args(kinds):
                raise unknown_name(f"tokens.{name}", getattr(self, name), get_args(kinds))
        if not 0 < self.image_keep <= 1:
            raise ValueError(f"tokens.image_keep is a share, above 0 up to 1: {self.image_keep}")
        if not 0 < self.until <= 1:
            raise ValueError(f"tokens.until is a share of the steps, above 0 up to 1: {self.until}")
        if self.image == "all" and self.image_keep < 1:
            raise ValueError(
                f"tokens.image_keep={self.image_keep} says how much stays, not which: add "
                f"tokens.image ({', '.join(get_args(ImageTokens)[1:])})"
            )
        if self.text_length and self.text_length < 3:
            raise ValueError(
                f"tokens.text_length={self.text_length} leaves no word between start and end: "
                "give at least 3, or 0 for the tokenizer's own"
            )
        if (self.text == "all") != (self.text_length == 0):
            raise ValueError(
                f"tokens.text={self.text!r} and tokens.text_length={self.text_length}: give both "
                "(which tokens stay, and how many) or neither"
            )

    @property
    def reduces_image(self) -> bool:
        """Whether pictures have fewer tokens."""
        return self.image != "all" and self.image_keep < 1

    @property
    def drops(self) -> bool:
        """Whether patches are left out before the first block."""
        return self.reduces_image and self.image in DROPPING

    @property
    def reduces_text(self) -> bool:
        """Whether texts have fewer tokens."""
        return self.text_length > 0 or self.text_padding == "longest"


ALL_TOKENS = TokenPolicy()


def policies_from_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields `tokens` and `tokens_then` of a configuration that went through JSON."""
    return {
        "tokens": TokenPolicy(**values.get("tokens", {})),
        "tokens_then": tuple(TokenPolicy(**one) for one in values.get("tokens_then", ())),
    }
