"""`plan_inheritance`: look at two models, decide for every weight, change nothing."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from students.inheritance.annotation import annotate
from students.inheritance.depth import DEPTH_RULES, DepthRule, choose_blocks
from students.inheritance.fingerprints import shapes_fingerprint, weights_fingerprint
from students.inheritance.measuring import Batch, Loss, Measurement, measure
from students.inheritance.pairing import BlockChoice, Pairing, pair
from students.inheritance.plan import InheritancePlan
from students.inheritance.selectors import MEASURED, PUBLISHED, SELECTORS, Learned, Scorer
from students.inheritance.tower_plan import Context, plan_tower
from students.student import TowerName
from teachers.clip_model import ClipModel
from teachers.suggestions import unknown_name

ByTower = Mapping[str, Any]
TOWERS: tuple[TowerName, ...] = ("image", "text")


def plan_inheritance(
    student: ClipModel,
    donor: ClipModel,
    *,
    selector: str | Scorer | Learned | ByTower = "magnitude",
    depth: str | ByTower = "uniform",
    towers: Iterable[str] = TOWERS,
    batches: Iterable[Batch] | None = None,
    loss: Loss | None = None,
) -> InheritancePlan:
    """Decide what every weight of `student` starts from; changes neither model.

    Args:
        student: who inherits. Its weights are not looked at.
        donor: a teacher in fp32 or bf16, or a student.
        selector: which units a narrower student keeps: leading, uniform, magnitude, activation,
            taylor, a function of `Carrier`s, or what masks learned (`students.masks.read_masks`),
            which chooses blocks too; a mapping gives each tower its own.
        depth: which blocks a shallower student keeps: uniform, leading or similarity; likewise.
        towers: which towers inherit.
        batches: (pixels, token ids) as the donor wants them; activation, taylor and similarity
            need them, and with every selector but leading, uniform and learned the gains of
            LayerNorms that are left with fewer units are fitted on them.
        loss: for taylor, of the donor's module and a batch; the contrastive loss by default.

    Raises:
        ValueError: when nothing can be inherited, an argument is unknown, batches are missing, a
            model does not run, or the donor's weights are quantised or absent.
    """
    names = _checked_towers(towers)
    selectors = _by_tower(selector, names, "selector", SELECTORS)
    rules = _by_tower(depth, names, "depth", DEPTH_RULES)
    wanted = _to_measure([*selectors.values(), *rules.values()], given=batches is not None)
    _check_donor(donor)
    mine, theirs = annotate(student), annotate(donor)
    seen = Measurement()
    if wanted:
        seen = measure(donor, theirs, batches or (), what=wanted, loss=loss)
    pairings: dict[TowerName, Pairing] = {
        name: pair(
            mine.towers[name],
            theirs.towers[name],
            _blocks(rules[name], selectors[name], name, seen),
        )
        for name in names
    }
    _check_common(student, donor, pairings)
    context = Context(
        student=mine,
        donor=theirs,
        pairings=pairings,
        weights=donor.module.state_dict(),
        seen=seen,
        tokenizers=(student.tokenizer, donor.tokenizer),
    )
    return InheritancePlan(
        student=student.name,
        donor=donor.name,
        student_fingerprint=shapes_fingerprint(student.module),
        donor_fingerprint=weights_fingerprint(donor.module),
        towers={name: plan_tower(context, name, selectors[name], rules[name]) for name in names},
        scalars=_shared_scalars(student, donor),
    )


def _to_measure(choices: Collection[Any], *, given: bool) -> set[str]:
    """What to measure of the donor: what the choices need, and with data what LayerNorms see."""
    wanted = {each for each in choices if each in (*MEASURED, "similarity")}
    if wanted and not given:
        raise ValueError(
            f"{' and '.join(sorted(wanted))} measures the donor on data: pass batches, an "
            "iterable of (pixels, token ids) as the donor wants them"
        )
    by_number = (*PUBLISHED, *DEPTH_RULES)
    fits = any(each not in by_number and not isinstance(each, Learned) for each in choices)
    return wanted | {"norms"} if given and fits else wanted


def _blocks(rule: DepthRule, selector: Any, tower: TowerName, seen: Measurement) -> BlockChoice:
    def choose(
        container: str, student: tuple[str, ...], donor: tuple[str, ...]
    ) -> tuple[int | None, ...]:
        if isinstance(selector, Learned):
            learned = selector.best((tower, container), len(student))
            if learned is not None:
                return learned
        return choose_blocks(rule, student, donor, seen.changes.get((tower, container)))

    return choose


def _checked_towers(towers: Iterable[str]) -> tuple[TowerName, ...]:
    asked = set(towers)
    names: list[TowerName] = [name for name in TOWERS if {str(name)} <= asked]
    if not names or len(names) != len(asked):
        raise ValueError(f"towers must be image, text or both, got {sorted(map(str, asked))}")
    return tuple(names)


def _by_tower(
    value: Any, names: tuple[TowerName, ...], what: str, known: tuple[str, ...]
) -> dict[TowerName, Any]:
    """One value for every tower, from one or from a mapping; checked."""
    if isinstance(value, Mapping):
        missing = set(names) ^ set(value)
        if missing:
            raise ValueError(
                f"{what} must name every tower that inherits and no other: {sorted(missing)}"
            )
    values: dict[TowerName, Any] = {
        name: value[name] if isinstance(value, Mapping) else value for name in names
    }
    for each in values.values():
        custom = what == "selector" and (callable(each) or isinstance(each, Learned))
        if not custom and each not in known:
            raise unknown_name(what, str(each), known)
    return values


def _check_donor(donor: ClipModel) -> None:
    """A quantised weight has no rows to take."""
    for name, parameter in donor.module.named_parameters():
        if not parameter.is_floating_point():
            raise ValueError(
                f"{donor.name} is quantised ({name} is {parameter.dtype}): load the donor with "
                'precision="fp32"'
            )


def _check_common(
    student: ClipModel, donor: ClipModel, pairings: Mapping[TowerName, Pairing]
) -> None:
    if any(pairing.slots for pairing in pairings.values()):
        return
    reasons = {
        name: next(iter(pairing.own.items()), ("", "it has no weights"))
        for name, pairing in pairings.items()
    }
    first = "; ".join(f"{tower} {role}: {reason}" for tower, (role, reason) in reasons.items())
    raise ValueError(
        f"{student.name} can inherit nothing from {donor.name}: their towers have no weights in "
        f"common ({first}). Choose a donor of the student's family"
    )


def _shared_scalars(student: ClipModel, donor: ClipModel) -> tuple[str, ...]:
    """The scale and bias, where they mean the same: a softmax's scale is none for a sigmoid."""
    if student.kind != donor.kind:
        return ()
    return ("logit_scale",) if student.logit_bias is None else ("logit_scale", "logit_bias")
