"""torch-pruning's importances on our axes give what they give on torch-pruning's own groups."""

import pytest
import torch
import torch_pruning as tp
from torch import nn

from students.inheritance import Carrier, from_torch_pruning, inherit
from students.inheritance.testing import difference, student_of
from students.small_towers import SmallConv

IMPORTANCES = {
    "L1": tp.importance.GroupMagnitudeImportance(p=1),
    "L2": tp.importance.GroupMagnitudeImportance(p=2, group_reduction="sum", normalizer=None),
    "LAMP": tp.importance.LAMPImportance(),
    "FPGM": tp.importance.FPGMImportance(),
}


@pytest.mark.parametrize("name", IMPORTANCES)
def test_scores_are_those_of_a_group_of_its_own(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 12, bias=False), nn.ReLU(), nn.Linear(12, 3, bias=False))
    graph = tp.DependencyGraph().build_dependency(model, torch.randn(2, 5))
    group = graph.get_pruning_group(model[0], tp.prune_linear_out_channels, list(range(12)))
    wanted = IMPORTANCES[name](group)
    carriers = [
        Carrier(role="first", weight=model[0].weight.detach(), reads=False),
        Carrier(role="second", weight=model[2].weight.detach().T, reads=True),
    ]
    torch.testing.assert_close(from_torch_pruning(IMPORTANCES[name])(carriers), wanted)


def test_a_tower_inherits_by_them() -> None:
    donor, student = student_of(SmallConv(8, 16)), student_of(SmallConv(4, 16), seed=1)
    report = inherit(student, donor, selector=from_torch_pruning(IMPORTANCES["L1"]))
    assert report.coverage["image"]["selected"] > 0
    same = student_of(SmallConv(8, 16), seed=2)
    inherit(same, donor, selector=from_torch_pruning(IMPORTANCES["FPGM"]))
    assert difference(same, donor) < 1e-6


def test_one_that_needs_gradients_says_what_to_use() -> None:
    with pytest.raises(ValueError, match=r'GroupTaylorImportance needs more.*"taylor"'):
        from_torch_pruning(tp.importance.GroupTaylorImportance())
