"""Towers of other sizes than open_clip's configuration can say.

open_clip names a timm or transformers tower and takes no sizes for it. Both libraries build from a
folder's `config.json` too, so the sizes are written into one that lives as long as the building.
`stock_open_clip` writes one that stays.
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
    """Give `vision_cfg` and `text_cfg` with the specification's changes; use them inside."""
    with TemporaryDirectory(prefix="towers-") as folder:
        yield with_tower_configs(spec, config, Path(folder))


def with_tower_configs(
    spec: OpenClipSpec, config: Mapping[str, Any], folder: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make `vision_cfg` and `text_cfg`, and where they need one, the towers' own folders.

    Args:
        spec: what to build.
        config: open_clip's configuration of the model.
        folder: gets `image/` or `text/` where timm or transformers has to be told sizes.

    Raises:
        ValueError: options for a tower that is neither timm's nor transformers'.
    """
    vision = {**config["vision_cfg"], **spec.vision}
    text = {**config["text_cfg"], **spec.text}
    if spec.image_options:
        name = _needed(spec, vision, "timm_model_name", "image_options")
        given = {"architecture": name, "pretrained_cfg": {}, "model_args": dict(spec.image_options)}
        vision["timm_model_name"] = f"local-dir:{_write(folder / 'image', given)}"
    if spec.text_options:
        _needed(spec, text, "hf_model_name", "text_options")
        text["hf_model_name"] = str(_write(folder / "text", dict(spec.text_options)))
        text["hf_model_pretrained"] = False
    return vision, text


def _write(folder: Path, values: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(values) + "\n", encoding="utf-8")
    return folder


def _needed(spec: OpenClipSpec, tower: Mapping[str, Any], key: str, field: str) -> str:
    if not tower.get(key):
        raise ValueError(
            f"OpenClipSpec.{field} are for towers with a {key}, and {spec.model}'s has none: put "
            "its sizes into OpenClipSpec.vision or .text"
        )
    return tower[key]
