"""Image encoders of timm as teachers: "timm/NAME", "timm/NAME.TAG" or "timm/local-dir:FOLDER".

The rows are the pooled features, before any classifier. Size, normalisation and interpolation are
those of timm's record of the weights. Left out: SAIL's patch tokens beside the pooled ones.
"""

from collections.abc import Mapping
from typing import Any

import timm
from jaxtyping import Float
from timm.data import resolve_data_config
from torch import Tensor, nn

from teachers.contract import Preprocess
from teachers.hub import hub_or_cache
from teachers.loaded_model import LoadedModel
from teachers.suggestions import did_you_mean
from teachers.unimodal import NoTokenizer, OneEncoder

PREFIX = "timm/"
_ELSEWHERE = ("local-dir:", "hf-hub:", "hf_hub:")


class TimmImages(OneEncoder):
    """A timm model without its classifier."""

    def __init__(self, model: nn.Module) -> None:
        """Take the model over."""
        super().__init__()
        self.visual = model

    def encode_image(self, images: Float[Tensor, "n 3 h w"], /) -> Float[Tensor, "n d"]:
        """Embed normalised pixels."""
        return self.visual(images)


def from_timm(name: str) -> LoadedModel:
    """Load timm's pretrained weights; downloads them unless they are cached.

    Args:
        name: timm's, or "local-dir:FOLDER" with what `timm.models.save_for_hf` wrote.

    Raises:
        ValueError: timm knows no such model, or none with weights.
    """
    check_timm(name)
    with hub_or_cache(f"{PREFIX}{name}", "timm/local-dir:FOLDER with config.json and weights"):
        model: Any = timm.create_model(name, pretrained=True, num_classes=0)
    config = resolve_data_config({}, model=model)
    size = config["input_size"][-1]
    architecture = model.pretrained_cfg.get("architecture") or name.partition(".")[0]
    return LoadedModel(
        module=TimmImages(model),
        name=timm_name(name),
        preprocess=Preprocess(
            image_size=size,
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        ),
        tokenizer=NoTokenizer(),
        licence=model.pretrained_cfg.get("license"),
        source={"type": "timm", "model": architecture, "image_size": size},
        modality="image",
    )


def timm_name(name: str) -> str:
    """What the teacher is called in reports and stores."""
    return PREFIX + name.rstrip("/").rpartition("/")[2].removeprefix("local-dir:")


def check_timm(name: str) -> None:
    """Raise a `ValueError` when timm has no model of this name."""
    if name.startswith(_ELSEWHERE) or timm.is_model(name.partition(".")[0]):
        return
    hint = did_you_mean(name, timm.list_models(pretrained=True))
    raise ValueError(f"no image encoder {name!r} in timm {timm.__version__}{hint}")


def timm_from_config(source: Mapping[str, Any]) -> nn.Module:
    """Build it again, with random weights."""
    name, size = source["model"], source["image_size"]
    try:
        return TimmImages(timm.create_model(name, num_classes=0, img_size=size))
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return TimmImages(timm.create_model(name, num_classes=0))
