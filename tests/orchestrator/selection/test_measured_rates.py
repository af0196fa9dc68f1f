import math

import pytest

import orchestrator
from orchestrator.selection.measured_rates import STEPS, Tried, bearable, ladder
from orchestrator.selection.portfolio import PRESET, RATE
from orchestrator.selection.request import Request
from orchestrator.selection.select import expanded


def tried(*after, before=2.0):
    return [Tried(10.0**place, before, value) for place, value in enumerate(after)]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        # Of a loss of 2, 0.002 in four steps are 0.01 in twenty: half of what is wanted.
        ((1.998, 1.9, 1.5, 9.0), (10.0, 100.0)),
        ((1.998, 1.9, math.nan, 1.5), (10.0 / 10**0.25, 10.0 * 10**0.25)),
        ((1.9, 1.8, 1.5, 1.2), (1.0, 1000.0)),
        ((1.999, 1.999, 9.0, 9.0), None),
        ((9.0, 9.0, 9.0, 9.0), None),
        # A rate that undoes some of it without exploding is no reason to look no further.
        ((1.9, 2.1, 1.5, 9.0), (1.0, 100.0)),
    ],
)
def test_the_range_is_between_idle_and_exploding(after, expected):
    assert bearable(tried(*after), steps=5 * STEPS) == pytest.approx(expected)


def test_the_ladder_reaches_beyond_what_is_stated():
    rates = ladder((1e-4, 1e-2))
    assert rates == sorted(rates)
    assert (rates[0], rates[-1]) == (pytest.approx(1e-4 / 3), pytest.approx(3e-2))


def test_rates_are_measured_once_and_searched(tiny_base, tiny_tasks, tmp_path):
    request = Request(
        str(tiny_base), ("mood", "being"), ("prose",), methods=("seq", "er", "o-lora"),
        train_examples=32, max_length=48, executor="local", storage=str(tmp_path / "runs"),
    )  # fmt: skip
    document, said = request.document(), []
    whole = expanded(document, tiny_tasks, None, budget="1h", note=said.append)
    alternatives = whole["search"]["space"][RATE]
    by_preset = {}
    for domain in alternatives:
        names = domain["when"][PRESET]
        for name in [names] if isinstance(names, str) else names:
            by_preset[name] = domain["log_uniform"]
    # Their first task is learnt alike.
    assert by_preset["seq"] == by_preset["er"]
    low, high = by_preset["seq"]
    assert 1e-4 / 3 <= low < high <= 3e-2 * 1.01
    for entry in whole["search"]["first"]:
        low, high = by_preset[entry[PRESET]]
        assert low <= entry[RATE] <= high
    assert sum("trying" in words for words in said) == 2
    said.clear()
    assert expanded(document, tiny_tasks, None, budget="1h", note=said.append) == whole
    assert not any("trying" in words for words in said)


def test_stated_rates_are_searched_where_they_are_asked_for(tiny_base, tiny_tasks, tmp_path):
    request = orchestrator.Request(
        str(tiny_base), ("mood",), methods=("seq",), rates="stated", max_length=48,
        storage=str(tmp_path / "runs"),
    )  # fmt: skip
    whole = expanded(request.document(), tiny_tasks, None, budget="1h")
    assert whole["search"]["space"][RATE] == [
        {"log_uniform": [1e-4, 1e-2], "when": {PRESET: "seq"}}
    ]
