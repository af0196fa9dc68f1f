import csv
import io
import math
import re

import pytest

from orchestrator.api.trial_rows import columns
from orchestrator.cli import query
from orchestrator.cli.query import QueryError, parse_filter, select
from orchestrator.records.sweep_state import SweepState


@pytest.fixture
def view(new_sweep):
    return SweepState.of(new_sweep(trials=12, failing=[3, 5], repeats=1))


def chosen(view, conditions=None, order=None):
    return [trial.name for trial in select(view, conditions=conditions, order=order)]


@pytest.mark.parametrize("limit", [-1.0, 0.2, 0.35, 2.0])
@pytest.mark.parametrize("sign", ["<", "<=", ">", ">="])
def test_comparisons_of_measures_agree_with_arithmetic(view, sign, limit):
    gains = {t.name: t.measure("gain") for t in view.trials}
    holds = {"<": lambda g: g < limit, "<=": lambda g: g <= limit,
             ">": lambda g: g > limit, ">=": lambda g: g >= limit}[sign]  # fmt: skip
    wanted = [name for name, gain in gains.items() if not math.isnan(gain) and holds(gain)]
    assert chosen(view, f"gain {sign} {limit}") == wanted
    assert chosen(view, f"gain{sign}{limit}") == wanted


def test_and_keeps_what_both_keep(view):
    parts = ["method.adapter.kind=curlora", "gain>0.3", "training.learning_rate<0.006"]
    alone = [set(chosen(view, part)) for part in parts]
    assert set(chosen(view, " and ".join(parts))) == set.intersection(*alone)
    assert chosen(view, " AND ".join(parts)) == chosen(view, " and ".join(parts))


def test_state_and_repetitions_can_be_asked_for(view):
    assert chosen(view, "state=failed") == ["t003", "t005"]
    assert set(chosen(view, "state!=FAILED")) == {t.name for t in view.trials} - {"t003", "t005"}
    assert chosen(view, f"of={view.champion}") == ["t013"]
    assert chosen(view, "trial='t001'") == ["t001"]


def test_what_was_not_measured_fulfils_no_comparison(view):
    both = chosen(view, "gain=0.1") + chosen(view, "gain!=0.1")
    assert "t003" not in both
    assert "probe_accuracy_kept" in columns(view)
    assert not chosen(view, "probe_accuracy_kept != 0")


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        ("gian>0", "'gain'"),
        ("kind=lora", "'method.adapter.kind'"),
        ("gain>", "comparisons joined by `and`"),
        ("gain>0 or gain<1", "no `or`"),
        ("gain>0 and", "does not follow"),
        ("gain>0 and ", "comparisons joined"),
        ("gain>much", "gain is a number"),
        ("__import__('os')", "comparisons joined"),
    ],
)
def test_what_is_no_filter_is_refused_with_the_reason(view, conditions, words):
    with pytest.raises(QueryError, match=re.escape(words)):
        select(view, conditions=conditions)
    with pytest.raises(QueryError, match="comparisons joined"):
        parse_filter("")


def test_order_is_by_value_with_the_unmeasured_last(view):
    for order, falling in (("gain", False), ("-gain", True)):
        names = chosen(view, order=order)
        gains = [view.trial(name).measure("gain") for name in names]
        known = [gain for gain in gains if not math.isnan(gain)]
        assert known == sorted(known, reverse=falling)
        assert set(names[len(known) :]) == {"t003", "t005"}
    assert chosen(view, order="-trial") == sorted(chosen(view), reverse=True)
    with pytest.raises(QueryError, match=r"--sort.*'forgetting'"):
        select(view, order="-forgeting")


def test_csv_reads_back_as_it_was(view):
    view.trial("t003").reason = 'said "no", then\nstopped'
    text = query.to_csv(view, view.trials)
    assert text.endswith("\r\n")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["trial"] for row in rows] == [trial.name for trial in view.trials]
    assert rows[2]["reason"] == 'said "no", then\nstopped'
    assert rows[2]["gain"] == ""
    assert float(rows[0]["gain"]) == view.trial("t001").measure("gain")
    assert rows[0]["method.adapter.kind"] in {"curlora", "lora"}
    assert rows[-1]["of"] == view.champion
