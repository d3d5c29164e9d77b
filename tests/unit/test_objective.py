"""What an objective refuses, and what it builds and computes when a term is off."""

import pytest
import torch
import torch.nn.functional as F

from distill.objective import Objective
from distill.ops import Embeddings


def model(dim, seed, *, bias=None, text_dim=None):
    g = torch.Generator().manual_seed(seed)
    image = F.normalize(torch.randn(6, dim, generator=g), dim=1)
    text = F.normalize(torch.randn(6, dim if text_dim is None else text_dim, generator=g), dim=1)
    return Embeddings(image, text, torch.tensor(9.0), None if bias is None else torch.tensor(bias))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"interactive": -1.0}, "weights must be >= 0"),
        ({"contrastive": 0.0}, "one of them above 0"),
        ({"relational": 1.0, "relational_scale": 0.0}, "relational_scale must be positive, got 0"),
        ({"feature_teacher_dropping": 1.5}, r"in \[0, 1\], got 1.5"),
        ({"teacher_weights": (0.0, 0.0)}, "teacher_weights must be >= 0 and not all 0"),
        ({"feature_standardize": True, "feature_distance": "cosine"}, "changes cosines"),
        ({"custom": {"relational": (1.0, print)}}, r"may not be called \['relational'\]"),
    ],
)
def test_refused_when_it_is_made(settings, words):
    with pytest.raises(ValueError, match=words):
        Objective(**settings)


@pytest.mark.parametrize("name", ["relational_kind", "feature_adapter", "feature_distance"])
def test_unknown_names_are_refused(name):
    """Behind the constructor: in tests its Literal types are checked first."""
    objective = Objective()
    object.__setattr__(objective, name, "other")
    with pytest.raises(ValueError, match=f"{name} must be one of .*'other'"):
        objective.__post_init__()


@pytest.mark.parametrize(
    ("settings", "dims", "words"),
    [
        ({"interactive": 1.0, "relational": 1.0}, [], "terms interactive, relational but"),
        ({"feature": 1.0, "teacher_weights": (1.0,)}, [4, 4], "has 1 numbers for 2 teachers"),
        ({"feature": 1.0, "feature_standardize": True}, [4], "see fit_standardization"),
        ({"interactive": 1.0}, [(4, 0)], "a teacher with image and text embeddings"),
    ],
)
def test_refused_when_it_is_built(settings, dims, words):
    with pytest.raises(ValueError, match=words):
        Objective(**settings).build(5, dims)


def test_what_is_off_costs_nothing():
    objective = Objective(feature_adapter="mlp", feature_standardize=True, relational_scale=3.0)
    assert not objective.needs_teachers and not objective.standardizes
    module = objective.build(5, [])
    assert list(module.parameters()) == []
    terms = module(model(5, 1), [], torch.arange(6))
    assert set(terms) == {"contrastive", "total"}


def test_every_term_is_named_and_weighed():
    objective = Objective(
        contrastive=0.5, fastclip=1.5, affinity=2.0, feature=3.0, interactive=4.0, relational=5.0
    )
    module = objective.build(5, [5, 7], num_samples=6)
    ids = torch.arange(6)
    terms = module(model(5, 1), [model(5, 2), model(7, 3)], ids, numbers=ids)
    weighed = sum(weight * terms[name] for name, weight in objective.weights().items())
    assert set(terms) == {*objective.weights(), "total"}
    torch.testing.assert_close(terms["total"], weighed)
    names = {name.split(".")[0] for name, _ in module.named_parameters()}
    assert names == {"feature", "interactive"}


def test_a_teacher_of_weight_0_changes_nothing():
    everything = dict.fromkeys(("affinity", "feature", "interactive", "relational"), 1.0)
    student, one, other = model(5, 1), model(5, 2), model(5, 3)
    both = Objective(**everything, teacher_weights=(2.0, 0.0)).build(5, [5, 5])
    alone = Objective(**everything).build(5, [5])
    expected = alone(student, [one], torch.arange(6))
    for name, value in both(student, [one, other], torch.arange(6)).items():
        torch.testing.assert_close(value, expected[name])


def test_a_teacher_of_one_modality_is_left_out_of_affinity():
    objective = Objective(affinity=1.0, feature=1.0, interactive=1.0, relational=1.0)
    student, both, images = model(5, 1), model(5, 2), model(6, 3, text_dim=0)
    taught = objective.build(5, [5, (6, 0)])(student, [both, images], torch.arange(6))
    alone = objective.build(5, [5])(student, [both], torch.arange(6))
    for name in ("affinity", "interactive"):
        torch.testing.assert_close(taught[name], alone[name])
    for name in ("feature", "relational"):
        assert (taught[name] - alone[name]).abs() > 1e-4


def test_a_sigmoid_student_learns_rows_of_a_softmax_teacher():
    """Pairwise where every teacher has a bias, else the affinity of its softmax."""
    objective = Objective(affinity=1.0)
    student, soft, hard = model(5, 1, bias=-4.0), model(5, 2), model(5, 3, bias=-5.0)
    ids = torch.arange(6)
    plain = objective.build(5, [5])(student._replace(logit_bias=None), [soft], ids)
    taught = objective.build(5, [5])(student, [soft], ids)
    torch.testing.assert_close(taught["affinity"], plain["affinity"])
    assert (taught["contrastive"] - plain["contrastive"]).abs() > 0.1
    scores = 9 * student.image @ student.text.T - 4
    own = torch.where(torch.eye(6) > 0, scores, -scores)
    torch.testing.assert_close(taught["contrastive"], -F.logsigmoid(own).sum() / 6)
    q = (9 * hard.image @ hard.text.T - 5).sigmoid()
    pairwise = F.binary_cross_entropy_with_logits(scores, q, reduction="sum") / 6
    taught = objective.build(5, [5])(student, [hard], ids)
    torch.testing.assert_close(taught["affinity"], pairwise)


def test_under_autocast_nothing_is_rounded():
    objective = Objective(
        affinity=1.0, feature=1.0, interactive=1.0, relational=1.0, feature_adapter="mlp"
    )
    module = objective.build(5, [5, 7])
    batch = model(5, 1), [model(5, 2), model(7, 3)], torch.arange(6)
    expected = module(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(*batch)
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], value)
    rounded = batch[0]._replace(image=batch[0].image.bfloat16(), text=batch[0].text.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):  # towers that end in bfloat16
        close = module(rounded, *batch[1:])
    torch.testing.assert_close(close["total"], expected["total"], rtol=2e-2, atol=0)
