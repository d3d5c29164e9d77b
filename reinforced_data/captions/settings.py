"""The settings of `caption`: what a set is called, and which texts it takes."""

from dataclasses import dataclass, field

from reinforced_data.captions.filters import LengthBounds


@dataclass(frozen=True, kw_only=True)
class CaptionSettings:
    """The settings of `caption`, which says what they mean."""

    name: str
    num_captions: int = 5
    seed: int = 0
    bounds: LengthBounds = field(default_factory=LengthBounds)
    min_score: float | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Refuse what cannot be used."""
        if self.num_captions < 1 or self.batch_size < 1:
            raise ValueError(
                "num_captions and batch_size must be at least 1, got "
                f"{self.num_captions} and {self.batch_size}"
            )


def check_parts(settings: CaptionSettings, *, writes: bool, embeds: bool, scores: bool) -> None:
    """Refuse settings that lack what they need.

    Args:
        settings: of the set.
        writes: whether there is a captioner.
        embeds: whether there are teachers that embed the set.
        scores: whether there is one that scores it.
    """
    if not (writes or embeds):
        raise ValueError("without a captioner, give teachers to embed the set with")
    if (settings.min_score is None) == scores:
        raise ValueError("the score filter needs both min_score and a score teacher")
