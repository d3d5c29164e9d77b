"""What views are drawn from. A module of its own: the command line reads it without torch."""

from dataclasses import asdict, dataclass
from typing import Any

from reinforced_data.operations import OPERATIONS
from teachers.suggestions import unknown_name

RANDAUGMENT = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)


@dataclass(frozen=True, kw_only=True)
class ViewPolicy:
    """What views are drawn from; the defaults are MobileCLIP's for photographs.

    Attributes:
        scale: least and greatest part of the image's area in the crop.
        ratio: least and greatest width / height of the crop.
        num_ops: RandAugment operations per view.
        magnitude: their strength from 0 to 1; 0.3 is RandAugment's 9 of 30.
        operations: which ones are drawn from, with equal chances.
        flip: the probability of a horizontal flip.
        fill: the grey of what geometric operations pull in from outside.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    num_ops: int = 2
    magnitude: float = 0.3
    operations: tuple[str, ...] = RANDAUGMENT
    flip: float = 0.0
    fill: int = 0

    def __post_init__(self) -> None:
        """Refuse what could not be drawn."""
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be two areas with 0 < low <= high <= 1, got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be two numbers with 0 < low <= high, got {self.ratio}")
        if self.num_ops < 0 or (self.num_ops and not self.operations):
            raise ValueError(f"cannot draw {self.num_ops} of {len(self.operations)} operations")
        if not (0 <= self.magnitude <= 1 and 0 <= self.flip <= 1 and 0 <= self.fill <= 255):
            raise ValueError(
                "magnitude and flip must be within 0..1 and fill within 0..255, got "
                f"{self.magnitude}, {self.flip} and {self.fill}"
            )
        unknown = sorted(set(self.operations) - set(OPERATIONS))
        if unknown:
            raise unknown_name("operation", unknown[0], OPERATIONS)

    def config(self) -> dict[str, Any]:
        """Return JSON values; `ViewPolicy.from_config` reads them back."""
        config = asdict(self)
        # 1 and 1.0 are one policy; as JSON they would be two.
        for name in ("scale", "ratio"):
            config[name] = [float(bound) for bound in config[name]]
        for name in ("magnitude", "flip"):
            config[name] = float(config[name])
        return {**config, "operations": list(self.operations)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ViewPolicy":
        """Rebuild from `config()`."""
        lists = {name: tuple(value) for name, value in config.items() if isinstance(value, list)}
        return cls(**{**config, **lists})
