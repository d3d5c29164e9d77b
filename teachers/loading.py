"""`load_teacher`: one way in for pretrained names, hub ids, folders and ready modules."""

import copy
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from teachers.catalog import find_entry, list_teachers
from teachers.clip_model import ClipModel, check_dual_encoder
from teachers.contract import Preprocess, Tokenizer
from teachers.from_open_clip import CONFIG_NAME, from_catalog, from_folder, from_hub
from teachers.from_timm import PREFIX as TIMM
from teachers.from_timm import check_timm, from_timm, timm_name
from teachers.from_transformers_text import PREFIX as TEXT
from teachers.from_transformers_text import from_transformers_text, transformers_name
from teachers.loaded_model import LoadedModel
from teachers.teacher import Precision, Teacher, check_precision
from teachers.unimodal import UnimodalTeacher


def load_teacher(
    spec: str | Path | nn.Module,
    *,
    precision: Precision = "fp32",
    device: str | torch.device = "cpu",
    name: str | None = None,
    preprocess: Preprocess | None = None,
    tokenizer: Tokenizer | None = None,
) -> Teacher:
    """Load a frozen teacher.

    Args:
        spec: an open_clip `name/tag` ("ViT-B-16/openai"); "hf-hub:owner/name"; a folder with
            open_clip_config.json and weights (also "local-dir:PATH"); "timm/NAME", an image
            encoder, or "hf-text:ID", a text encoder or language model, alone; or a ready module:
            a `ClipModel`, whose parts are taken over, or any `DualEncoder`, with `preprocess` and
            `tokenizer` given. A ready module is copied, so yours stays trainable.
        precision: "fp32", "bf16", "int8" or "nf4".
        device: where the teacher runs.
        name: instead of the spec's own, in reports, columns and ensembles.
        preprocess, tokenizer: instead of what the source says.

    Raises:
        ValueError: the spec, precision or module is not usable; says what to do.
        ConnectionError: the weights are not in the hub's cache, and the hub is out of reach.
        RuntimeError: the hub has no such weights.
    """
    check_precision(precision)
    if tokenizer is not None:
        check_tokenizer(tokenizer)
    loaded = _ready(spec, preprocess, tokenizer) if isinstance(spec, nn.Module) else _load(spec)
    given = {"name": name, "preprocess": preprocess, "tokenizer": tokenizer}
    loaded = replace(loaded, **{key: value for key, value in given.items() if value is not None})
    parts = {**vars(loaded), "precision": precision, "device": device}
    modality = parts.pop("modality")
    return Teacher(**parts) if modality is None else UnimodalTeacher(**parts, modality=modality)


def check_tokenizer(tokenizer: object) -> None:
    """Raise a `ValueError` that says which part of the `Tokenizer` contract is missing."""
    for part in ("config", "context_length", "vocab_size"):
        if not hasattr(tokenizer, part):
            raise ValueError(
                f"the tokenizer ({type(tokenizer).__name__}) has no {part}: beside being called "
                "with texts it needs context_length, vocab_size and config(), what decides its "
                "token ids, for the teacher's fingerprint. See teachers.contract.Tokenizer"
            )


def teacher_name(spec: str) -> str:
    """What `load_teacher(spec)` would be called, found out without loading it.

    Raises:
        ValueError: there is no such teacher, as far as that can be told.
    """
    if spec.startswith(TIMM):
        check_timm(spec.removeprefix(TIMM))
        return timm_name(spec.removeprefix(TIMM))
    if spec.startswith(TEXT):
        return transformers_name(spec.removeprefix(TEXT))
    if spec.startswith("hf-hub:"):
        return spec.removeprefix("hf-hub:")
    folder = Path(spec.removeprefix("local-dir:")).expanduser()
    known = spec.partition("/")[0] in {entry.model for entry in list_teachers()}
    return find_entry(spec).spec if known else _existing(folder).resolve().name


def _load(spec: str | Path) -> LoadedModel:
    if isinstance(spec, Path):
        return from_folder(_existing(spec))
    if spec.startswith(TIMM):
        return from_timm(spec.removeprefix(TIMM))
    if spec.startswith(TEXT):
        return from_transformers_text(spec.removeprefix(TEXT))
    if spec.startswith("hf-hub:"):
        return from_hub(spec)
    if spec.startswith("local-dir:"):
        return from_folder(_existing(Path(spec.removeprefix("local-dir:"))))
    folder = Path(spec).expanduser()
    known = spec.partition("/")[0] in {entry.model for entry in list_teachers()}
    if not known and folder.is_dir():
        return from_folder(folder)
    if spec.startswith(("/", ".", "~")) or spec.count("/") > 1:
        return from_folder(_existing(folder))
    return from_catalog(find_entry(spec))


def _existing(folder: Path) -> Path:
    folder = folder.expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"no folder {folder}: a teacher's folder holds {CONFIG_NAME} and weights. Pretrained "
            "names look like ViT-B-16/openai, hub ids like hf-hub:owner/name"
        )
    return folder


def _ready(
    module: nn.Module, preprocess: Preprocess | None, tokenizer: Tokenizer | None
) -> LoadedModel:
    if isinstance(module, Teacher) and module.precision != "fp32":
        raise ValueError(
            f"{module.name} is a teacher in {module.precision} already, which cannot be converted "
            "again: load it from its source in the precision you want"
        )
    if isinstance(module, ClipModel):
        return LoadedModel(
            module=copy.deepcopy(module.module),
            name=module.name,
            preprocess=module.preprocess,
            tokenizer=module.tokenizer,
            licence=getattr(module, "licence", None),
            source=getattr(module, "source", None),
            modality=module.modalities[0] if len(module.modalities) == 1 else None,
        )
    check_dual_encoder(module)
    missing = [
        part
        for part, given in (("preprocess", preprocess), ("tokenizer", tokenizer))
        if given is None
    ]
    if missing or preprocess is None or tokenizer is None:
        raise ValueError(
            f"a {type(module).__name__} does not say how it is fed: pass "
            f"{' and '.join(f'{part}=...' for part in missing)} (teachers.Preprocess(image_size="
            "...), and a tokenizer such as teachers.OpenClipTokenizer or WordTokenizer)"
        )
    return LoadedModel(
        module=copy.deepcopy(module),
        name=type(module).__name__,
        preprocess=preprocess,
        tokenizer=tokenizer,
    )
