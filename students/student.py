"""A student: a `ClipModel` that trains, saves itself, and knows which weights are whose.

Which parameters belong to which tower is found by asking the gradient, so that a module of any
inner layout can be counted, locked and exported. Left out: optimizer state (the trainer's).
"""

import copy
import json
import os
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors.torch import save_model
from timm.utils import reparameterize_model
from torch import Tensor, nn

from teachers.clip_model import ClipModel, evaluating, unit_rows
from teachers.contract import Preprocess, Tokenizer

FORMAT = 1
CONFIG_FILE = "student.json"
WEIGHTS_FILE = "model.safetensors"
TowerName = Literal["image", "text"]


class Tower(nn.Module):
    """One encoder of a dual encoder as a module of its own: its input to unit rows.

    It shares the dual encoder's weights; `parameters()` lists only those this encoder uses.
    """

    def __init__(self, module: nn.Module, tower: TowerName, names: frozenset[str]) -> None:
        """Look at `module` through the encoder `tower`, whose parameters are `names`."""
        super().__init__()
        self.module = module
        self.tower = tower
        self._names = names
        self.training = module.training

    def forward(self, inputs: Tensor) -> Float[Tensor, "n d"]:
        """Embed normalised pixels, or token ids."""
        return unit_rows(getattr(self.module, f"encode_{self.tower}")(inputs))

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Only the parameters of this encoder."""
        every = self.module.named_parameters("", recurse, remove_duplicate)
        start = f"{prefix}.module." if prefix else "module."
        return ((start + name, value) for name, value in every if name in self._names)


class Student(ClipModel):
    """A dual encoder to train and ship; `build_student` makes one.

    Args:
        module: the dual encoder.
        name: what reports and files call it.
        preprocess: the pixels it sees.
        tokenizer: texts to token ids.
        source: how `module` was made, as JSON values; `load_student` reads it back.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        source: dict[str, Any],
    ) -> None:
        """Keep the parts."""
        super().__init__(module, name=name, preprocess=preprocess, tokenizer=tokenizer)
        self.source = source

    @property
    def config(self) -> dict[str, Any]:
        """Everything but the weights, as JSON values."""
        return {
            "format": FORMAT,
            "name": self.name,
            "kind": self.kind,
            "source": self.source,
            "preprocess": self.preprocess.config(),
            "tokenizer": self.tokenizer.config(),
        }

    @cached_property
    def tower_names(self) -> dict[TowerName, frozenset[str]]:
        """Names, inside `module`, of the parameters that each encoder uses."""
        return tower_names(self)

    @property
    def image_tower(self) -> Tower:
        """Normalised pixels to unit rows."""
        return Tower(self.module, "image", self.tower_names["image"])

    @property
    def text_tower(self) -> Tower:
        """Token ids to unit rows."""
        return Tower(self.module, "text", self.tower_names["text"])

    @property
    def image_params(self) -> int:
        """How many numbers the image encoder learns."""
        return sum(value.numel() for value in self.image_tower.parameters())

    @property
    def text_params(self) -> int:
        """How many numbers the text encoder learns."""
        return sum(value.numel() for value in self.text_tower.parameters())

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        switch = getattr(self.module, "set_grad_checkpointing", None)
        if switch is None:
            raise ValueError(
                f"{type(self.module).__name__} has no set_grad_checkpointing(enable); add it, or "
                "switch activation checkpointing off"
            )
        switch(enable)

    def reparameterize(self) -> "Student":
        """Return a copy in its inference form: train-time branches folded, evaluation mode.

        A module that folds nothing comes back as an equal copy. The copy is not for saving: its
        weights no longer have the names that `load_student` rebuilds.
        """
        return Student(
            reparameterize_model(copy.deepcopy(self.module).eval(), inplace=True),
            name=self.name,
            preprocess=self.preprocess,
            tokenizer=self.tokenizer,
            source={"type": "reparameterized"},
        ).eval()

    def save(self, folder: str | Path) -> None:
        """Write `student.json` and `model.safetensors`, each under its final name only when whole.

        Raises:
            ValueError: when this is a reparameterised copy.
        """
        if self.source["type"] == "reparameterized":
            raise ValueError(
                f"{self.name} is a reparameterised copy, which cannot be rebuilt: save the student "
                "it came from, or export() it"
            )
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.config, indent=2) + "\n"
        weights, config = folder / WEIGHTS_FILE, folder / CONFIG_FILE
        # save_model keeps one copy of tensors that share memory.
        save_model(self.module, str(weights) + ".tmp")
        Path(f"{config}.tmp").write_text(text, encoding="utf-8")
        # safetensors' own files are for their owner only.
        shutil.copymode(f"{config}.tmp", f"{weights}.tmp")
        os.replace(f"{weights}.tmp", weights)
        os.replace(f"{config}.tmp", config)


def tower_names(model: ClipModel) -> dict[TowerName, frozenset[str]]:
    """Names, inside any model's `module`, of the parameters that each encoder uses."""
    size = model.preprocess.image_size
    pixels = torch.zeros(1, 3, size, size, device=model.device)
    tokens = model.tokenizer(["a"]).to(model.device)
    return {
        "image": reached_parameters(model.module, "encode_image", pixels),
        "text": reached_parameters(model.module, "encode_text", tokens),
    }


def tower_params(model: ClipModel) -> dict[TowerName, int]:
    """How many numbers each encoder of any model has learned, as a student's own counts."""
    sizes = {name: value.numel() for name, value in model.module.named_parameters()}
    return {
        tower: sum(map(sizes.__getitem__, names)) for tower, names in tower_names(model).items()
    }


def reached_parameters(module: nn.Module, method: str, inputs: Tensor) -> frozenset[str]:
    """Name the parameters that one encoder's output depends on; leaves the module as it was."""
    named = dict(module.named_parameters())
    wanted = {name: value.requires_grad for name, value in named.items()}
    try:
        module.requires_grad_(True)
        with evaluating(module), torch.enable_grad():
            output = getattr(module, method)(inputs)
    finally:
        for name, value in named.items():
            value.requires_grad_(wanted[name])
    # The graph is walked, not differentiated: a large teacher's gradients are as large as it is.
    waiting, seen, leaves = [output.grad_fn], {None}, set()
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            leaves.add(id(getattr(node, "variable", None)))
            waiting += [above for above, _ in node.next_functions]
    return frozenset(name for name, value in named.items() if id(value) in leaves)
