"""`build_student`: a name, a specification or a module of your own becomes a `Student`.

Weights are random unless an open_clip tag is named. Left out: inheriting a donor's weights.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from students.catalog import CATALOG
from students.spec import OpenClipSpec, StudentSpec
from students.student import Student
from students.tower_options import tower_configs
from students.two_tower import SIGMOID_BIAS, SIGMOID_SCALE, TwoTower
from teachers.clip_model import ClipModel, check_dual_encoder, evaluating
from teachers.contract import Kind, Preprocess, Tokenizer
from teachers.suggestions import did_you_mean, unknown_name
from teachers.tokenizers import OpenClipTokenizer

Rgb = tuple[float, float, float]


def build_student(
    what: str | StudentSpec | OpenClipSpec | nn.Module,
    *,
    image_size: int | None = None,
    mean: Rgb | None = None,
    std: Rgb | None = None,
    tokenizer: Tokenizer | None = None,
    kind: Kind = "softmax",
    name: str | None = None,
) -> Student:
    """Make a student.

    Args:
        what: a `CATALOG` or open_clip name ("MobileCLIP2-S0"; "MobileCLIP2-S0/dfndr2b" starts from
            published weights), a `StudentSpec`, an `OpenClipSpec` (an open_clip configuration with
            changes), or your own `DualEncoder` module.
        image_size: side of the pictures in pixels; needed for your own module.
        mean: pixel mean in [0, 1]; by default the model's own, for your own module OpenAI's.
        std: pixel deviation, likewise.
        tokenizer: needed for your own module; by default open_clip's for the model.
        kind: "softmax" (CLIP), or "sigmoid" (SigLIP), which adds a bias if there is none yet.
        name: what reports call it.

    Raises:
        ValueError: when there is no such model, or a module is no dual encoder; says what to do.
    """
    if kind not in ("softmax", "sigmoid"):
        raise unknown_name("kind", kind, ("softmax", "sigmoid"))
    pixels = {"image_size": image_size, "mean": mean, "std": std}
    pixels = {key: value for key, value in pixels.items() if value is not None}
    if isinstance(what, str) and what in CATALOG:
        name, what = name or what, CATALOG[what].build
    if isinstance(what, str):
        model, _, tag = what.partition("/")
        return _from_open_clip(
            OpenClipSpec(model=model), tag, pixels, tokenizer, kind, name or what
        )
    if isinstance(what, OpenClipSpec):
        return _from_open_clip(what, "", pixels, tokenizer, kind, name or what.model)
    if isinstance(what, StudentSpec):
        return _from_spec(replace(what, **pixels), tokenizer, kind, name or what.image)
    if isinstance(what, nn.Module):
        return _from_module(what, pixels, tokenizer, kind, name or type(what).__name__)
    raise ValueError(
        "build_student takes a name, a StudentSpec, an OpenClipSpec or a torch module, got "
        f"{type(what).__name__}"
    )


def _from_spec(spec: StudentSpec, tokenizer: Tokenizer | None, kind: Kind, name: str) -> Student:
    tokenizer = tokenizer or OpenClipTokenizer("ViT-B-32", spec.text.context_length)
    text = spec.text
    if tokenizer.context_length != text.context_length:
        raise ValueError(
            f"the tokenizer gives {tokenizer.context_length} ids a text, the student's text tower "
            f"takes {text.context_length}: set TextSpec(context_length={tokenizer.context_length})"
        )
    if text.vocab_size is not None and text.vocab_size < tokenizer.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} ids, TextSpec.vocab_size is only "
            f"{text.vocab_size}: leave it out, and the tokenizer's is taken"
        )
    spec = replace(spec, text=replace(text, vocab_size=text.vocab_size or tokenizer.vocab_size))
    module = TwoTower(spec, kind=kind)
    source = {"type": "spec", "spec": spec.config()}
    student = _student(module, name, spec.preprocess, tokenizer, source)
    probe(student)
    return student


def _from_open_clip(
    spec: OpenClipSpec,
    tag: str,
    pixels: dict[str, Any],
    tokenizer: Tokenizer | None,
    kind: Kind,
    name: str,
) -> Student:
    model = spec.model
    if model not in open_clip.list_models():
        known = sorted({*CATALOG, *open_clip.list_models()})
        hint = did_you_mean(model, known)
        raise ValueError(
            f"no student {model!r} in the catalogue or in open_clip{hint}; `distill list students` "
            "prints the catalogue"
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag and tag not in tags:
        raise ValueError(f"{model}: {unknown_name('weights', tag, tags)}")
    size = pixels.get("image_size")
    if tokenizer is not None:
        sizes = {"context_length": tokenizer.context_length, "vocab_size": tokenizer.vocab_size}
        spec = replace(spec, text={**spec.text, **sizes})
    module = open_clip_module(spec, tag=tag or None, image_size=size, kind=kind)
    tokenizer = tokenizer or OpenClipTokenizer(model)
    preprocess = replace(open_clip_preprocess(model, module, tag), **pixels)
    source = {"type": "open_clip", **asdict(spec), "image_size": size}
    return _student(module, name, preprocess, tokenizer, source)


def open_clip_module(
    spec: OpenClipSpec,
    *,
    tag: str | None = None,
    image_size: int | None = None,
    kind: Kind = "softmax",
) -> nn.Module:
    """Build an open_clip model with both towers as modules."""
    config = open_clip.get_model_config(spec.model)
    assert config is not None
    changes: dict[str, Any] = {}
    if spec.embed_dim is not None:
        changes["embed_dim"] = spec.embed_dim
    if kind == "sigmoid" and "init_logit_bias" not in config:
        changes |= {"init_logit_bias": SIGMOID_BIAS, "init_logit_scale": SIGMOID_SCALE}
    with _quiet(), tower_configs(spec, config) as (vision, text):
        if image_size is not None:  # open_clip puts vision_cfg above force_image_size
            vision["image_size"] = image_size
        return open_clip.create_model(
            spec.model,
            pretrained=tag,
            device=torch.get_default_device(),
            force_custom_text=True,
            force_image_size=image_size,
            pretrained_text=False,
            vision_cfg=vision,
            text_cfg=text,
            **changes,
        )


def open_clip_preprocess(model: str, module: nn.Module, tag: str = "") -> Preprocess:
    """Return the pixels that an open_clip model's published weights were trained on.

    MobileCLIP's own models differ here (some take raw [0, 1] pixels), and open_clip keeps that
    beside the weights, not in the model's configuration. Without a tag the weights' settings count
    where all of the model's weights agree, else open_clip's default.
    """
    tags = [tag] if tag else open_clip.list_pretrained_tags_by_model(model)
    keys = ("mean", "std", "interpolation", "resize_mode")
    tables = [open_clip.get_pretrained_cfg(model, each) for each in tags]
    found = [{key: table[key] for key in keys if table.get(key)} for table in tables]
    agreed = found[0] if found and all(each == found[0] for each in found) else {}
    size: Any = module.visual.image_size
    values = {**open_clip.get_model_preprocess_cfg(module), **agreed}
    return Preprocess(
        image_size=size[0] if isinstance(size, tuple) else size,
        mean=tuple(values["mean"]),
        std=tuple(values["std"]),
        # "random" is an augmentation of a few trainings; bicubic is its evaluation form.
        interpolation="bilinear" if values["interpolation"] == "bilinear" else "bicubic",
        resize_mode=values["resize_mode"],
    )


def _from_module(
    module: nn.Module, pixels: dict[str, Any], tokenizer: Tokenizer | None, kind: Kind, name: str
) -> Student:
    label = type(module).__name__
    if isinstance(module, ClipModel):
        raise ValueError(f"this is a {label} already; pass its .module to build a student from it")
    if "image_size" not in pixels or tokenizer is None:
        raise ValueError(
            f"a student from your own module needs to know its pixels and its texts: "
            f"build_student({label.lower()}, image_size=..., mean=..., std=..., tokenizer=...)"
        )
    check_dual_encoder(module)
    if kind == "sigmoid" and getattr(module, "logit_bias", None) is None:
        raise ValueError(
            f'kind="sigmoid" needs a scalar parameter {label}.logit_bias (SigLIP starts at -10)'
        )
    source = {"type": "module", "class": f"{type(module).__module__}.{type(module).__qualname__}"}
    student = _student(module, name, Preprocess(**pixels), tokenizer, source)
    probe(student)
    return student


def probe(student: Student) -> None:
    """Run two pictures and two texts through a module; a `ValueError` says what came out wrong."""
    size, module = student.preprocess.image_size, student.module
    # Not random: building a student should draw no more than its weights.
    pixels = torch.linspace(-1, 1, 6 * size**2, device=student.device).view(2, 3, size, size)
    tokens = student.tokenizer(["a", "a b"]).to(student.device)
    with evaluating(module), torch.no_grad():
        image = _probe_encoder(module, "encode_image", pixels)
        text = _probe_encoder(module, "encode_text", tokens)
    if image != text:
        raise ValueError(
            f"{type(module).__name__}'s two encoders must give equally wide rows, got {image} for "
            f"pictures and {text} for texts"
        )


def _probe_encoder(module: nn.Module, method: str, given: Tensor) -> int:
    """Return how wide an encoder's rows are, if it gives rows at all."""
    label = f"{type(module).__name__}.{method}"
    try:
        rows = getattr(module, method)(given)
    except Exception as error:
        raise ValueError(
            f"{label} failed on a {tuple(given.shape)} {given.dtype} batch: {error}"
        ) from error
    if not isinstance(rows, Tensor) or rows.ndim != 2 or len(rows) != len(given):
        got = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
        raise ValueError(
            f"{label} must return embeddings (n, d): for a {tuple(given.shape)} batch expected "
            f"({len(given)}, d), got {got}"
        )
    if not rows.is_floating_point() or not rows.isfinite().all():
        raise ValueError(f"{label} returned {rows.dtype} rows that are no finite floats")
    return rows.shape[1]


def _student(
    module: nn.Module,
    name: str,
    preprocess: Preprocess,
    tokenizer: Tokenizer,
    source: dict[str, Any],
) -> Student:
    return Student(module, name=name, preprocess=preprocess, tokenizer=tokenizer, source=source)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hush open_clip's warning that random weights are random, which is the point here."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)
