"""Every recipe at toy size: it runs, and its own settings reach the run."""

import re
import sys
from dataclasses import replace

import pytest

from distill import train
from distill.config import ScheduleConfig
from distill.recipes import RECIPES, find_recipe
from reinforced_data import ViewPolicy, reinforce
from reinforced_data.testing import TOKENIZER, tiny_teacher, write_source
from students import CATALOG, StudentSpec, TextSpec, build_student


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two teachers, two views."""
    folder = tmp_path_factory.mktemp("recipes")
    source = write_source(folder / "source", 24)
    teachers = [tiny_teacher("a", seed=1), tiny_teacher("b", seed=2, embed_dim=12)]
    views = ViewPolicy(num_ops=1)
    reinforce(
        source, folder / "store", teachers=teachers, num_views=2, policy=views, progress=False
    )
    return folder / "store"


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipe_at_toy_size(name, store, tmp_path):
    recipe = find_recipe(name)
    spec = StudentSpec(
        image="test_vit",  # a tower that can checkpoint activations
        text=TextSpec(width=16, layers=1, heads=2, context_length=8),
        embed_dim=16,
        image_size=32,
    )
    student = build_student(spec, tokenizer=TOKENIZER, kind=recipe.student.kind)
    # The toy's texts have eight tokens.
    shorter = {"text_length": 5} if recipe.tokens.text_length else {}
    toy = replace(
        recipe,
        tokens=replace(recipe.tokens, **shorter),
        lock=replace(recipe.lock, **{f"stored_{side}": "a" for side in recipe.lock.sides}),
        data=replace(recipe.data, batch_size=8, num_workers=0),
        schedule=ScheduleConfig(num_steps=4, warmup_steps=1),
        masks=replace(recipe.masks, steps=2, warmup_steps=1),
        out=str(tmp_path / "run"),
        log_every=1,
    )
    given = student if len(toy.lock.sides) < 2 else None
    teachers = [tiny_teacher("a", seed=1)] if toy.lock.sides else []
    result = train(given, store, recipe=toy, teachers=teachers, show=False)
    assert result.steps == 4 and result.refused == {}
    assert result.student.logit_scale.exp() <= recipe.max_logit_scale + 1e-4
    same = recipe.ema_decay is None and not toy.lock.sides and not recipe.masks.on
    assert (result.student is student) == same


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipe_names_paper_hardware_time_and_command(name):
    """What is not published is said not to be."""
    recipe = RECIPES[name]
    text = " ".join(f"{sys.modules[recipe.__module__].__doc__} {recipe.__doc__}".split())
    assert "Hardware" in text or re.search(r"\b(GPUs?|TPU-?\w*|A100|CPU core)\b", text)
    assert re.search(r"\b(hours?|days?|minutes?|time)\b", text, re.IGNORECASE)
    assert name.startswith("demo") or re.search(r"arXiv:\d{4}\.\d{5}", text)
    assert re.search(rf"distill train (\\ )?{name}\b", text) or name.startswith("demo")


@pytest.mark.parametrize("size", ["S0", "S2", "B"])
def test_the_sizes_that_mobileclip2_names_are_in_the_catalog(size):
    name = f"MobileCLIP2-{size}"
    assert name in (sys.modules[RECIPES["mobileclip2"].__module__].__doc__ or "") or size == "S0"
    assert name in CATALOG
