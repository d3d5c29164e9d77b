"""MobileCLIP-S0's text tower: convolutions over the tokens around a few transformer blocks.

MCt (MobileCLIP, arXiv:2311.17049, section 4.2): a RepMixer block, `layers` transformer blocks that
see the whole text, a RepMixer block. The token mixers are FastViT's (arXiv:2303.14189) with a
kernel of 1 x 11; in inference form each is one depthwise convolution. open_clip and timm have no
such tower. Left out: reading Apple's own checkpoint, whose names differ.
"""

import torch
from jaxtyping import Float, Int
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

KERNEL = 11
_LAYER_SCALE = 1e-5


class ConvolutionalText(nn.Module):
    """Token ids to embeddings, pooled at the end token.

    Args:
        context_length: token ids a text.
        vocab_size: rows of the embedding table.
        width: channels.
        heads: of the transformer blocks.
        layers: transformer blocks between the two convolutional ones.
        output_dim: width of the embedding.
    """

    def __init__(
        self,
        *,
        context_length: int,
        vocab_size: int,
        width: int,
        heads: int,
        layers: int,
        output_dim: int,
    ) -> None:
        """Start as CLIP's text transformers do (arXiv:2103.00020)."""
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(context_length, width))
        blocks = [ResidualAttentionBlock(width, heads) for _ in range(layers)]
        self.blocks = nn.ModuleList([RepMixerBlock(width), *blocks, RepMixerBlock(width)])
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, output_dim))
        self.grad_checkpointing = False
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        deep = (2 * width * (layers + 2)) ** -0.5
        for block in blocks:
            nn.init.normal_(block.get_parameter("attn.in_proj_weight"), std=width**-0.5)
            nn.init.normal_(block.get_parameter("attn.out_proj.weight"), std=deep)
            nn.init.normal_(block.get_parameter("mlp.c_fc.weight"), std=(2 * width) ** -0.5)
            nn.init.normal_(block.get_parameter("mlp.c_proj.weight"), std=deep)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass."""
        self.grad_checkpointing = enable

    def forward(self, tokens: Int[Tensor, "n context"]) -> Float[Tensor, "n d"]:
        """Embed token ids; rows are not of unit norm yet."""
        rows = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        for block in self.blocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                rows = checkpoint(block, rows, use_reentrant=False)
            else:
                rows = block(rows)
        # CLIP's end token has the highest number.
        last = rows[torch.arange(len(rows), device=rows.device), tokens.argmax(-1)]
        return self.ln_final(last) @ self.text_projection


class RepMixerBlock(nn.Module):
    """Mix tokens, then channels (ConvFFN), each with a residual of its own."""

    def __init__(self, width: int) -> None:
        """Four times as many channels inside, as in FastViT."""
        super().__init__()
        self.mixer = TokenMixer(width)
        self.local = _depthwise(width, KERNEL)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.layer_scale = nn.Parameter(torch.full((width,), _LAYER_SCALE))
        for linear in (self.fc1, self.fc2):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, rows: Float[Tensor, "n context w"]) -> Float[Tensor, "n context w"]:
        """Take and give rows of channels."""
        rows = self.mixer(rows.transpose(1, 2)).transpose(1, 2)
        near = self.local(rows.transpose(1, 2)).transpose(1, 2)
        return rows + self.layer_scale * self.fc2(F.gelu(self.fc1(near)))


class TokenMixer(nn.Module):
    """x + scale * (BN(x) + BN(conv1 x) + BN(conv11 x) - BN(x)), each BN with weights of its own.

    `reparameterize` folds it into one depthwise convolution.
    """

    def __init__(self, width: int) -> None:
        """Build the train-time branches."""
        super().__init__()
        self.identity = nn.BatchNorm1d(width)
        self.point = _depthwise(width, 1)
        self.conv = _depthwise(width, KERNEL)
        self.norm = nn.BatchNorm1d(width)
        self.layer_scale = nn.Parameter(torch.full((width, 1), _LAYER_SCALE))

    def forward(self, maps: Float[Tensor, "n w context"]) -> Float[Tensor, "n w context"]:
        """Take and give channels of tokens."""
        if hasattr(self, "folded"):
            return self.folded(maps)
        mixed = self.identity(maps) + self.point(maps) + self.conv(maps) - self.norm(maps)
        return maps + self.layer_scale * mixed

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Fold the branches; the statistics become constants, so training is over."""
        if hasattr(self, "folded"):
            return
        norm_kernel, norm_bias = _folded(self.norm)
        parts = [_folded(self.identity), _folded(*self.point), _folded(*self.conv)]
        parts.append((-norm_kernel, -norm_bias))
        kernel = self.layer_scale * torch.stack([kernel for kernel, _ in parts]).sum(0)
        kernel[:, KERNEL // 2] += 1
        width = len(kernel)
        self.folded = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        bias = self.layer_scale.squeeze(1) * torch.stack([bias for _, bias in parts]).sum(0)
        self.folded.load_state_dict({"weight": kernel.unsqueeze(1), "bias": bias})
        for name in ("identity", "point", "conv", "norm", "layer_scale"):
            delattr(self, name)


def _depthwise(width: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
    return nn.Sequential(conv, nn.BatchNorm1d(width))


def _folded(*branch: nn.Module) -> tuple[Tensor, Tensor]:
    """Return kernel (w, 11) and bias (w) of a BatchNorm, or of a convolution before one."""
    *convs, norm = branch
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None and norm.running_var is not None
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    kernel = factor.new_zeros(len(factor), KERNEL)
    if convs:
        assert isinstance(convs[0], nn.Conv1d)
        pad = (KERNEL - convs[0].kernel_size[0]) // 2
        kernel[:, pad : KERNEL - pad] = convs[0].weight.squeeze(1)
    else:
        kernel[:, KERNEL // 2] = 1
    return factor.unsqueeze(1) * kernel, norm.bias - factor * norm.running_mean
