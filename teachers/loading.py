"""`load_teacher`: one way in for pretrained names, hub ids, folders and ready modules."""

import copy
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from teachers.catalog import find_entry, list_teachers
from teachers.clip_model import ClipModel, check_dual_encoder
from teachers.contract import Preprocess, Tokenizer
from teachers.from_open_clip import (
    CONFIG_NAME,
    LoadedModel,
    from_catalog,
    from_folder,
    from_hub,
)
from teachers.teacher import Precision, Teacher, check_precision


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
            open_clip_config.json and weights (also "local-dir:PATH"); or a ready module: a
            `ClipModel`, whose parts are taken over, or any `DualEncoder`, with `preprocess` and
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
    return Teacher(**vars(loaded), precision=precision, device=device)


def check_tokenizer(tokenizer: object) -> None:
    """Raise a `ValueError` that says which part of the `Tokenizer` contract is missing."""
    for part in ("config", "context_length", "vocab_size"):
        if not hasattr(tokenizer, part):
            raise ValueError(
                f"the tokenizer ({type(tokenizer).__name__}) has no {part}: beside being called "
                "with texts it needs context_length, vocab_size and config(), what decides its "
                "token ids, for the teacher's fingerprint. See teachers.contract.Tokenizer"
            )


def _load(spec: str | Path) -> LoadedModel:
    if isinstance(spec, Path):
        return from_folder(_existing(spec))
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
