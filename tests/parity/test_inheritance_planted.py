"""Units planted so that nothing needs them are found by every selector that scores, and not missed.

Dead heads, MLP units and hidden units in every tower family at once, in float64, every number
random. "leading" and "uniform" choose by number and cannot know what is dead: they are not asked.
Differences are relative to how far apart different inputs are.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from students.inheritance import annotate, from_torch_pruning, inherit, plan_inheritance
from students.inheritance.selectors import Learned
from students.inheritance.testing import (
    difference,
    inputs_for,
    plant_dead_units,
    student_of,
    text_tower,
)
from students.inheritance.testing_families import PAIRS, TransformersText
from students.small_towers import SmallConv
from students.student import Student

# torch-pruning's importance is a sum, in which a unit that is written and never read counts; what
# masks learned is kept as it is, because their LayerNorms counted the open units alone.
REPEATED = ("magnitude", "activation", "taylor", "learned")
SILENT = ("magnitude", "activation", "taylor", "torch-pruning")
# Where a convolution a channel or a BatchNorm writes what a LayerNorm sees, the mean is not zero:
# silent units are found, but only where nothing normalises are they not missed.
UNEVEN = ("ConvNeXt", "ViTamin", "TinyViT")


def selector_of(name: str, donor: Student, living: Mapping[Any, tuple[int, ...]]) -> Any:
    """What `inherit` takes; the learned order is one that masks could have come to."""
    if name == "torch-pruning":
        importance = pytest.importorskip("torch_pruning").importance
        return from_torch_pruning(importance.GroupMagnitudeImportance())
    if name != "learned":
        return name
    towers = annotate(donor).towers
    return Learned(
        scores={
            (tower, axis): [float(unit in kept) for unit in range(towers[tower].axes[axis].size)]
            for (tower, axis), kept in living.items()
        }
    )


def planted() -> Iterator[object]:
    """Every family with every selector that scores; a few are quick, the rest long proofs."""
    whole = ("open_clip ViT", "SmallConv")
    for family in PAIRS:
        if family in (*whole, "timm ViT", "FastViT"):
            yield family, False, REPEATED if family in whole else ("magnitude",)
        if family in (*whole, "timm ViT"):
            yield family, True, SILENT if family in whole else ("magnitude",)
        for silent, selectors in ((False, REPEATED), (True, SILENT)):
            yield pytest.param(family, silent, selectors, marks=pytest.mark.slow)


@pytest.mark.parametrize(("family", "silent", "selectors"), planted())
def test_superfluous_units_are_found_and_not_missed(
    family: str, silent: bool, selectors: tuple[str, ...]
) -> None:
    make_donor, make_student = PAIRS[family]
    donor = student_of(make_donor(), text_tower(width=64, heads=4), seed=1)
    first = student_of(make_student(), seed=2)
    plan = plan_inheritance(first, donor, selector="leading")
    for tower, planned in plan.towers.items():
        kinds = {axis.kind for axis in planned.axes.values() if not axis.identity}
        only_mlps = tower == "image" and family in ("FastViT, MLPs", "SmallConv")
        assert kinds >= ({"inner"} if only_mlps else {"inner", "hidden"})
    living = plant_dead_units(donor, plan, silent=silent)
    # Which units are superfluous is random: the first ones would not do.
    assert any(kept != tuple(range(len(kept))) for kept in living.values())
    for name in selectors:
        student = student_of(make_student(), seed=3)
        selector = selector_of(name, donor, living)
        measured = name in ("activation", "taylor")
        batches = [inputs_for(donor)] if measured else None
        report = inherit(student, donor, selector=selector, batches=batches)
        # A unit that no picture of the batch wakes up may be measured as dead too.
        if not measured:
            for tower, planned in report.towers.items():
                for axis in planned.axes.values():
                    kept = living.get((tower, axis.donor), axis.indices)
                    assert axis.indices == kept, (name, axis.name)
        if not (silent and family in UNEVEN):
            assert difference(donor, student) < 1e-5, name


@pytest.mark.parametrize("selector", ["taylor", pytest.param("magnitude", marks=pytest.mark.slow)])
def test_a_text_tower_of_transformers_too(selector: str) -> None:
    pytest.importorskip("transformers")
    student = student_of(SmallConv(4, 16), TransformersText(32), seed=2)
    for silent in (False, True):
        donor = student_of(SmallConv(8, 16), TransformersText(64), seed=1)
        plan = plan_inheritance(student, donor, selector="leading")
        plant_dead_units(donor, plan, silent=silent)
        assert (
            inherit(student, donor, selector=selector, batches=[inputs_for(donor)]).inherited == 1
        )
        assert difference(donor, student) < 1e-5


def test_gains_make_up_for_silent_units_alone_unless_there_is_data() -> None:
    donor = student_of(PAIRS["open_clip ViT"][0](), text_tower(width=64, heads=4), seed=1)
    student = student_of(PAIRS["open_clip ViT"][1](), seed=2)
    batches = [inputs_for(donor)]

    def gains(**given: Any) -> set[float]:
        plan = plan_inheritance(student, donor, **given)
        return {each.factor for tower in plan.towers.values() for each in tower.transfers}

    assert gains() == gains(selector="leading", batches=batches) == {1.0}
    assert len(gains(batches=batches)) == 1 + 13  # a gain for each LayerNorm
    plant_dead_units(donor, plan_inheritance(student, donor, selector="leading"), silent=True)
    assert gains() == {1.0, 2**0.5}
    fitted = [gain for gain in gains(batches=batches) if gain != 1.0]
    assert fitted == pytest.approx([2**0.5] * len(fitted), rel=1e-5)
