"""A failed file says which of its layers departs first; a healthy one has no such layer."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from students.exporters.departures import first_departure
from students.exporters.formats import FORMATS
from students.exporters.graph import Graph
from students.exporters.parity import Runner


class Bent(nn.Module):
    """Does something else as soon as it is exported, as a wrong translation would."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, rows: Tensor) -> Tensor:
        return rows * self.factor if torch.compiler.is_exporting() else rows * 1


def layers(factor: float) -> Graph:
    """Three linear layers; what bends stands between the first two."""
    torch.manual_seed(0)
    parts = {
        "first": nn.Linear(4, 8),
        "bend": Bent(factor),
        "second": nn.Linear(8, 8),
        "act": nn.GELU(),
        "third": nn.Linear(8, 4),
    }
    tower = nn.Sequential()
    for name, part in parts.items():
        tower.add_module(name, part)
    return Graph(
        name="image",
        module=nn.Sequential(tower).eval(),
        inputs=torch.randn(5, 4),
        batch_size=1,
        interface={"input": "pixels", "output": "rows"},
        facts={},
    )


def departure(graph: Graph, name: str, folder: Path) -> str:
    backend = FORMATS[name]

    def rewrite(part: Graph) -> Runner:
        backend.write["none"](part, folder / "part")
        assert backend.open is not None
        run = backend.open(folder / "part")
        return lambda rows: torch.cat([torch.from_numpy(run(row[None])) for row in rows]).numpy()

    seen = None
    if backend.intermediates is not None:
        backend.write["none"](graph, folder / "whole")
        seen = backend.intermediates(graph, folder / "whole")
    return first_departure(graph, 1e-4, seen=seen, rewrite=rewrite)


@pytest.mark.parametrize(
    "name",
    ["onnx", *(pytest.param(name, marks=pytest.mark.slow) for name in ("litert", "executorch"))],
)
def test_the_layer_that_departs_first_is_named(name: str, tmp_path: Path) -> None:
    said = departure(layers(1.05), name, tmp_path)
    assert "the first layer to depart is bend: relative error" in said


@pytest.mark.parametrize("name", ["onnx", pytest.param("litert", marks=pytest.mark.slow)])
def test_of_a_healthy_file_no_layer_departs(name: str, tmp_path: Path) -> None:
    said = departure(layers(1.0), name, tmp_path)
    assert "what follows them does" in said or "only the whole departs" in said


def test_a_layer_that_does_not_convert_is_said(tmp_path: Path) -> None:
    def rewrite(part: Graph) -> Runner:
        raise NotImplementedError("no such operation")

    said = first_departure(layers(1.0), 1e-4, seen=None, rewrite=rewrite)
    assert said == "which layer departs first cannot be told: up to second, no such operation"
