"""What takes the steps: the algorithm, its rates for each tower and layer, what decays."""

from dataclasses import dataclass
from typing import Literal

OptimizerName = Literal["adamw", "lion", "lamb", "muon", "adamw8bit", "lion8bit", "paged_adamw8bit"]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer; no decay on norms, biases and the logit scale, after CLIP.

    Attributes:
        name: adamw; lion (arXiv:2302.06675: a third to a tenth of AdamW's rate, as many times its
            decay, betas 0.9 0.99; half its state); lamb (arXiv:1904.00962: large batches); muon
            (Jordan et al. 2024, steps of AdamW's size as in arXiv:2502.16982: the momentum, 0.95,
            of linear layers' and convolutions' weights is made orthogonal; AdamW takes the rest);
            and those that keep their state in 8 bits (arXiv:2110.02861), paged_adamw8bit partly in
            the CPU's memory when the GPU's is full.
        lr: the peak rate, of everything that has none of its own.
        image_lr: the image tower's, in its place.
        text_lr: the text tower's, in its place.
        image_layer_decay: each layer of the image tower has this times the rate of the next one;
            1 gives all the same.
        text_layer_decay: likewise in the text tower.
        weight_decay: decoupled from the gradient, times the rate.
        betas: of the running means, in muon of AdamW's.
        eps: what Adam's and LAMB's divisor is at least; Lion has none, nor what Muon takes.
        max_grad_norm: the whole gradient is scaled down to it.
    """

    name: OptimizerName = "adamw"
    lr: float = 1e-3
    image_lr: float | None = None
    text_lr: float | None = None
    image_layer_decay: float = 1.0
    text_layer_decay: float = 1.0
    weight_decay: float = 0.2
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    max_grad_norm: float | None = 1.0

    def __post_init__(self) -> None:
        """Refuse rates and factors that are no such thing."""
        rates = {"lr": self.lr, "image_lr": self.image_lr, "text_lr": self.text_lr}
        for name, rate in rates.items():
            if rate is not None and rate <= 0:
                raise ValueError(f"optimizer.{name} must be above 0, got {rate}")
        for name in ("image_layer_decay", "text_layer_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f"optimizer.{name} must be above 0 and at most 1, got {getattr(self, name)}"
                )
