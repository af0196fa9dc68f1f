"""What counts as the same weight."""

import pytest
import torch

from curlora.cur.fingerprint import deviation, fingerprint, rounding_of, tolerances

COLUMNS, ROWS = torch.tensor([3, 0, 50]), torch.tensor([1, 90, 7])


def of(weight, *, quantised=False):
    return fingerprint(weight, COLUMNS, ROWS, rounding=rounding_of(weight, quantised=quantised))


@pytest.fixture
def weight():
    return torch.randn(1500, 80)


def test_known_entries(weight):
    vector = of(weight)
    assert vector.shape == (2 + 64 + 6,)
    assert vector[0] == torch.finfo(torch.float32).eps / 2
    torch.testing.assert_close(vector[1], weight.norm())
    torch.testing.assert_close(vector[-6:-3], weight[:, COLUMNS].norm(dim=0))
    torch.testing.assert_close(vector[-3:], weight[ROWS].norm(dim=1))
    mean_square = vector[2:-6].square().mean() / weight.norm().square()
    assert mean_square == pytest.approx(1.0, abs=0.6)


def test_equal_weights_do_not_deviate(weight):
    assert deviation(of(weight), of(weight.clone())) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_is_within_rounding_either_way(weight, dtype):
    for first, second in ((weight, weight.to(dtype)), (weight.to(dtype), weight)):
        rounding, limit = tolerances(of(first), of(second))
        assert limit == 0.01
        assert 0 < deviation(of(first), of(second)) < rounding == torch.finfo(dtype).eps / 2


def test_noise_is_measured_at_its_size(weight):
    """So that a limit of 15 % means 15 %, in every one of hundreds of layers."""
    measured = [
        deviation(of(weight), of(weight + 0.1 * torch.randn_like(weight))) for _ in range(100)
    ]
    assert 0.07 < min(measured) < max(measured) < 0.15


def test_other_weights_are_far(weight):
    assert deviation(of(weight), of(torch.randn_like(weight))) > 0.5
    assert deviation(of(weight), of(2 * weight)) == pytest.approx(1.0, abs=0.6)
    assert deviation(of(weight), of(-weight)) > 1  # same norms, another weight
    assert deviation(of(weight), of(weight.roll(1, dims=0))) > 0.5


def test_a_change_of_what_was_not_selected_is_seen(weight):
    changed = weight.clone()
    changed[100:600] += 0.5
    assert deviation(of(weight), of(changed)) > 0.05


def test_quantisation_on_either_side_widens_the_limit(weight):
    assert tolerances(of(weight), of(weight, quantised=True)) == pytest.approx((0.12, 0.15))
    assert tolerances(of(weight, quantised=True), of(weight)) == pytest.approx((0.12, 0.15))
