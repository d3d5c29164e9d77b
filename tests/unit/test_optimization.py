"""Optimizers: groups without strays, rates by tower and layer, state in a third of the bytes."""

import math

import pytest
import timm.optim.muon
import torch
from torch import nn

from distill import optimization
from distill.config import ScheduleConfig
from distill.layers import layers_of_tower
from distill.objective import Objective
from distill.optimization import (
    OPTIMIZERS,
    build_optimizer,
    learning_rate,
    set_learning_rate,
    state_bytes,
)
from distill.optimizer_config import OptimizerConfig
from distill.parameter_groups import check_groups, parameter_groups
from distill.recipes import find_recipe
from distill.training_module import TrainingModule
from reinforced_data.testing import TOKENIZER, TinyEncoder
from students import StudentSpec, TextSpec, build_student

# Of each iteration, as timm takes them from modded-nanogpt.
QUINTICS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
TEXT = TextSpec(width=32, layers=2, heads=2, context_length=TOKENIZER.context_length)


def module_of(image="smallconv-4", **objective) -> TrainingModule:
    torch.manual_seed(0)
    size = 160 if image == "test_vit" else 16
    spec = StudentSpec(image=image, text=TEXT, embed_dim=16, image_size=size)
    student = build_student(spec, tokenizer=TOKENIZER)
    return TrainingModule(student, Objective(**objective).build(16, [16] if objective else []))


def build(module, config) -> torch.optim.Optimizer:
    return build_optimizer(parameter_groups(module, config), config)


def by_name(module, groups):
    names = {id(value): name for name, value in module.named_parameters()}
    return {names[id(value)]: group for group in groups for value in group["params"]}


def test_every_parameter_is_in_one_group_and_vectors_do_not_decay():
    module = module_of(feature=1.0, contrastive=1.0)
    found = by_name(module, parameter_groups(module, OptimizerConfig(weight_decay=0.3)))
    assert found.keys() == dict(module.named_parameters()).keys()
    for name, value in module.named_parameters():
        expected = 0.0 if value.ndim <= 1 else 0.3
        assert found[name]["weight_decay"] == expected, name
        assert found[name]["lr_scale"] == 1.0
    assert found["student.module.logit_scale"]["weight_decay"] == 0
    assert any(name.startswith("objective.") for name in found)


def test_a_norm_of_a_matrix_does_not_decay_and_a_frozen_parameter_is_in_no_group():
    module = TinyEncoder()
    module.norm = nn.LayerNorm([2, 3])  # a norm whose weight is no vector
    student = build_student(module, image_size=16, tokenizer=TOKENIZER)
    student.module.get_parameter("image").requires_grad_(False)
    whole = TrainingModule(student, Objective().build(16, []))
    found = by_name(whole, parameter_groups(whole, OptimizerConfig()))
    assert found["student.module.norm.weight"]["weight_decay"] == 0
    assert found["student.module.text"]["weight_decay"] == 0.2
    assert "student.module.image" not in found


def test_strays_are_named():
    module = nn.Linear(2, 2)
    groups = [{"params": [module.weight, module.weight]}]
    with pytest.raises(ValueError, match=r"weight \(in too many\), bias \(in none\)"):
        check_groups(module, groups)
    other = [{"params": [module.weight, module.bias]}, {"params": [torch.zeros(3)]}]
    with pytest.raises(ValueError, match=r"a tensor \(3,\) of group 1 \(in too many\)"):
        check_groups(module, other)


def test_towers_have_rates_of_their_own():
    module = module_of()
    config = OptimizerConfig(lr=1e-3, image_lr=4e-4, text_lr=4e-5)
    optimizer = build(module, config)
    set_learning_rate(optimizer, 5e-4)  # half of the peak
    found = by_name(module, optimizer.param_groups)
    assert math.isclose(found["student.module.visual.head.weight"]["lr"], 2e-4)
    assert math.isclose(found["student.module.text.token_embedding.weight"]["lr"], 2e-5)
    assert math.isclose(found["student.module.logit_scale"]["lr"], 5e-4)


def test_layers_of_a_text_transformer_are_asked_of_the_gradient():
    student = module_of().student
    layers = layers_of_tower(student.text_tower, TOKENIZER(["a"]))
    assert layers["text.token_embedding.weight"] == layers["text.positional_embedding"] == 0
    for block in (0, 1):
        of_block = {
            layer
            for name, layer in layers.items()
            if f"text.transformer.resblocks.{block}." in name
        }
        assert of_block == {block + 1}
    assert layers["text.ln_final.weight"] == layers["text.text_projection"] == 3


def test_layers_of_a_timm_tower_are_timms():
    student = module_of("test_vit").student
    layers = layers_of_tower(student.image_tower, torch.zeros(1, 3, 160, 160))
    depth = len(student.module.visual.blocks)
    assert layers["visual.patch_embed.proj.weight"] == layers["visual.pos_embed"] == 0
    assert layers["visual.blocks.0.attn.qkv.weight"] == 1
    assert layers[f"visual.blocks.{depth - 1}.attn.qkv.weight"] == depth
    assert layers["visual.head.weight"] == max(layers.values()) > depth


def test_layers_and_what_learns_are_left_as_they_were():
    student = module_of().student
    student.module.get_parameter("text.token_embedding.weight").requires_grad_(False)
    before = [value.requires_grad for value in student.parameters()]
    layers_of_tower(student.text_tower, TOKENIZER(["a"]))
    assert [value.requires_grad for value in student.parameters()] == before
    assert not any(part._forward_pre_hooks for part in student.modules())


def test_a_rate_falls_by_the_decay_from_layer_to_layer():
    module = module_of("test_vit")
    config = OptimizerConfig(
        lr=1e-3, image_lr=2e-3, text_lr=5e-4, image_layer_decay=0.8, text_layer_decay=0.5
    )
    found = by_name(module, parameter_groups(module, config))
    start = "student.module."
    layers = layers_of_tower(module.student.image_tower, torch.zeros(1, 3, 160, 160))
    last = max(layers.values())
    for name, layer in layers.items():
        assert math.isclose(found[start + name]["lr_scale"], 2 * 0.8 ** (last - layer)), name
    assert math.isclose(found[start + "text.token_embedding.weight"]["lr_scale"], 0.5 * 0.5**3)
    assert found[start + "logit_scale"]["lr_scale"] == 1


def test_a_tower_without_blocks_refuses_layer_decay():
    student = build_student(TinyEncoder(), image_size=16, tokenizer=TOKENIZER)
    module = TrainingModule(student, Objective().build(16, []))
    with pytest.raises(ValueError, match="image_layer_decay needs layers"):
        parameter_groups(module, OptimizerConfig(image_layer_decay=0.5))


class OneTable(TinyEncoder):
    """Both towers look up the same table."""

    def encode_image(self, images, /):
        return images.flatten(1)[:, :4] @ self.text[:4]


def test_towers_that_share_weights_cannot_have_two_rates():
    student = build_student(OneTable(), image_size=16, tokenizer=TOKENIZER)
    module = TrainingModule(student, Objective().build(16, []))
    with pytest.raises(ValueError, match="share text, which cannot have two"):
        parameter_groups(module, OptimizerConfig(image_lr=1e-4))
    same = OptimizerConfig(image_lr=1e-4, text_lr=1e-4)
    found = by_name(module, parameter_groups(module, same))
    assert found["student.module.text"]["lr_scale"] == 0.1


@pytest.mark.parametrize(
    "values",
    [{"lr": 0.0}, {"text_lr": -1.0}, {"image_layer_decay": 0.0}, {"text_layer_decay": 1.5}],
)
def test_impossible_rates_are_refused(values):
    with pytest.raises(ValueError, match=f"optimizer.{next(iter(values))} must be above 0"):
        OptimizerConfig(**values)


def stepped(name, module, steps=3):
    optimizer = build(module, OptimizerConfig(name=name, lr=1e-3))
    set_learning_rate(optimizer, 1e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for value in module.parameters():
            value.grad = torch.randn(value.shape, generator=generator)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("small", "large"),
    [("adamw8bit", "adamw"), ("paged_adamw8bit", "adamw"), ("lion8bit", "lion")],
)
def test_8_bit_state_takes_less_than_a_third_of_32_bit_state(small, large):
    def big():
        student = build_student(TinyEncoder(1024), image_size=16, tokenizer=TOKENIZER)
        return TrainingModule(student, Objective().build(1024, []))

    assert 3 * state_bytes(stepped(small, big())) <= state_bytes(stepped(large, big()))


def test_lion_keeps_half_of_what_adamw_keeps_and_moves_by_the_rate():
    module = module_of()
    assert state_bytes(stepped("lion", module)) * 2 <= state_bytes(stepped("adamw", module_of()))
    module = module_of()
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    optimizer = build(module, OptimizerConfig(name="lion", weight_decay=0.0, lr=1e-3))
    set_learning_rate(optimizer, 1e-3)
    for value in module.parameters():
        value.grad = torch.randn_like(value)
    optimizer.step()
    for name, value in module.named_parameters():
        torch.testing.assert_close(
            (value - before[name]).abs(), torch.full_like(value, 1e-3), rtol=0, atol=2e-6
        )


def test_muon_takes_the_weights_of_layers_and_adamw_the_rest():
    module = module_of("test_vit", feature=1.0)
    found = by_name(module, parameter_groups(module, OptimizerConfig(name="muon")))
    assert found.keys() == dict(module.named_parameters()).keys()
    taken = {name for name, group in found.items() if not group["use_fallback"]}
    left = {name for name, value in module.named_parameters() if value.ndim > 1} - taken
    endings = {name.split("resblocks.0.")[-1] for name in taken if "resblocks.0" in name}
    attention = {"attn.in_proj_weight", "attn.out_proj.weight"}
    assert endings == attention | {"mlp.c_fc.weight", "mlp.c_proj.weight"}
    assert any(name.endswith("patch_embed.proj.weight") for name in taken)  # a convolution
    assert {name.rsplit(".", 1)[-1] for name in left} == {
        *("positional_embedding", "text_projection", "weight", "pos_embed", "cls_token")
    }
    assert [name for name in left if name.endswith(".weight")] == [
        "student.module.text.token_embedding.weight"
    ]


def test_a_step_of_muon_is_orthogonal_and_as_large_as_adamws():
    torch.manual_seed(0)
    layer, table = nn.Linear(24, 40, bias=False), nn.Embedding(50, 8)
    module = nn.ModuleDict({"layer": layer, "table": table})
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    groups = [
        {"params": [layer.weight], "weight_decay": 0.0, "use_fallback": False},
        {"params": [table.weight], "weight_decay": 0.0, "use_fallback": True},
    ]
    optimizer = build_optimizer(groups, OptimizerConfig(name="muon", lr=1e-2))
    for value in module.parameters():
        value.grad = torch.randn_like(value)
    optimizer.step()
    step = (before["layer.weight"] - layer.weight.detach()).double()
    grown = torch.linalg.svdvals(step) / (1e-2 * 0.2 * math.sqrt(40))
    assert grown.min() > 0.6 and grown.max() < 1.3  # of the gradient's: 0.3 to 2.7
    assert 0.5 < step.square().mean().sqrt() / (0.2 * 1e-2) < 1.3
    gradient = layer.weight.grad
    assert gradient is not None and (step * gradient).sum() > 0, "downhill"
    moved = (before["table.weight"] - table.weight.detach()).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-2), rtol=1e-4, atol=0)


def test_muon_is_in_float32_where_bfloat16_has_no_hardware(monkeypatch):
    whole = timm.optim.muon.zeropower_via_newtonschulz
    monkeypatch.setattr(timm.optim.muon, "zeropower_via_newtonschulz", whole)  # for afterwards
    monkeypatch.setattr(optimization, "multiplies_bfloat16", lambda: False)
    torch.manual_seed(0)
    layer = nn.Linear(24, 40, bias=False)
    before = layer.weight.detach().double().clone()
    group = {"params": [layer.weight], "weight_decay": 0.0, "use_fallback": False}
    optimizer = build_optimizer([group], OptimizerConfig(name="muon", lr=1e-2))
    layer.weight.grad = torch.randn_like(layer.weight)
    optimizer.step()
    exact = layer.weight.grad.double()
    exact /= exact.norm()
    for one, three, five in QUINTICS:
        square = exact.T @ exact
        exact = one * exact + three * exact @ square + five * exact @ square @ square
    expected = before - 1e-2 * 0.2 * math.sqrt(40) * exact
    torch.testing.assert_close(layer.weight.double(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_a_loss(name):
    torch.manual_seed(0)
    target = torch.randn(48, 16)
    student = build_student(TinyEncoder(seed=2), image_size=16, tokenizer=TOKENIZER)
    module = TrainingModule(student, Objective().build(16, []))
    optimizer = build(module, OptimizerConfig(name=name, lr=2e-2, weight_decay=0.0))
    set_learning_rate(optimizer, 2e-2)
    losses = []
    for _ in range(60):
        loss = (student.module.get_parameter("image") - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_the_schedule_warms_up_and_ends_where_it_is_told():
    schedule = ScheduleConfig(num_steps=10, warmup_steps=2, final_lr=0.1)
    assert learning_rate(0, 1.0, schedule) == 0.5
    assert math.isclose(learning_rate(10, 1.0, schedule), 0.1)


@pytest.mark.parametrize("name", ["ft_clip", "evaclip_finetune"])
def test_fine_tuning_recipes_let_rates_fall_from_output_to_input(name):
    optimizer = find_recipe(name).optimizer
    module = module_of("test_vit")
    found = by_name(module, parameter_groups(module, optimizer))
    start, last = "student.module.", (optimizer.image_lr or optimizer.lr) / optimizer.lr
    assert math.isclose(found[start + "visual.head.weight"]["lr_scale"], last)
    depth = max(layers_of_tower(module.student.image_tower, torch.zeros(1, 3, 160, 160)).values())
    first = found[start + "visual.patch_embed.proj.weight"]["lr_scale"]
    assert math.isclose(first, last * optimizer.image_layer_decay**depth)
    assert found[start + "text.ln_final.weight"]["weight_decay"] == 0
