"""Which models a plan was made for."""

import hashlib

import torch
from torch import nn


def shapes_fingerprint(module: nn.Module) -> str:
    """Hex sha256 of every weight's name and shape: any student built alike has it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
    return digest.hexdigest()


def weights_fingerprint(module: nn.Module) -> str:
    """Hex sha256 of names, shapes and values; on the meta device of the former two."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if not tensor.is_meta:
            values = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(values.view(torch.uint8).numpy())
    return digest.hexdigest()
