"""The rows: each a function of where things are, each one change away from "distilled"."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from distill.config import RunConfig
from distill.optimizer_config import OptimizerName
from distill.recipes.demo import demo
from distill.recipes.variants import VARIANTS, Variant
from reinforced_data.captions.policy import CaptionPolicy

SWEEP = (2e-3, 4e-3, 8e-3, 1.6e-2)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Store, donor (the larger teacher's folder) and splits to evaluate on."""

    store: str
    donor: str
    splits: dict[str, str]


def distilled(place: Place, steps: int) -> RunConfig:
    """Every term of the demo's recipe, text tower from the teacher."""
    recipe = demo()
    return replace(
        recipe,
        student=replace(recipe.student, text_from=place.donor),
        data=replace(recipe.data, store=place.store),
        schedule=recipe.schedule.of_length(steps),
        evaluate_on=place.splits,
        save_every=0,
    )


def one_teacher(config: RunConfig) -> RunConfig:
    """Distilled from the larger teacher alone."""
    return replace(config, data=replace(config.data, teachers=("teacher-a",)))


def _row(variant: Variant) -> Callable[[Place, int], RunConfig]:
    return lambda place, steps: variant(distilled(place, steps))


ROWS: dict[str, Callable[[Place, int], RunConfig]] = {
    name: _row(variant) for name, variant in (VARIANTS | {"one-teacher": one_teacher}).items()
}


def _optimizer(name: OptimizerName, lr: float = 8e-3) -> Callable[[Place, int], RunConfig]:
    """Distilled with another optimizer; Lion's rate is a tenth, its decay ten times AdamW's."""

    def variant(config: RunConfig) -> RunConfig:
        lion = name.startswith("lion")
        decay = config.optimizer.weight_decay * (10 if lion else 1)
        other = replace(config.optimizer, name=name, lr=lr, weight_decay=decay)
        return replace(config, optimizer=other)

    return _row(variant)


ROWS |= {
    "optimizer-adamw8bit": _optimizer("adamw8bit"),
    "optimizer-lion": _optimizer("lion", lr=8e-4),
    "optimizer-lion8bit": _optimizer("lion8bit", lr=8e-4),
    "optimizer-lamb": _optimizer("lamb"),
}

# Distilled from a store whose embeddings are in this codec ("distilled" itself: float16).
CODEC_ROWS = {f"codec-{name}": name for name in ("float32", "int8", "int4", "pq128", "pq64")}
ROWS |= dict.fromkeys(CODEC_ROWS, distilled)

# Distilled with captions that rules wrote: other words for what the source says, of no model.
CAPTION_ROWS = {
    "captions-written": CaptionPolicy(kind="mix", written=1.0),
    "captions-mix": CaptionPolicy(kind="mix"),
    "captions-uniform": CaptionPolicy(kind="uniform"),
    "captions-sum": CaptionPolicy(kind="sum"),
}


def _reads(policy: CaptionPolicy) -> Variant:
    return lambda config: replace(config, data=replace(config.data, captions=policy))


ROWS |= {name: _row(_reads(policy)) for name, policy in CAPTION_ROWS.items()}
