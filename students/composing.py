"""A student whose two sides come from different places, one or both of them a frozen teacher's.

LiT (arXiv:2111.07991) puts a trained text tower beside a locked image tower, ViTamin's locked-text
tuning (arXiv:2404.02132) the reverse; SAIL (arXiv:2412.04616) trains nothing but a head on either
frozen encoder, and LLM2CLIP (arXiv:2411.04997) an adapter on a language model's embeddings. While
such a student trains from a store, the frozen encoder is absent: its side is given the teacher's
stored rows. `PartialStudent.completed` puts it in, and the result is an ordinary `Student`.

Left out: SAIL's concatenation of several features of one encoder.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from students.heads import Head, HeadKind
from students.student import Student, TowerName, reached_parameters
from students.two_tower import SIGMOID_BIAS, SIGMOID_SCALE, SOFTMAX_SCALE
from teachers.clip_model import ClipModel
from teachers.contract import Kind
from teachers.unimodal import NO_PICTURES, NoTokenizer

TOWERS: tuple[TowerName, TowerName] = ("image", "text")


class Half(nn.Module):
    """One encoder of a dual encoder, which is taken over: what the other one needs is dropped."""

    def __init__(self, module: nn.Module, tower: TowerName, sample: Tensor) -> None:
        """Keep what `encode_{tower}(sample)` depends on."""
        super().__init__()
        kept = reached_parameters(module, f"encode_{tower}", sample)
        by_name = dict(module.named_parameters())
        _keep(module, {id(by_name[name]) for name in kept})
        self.module, self.tower = module, tower

    def forward(self, inputs: Tensor) -> Float[Tensor, "n w"]:
        """Embed normalised pixels, or token ids."""
        return getattr(self.module, f"encode_{self.tower}")(inputs)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass."""
        part = getattr(self.module, "visual" if self.tower == "image" else "text", None)
        switch = getattr(part, "set_grad_checkpointing", None)
        if switch is None:
            raise ValueError(
                f"the {self.tower} tower of a {type(self.module).__name__} cannot checkpoint "
                "activations; switch activation checkpointing off"
            )
        switch(enable)


def _keep(module: nn.Module, kept: set[int]) -> None:
    """Take out parameters that are not `kept`, and parts that consist of such."""
    for name, child in list(module.named_children()):
        own = [id(parameter) for parameter in child.parameters()]
        if own and not kept.intersection(own):
            setattr(module, name, None)
        else:
            _keep(child, kept)
    for name, parameter in list(module.named_parameters(recurse=False)):
        if id(parameter) not in kept:
            setattr(module, name, None)


class Side(nn.Module):
    """An encoder, absent while its rows come from a store, and a head or none."""

    def __init__(self, encoder: Half | None, head: Head | None) -> None:
        """Keep both."""
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, inputs: Tensor) -> Float[Tensor, "n d"]:
        """Embed pixels or token ids; without an encoder, the rows that it would give."""
        rows = inputs if self.encoder is None else self.encoder(inputs)
        return rows if self.head is None else self.head(rows)


class TwoSides(nn.Module):
    """A dual encoder of two sides; the scale and bias are trained."""

    def __init__(self, image: Side, text: Side, embed_dim: int, kind: Kind) -> None:
        """Start scale and bias where CLIP and SigLIP do."""
        super().__init__()
        self.image, self.text, self.embed_dim = image, text, embed_dim
        sigmoid = kind == "sigmoid"
        self.logit_scale = nn.Parameter(torch.tensor(SIGMOID_SCALE if sigmoid else SOFTMAX_SCALE))
        self.logit_bias = nn.Parameter(torch.tensor(SIGMOID_BIAS)) if sigmoid else None

    def encode_image(self, images: Tensor) -> Float[Tensor, "n d"]:
        """Embed normalised pixels, or map stored rows."""
        return self.image(images)

    def encode_text(self, tokens: Tensor) -> Float[Tensor, "n d"]:
        """Embed token ids, or map stored rows."""
        return self.text(tokens)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass, where there is an encoder."""
        for side in (self.image, self.text):
            if side.encoder is not None:
                side.encoder.set_grad_checkpointing(enable)


@dataclass(frozen=True, kw_only=True)
class StoredSide:
    """A side whose encoder is not there: how wide its stored rows are, and the head on them."""

    width: int
    head: HeadKind = "none"


class PartialStudent(Student):
    """A student in training that lacks one encoder or both; `partial_student` makes one.

    Attributes:
        load_encoder: gives the model whose encoder of that tower is missing, to be taken over.
    """

    load_encoder: Callable[[TowerName], ClipModel]

    @property
    def tower_names(self) -> dict[TowerName, frozenset[str]]:
        """By side: an encoder that is not there cannot be asked what its output depends on."""
        names = [name for name, _ in self.module.named_parameters()]
        return {tower: frozenset(n for n in names if n.startswith(f"{tower}.")) for tower in TOWERS}

    def completed(self) -> Student:
        """The same student with every encoder in it; the trained parts are shared, not copied."""
        loaded = self.__dict__.setdefault("_loaded", {})  # no submodules: they are not trained
        looks: dict[str, Any] = {"preprocess": self.preprocess, "tokenizer": self.tokenizer}
        sides, described = {}, {}
        for tower in TOWERS:
            side, fields = getattr(self.module, tower), dict(self.source[tower])
            if side.encoder is None:
                if tower not in loaded:
                    model = self.load_encoder(tower)
                    source = getattr(model, "source", None) or {"type": "module"}
                    model.to(self.device)
                    half = Half(model.module, tower, sample_of(model, tower))
                    loaded[tower] = model, source, half
                model, fields["source"], half = loaded[tower]
                look = "preprocess" if tower == "image" else "tokenizer"
                looks[look] = getattr(model, look)
                side = Side(half, side.head)
            sides[tower], described[tower] = side, fields
        module = TwoSides(**sides, embed_dim=self.embed_dim, kind=self.kind)
        module.logit_scale, module.logit_bias = self.module.logit_scale, self.module.logit_bias
        source = {**self.source, **described}
        return Student(module, name=self.name, source=source, **looks).eval()

    def save(self, folder: object) -> None:
        """Refuse: a folder without the encoder would be no student."""
        raise ValueError(f"{self.name} lacks an encoder: save its completed() form")


def partial_student(
    stored: Mapping[TowerName, StoredSide],
    *,
    student: Student | None = None,
    embed_dim: int | None = None,
    kind: Kind = "softmax",
    name: str = "student",
) -> PartialStudent:
    """Make a student that learns against stored rows.

    Args:
        stored: the sides whose encoders are absent.
        student: gives the other side, its scale and its bias, and is taken over; None where both
            sides are stored.
        embed_dim: of two stored sides, both with heads.
        kind: of two stored sides.
        name: what reports call it.

    Raises:
        ValueError: widths do not fit, or nothing would learn.
    """
    width = _width(stored, student, embed_dim)
    # Before the student's module is taken apart.
    heads: Any = (student.logit_scale, student.logit_bias) if student else None
    kind = student.kind if student else kind
    source: dict[str, Any] = {"type": "composed", "embed_dim": width}
    sides = {}
    for tower in TOWERS:
        if tower in stored:
            side = stored[tower]
            head = None if side.head == "none" else Head(side.head, side.width, width)
            sides[tower] = Side(None, head)
            source[tower] = {"source": None, "head": side.head, "width": side.width}
        else:
            assert student is not None
            # Only its shape: the weights are the student's own.
            source[tower] = {"source": student.source, "head": "none", "width": width}
            sides[tower] = Side(Half(student.module, tower, sample_of(student, tower)), None)
    module = TwoSides(**sides, embed_dim=width, kind=kind)
    # Nothing is seen or read until the encoders are there.
    looks: dict[str, Any] = {"preprocess": NO_PICTURES, "tokenizer": NoTokenizer()}
    if student is not None:
        module.logit_scale, module.logit_bias = heads
        looks = {"preprocess": student.preprocess, "tokenizer": student.tokenizer}
    partial = PartialStudent(module, name=name, source=source, **looks)
    partial.embed_dim = width
    return partial


def _width(
    stored: Mapping[TowerName, StoredSide], student: Student | None, embed_dim: int | None
) -> int:
    """How wide the student's embeddings are; raises as `partial_student`."""
    if not stored or (student is None) != (len(stored) == len(TOWERS)):
        raise ValueError(
            "a student is needed for the side that is not stored, and none where both sides are"
        )
    bare = {tower: side.width for tower, side in stored.items() if side.head == "none"}
    if len(bare) == len(TOWERS):
        raise ValueError("both sides are stored and have no head: nothing would learn")
    width = student.embed_dim if student else next(iter(bare.values()), embed_dim)
    if width is None:
        raise ValueError("two heads need an embed_dim: the width of the shared embedding")
    for tower, own in bare.items():
        if own != width:
            raise ValueError(
                f"the stored {tower} rows are {own} wide and the student's embeddings {width}: "
                f"build the student with embed_dim={own}, or give these rows a head"
            )
    return width


def sample_of(model: ClipModel, tower: TowerName) -> Tensor:
    """What its encoder of one tower takes."""
    if tower == "text":
        return model.tokenizer(["a"]).to(model.device)
    size = model.preprocess.image_size
    return torch.zeros(1, 3, size, size, device=model.device)


def composed_module(
    source: Mapping[str, Any], kind: Kind, samples: Mapping[TowerName, Tensor], build: Callable
) -> TwoSides:
    """Build what `PartialStudent.completed` described, with random weights.

    Args:
        source: of the student.
        kind: of the student.
        samples: see `Half`.
        build: makes the module that a side's own source describes.
    """
    width, sides = source["embed_dim"], {}
    for tower in TOWERS:
        fields = source[tower]
        head = None
        if fields["head"] != "none":
            head = Head(fields["head"], fields["width"], width)
        sides[tower] = Side(Half(build(fields["source"]), tower, samples[tower]), head)
    return TwoSides(**sides, embed_dim=width, kind=kind)
