"""MobileCLIP-S0's text tower: what it sees, how it folds, that it saves and checkpoints."""

import pytest
import torch

from students import StudentSpec, TextSpec, build_student, load_student
from students.convolutional_text import KERNEL, ConvolutionalText, TokenMixer

CONTEXT = 16


@pytest.fixture
def tower() -> ConvolutionalText:
    """Layer scales raised and statistics away from 0 and 1, or the convolutions would not show."""
    torch.manual_seed(0)
    made = ConvolutionalText(
        context_length=CONTEXT, vocab_size=50, width=24, heads=3, layers=1, output_dim=12
    )
    for name, value in (*made.named_parameters(), *made.named_buffers()):
        if "layer_scale" in name or name.endswith("running_var"):
            torch.nn.init.uniform_(value, 0.5, 1.5)
        elif name.endswith("running_mean"):
            torch.nn.init.normal_(value)
    return made.eval()


def tokens(*rows: list[int]) -> torch.Tensor:
    return torch.tensor([row + [0] * (CONTEXT - len(row)) for row in rows])


def test_the_folded_tower_computes_the_same(tower):
    given = torch.randint(1, 49, (5, CONTEXT))
    given[:, 9] = 49
    wanted = tower(given)
    before = sum(isinstance(part, torch.nn.BatchNorm1d) for part in tower.modules())
    for part in tower.modules():
        if isinstance(part, TokenMixer):
            part.reparameterize()
            part.reparameterize()  # a second time changes nothing
    after = sum(isinstance(part, torch.nn.BatchNorm1d) for part in tower.modules())
    assert (before, after) == (10, 2)
    torch.testing.assert_close(tower(given), wanted, rtol=1e-5, atol=1e-5)


def test_a_mixer_alone_sees_as_far_as_its_kernel(tower):
    mixer = tower.blocks[0].mixer
    maps = torch.zeros(1, 24, CONTEXT)
    moved = maps.clone()
    moved[..., 3] = 1
    changed = (mixer(moved) - mixer(maps)).abs().amax((0, 1)) > 1e-6
    reach = KERNEL // 2
    assert changed.tolist() == [abs(place - 3) <= reach for place in range(CONTEXT)]


def test_the_end_token_sees_what_stands_after_it_and_before(tower):
    plain, before, after = tower(
        torch.cat([tokens([1, 7, 49]), tokens([1, 8, 49]), tokens([1, 7, 49, 8])])
    )
    assert (plain - before).abs().max() > 1e-3
    assert (plain - after).abs().max() > 1e-3  # no causal mask


def test_checkpointing_changes_no_gradient(tower):
    given = tokens([1, 5, 6, 49], [1, 49])
    gradients = []
    for enable in (False, True):
        tower.set_grad_checkpointing(enable)
        tower.zero_grad()
        tower(given).square().sum().backward()
        gradients.append([value.grad.clone() for value in tower.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_a_student_with_it_comes_back_from_its_folder(tmp_path):
    text = TextSpec(width=24, layers=1, heads=3, architecture="mct")
    spec = StudentSpec(image="smallconv-4", text=text, embed_dim=12, image_size=32)
    student = build_student(spec).eval()
    student.save(tmp_path)
    again = load_student(tmp_path)
    assert torch.equal(again.encode_text(["a cat"]), student.encode_text(["a cat"]))


def test_an_unknown_architecture_is_refused():
    with pytest.raises(ValueError, match=r"TextSpec.architecture.*mct"):
        TextSpec(width=8, layers=1, heads=1, architecture="mtc")
