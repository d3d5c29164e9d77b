"""Towers of other sizes than open_clip's configuration can say.

open_clip names a timm or transformers tower and takes no sizes for it. Both libraries build from a
folder's `config.json` too, so the sizes are written into one that lives as long as the building.
A file written with it would name that folder: such a model is no stock open_clip configuration
(docs/masks.md says how stock open_clip loads it all the same).
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from students.spec import OpenClipSpec

# What each library calls the file.
CONFIG = "config.json"


@contextmanager
def tower_configs(
    spec: OpenClipSpec, config: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Give `vision_cfg` and `text_cfg` with the specification's changes; use them inside.

    Args:
        spec: what to build.
        config: open_clip's configuration of the model.

    Raises:
        ValueError: options for a tower that is neither timm's nor transformers'.
    """
    vision = {**config["vision_cfg"], **spec.vision}
    text = {**config["text_cfg"], **spec.text}
    with TemporaryDirectory(prefix="towers-") as folder:
        if spec.image_options:
            name = _needed(spec, vision, "timm_model_name", "image_options")
            vision["timm_model_name"] = timm_folder(Path(folder, "image"), name, spec.image_options)
        if spec.text_options:
            _needed(spec, text, "hf_model_name", "text_options")
            text["hf_model_name"] = transformers_folder(Path(folder, "text"), spec.text_options)
            text["hf_model_pretrained"] = False
        yield vision, text


def timm_folder(folder: Path, name: str, options: Mapping[str, Any]) -> str:
    """Write a folder that timm builds `name` with `options` from; returns its name for timm."""
    _write(folder, {"architecture": name, "pretrained_cfg": {}, "model_args": dict(options)})
    return f"local-dir:{folder}"


def transformers_folder(folder: Path, options: Mapping[str, Any]) -> str:
    """Write a folder that transformers builds a model from; returns its name for transformers."""
    _write(folder, dict(options))
    return str(folder)


def _write(folder: Path, values: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps(values) + "\n", encoding="utf-8")


def _needed(spec: OpenClipSpec, tower: Mapping[str, Any], key: str, field: str) -> str:
    if not tower.get(key):
        raise ValueError(
            f"OpenClipSpec.{field} are for towers with a {key}, and {spec.model}'s has none: put "
            "its sizes into OpenClipSpec.vision or .text"
        )
    return tower[key]
