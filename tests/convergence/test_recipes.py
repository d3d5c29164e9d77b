"""Every recipe at toy size: it runs, and its own settings reach the run."""

from dataclasses import replace

import pytest

from distill import train
from distill.config import ScheduleConfig
from distill.recipes import RECIPES, find_recipe
from reinforced_data import ViewPolicy, reinforce
from reinforced_data.testing import TOKENIZER, tiny_teacher, write_source
from students import StudentSpec, TextSpec, build_student


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
def test_recipe_says_where_it_comes_from(name):
    config = find_recipe(name)
    assert config.student.name and config.schedule.num_steps > 0
    module = RECIPES[name].__module__
    assert module.startswith("distill.recipes.")
