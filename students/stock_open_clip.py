"""A folder that stock open_clip loads: `open_clip.create_model("local-dir:FOLDER")`.

For students that are open_clip models, at any sizes. Sizes that open_clip's configuration has no
words for (of timm's towers and transformers') go into folders that those libraries build from; such
a configuration names them by their full path, and is written anew when the folder moves.
"""

import json
from pathlib import Path
from typing import Any

import open_clip
from safetensors.torch import save_model

from students.spec import OpenClipSpec
from students.student import WEIGHTS_FILE, Student
from students.tower_options import with_tower_configs
from students.two_tower import SIGMOID_BIAS, SIGMOID_SCALE

OPEN_CLIP_FILE = "open_clip_config.json"


def save_for_open_clip(student: Student, folder: str | Path) -> None:
    """Write weights and `open_clip_config.json`; where needed, `image/` and `text/` for a tower.

    Args:
        student: an open_clip model (built by name or by an `OpenClipSpec`).
        folder: made where it is not there.

    Raises:
        ValueError: the student is no open_clip model.
    """
    source = student.source
    if source["type"] != "open_clip":
        raise ValueError(
            f"{student.name} is no open_clip model (made from a {source['type']}), so open_clip "
            "cannot build it: load it with students.load_student, or build it by an open_clip name"
        )
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    pixels = student.preprocess
    values = {
        "model_cfg": _model_config(student, folder),
        "preprocess_cfg": {
            "mean": list(pixels.mean),
            "std": list(pixels.std),
            "interpolation": pixels.interpolation,
            "resize_mode": pixels.resize_mode,
        },
    }
    (folder / OPEN_CLIP_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    save_model(student.module, str(folder / WEIGHTS_FILE))


def _model_config(student: Student, folder: Path) -> dict[str, Any]:
    spec = OpenClipSpec.from_source(student.source)
    config = open_clip.get_model_config(spec.model)
    assert config is not None
    vision, text = with_tower_configs(spec, config, folder)
    vision["image_size"] = student.preprocess.image_size
    config |= {"vision_cfg": vision, "text_cfg": text, "custom_text": True}
    if spec.embed_dim is not None:
        config["embed_dim"] = spec.embed_dim
    if student.kind == "sigmoid" and "init_logit_bias" not in config:
        config |= {"init_logit_bias": SIGMOID_BIAS, "init_logit_scale": SIGMOID_SCALE}
    return config
