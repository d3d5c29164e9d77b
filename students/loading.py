"""`load_student`: a folder written by `Student.save` or `export` becomes a `Student` again."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model
from torch import nn

from students.building import open_clip_module
from students.composing import composed_module
from students.hub import HUB_PREFIX, fetch_from_hub
from students.spec import OpenClipSpec, StudentSpec
from students.student import CONFIG_FILE, FORMAT, WEIGHTS_FILE, Student, TowerName
from students.two_tower import TwoTower
from teachers.contract import Kind, Preprocess, Tokenizer
from teachers.rebuilding import rebuild_encoder
from teachers.tokenizers import load_tokenizer


def load_student(
    folder: str | Path, *, module: nn.Module | None = None, tokenizer: Tokenizer | None = None
) -> Student:
    """Load a student in evaluation mode, on the CPU.

    Args:
        folder: what `Student.save` or `export` wrote, or "hf-hub:USER/NAME" (with "@REVISION").
        module: for a student made from your own module, a fresh one; its weights are replaced.
            Of a composed student that is the module of the side which is your own.
        tokenizer: for a tokenizer of your own make, that tokenizer.

    Raises:
        ValueError: when the folder holds no student, a newer format, or other weights than the
            module has.
    """
    if str(folder).startswith(HUB_PREFIX):
        folder = fetch_from_hub(str(folder))
    folder = Path(folder)
    for needed in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / needed).is_file():
            raise ValueError(f"no student in {folder}: {needed} is missing there")
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / CONFIG_FILE} is no JSON: {error}") from error
    if config.get("format") != FORMAT:
        raise ValueError(
            f"{folder / CONFIG_FILE} has format {config.get('format')!r}, this version reads "
            f"format {FORMAT}; update clip-distill, or save the student anew"
        )
    preprocess = Preprocess.from_config(config["preprocess"])
    tokenizer = tokenizer or load_tokenizer(config["tokenizer"])
    student = Student(
        _module(config, module, folder, preprocess, tokenizer),
        name=config["name"],
        preprocess=preprocess,
        tokenizer=tokenizer,
        source=config["source"],
    )
    try:
        load_model(student.module, folder / WEIGHTS_FILE)
    except RuntimeError as error:
        label = type(student.module).__name__
        raise ValueError(f"the weights in {folder} do not fit {label}: {error}") from error
    return student.eval()


def _module(
    config: dict[str, Any],
    module: nn.Module | None,
    folder: Path,
    preprocess: Preprocess,
    tokenizer: Tokenizer,
) -> nn.Module:
    source, kind = config["source"], config["kind"]
    if source["type"] != "composed":
        return _from_source(source, kind, module=module, folder=folder)
    size = preprocess.image_size
    samples: dict[TowerName, torch.Tensor] = {
        "image": torch.zeros(1, 3, size, size),
        "text": tokenizer(["a"]),
    }

    def build_side(described: dict[str, Any]) -> nn.Module:
        own = module if described["type"] == "module" else None
        # A side has no loss of its own: whatever its kind was, its encoder is the same.
        return _from_source(described, "softmax", module=own, folder=folder)

    return composed_module(source, kind, samples, build_side)


def _from_source(
    source: dict[str, Any], kind: Kind, *, module: nn.Module | None, folder: Path
) -> nn.Module:
    if source["type"] == "module":
        if module is None:
            raise ValueError(
                f"{folder} holds a student made from a module of your own, "
                f"{source.get('class', 'a tower of a teacher')}: pass one, "
                "load_student(folder, module=...)"
            )
        return module
    if module is not None:
        raise ValueError(f"{folder} says itself what to build ({source['type']}): leave out module")
    if source["type"] == "spec":
        return TwoTower(StudentSpec.from_config(source["spec"]), kind=kind)
    if source["type"] == "open_clip":
        spec = OpenClipSpec.from_source(source)
        return open_clip_module(spec, image_size=source["image_size"], kind=kind)
    encoder = rebuild_encoder(source)
    if encoder is not None:
        return encoder
    raise ValueError(f"{folder / CONFIG_FILE} names an unknown source {source['type']!r}")
