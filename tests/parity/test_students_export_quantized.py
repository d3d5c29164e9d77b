"""Quantised ONNX files: close to the model, smaller, and mixed where a layer cannot bear it."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from students import OpenClipSpec, Student, build_student, export
from students.exporters.formats import FORMATS, QUANTIZATIONS, TOLERANCES, variants
from students.exporters.graph import Graph
from students.exporters.onnx_quantized import write_dynamic_int8
from students.exporters.parity import made_up_samples
from students.exporters.sensitivity import layer_errors, layers_to_keep, round_weights
from teachers.tokenizers import WordTokenizer

TOKENIZER = WordTokenizer.fit([f"word{chr(97 + i)}" for i in range(26)] * 2, context_length=8)
SAMPLES = made_up_samples(TOKENIZER, count=8)


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(0)
    vision = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 32}
    text = {"layers": 2, "width": 64, "heads": 2}
    spec = OpenClipSpec(model="ViT-B-32", vision=vision, text=text, embed_dim=32)
    return build_student(spec, tokenizer=TOKENIZER)


@pytest.fixture(scope="module")
def rows(student: Student, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Both towers in both kinds of int8."""
    out = tmp_path_factory.mktemp("int8") / "out"
    return export(student, out, quantize=("int8", "dynamic-int8"), samples=SAMPLES).rows


def test_every_precision_is_close_and_smaller(student: Student, rows: list[dict[str, Any]]) -> None:
    assert len(rows) == 4
    for row in rows:
        assert 1e-4 < row["relative_error"] <= TOLERANCES[row["quantize"]]
        assert Path(row["path"]).name == f"{row['tower']}.{row['quantize']}.onnx"
        numbers = getattr(student, f"{row['tower']}_params")
        assert row["bytes"] < 2.5 * numbers, "four bytes a number were to become one"


def test_weights_are_unsigned_about_one_middle(rows: list[dict[str, Any]]) -> None:
    """Signed ones overflow on AVX2, which a test on a processor with VNNI would not see."""
    for row in rows:
        model = onnx.load(row["path"])
        kinds = {each.data_type for each in model.graph.initializer}
        assert onnx.TensorProto.UINT8 in kinds and onnx.TensorProto.INT8 not in kinds
        weights = [
            onnx.numpy_helper.to_array(each)
            for each in model.graph.initializer
            if each.data_type == onnx.TensorProto.UINT8 and len(each.dims) > 1
        ]
        assert weights and all(abs(each.mean() - 128) < 16 for each in weights)


def test_a_call_of_more_rows_than_there_are_samples(student: Student, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = export(student, out, quantize=("int8",), samples=SAMPLES, batch_size=9).rows
    assert all(row["relative_error"] <= TOLERANCES["int8"] for row in found)


def test_every_runtime_that_opens_files_is_named() -> None:
    """Profiling imports it before it measures what opening a file takes."""
    assert all(form.runtime for form in FORMATS.values() if form.open is not None)


def test_a_layer_that_is_kept_stays_float(student: Student, tmp_path: Path) -> None:
    tower = nn.Sequential(student.image_tower).eval()
    counts = []
    for kept in ((), ("0.module.visual.transformer.resblocks.0.mlp.c_fc",)):
        graph = Graph(
            name="image",
            module=tower,
            inputs=torch.randn(2, 3, 32, 32),
            batch_size=2,
            interface={"input": "pixels", "output": "rows"},
            facts={},
            keep_float=kept,
        )
        write_dynamic_int8(graph, tmp_path / "image.onnx")
        nodes = onnx.load(tmp_path / "image.onnx").graph.node
        counts.append(sum(node.op_type == "MatMulInteger" for node in nodes))
    assert counts[1] == counts[0] - 1


def normalised(ins: int, outs: int, **more: int) -> nn.Sequential:
    """A convolution with settled statistics behind it, which ONNX folds into one node."""
    norm = nn.BatchNorm2d(outs)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(nn.Conv2d(ins, outs, 3, **more), norm, nn.ReLU())


def float_convolutions(path: Path) -> list[list[int]]:
    """Shapes of the weights of convolutions that no integers are made floats for."""
    model = onnx.load(path)
    shapes = {each.name: list(each.dims) for each in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(nodes) == 3
    return [shapes[node.input[1]] for node in nodes if node.input[1] in shapes]


@pytest.mark.parametrize("quantize", ["int8", pytest.param("4bit-weights", marks=pytest.mark.slow)])
def test_a_kept_convolution_stays_float_when_its_norm_is_folded(
    quantize: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    tower = nn.Sequential(normalised(3, 32), normalised(32, 64), normalised(64, 48, groups=2))
    found = []
    for kept in ((), ("0.1.0",), ("0.2.0",), ("0.0.0", "0.1.0", "0.2.0")):
        graph = Graph(
            name="image",
            module=nn.Sequential(tower).eval(),
            inputs=torch.randn(2, 3, 16, 16),
            batch_size=2,
            interface={"input": "pixels", "output": "rows"},
            facts={},
            keep_float=kept,
        )
        FORMATS["onnx"].write[quantize](graph, tmp_path / "image.onnx")
        found.append(float_convolutions(tmp_path / "image.onnx"))
    first, second, third = [32, 3, 3, 3], [64, 32, 3, 3], [48, 32, 3, 3]
    tiny = [first] if quantize == "4bit-weights" else []  # 864 numbers are not worth rounding
    assert found == [tiny, [*tiny, second], [*tiny, third], [first, second, third]]


def test_no_values_are_rounded_that_need_not_be(tmp_path: Path) -> None:
    """Behind a convolution its ReLU's output is, once; a product's rows stay float."""
    torch.manual_seed(0)
    flat = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    graph = Graph(
        name="image",
        module=nn.Sequential(normalised(3, 8), nn.Conv2d(8, 8, 1), nn.ReLU6(), flat).eval(),
        inputs=torch.randn(2, 3, 16, 16),
        batch_size=2,
        interface={"input": "pixels", "output": "rows"},
        facts={},
    )
    FORMATS["onnx"].write["int8"](graph, tmp_path / "image.onnx")
    found = onnx.load(tmp_path / "image.onnx").graph
    makers = {name: node.op_type for node in found.node for name in node.output}
    rounded = [node.input[0] for node in found.node if node.op_type == "QuantizeLinear"]
    assert [makers.get(name) for name in rounded[:3]] == [None, "Conv", "Conv"]
    assert not {"Relu", "Clip"} & {node.op_type for node in found.node}
    assert len(rounded) == 4 and makers[found.output[0].name] in ("MatMul", "Gemm", "Add")


def test_the_layers_that_hurt_most_are_kept_and_nothing_is_changed(student: Student) -> None:
    tower, pixels = nn.Sequential(student.image_tower).eval(), torch.randn(4, 3, 32, 32)
    before = {name: value.clone() for name, value in tower[0].module.state_dict().items()}
    errors = layer_errors(tower, pixels, bits=4, activations=True)
    assert all(name.startswith("0.module.visual") for name in errors)
    worst = max(errors, key=lambda name: errors[name])
    kept = [
        layers_to_keep(tower, pixels, bits=4, activations=True, tolerance=tolerance)
        for tolerance in (1e9, max(errors.values()), 1e-9)
    ]
    assert kept[0] == () and kept[1][0] == worst and set(kept[2]) == set(errors)
    for name, value in tower[0].module.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_small_layer_that_hurts_stays_float_within_the_tolerance() -> None:
    """Its error would pass, and that of a large layer does."""
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(75, 800), nn.ReLU(), nn.Linear(800, 16))
    tower, pixels = nn.Sequential(nn.Conv2d(3, 3, 4), wide).eval(), torch.randn(8, 3, 8, 8)
    search = {"bits": 8, "activations": True}
    for hurt, kept in (("0", ("0",)), ("1.3", ())):
        weights, before = tower.get_submodule(hurt).weight.data, tower.state_dict()
        before = {name: value.clone() for name, value in before.items()}
        weights.flatten(1)[:, 0] *= 40  # one number a channel takes all the steps
        errors = layer_errors(tower, pixels, **search)
        assert max(errors, key=lambda name: errors[name]) == hurt
        tolerance = 4 * sum(error**2 for error in errors.values()) ** 0.5
        assert layers_to_keep(tower, pixels, **search, tolerance=tolerance) == kept
        assert layers_to_keep(tower, pixels, **search, tolerance=10 * tolerance) == ()
        tower.load_state_dict(before)


def test_weights_are_rounded_per_channel() -> None:
    weights = torch.tensor([[1.0, -0.6, 0.1], [100.0, 40.0, -7.0]])
    rounded = round_weights(weights, bits=4)
    torch.testing.assert_close(rounded, torch.tensor([[7, -4, 1], [7, 3, 0]]) * weights[:, :1] / 7)


def test_blocks_have_scales_of_their_own() -> None:
    weights = torch.tensor([[7.0, 3.4, 70.0, 34.0], [14.0, -7.0, 0.7, 0.34]])
    wanted = torch.tensor([[7.0, 3.0, 70.0, 30.0], [14.0, -8.0, 0.7, 0.3]])
    torch.testing.assert_close(round_weights(weights, bits=4, block=2), wanted)
    filters = weights[:, :, None, None].expand(2, 4, 3, 3) * torch.rand(3, 3)
    one = round_weights(filters[..., 1:2, 2:3].contiguous(), bits=4, block=2)
    assert torch.equal(round_weights(filters, bits=4, block=2)[..., 1:2, 2:3], one)
    narrow = torch.randn(5, 1, 3, 3)  # no whole block: 8 bits for each filter
    assert torch.equal(round_weights(narrow, bits=4, block=2), round_weights(narrow, bits=8))


def test_what_does_not_exist_is_refused_before_work() -> None:
    for name, row in FORMATS.items():
        for each in set(QUANTIZATIONS) - set(row.write):
            with pytest.raises(
                ValueError, match=f"{name} has no {each}, which .* has; it has none"
            ):
                variants((name,), (each,))
    with pytest.raises(ValueError, match="no quantisation 'int9'; did you mean 'int8'"):
        variants(("onnx:int9",), ("none",))
    for given in (("onnx:int8", "litert"), ("onnx:int8,litert",), ("onnx:int8, ", "litert")):
        found = [str(each) for each in variants(given, ("none",))]
        assert found == ["onnx:int8", "litert"]
    found = [str(each) for each in variants(("onnx",), ("none,int8", "fp16"))]
    assert found == ["onnx", "onnx:int8", "onnx:fp16"]
