"""A student trained with rounded numbers computes what integers hold, and stays an ordinary one."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.models.byobnet import MobileOneBlock
from timm.models.repvit import ConvNorm, RepVggDw
from torch import nn

from distill import Objective, train
from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from reinforced_data import reinforce
from reinforced_data.testing import TOKENIZER, picture, tiny_teacher, write_source
from students import StudentSpec, TextSpec, build_student, load_student
from students.exporters.sensitivity import LAYERS, round_activations, round_weights
from students.rounding import Rounding, branching

RECIPE = RunConfig(
    data=DataConfig(batch_size=8, num_workers=0),
    objective=Objective(contrastive=0.3, affinity=0.7, feature=1.0),
    optimizer=OptimizerConfig(lr=3e-3),
    schedule=ScheduleConfig(num_steps=8, warmup_steps=1),
    log_every=1,
    quantize="int8",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rounding")
    source = write_source(folder / "source", 16)
    reinforce(source, folder / "store", teachers=tiny_teacher("a", seed=1), num_views=2)
    return folder / "store"


def small(seed: int = 0, image: str = "smallconv-4"):
    torch.manual_seed(seed)
    text = TextSpec(width=16, layers=1, heads=2, context_length=8)
    spec = StudentSpec(image=image, text=text, embed_dim=16, image_size=16)
    student = build_student(spec, tokenizer=TOKENIZER, name="small").train()
    with torch.no_grad():
        for _ in range(30):
            student.encode_image([picture(seed) for seed in range(12)])
    return student


def inputs(student):
    views = np.stack([student.preprocess.whole_view(picture(seed)) for seed in range(6)])
    images = student.preprocess.normalize(torch.from_numpy(views))
    return images, student.tokenizer([f"word {n} other" for n in range(6)])


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3, 3)])
def test_weights_are_integers_times_a_scale_for_each_channel(shape):
    weights = torch.randn(shape, generator=torch.manual_seed(3), dtype=torch.float64)
    found = round_weights(weights, bits=8)
    for channel, rounded in zip(weights, found, strict=True):
        scale = channel.abs().max() / 127
        whole = torch.tensor([round(v) for v in (channel / scale).flatten().tolist()])
        torch.testing.assert_close(rounded.flatten(), whole * scale, rtol=0, atol=1e-15)
    scales = weights.flatten(1).abs().amax(dim=1).float() / 127
    none = torch.zeros(6, dtype=torch.int32)
    torchs = torch.fake_quantize_per_channel_affine(weights.float(), scales, none, 0, -127, 127)
    torch.testing.assert_close(found.float(), torchs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shift", [-0.7, 0.0, 5.0, -5.0])
def test_what_layers_are_given_has_256_values_and_zero_among_them(shift):
    given = torch.randn(400, generator=torch.manual_seed(4), dtype=torch.float64) + shift
    low, high = min(given.min().item(), 0.0), max(given.max().item(), 0.0)
    step = (high - low) / 255
    zero = round(-low / step)
    whole = [min(max(round(v / step) + zero, 0), 255) - zero for v in given.tolist()]
    expected = torch.tensor(whole, dtype=torch.float64) * step
    torch.testing.assert_close(round_activations(given), expected, rtol=0, atol=1e-14)
    torchs = torch.fake_quantize_per_tensor_affine(given.float(), step, zero, 0, 255)
    torch.testing.assert_close(round_activations(given).float(), torchs, rtol=0, atol=1e-5)


def test_a_folded_norm_does_not_change_what_rounding_does():
    torch.manual_seed(5)
    layer, norm = nn.Conv2d(3, 8, 3, bias=False).double(), nn.BatchNorm2d(8).double().eval()
    norm.running_mean, norm.running_var = torch.randn(8).double(), torch.rand(8).double() + 0.1
    norm.weight.data.normal_()
    factor = torch.rsqrt(norm.running_var + norm.eps) * norm.weight.detach()
    factor = factor[:, None, None, None]
    rounded = round_weights(layer.weight.detach(), bits=8)
    folded = round_weights(layer.weight.detach() * factor, bits=8)
    torch.testing.assert_close(folded, rounded * factor, rtol=0, atol=1e-14)


@pytest.mark.parametrize("image", ["smallconv-4", "test_vit"])
def test_rows_and_gradients_are_those_of_a_student_with_rounded_weights(image):
    student = small(image=image).eval()
    twin = copy.deepcopy(student)
    with torch.no_grad():
        for layer in [m for m in twin.modules() if isinstance(m, LAYERS)]:
            for value in [v for v in layer.parameters(recurse=False) if v.ndim >= 2]:
                value.copy_(round_weights(value, bits=4, block=32))
    given = inputs(student)
    found, expected = Rounding(student, "4bit-weights")(*given), twin(*given)
    assert (found.image - student(*given).image).abs().max() > 1e-3
    for rows, others in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(rows, others, rtol=0, atol=1e-6)
    for rows in (found, expected):
        (rows.image[0] @ rows.text[1] + rows.image[2] @ rows.text[3]).backward()
    for (name, one), other in zip(student.named_parameters(), twin.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-6, msg=name)


def test_rounded_inputs_send_gradients_straight_through():
    student = small().eval()
    given = inputs(student)
    before = student(*given)
    images = given[0].requires_grad_()
    rounded = Rounding(student, "int8")(images, given[1])
    change = (rounded.image - before.image).abs().max()
    assert 1e-4 < change < 0.1
    rounded.image[0].sum().backward()
    assert images.grad is not None
    assert images.grad[0].abs().max() > 0, "a step function has no gradient of its own"
    after = student(*given)
    assert torch.equal(after.image, before.image) and torch.equal(after.text, before.text)
    assert not any(m._forward_pre_hooks for m in student.modules())


def test_only_branches_that_fold_into_one_are_left_out():
    tower = nn.Sequential(
        RepVggDw(8, 3), ConvNorm(8, 16), MobileOneBlock(16, 16, 3), nn.Linear(16, 4)
    )
    assert branching(tower) == ["0", "2"]

    class Foldable(nn.Sequential):
        def fuse(self) -> None:
            """Fold the parts, as RepVit's whole tower does."""

    assert branching(Foldable(*tower)) == ["0", "2"]
    assert branching(nn.Sequential(ConvNorm(8, 16), nn.Linear(16, 4))) == []


def test_what_comes_out_is_an_ordinary_student(store, tmp_path):
    student = small()
    names = list(student.state_dict())
    train(student, store, recipe=RECIPE, out=tmp_path / "run", show=False)
    loaded = load_student(tmp_path / "run")
    assert list(student.state_dict()) == names == list(loaded.state_dict())
    given = inputs(student)
    assert torch.equal(loaded(*given).image, student.eval()(*given).image)
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert RunConfig.from_json(written).quantize == "int8"


@pytest.mark.parametrize("micro_batch_size", [0, 3])
def test_a_run_that_was_cut_goes_on_to_the_same_bits(store, tmp_path, micro_batch_size):
    calls = []

    def fails_once(*_):
        calls.append(1)
        if len(calls) == 14:
            raise RuntimeError("the planted fault")
        return torch.zeros(())

    data = replace(RECIPE.data, micro_batch_size=micro_batch_size)
    objective = replace(RECIPE.objective, custom={"watch": (0.0, fails_once)})
    recipe = replace(RECIPE, data=data, objective=objective, save_every=2)
    whole = train(small(), store, recipe=recipe, out=tmp_path / "whole", show=False).student
    with pytest.raises(RuntimeError, match="planted"):
        train(small(), store, recipe=recipe, out=tmp_path / "cut", show=False)
    again = train(small(), store, recipe=recipe, out=tmp_path / "cut", show=False).student
    assert len(calls) == 8 + 6 + 4
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_what_would_compute_with_other_weights_is_refused():
    for clash in ({"compile": True}, {"activation_checkpointing": True}):
        with pytest.raises(
            ValueError, match=rf"quantize='int8' does not go with {next(iter(clash))}"
        ):
            replace(RECIPE, **clash)
