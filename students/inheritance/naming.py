"""What a weight is called, whichever library it lives in.

`role_path` renames, module by module, the children that open_clip, timm and transformers name
differently; so an open_clip ViT can be the donor of a timm ViT. A module that has no table keeps
its own names: towers of one library and family match by those. Never a whole checkpoint's names.
"""

import open_clip
import timm.layers
import timm.models.vision_transformer as timm_vit
from open_clip.timm_model import TimmModel
from torch import nn

from teachers.split_attention import SplitAttention

_TEXT = {
    "token_embedding": "tokens",
    "positional_embedding": "position.weight",
    "cls_emb": "class",
    "transformer": "",
    "ln_final": "norm",
    "text_projection": "projection",
}
_BLOCK = {"ln_1": "norm1", "ln_2": "norm2", "ls_1": "scale1", "ls_2": "scale2"}
_ATTENTION = {"in_proj_weight": "qkv.weight", "in_proj_bias": "qkv.bias", "out_proj": "out"}

# Subclasses come before their parents.
_NAMES: tuple[tuple[type[nn.Module], dict[str, str]], ...] = (
    (open_clip.model.CLIP, _TEXT),
    (TimmModel, {"trunk": ""}),
    (open_clip.transformer.TextTransformer, _TEXT),
    (
        open_clip.transformer.VisionTransformer,
        {
            "conv1": "patch",
            "class_embedding": "class",
            "positional_embedding": "position.weight",
            "ln_pre": "norm_pre",
            "transformer": "",
            "ln_post": "norm",
            "proj": "projection",
        },
    ),
    (open_clip.transformer.Transformer, {"resblocks": "blocks"}),
    (open_clip.transformer.CustomTransformer, {"resblocks": "blocks"}),
    (open_clip.transformer.ResidualAttentionBlock, _BLOCK),
    (open_clip.transformer.CustomResidualAttentionBlock, _BLOCK),
    (open_clip.transformer.Attention, _ATTENTION),
    (SplitAttention, _ATTENTION),
    (nn.MultiheadAttention, _ATTENTION),
    (nn.Sequential, {"c_fc": "fc1", "c_proj": "fc2"}),
    (
        timm_vit.VisionTransformer,
        {
            "patch_embed": "patch",
            "cls_token": "class",
            "pos_embed": "position.weight",
            "fc_norm": "norm",
            "head": "projection",
        },
    ),
    (timm.layers.PatchEmbed, {"proj": ""}),
    (timm_vit.Block, {"ls1": "scale1", "ls2": "scale2"}),
    (timm_vit.Attention, {"proj": "out"}),
)

# By class name: transformers is an optional library.
_NAMES_BY_CLASS = {
    "HFTextEncoder": {"transformer": "", "proj": "projection"},
    "CLIPTextModel": {"text_model": ""},
    "CLIPTextModelWithProjection": {"text_model": "", "text_projection": "projection"},
    "CLIPModel": {"text_model": "", "text_projection": "projection"},
    "CLIPTextTransformer": {"embeddings": "", "encoder": "", "final_layer_norm": "norm"},
    "CLIPTextEmbeddings": {"token_embedding": "tokens", "position_embedding": "position"},
    "CLIPEncoder": {"layers": "blocks"},
    "CLIPEncoderLayer": {"self_attn": "attn", "layer_norm1": "norm1", "layer_norm2": "norm2"},
    "CLIPAttention": {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "out"},
}
# BERT and those that copied its code.
for _family in ("Bert", "Roberta", "XLMRoberta"):
    _NAMES_BY_CLASS |= {
        f"{_family}Model": {"encoder": ""},
        f"{_family}Encoder": {"layer": "blocks"},
        f"{_family}Layer": {"attention": "attn", "intermediate": "mlp", "output": "mlp"},
        f"{_family}Attention": {"self": "", "output": ""},
        f"{_family}SelfAttention": {"query": "q", "key": "k", "value": "v"},
        f"{_family}SelfOutput": {"dense": "out", "LayerNorm": "norm"},
        f"{_family}Intermediate": {"dense": "fc1"},
        f"{_family}Output": {"dense": "fc2", "LayerNorm": "norm"},
    }
_NAMES_BY_CLASS["CLIPTextModel"] |= _NAMES_BY_CLASS["CLIPTextTransformer"]
_NAMES_BY_CLASS["CLIPTextModelWithProjection"] |= _NAMES_BY_CLASS["CLIPTextTransformer"]


def _renamed(module: nn.Module, child: str) -> str:
    by_class = _NAMES_BY_CLASS.get(type(module).__name__)
    if by_class is not None:
        return by_class.get(child, child)
    for kind, names in _NAMES:
        if isinstance(module, kind):
            return names.get(child, child)
    return child


def role_path(module: nn.Module, key: str, home: str = "") -> str:
    """Translate a state-dict key, or a module's path, to its role.

    "visual.transformer.resblocks.3.mlp.c_fc.weight" is "blocks.3.mlp.fc1.weight" in the tower
    whose home is "visual".
    """
    found: list[str] = []
    at: nn.Module | None = module
    skipped = len(home.split(".")) if home else 0
    for place, name in enumerate(key.split(".")):
        role = _renamed(at, name) if at is not None else name
        if role and place >= skipped:
            found.append(role)
        at = getattr(at, name, None) if at is not None else None
        at = at if isinstance(at, nn.Module) else None
    return ".".join(found)


def repeated_parts(module: nn.Module) -> dict[str, list[str]]:
    """The numbered containers: role path -> the class of each child, in order."""
    found: dict[str, list[str]] = {}
    for path, part in module.named_modules():
        names = [name for name, _ in part.named_children()]
        if path and names and names == [str(number) for number in range(len(names))]:
            classes = [type(child).__name__ for child in part.children()]
            # The two towers of a flat CLIP both have "blocks": the caller asks by tower.
            found[path] = classes
    return found
