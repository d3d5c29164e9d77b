"""What integers' ranges are measured on: prepared inputs, and where they come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Int64, UInt8
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Pictures and texts as a student reads them; `metadata.json` repeats the origin.

    Attributes:
        pixels: pictures at the student's size, before normalisation.
        tokens: texts by the student's tokenizer.
        origin: JSON values that say where they are from.
    """

    pixels: UInt8[Tensor, "n size size 3"]
    tokens: Int64[Tensor, "m context"]
    origin: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuse what no range can be measured on."""
        if min(len(self.pixels), len(self.tokens)) < 2:
            raise ValueError(
                f"calibration needs two pictures and two texts or more, got {len(self.pixels)} "
                f"and {len(self.tokens)}"
            )
