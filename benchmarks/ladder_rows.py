"""The rows: each a function of where things are, each one change away from "distilled"."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from distill.config import RunConfig
from distill.lock_config import LockConfig
from distill.objective import Objective
from distill.optimizer_config import OptimizerName
from distill.recipes.demo import demo
from distill.recipes.variants import VARIANTS, Variant
from reinforced_data.captions.policy import CaptionPolicy
from students.tokens.merging import per_block, tokens_per_block
from students.tokens.policy import TokenPolicy
from students.tokens.sizing import smaller_side

SWEEP = (2e-3, 4e-3, 8e-3, 1.6e-2)
BASE_LR = demo().optimizer.lr


@dataclass(frozen=True, kw_only=True)
class Place:
    """Store, donor (the larger teacher's folder), the other teacher's, and what to evaluate on."""

    store: str
    donor: str
    other: str
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


# A ViT of 64 patches in 4 blocks of 64 channels; a text tower of one block of 128, 12 tokens.
ATTENDED = "vit-attentive-teacher"
TOKEN_POLICIES = {
    "vit": TokenPolicy(),
    "vit-random": TokenPolicy(image="random", image_keep=0.5),
    "vit-grid": TokenPolicy(image="grid", image_keep=0.5),
    "vit-block": TokenPolicy(image="block", image_keep=0.5),
    "vit-attentive-ema": TokenPolicy(image="attentive", image_keep=0.5, image_scores="ema"),
    ATTENDED: TokenPolicy(image="attentive", image_keep=0.5),
    "vit-merge": TokenPolicy(image="merge", image_keep=0.5),
    "vit-resize": TokenPolicy(image="resize", image_keep=0.5),
    "vit-text-truncate": TokenPolicy(text="truncate", text_length=6),
    "vit-text-random": TokenPolicy(text="random", text_length=6),
    "vit-text-block": TokenPolicy(text="block", text_length=6),
    "vit-text-syntax": TokenPolicy(text="syntax", text_length=6),
    "vit-text-frequency": TokenPolicy(text="frequency", text_length=6),
}
# The last tenth of the steps is on every token, as CLIPA tunes.
_REDUCED = 0.9


def relative_work(policy: TokenPolicy) -> float:
    """A step's multiplications as a share of those with every token, for the "demo-vit"."""
    image: float = 64
    if policy.image == "merge":
        image = sum(tokens_per_block(64, per_block(64, 4, policy.image_keep))) / 4
    elif policy.image == "resize":
        image = (smaller_side(32, policy.image_keep, None) // 4) ** 2
    elif policy.image == "block":
        image = round(8 * policy.image_keep**0.5) ** 2
    elif policy.image != "all":
        image = 64 * policy.image_keep
    scoring = 1 / 3 if policy.image_scores == "ema" and policy.image == "attentive" else 0.0
    whole = _work(65, 64, 4) + _work(12, 128, 1)
    reduced = _work(1 + image, 64, 4) + _work(policy.text_length or 12, 128, 1)
    return (reduced + scoring * _work(65, 64, 4)) / whole


def _work(tokens: float, width: int, layers: int) -> float:
    return layers * tokens * (12 * width**2 + 2 * tokens * width)


def _tokens_row(policy: TokenPolicy, *, same_work: bool) -> Callable[[Place, int], RunConfig]:
    """A ViT with a token policy: as many steps as the others, or as much work as "vit"."""
    reduces = policy.reduces_image or policy.reduces_text

    def row(place: Place, steps: int) -> RunConfig:
        if same_work:
            steps = round(steps / (_REDUCED * relative_work(policy) + 1 - _REDUCED))
        config = distilled(place, steps)
        return replace(
            config,
            student=replace(config.student, name="demo-vit"),
            # What is looked at is said by a ViT, which teaches nothing else.
            data=replace(config.data, teachers=("teacher-a", "teacher-b")),
            tokens=replace(policy, until=_REDUCED) if reduces else policy,
            ema_decay=0.996 if policy.image_scores == "ema" else None,
            channels_last=False,
        )

    return row


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
ROWS |= {name: _tokens_row(p, same_work=False) for name, p in TOKEN_POLICIES.items()}
ROWS |= {
    f"{name}-same-work": _tokens_row(p, same_work=True)
    for name, p in TOKEN_POLICIES.items()
    if name != "vit"
}


def lit(place: Place, steps: int) -> RunConfig:
    """A text tower learns to read the donor's stored image rows; the undistilled loss."""
    return _locked(place, steps, LockConfig(stored_image=place.donor), Objective())


def locked_text(place: Place, steps: int) -> RunConfig:
    """An image tower learns to speak to the donor's stored text rows, every term as distilled."""
    return _locked(place, steps, LockConfig(stored_text=place.donor), None)


def sail(place: Place, steps: int) -> RunConfig:
    """Heads on the donor's image rows and the other teacher's text rows, two unrelated spaces."""
    heads = LockConfig(
        stored_image=place.donor,
        stored_text=place.other,
        image_head="glu",
        text_head="glu",
        embed_dim=128,
    )
    return _locked(place, steps, heads, Objective())


def _locked(place: Place, steps: int, lock: LockConfig, objective: Objective | None) -> RunConfig:
    base = distilled(place, steps)
    student = replace(base.student, text_from=None)
    return replace(base, student=student, lock=lock, objective=objective or base.objective)


def _scaled(factor: float) -> Variant:
    return lambda config: replace(config, objective=replace(config.objective, teacher_scale=factor))


def affinity_dropping(config: RunConfig) -> RunConfig:
    """Each sample's affinities come from one of the two teachers or both, by chance."""
    return replace(config, objective=replace(config.objective, affinity_teacher_dropping=0.5))


# "distilled" has 0.3, "without-scale-calibration" 1: what `distill calibrate` sweeps.
ROWS |= {f"scale-{factor:g}": _row(_scaled(factor)) for factor in (0.15, 0.5, 0.7)}
ROWS |= {"affinity-teacher-dropping": _row(affinity_dropping)}
ROWS |= {"lit": lit, "locked-text": locked_text, "sail": sail}
