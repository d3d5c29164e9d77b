"""Recipes: functions that return a complete `RunConfig`; a variant changes one thing."""

from collections.abc import Callable

from distill.config import RunConfig
from distill.recipes.aclip import aclip
from distill.recipes.clipa import clipa
from distill.recipes.demo import demo, demo_teacher
from distill.recipes.fastclip import fastclip
from distill.recipes.finetuning import evaclip_finetune, ft_clip
from distill.recipes.locked import lit, llm2clip, locked_text, sail
from distill.recipes.mobileclip2 import mobileclip2
from distill.recipes.plain import clip_kd, siglip
from distill.recipes.quantization import quantization_aware
from distill.recipes.tinyclip import tinyclip, tinyclip_auto, tinyclip_progressive
from teachers.suggestions import unknown_name

RECIPES: dict[str, Callable[[], RunConfig]] = {
    "aclip": aclip,
    "clipa": clipa,
    "demo": demo,
    "demo_teacher": demo_teacher,
    "evaclip_finetune": evaclip_finetune,
    "fastclip": fastclip,
    "ft_clip": ft_clip,
    "mobileclip2": mobileclip2,
    "quantization_aware": quantization_aware,
    "siglip": siglip,
    "clip_kd": clip_kd,
    "lit": lit,
    "locked_text": locked_text,
    "sail": sail,
    "llm2clip": llm2clip,
    "tinyclip": tinyclip,
    "tinyclip_auto": tinyclip_auto,
    "tinyclip_progressive": tinyclip_progressive,
}


def find_recipe(name: str) -> RunConfig:
    """Return the recipe's configuration.

    Raises:
        ValueError: no such recipe; suggests the nearest name.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]()


__all__ = [
    "RECIPES",
    "aclip",
    "clip_kd",
    "clipa",
    "demo",
    "demo_teacher",
    "evaclip_finetune",
    "fastclip",
    "find_recipe",
    "ft_clip",
    "lit",
    "llm2clip",
    "locked_text",
    "mobileclip2",
    "quantization_aware",
    "sail",
    "siglip",
    "tinyclip",
    "tinyclip_auto",
    "tinyclip_progressive",
]
