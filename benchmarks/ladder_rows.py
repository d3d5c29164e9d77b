"""The rows: each a function of where things are, each one change away from "distilled".

Rows of a ViT with fewer tokens are in ladder_tokens.py; every row there is, in ladder.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from distill.config import RunConfig, StudentConfig
from distill.lock_config import LockConfig
from distill.objective import Objective
from distill.optimizer_config import OptimizerName
from distill.recipes.demo import demo
from distill.recipes.variants import VARIANTS, Variant, control, undistilled
from reinforced_data.captions.policy import CaptionPolicy

SWEEP = (2e-3, 4e-3, 8e-3, 1.6e-2)
BASE_LR = demo().optimizer.lr


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a row's things are.

    Attributes:
        store: the reinforced dataset.
        donor: the larger teacher's folder.
        other: the other teacher's.
        splits: what is evaluated.
        runs: where runs go.
        teaching: multiplications that the teachers did to write the store, as a multiple of those
            of one of the student's steps.
        pictures: how many there are to train on.
    """

    store: str
    donor: str
    other: str
    splits: dict[str, str]
    runs: Path
    teaching: float = 0.0
    pictures: int = 1


Row = Callable[[Place, int], RunConfig]


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


def _row(variant: Variant) -> Row:
    return lambda place, steps: variant(distilled(place, steps))


def one_view(config: RunConfig) -> RunConfig:
    """Of every picture's stored views only the first is seen."""
    return replace(config, data=replace(config.data, views=1))


def _same_work(variant: Variant) -> Row:
    """As many steps more as the teachers' work on the store would have paid for."""
    return lambda place, steps: variant(distilled(place, steps + round(place.teaching)))


MISREPLAYED = "misreplayed-views"
# From a store of sixteen views, drawn as the teachers' own were (ladder_world.py).
MANY_VIEWS = "sixteen-views"
# From a store of crops down to a tenth of the picture, and the same misreplayed.
CROPPED = "cropped-views"
CROPPED_MISREPLAYED = "cropped-views-misreplayed"
ROWS: dict[str, Row] = {
    name: _row(variant)
    for name, variant in (VARIANTS | {"one-teacher": one_teacher, "one-view": one_view}).items()
}
ROWS |= {
    "undistilled-same-work": _same_work(undistilled),
    "control-same-work": _same_work(control),
    # The embeddings of other views than those that are drawn (ladder_world.py); must hurt.
    MISREPLAYED: distilled,
    MANY_VIEWS: distilled,
    CROPPED: distilled,
    CROPPED_MISREPLAYED: distilled,
}


def _by(name: OptimizerName, lr: float = 8e-3) -> Variant:
    """By another optimizer; Lion's rate is a tenth, its decay ten times AdamW's."""

    def variant(config: RunConfig) -> RunConfig:
        lion = name.startswith("lion")
        decay = config.optimizer.weight_decay * (10 if lion else 1)
        other = replace(config.optimizer, name=name, lr=lr, weight_decay=decay)
        return replace(config, optimizer=other)

    return variant


MUON = _by("muon", lr=2.4e-2)
ROWS |= {
    "optimizer-adamw8bit": _row(_by("adamw8bit")),
    "optimizer-lion": _row(_by("lion", lr=8e-4)),
    "optimizer-lion8bit": _row(_by("lion8bit", lr=8e-4)),
    "optimizer-lamb": _row(_by("lamb")),
    "optimizer-muon": _row(MUON),
    # What is the optimizer's and not the teachers'.
    "undistilled-muon": _row(lambda config: MUON(undistilled(config))),
    "control-muon": _row(lambda config: MUON(control(config))),
}

# Distilled from a store whose embeddings are in this codec ("distilled" itself: float16); with a
# pq codec, the larger teacher's: the other's are in pq96 (ladder_world.py).
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
UNDISTILLED_CAPTIONS = "undistilled-captions"
ROWS[UNDISTILLED_CAPTIONS] = _row(
    lambda config: _reads(CaptionPolicy(kind="mix"))(undistilled(config))
)


def small_batch(place: Place, steps: int) -> RunConfig:
    """Undistilled, a quarter of the pictures in a step and four times as many steps."""
    base = undistilled(distilled(place, 4 * steps))
    return replace(base, data=replace(base.data, batch_size=base.data.batch_size // 4))


def fastclip(place: Place, steps: int) -> RunConfig:
    """The same against a running mean over all pictures, which settles in half of the passes."""
    base = small_batch(place, steps)
    passes = base.schedule.num_steps * base.data.batch_size / place.pictures
    terms = Objective(
        contrastive=0.0, fastclip=1.0, fastclip_gamma_epochs=max(1, round(passes / 2))
    )
    return replace(base, objective=terms)


SMALL_BATCH = "undistilled-small-batch"
ROWS |= {SMALL_BATCH: small_batch, f"{SMALL_BATCH}-fastclip": fastclip}


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


def teacher_trained_on(place: Place, steps: int) -> RunConfig:
    """The larger teacher itself, for as many steps more: what the steps alone would bring."""
    base = distilled(place, steps)
    return replace(base, student=StudentConfig(name=place.donor), objective=Objective())


ROWS["teacher-trained-on"] = teacher_trained_on


def inherited(place: Place, steps: int) -> RunConfig:
    """Both towers start from the larger teacher; a third of its image tower's units."""
    base = distilled(place, steps)
    start = replace(base.student, text_from=None, donor=place.donor, selector="taylor")
    return replace(base, student=start)


def gentle_text(config: RunConfig) -> RunConfig:
    """The text tower, which has been trained, at an eighth of the image tower's rate."""
    return replace(config, optimizer=replace(config.optimizer, text_lr=config.optimizer.lr / 8))


def early(place: Place, steps: int) -> RunConfig:
    """A quarter of the steps for a narrow image tower: both towers inherited, gentle text.

    Its rates are twice the others': so short a training bears more.
    """
    base = inherited(place, max(2, steps // 4))
    twice = replace(base.optimizer, lr=2 * base.optimizer.lr)
    return gentle_text(_narrow(replace(base, optimizer=twice)))


def _narrow(config: RunConfig) -> RunConfig:
    """With an image tower below an eighth of the larger teacher's."""
    return replace(config, student=replace(config.student, name="demo-student-narrow"))


def best(place: Place, steps: int) -> RunConfig:
    """What won, together: Muon, softer targets, inherited; in a narrow image tower."""
    return _scaled(0.15)(MUON(_narrow(inherited(place, steps))))


ROWS |= {
    "best": best,
    # Whether a quarter of the steps suffices for what the same optimizer reaches undistilled.
    "best-quarter": lambda place, steps: best(place, max(2, steps // 4)),
    "control-best": lambda place, steps: control(best(place, steps)),
    # Whether the student's size or its steps are what it lacks; the control has as many.
    "best-long": lambda place, steps: best(place, 2 * steps),
    "control-best-long": lambda place, steps: control(best(place, 2 * steps)),
    "inherited": inherited,
    "control-inherited": lambda place, steps: control(inherited(place, steps)),
    "gentle-text": _row(gentle_text),
    "undistilled-narrow": lambda place, steps: _narrow(undistilled(distilled(place, steps))),
    "early": early,
}
