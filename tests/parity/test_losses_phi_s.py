"""PHI-S: equal variances, nothing lost, at any width; the matrices it stands on."""

import pytest
import torch
import torch.nn.functional as F

from distill.losses import FeatureLoss, Moments, phi_s, standardize, unstandardize
from distill.losses.hadamard import hadamard, spreading_rotation
from distill.ops import Embeddings


def correlated(n, dim, seed=0):
    """Unit rows around a mean, with variances from 1 to 1e-6 in a turned basis."""
    g = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(dim, dim, generator=g, dtype=torch.float64)).Q
    deviations = torch.logspace(0, -3, dim, dtype=torch.float64)
    raw = torch.randn(n, dim, generator=g, dtype=torch.float64) * deviations
    return F.normalize(raw @ basis + 0.5, dim=1)


@pytest.mark.parametrize("order", [1, 2, 4, 12, 20, 28, 36, 384, 512, 640, 768, 1024, 1152])
def test_hadamard(order):
    matrix = hadamard(order)
    assert matrix is not None and set(matrix.unique().tolist()) <= {1.0, -1.0}
    assert torch.equal(matrix @ matrix.T, order * torch.eye(order, dtype=torch.float64))


@pytest.mark.parametrize("order", [3, 6, 50])
def test_there_is_no_hadamard_matrix_of_these(order):
    assert hadamard(order) is None


@pytest.mark.parametrize("order", [1, 2, 3, 7, 12, 50, 92])
@pytest.mark.parametrize("variances", ["falling", "equal", "low rank"])
def test_spreading_rotation(order, variances):
    values = torch.logspace(0, -9, order, dtype=torch.float64)
    if variances == "equal":
        values = torch.ones(order, dtype=torch.float64)
    if variances == "low rank":
        values[order // 3 + 1 :] = 0
    turn = spreading_rotation(values)
    one = torch.eye(order, dtype=torch.float64)
    torch.testing.assert_close(turn @ turn.T, one, rtol=0, atol=1e-13)
    diagonal = (turn @ torch.diag(values) @ turn.T).diagonal()
    torch.testing.assert_close(diagonal, values.mean().expand(order), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dim", [1, 2, 7, 12, 50, 64])
def test_every_dimension_has_variance_one_and_angles_stay(dim):
    rows = correlated(400, dim) if dim > 1 else torch.linspace(-1, 2, 9).double()[:, None]
    moments = Moments(dim)
    for part in rows.split(97):
        moments.add(part)
    fitted = phi_s(moments)
    after = standardize(rows, fitted)
    torch.testing.assert_close(after.mean(0), torch.zeros(dim).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        after.var(0, correction=0), torch.ones(dim).double(), rtol=1e-10, atol=0
    )
    before = torch.pdist(rows - rows.mean(0))  # one factor for all distances
    torch.testing.assert_close(torch.pdist(after), before / fitted.deviation, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(unstandardize(after, fitted), rows, rtol=0, atol=1e-13)


def test_moments_in_parts_are_the_whole_covariance():
    rows = correlated(301, 9).float() + 1_000  # a mean that would cancel in sums of squares
    moments = Moments(9)
    for part in (rows[:1], rows[1:1], rows[1:200], rows[200:]):
        moments.add(part)
    assert moments.count == 301
    expected = torch.cov(rows.double().T, correction=0)
    torch.testing.assert_close(moments.covariance(), expected, rtol=1e-9, atol=1e-15)


def test_low_rank_rows():
    rows = F.normalize(torch.randn(5, 12, generator=torch.Generator().manual_seed(1)), dim=1)
    moments = Moments(12)
    moments.add(rows)
    after = standardize(rows.double(), phi_s(moments))
    torch.testing.assert_close(
        after.var(0, correction=0), torch.ones(12).double(), rtol=1e-10, atol=0
    )


@pytest.mark.parametrize("rows", [torch.empty(0, 3), torch.ones(1, 3), torch.ones(8, 3)])
def test_rows_that_do_not_vary_are_refused(rows):
    moments = Moments(3)
    moments.add(rows)
    with pytest.raises(ValueError, match=f"cannot standardise: {len(rows)} rows"):
        phi_s(moments)


@pytest.mark.parametrize("student_dim", [12, 20])
def test_a_standardised_feature_loss(student_dim):
    """It is the mean over dimensions, and a student that is the teacher already starts at 0."""
    torch.manual_seed(0)
    target = correlated(40, 12).float()
    moments = Moments(12)
    moments.add(target)
    standards = [{"image": phi_s(moments), "text": phi_s(moments)}]
    loss = FeatureLoss(student_dim, [12], standards=standards)
    teacher = Embeddings(target, target.roll(1, 0), torch.tensor(1.0))
    if student_dim == 12:
        assert loss(teacher, [teacher]).item() < 1e-9
    rows = F.normalize(torch.randn(40, student_dim), dim=1)
    adapter = loss.adapters["image"].maps[0]
    aim = standardize(target.double(), standards[0]["image"])
    image = (rows.double() @ adapter.weight.double().T + adapter.bias.double() - aim) ** 2
    text = loss.adapters["text"].maps[0](rows).double() - aim.roll(1, 0)
    expected = (image.mean() + (text**2).mean()) / 2
    found = loss(Embeddings(rows, rows, torch.tensor(1.0)), [teacher])
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    assert any("standards" in name for name in loss.state_dict())
