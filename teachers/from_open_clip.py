"""Teachers that open_clip can load: pretrained `name/tag`, `hf-hub:` ids, folders in its format.

What each was trained with (size, normalisation, interpolation, tokenizer, activation) is read
from open_clip's record of it; nothing is assumed. Image and text transforms other than
`Preprocess` can say (non-square images, letterboxing) are refused, not approximated.
"""

import json
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
from open_clip.pretrained import get_pretrained_cfg
from torch import nn

from teachers.catalog import PretrainedWeights
from teachers.contract import Preprocess, Tokenizer
from teachers.hub import hub_or_cache
from teachers.loaded_model import LoadedModel
from teachers.tokenizers import HuggingFaceTokenizer, OpenClipTokenizer

CONFIG_NAME = "open_clip_config.json"
_WEIGHTS = (".safetensors", ".bin", ".pth")


def from_catalog(entry: PretrainedWeights) -> LoadedModel:
    """Load pretrained weights by name and tag; downloads them unless they are cached."""
    record = get_pretrained_cfg(entry.model, entry.tag)
    # Some names (ViT-B-16/openai) have a configuration with plain GELU and weights that were
    # trained with the quick one; open_clip warns and computes the wrong thing.
    quick = bool(record.get("quick_gelu", False))
    with hub_or_cache(entry.spec):
        tokenizer = OpenClipTokenizer(entry.model)
        module = _create(entry.model, entry.tag, force_quick_gelu=quick)
    return LoadedModel(
        module=module,
        name=entry.spec,
        preprocess=read_preprocess(module, entry.spec),
        tokenizer=tokenizer,
        licence=entry.licence,
        source=_source(open_clip.get_model_config(entry.model), quick),
    )


def from_hub(spec: str) -> LoadedModel:
    """Load an `hf-hub:owner/name` repository that has an open_clip configuration."""
    with hub_or_cache(spec):
        try:
            tokenizer = OpenClipTokenizer(spec)
            module = _create(spec)
            name = spec.removeprefix("hf-hub:")
            config = Path(huggingface_hub.hf_hub_download(name.partition("@")[0], CONFIG_NAME))
        except (RuntimeError, OSError) as error:
            raise RuntimeError(
                f"{spec} could not be loaded from the Hugging Face hub: {error}. Check the id, and "
                f"that the repository has {CONFIG_NAME}"
            ) from error
    return LoadedModel(
        module=module,
        name=name,
        preprocess=read_preprocess(module, spec),
        tokenizer=tokenizer,
        source=_source(_read_config(config.parent)["model_cfg"]),
    )


def from_folder(folder: Path) -> LoadedModel:
    """Load a folder as open_clip saves it: `open_clip_config.json` beside safetensors weights.

    Raises:
        ValueError: when something is missing or does not fit; names the file.
    """
    config = _read_config(folder)
    if not any(path.suffix in _WEIGHTS for path in folder.iterdir()):
        raise ValueError(
            f"{folder} has a {CONFIG_NAME} but no weights: expected open_clip_model.safetensors"
        )
    spec = f"local-dir:{folder}"
    try:
        module = _create(spec)
        tokenizer = _folder_tokenizer(folder, config)
    except Exception as error:  # a file of the user's may fail in any way: say which
        raise ValueError(
            f"{folder} could not be loaded as an open_clip model ({type(error).__name__}): {error}"
        ) from error
    preprocess = read_preprocess(module, str(folder))
    return LoadedModel(
        module=module,
        name=folder.resolve().name,
        preprocess=preprocess,
        tokenizer=tokenizer,
        source=_source(config["model_cfg"]),
    )


def _source(model_config: Any, quick_gelu: bool = False) -> dict[str, Any]:
    """The architecture as JSON values; `open_clip_from_config` reads them back."""
    return {"type": "open_clip_config", "config": model_config, "quick_gelu": quick_gelu}


def open_clip_from_config(source: Mapping[str, Any]) -> nn.Module:
    """Build it again, with random weights."""
    with tempfile.TemporaryDirectory() as folder:
        content = {"model_cfg": source["config"], "preprocess_cfg": {}}
        (Path(folder) / CONFIG_NAME).write_text(json.dumps(content))
        return open_clip.create_model(
            f"local-dir:{folder}",
            load_weights=False,
            force_quick_gelu=source["quick_gelu"],
            pretrained_text=False,
        )


def read_preprocess(module: Any, where: str) -> Preprocess:
    """Translate what open_clip keeps on the image tower."""
    config: dict[str, Any] = module.visual.preprocess_cfg
    size = config["size"]
    height, width = size if isinstance(size, tuple | list) else (size, size)
    if height != width:
        raise ValueError(
            f"{where} takes images of {height} x {width} pixels; only square ones are supported"
        )
    interpolation = config.get("interpolation") or "bicubic"
    return Preprocess(
        image_size=height,
        mean=_three(config["mean"]),
        std=_three(config["std"]),
        # "random" is a training augmentation; open_clip evaluates such models with bicubic.
        interpolation="bicubic" if interpolation == "random" else interpolation,
        resize_mode=config.get("resize_mode") or "shortest",
    )


def _create(name: str, tag: str | None = None, **options: Any) -> nn.Module:
    try:
        return open_clip.create_model(
            name, tag, require_pretrained=True, weights_only=True, **options
        )
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"the weights of {name if tag is None else f'{name}/{tag}'} are a pickle that wants "
            "more than tensors, and is not loaded: it could run anything. Convert them to "
            "safetensors where you trust them"
        ) from error


def _three(value: Any) -> tuple[float, float, float]:
    red, green, blue = value if isinstance(value, tuple | list) else (value,) * 3
    return float(red), float(green), float(blue)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_NAME
    if not path.is_file():
        hint = (
            "it holds a student: pass students.load_student(folder) instead"
            if (folder / "student.json").is_file()
            else "save open_clip models with open_clip.push_to_hf_hub.save_for_hf"
        )
        raise ValueError(f"{folder} has no {CONFIG_NAME}; {hint}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict) or "model_cfg" not in config:
        raise ValueError(f"{path} has no 'model_cfg': it is not an open_clip configuration")
    return config


def _folder_tokenizer(folder: Path, config: dict[str, Any]) -> Tokenizer:
    """Read the folder's tokenizer into one that does not depend on where the folder lies."""
    text = config["model_cfg"]["text_cfg"]
    options = text.get("tokenizer_kwargs", {})
    if text.get("hf_tokenizer_name"):
        if text.get("tokenizer_mode") or set(options) - {"clean"}:
            return OpenClipTokenizer(f"local-dir:{folder}")
        loaded: Any = open_clip.get_tokenizer(f"local-dir:{folder}")
        return HuggingFaceTokenizer.from_open_clip(loaded, clean=options.get("clean", "whitespace"))
    if options:
        return OpenClipTokenizer(f"local-dir:{folder}")
    # Without a name open_clip gives its own byte-pair tokenizer.
    return OpenClipTokenizer("", text.get("context_length"))
