"""Known values of a small CUR, and what the laws of selection promise."""

import math

import pytest
import torch

from curlora.adapters.cur_factors import CurFactors
from curlora.cur.selection import (
    SelectionRule,
    draw_with_replacement,
    draw_without_replacement,
    energy_shares,
    log_law,
    perplexity,
)

# Column energies 1, 1, 8, 4 and row energies 5, 5, 4: fourteen in all.
W = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 1.0, 2.0, 0.0], [0.0, 0.0, 0.0, 2.0]])


def law_of(values, law="inverted", *, temperature=1.0, eps=0.0):
    shares = torch.tensor(values, dtype=torch.float64)
    return log_law(shares, law, temperature=temperature, eps=eps).exp()


def assert_law(actual, expected):
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)


def test_shares_of_a_3_by_4_matrix():
    columns, rows = energy_shares(W)
    assert_law(columns, [1 / 14, 1 / 14, 8 / 14, 4 / 14])
    assert_law(rows, [5 / 14, 5 / 14, 4 / 14])


def test_shares_of_a_bfloat16_matrix_and_of_many_rows():
    tall = torch.randn(2500, 3, dtype=torch.bfloat16)
    squares = tall.double().square()
    columns, rows = energy_shares(tall)
    torch.testing.assert_close(columns, squares.sum(0) / squares.sum())
    torch.testing.assert_close(rows, squares.sum(1) / squares.sum())


@pytest.mark.parametrize("broken", [torch.zeros(2, 3), torch.full((2, 3), math.nan)])
def test_a_weight_without_energy_is_refused(broken):
    with pytest.raises(ValueError, match="Load the weights of the base model"):
        energy_shares(broken)


@pytest.mark.parametrize(
    ("law", "settings", "expected"),
    [
        # 1/p is 14, 14, 1.75, 3.5 (Fawi 2024, Eq. 4)
        ("inverted", {}, [8 / 19, 8 / 19, 1 / 19, 2 / 19]),
        # p^(-1/2) is proportional to 1, 1, 1/sqrt(8), 1/2 times sqrt(14)
        ("inverted", {"temperature": 2.0}, [c / (2.5 + 8**-0.5) for c in (1, 1, 8**-0.5, 0.5)]),
        # p^(-2) is proportional to 64, 64, 1, 4
        ("inverted", {"temperature": 0.5}, [64 / 133, 64 / 133, 1 / 133, 4 / 133]),
        # p + 1/14 is proportional to 2, 2, 9, 5
        ("inverted", {"eps": 1 / 14}, [45 / 118, 45 / 118, 10 / 118, 18 / 118]),
        ("energy", {}, [1 / 14, 1 / 14, 8 / 14, 4 / 14]),
        ("uniform", {}, [1 / 4] * 4),
    ],
)
def test_known_laws(law, settings, expected):
    actual = law_of([1 / 14, 1 / 14, 8 / 14, 4 / 14], law, **settings)
    assert_law(actual, expected)


def test_cur_of_a_3_by_4_matrix_by_hand():
    factors = CurFactors(torch.tensor([2, 0]), torch.tensor([1, 2]), torch.zeros(14).int())
    factors.read(W, torch.tensor([10.0, 20.0, 30.0]))
    assert factors.C.tolist() == [[2, 1], [2, 0], [0, 0]]
    assert factors.R.tolist() == [[0, 1, 2, 0], [0, 0, 0, 2]]
    assert factors.bias_at_rows.tolist() == [20, 30]
    U = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    expected = [[0, 5, 10, 16], [0, 2, 4, 8], [0, 0, 0, 0]]
    assert (factors.C @ U @ factors.R).tolist() == expected


@pytest.mark.parametrize("law", ["inverted", "energy", "uniform"])
@pytest.mark.parametrize("temperature", [1e-3, 0.05, 1.0, 1e6])
def test_no_temperature_overflows(law, temperature):
    shares = torch.tensor([1e-14, 1e-9, 1e-3, 0.9, 0.0], dtype=torch.float64)
    probabilities = log_law(shares, law, temperature=temperature, eps=0.0).exp()
    assert torch.isfinite(probabilities).all()
    assert probabilities.sum() == pytest.approx(1.0)
    assert probabilities[-1] == 0  # no energy, never drawn


def test_a_hot_law_is_uniform_and_a_cold_one_takes_the_smallest():
    shares = [1e-6, 0.1, 0.2, 0.6999990]
    assert_close = torch.testing.assert_close
    assert_close(
        law_of(shares, temperature=1e6), torch.full((4,), 0.25).double(), rtol=1e-4, atol=0
    )
    cold = law_of(shares, temperature=0.05)
    assert cold[0] > 0.999999
    assert law_of(shares, "energy", temperature=0.05)[3] > 0.999999


def test_eps_lets_a_column_without_energy_be_drawn():
    assert law_of([0.0, 1.0], eps=0.0)[0] == 0
    assert law_of([0.0, 1.0], eps=1e-3)[0] > 0.99


def test_the_authors_eps_flattens_the_law_of_a_wide_layer():
    energies = torch.rand(4096, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = energies / energies.sum()
    flat = perplexity(log_law(shares, "inverted", temperature=1.0, eps=1e-3))
    sharp = perplexity(log_law(shares, "inverted", temperature=1.0, eps=0.0))
    assert flat > 0.99 * 4096
    assert sharp < 0.6 * 4096


def test_perplexity_counts_the_columns_in_play():
    assert perplexity(torch.tensor([0.5, 0.5, 0.0]).double().log()) == pytest.approx(2.0)
    assert perplexity(torch.full((7,), 1 / 7).double().log()) == pytest.approx(7.0)
    assert perplexity(torch.tensor([1.0, 0.0]).double().log()) == pytest.approx(1.0)


@pytest.mark.parametrize("draw", [draw_without_replacement, draw_with_replacement])
def test_draws_follow_the_law(draw):
    expected = torch.tensor([0.4, 0.3, 0.2, 0.1, 0.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    draws = torch.cat([draw(expected.log(), 1, generator) for _ in range(8000)])
    frequencies = torch.bincount(draws, minlength=5) / len(draws)
    # Five standard deviations of a frequency of 0.4.
    torch.testing.assert_close(frequencies.double(), expected, rtol=0, atol=0.028)


def test_the_second_draw_without_replacement_follows_what_is_left():
    law = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    generator = torch.Generator().manual_seed(0)
    pairs = torch.stack([draw_without_replacement(law, 2, generator) for _ in range(8000)])
    after_first = pairs[pairs[:, 0] == 0, 1]
    assert (after_first == 1).double().mean() == pytest.approx(0.6, abs=0.04)


@pytest.mark.parametrize("law", ["inverted", "uniform", "energy"])
@pytest.mark.parametrize("temperature", [0.05, 1.0, 10.0])
@pytest.mark.parametrize("with_replacement", [False, True])
def test_a_rank_is_a_prefix_of_twice_the_rank(law, temperature, with_replacement):
    rule = SelectionRule(law, temperature, with_replacement=with_replacement)
    wide = torch.randn(70, 90)
    for r in (1, 4, 16, 33):
        small, large = (rule.select(wide, n, name="layer") for n in (r, 2 * r))
        assert torch.equal(small.columns, large.columns[:r])
        assert torch.equal(small.rows, large.rows[:r])


def test_indices_are_distinct_without_replacement_and_repeat_with_it():
    wide = torch.randn(64, 64)
    distinct = SelectionRule().select(wide, 64, name="a")
    assert sorted(distinct.columns.tolist()) == list(range(64))
    assert sorted(distinct.rows.tolist()) == list(range(64))
    repeated = SelectionRule(eps=1e-3, with_replacement=True).select(wide, 64, name="a")
    assert len(set(repeated.columns.tolist())) < 64


def test_indices_follow_from_seed_and_name_and_from_nothing_else():
    wide = torch.randn(64, 64)
    torch.manual_seed(1)
    first = SelectionRule(seed=3).select(wide, 8, name="layers.0.q_proj")
    torch.manual_seed(2)
    again = SelectionRule(seed=3).select(wide, 8, name="layers.0.q_proj")
    other_seed = SelectionRule(seed=4).select(wide, 8, name="layers.0.q_proj")
    other_name = SelectionRule(seed=3).select(wide, 8, name="layers.1.q_proj")
    assert torch.equal(first.columns, again.columns)
    assert torch.equal(first.rows, again.rows)
    assert not torch.equal(first.columns, other_seed.columns)
    assert not torch.equal(first.columns, other_name.columns)
    symmetric = SelectionRule(seed=3).select(wide + wide.t(), 8, name="layers.0.q_proj")
    assert not torch.equal(symmetric.columns, symmetric.rows)


def test_known_indices():
    """The order of draws is part of what an experiment file means: it may not drift."""
    ramp = torch.arange(1.0, 13.0).reshape(3, 4)
    chosen = SelectionRule(seed=0).select(ramp, 3, name="layer")
    assert chosen.columns.tolist() == [1, 2, 0]
    assert chosen.rows.tolist() == [1, 0, 2]


def test_selection_reports_the_perplexity_of_both_laws():
    chosen = SelectionRule().select(W, 2, name="layer")
    assert chosen.column_perplexity == pytest.approx(perplexity(law_of([1, 1, 8, 4]).log()))
    assert chosen.row_perplexity == pytest.approx(perplexity(law_of([5, 5, 4]).log()))
    assert SelectionRule("uniform").select(W, 2, name="a").column_perplexity == pytest.approx(4)


def test_more_columns_than_have_energy_are_refused():
    empty = torch.zeros(4, 4)
    empty[0, 0] = 1.0
    with pytest.raises(ValueError, match="`r` is 2, but only 1 of 4 columns or rows have energy"):
        SelectionRule().select(empty, 2, name="layer")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"law": "inverse"}, "`selection` must be one of inverted, uniform, energy, got 'inverse'"),
        ({"temperature": 0.0}, "`temperature` must be a number above 0, got 0.0"),
        ({"temperature": -1.0}, "`temperature` must be a number above 0, got -1.0"),
        ({"temperature": math.inf}, "`temperature` must be finite, got inf.*`selection: uniform`"),
        ({"temperature": 0.04, "with_replacement": True}, "at least 0.05 when `with_replacement`"),
        ({"eps": -1e-3}, "`eps` must be a number of at least 0, got -0.001"),
        ({"eps": math.nan}, "`eps` must be finite"),
    ],
)
def test_settings_that_define_no_law_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SelectionRule(**settings)
