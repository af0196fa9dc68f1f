"""The index says what the journals say, however they came to be what they are."""

import json
import math
import os
import shutil
import sqlite3
import threading

import pytest

from orchestrator.api.trial_rows import trial_rows
from orchestrator.measures.pareto import covered
from orchestrator.records.journal_lines import JOURNAL_NAME
from orchestrator.records.sweep_state import SweepState
from orchestrator.registry.index import database
from orchestrator.registry.index.index import Index, open_index
from orchestrator.registry.index.trial_values import row_of
from orchestrator.registry.part import part_of
from orchestrator.system.user_error import UsageError
from tests import written_journals


@pytest.fixture
def lines(new_sweep):
    """A sweep with everything that changes a trial's row."""
    story = new_sweep(trials=6, failing=[3], repeats=1)
    again = [
        {"event": "sweep_continued", "trials": 7, "retried": ["t003"]},
        {"event": "trial_started", "trial": "t003", "attempt": 2},
        {"event": "trial_ended", "trial": "t003", "state": "COMPLETE", "measures": {"gain": 0.9}},
        {"event": "trial_measured", "trial": "t002", "examples": {"task0": 40},
         "measures": {"gain": 0.5, "accuracy": 0.75}, "gain_interval": [0.4, 0.6]},
        {"event": "sweep_ended", "front": ["t003"], "champion": "t003", "reason": "the largest"},
    ]  # fmt: skip
    return story + [{"time": 9000.0 + n, **line} for n, line in enumerate(again)]


FOUND = ("core_seconds", "test_gain", "test_gain_low", "test_gain_high")


def rows_of(index, sweep="demo"):
    return index.search(sweep=sweep, limit=None).rows


def agrees(index, lines, sweep="demo"):
    """Whether the index says of a sweep what the fold of its whole journal says."""
    view = SweepState.of([{"n": n, **line} for n, line in enumerate(lines)])
    wanted, found = trial_rows(view), rows_of(index, sweep)
    assert [row["trial"] for row in found] == [row["trial"] for row in wanted]
    for mine, own in zip(found, wanted, strict=True):
        shown = {k: v or None if k == "reason" else v for k, v in own.items()}
        assert {name: mine[name] for name in own} == shown
    (document,) = index.sweeps([sweep])
    best = view.best
    assert document["trials_finished"] == len(view.finished)
    assert document["trials_planned"] == view.total
    assert document["champion"] == view.champion
    assert document["state"] == ("ended" if view.ended else "unfinished")
    assert (document["best"], document["best_gain"]) == (
        (best.name, None if math.isnan(gain := best.measure("gain")) else gain)
        if best else (None, None)
    )  # fmt: skip
    assert document["changed"] == view.changed
    for row in found:
        own = row_of(view, view.trial(row["trial"]))
        assert {name: row[name] for name in FOUND} == {name: own.get(name) for name in FOUND}
    over = [t for t in view.searched if t.over]
    objectives = view.experiment["objectives"]
    scored = [{name: t.measure(name) for name in objectives} for t in over]
    whole = [values for values in scored if all(map(math.isfinite, values.values()))]
    assert document["hypervolume"] == (pytest.approx(share) if (share := covered(whole, objectives))
                                       else None)  # fmt: skip
    held = [row["core_seconds"] for row in found if row["core_seconds"] is not None]
    assert document["core_seconds"] == (pytest.approx(sum(held)) if held else None)
    gain = view.reading.gain[view.champion] if view.reading else None
    assert document["test_gain"] == gain
    assert {(row["sweep_test_gain"], row["sweep_hypervolume"]) for row in found} <= {
        (gain, document["hypervolume"])
    }
    return True


def test_what_is_appended_line_by_line_is_what_a_whole_journal_says(tmp_path, lines):
    parts = written_journals.content(lines)
    journal = tmp_path / "demo" / JOURNAL_NAME
    journal.parent.mkdir()
    with Index(tmp_path) as index, journal.open("wb", buffering=0) as file:
        for n, raw in enumerate(parts, 1):
            # Looked at while a line is being written, too.
            file.write(raw[:7])
            index.refresh()
            file.write(raw[7:])
            index.refresh()
            assert agrees(index, lines[:n])
        step_by_step = rows_of(index)
    with Index(tmp_path) as index:
        assert rows_of(index.rebuild()) == step_by_step


def test_only_what_was_appended_is_read(tmp_path, lines, monkeypatch):
    parts = written_journals.content(lines)
    folder = written_journals.write(tmp_path, "demo", lines[:-1])
    open_index(tmp_path).close()
    from orchestrator.registry.index import taking

    read = []
    scanned = taking.scanned
    monkeypatch.setattr(
        taking, "scanned", lambda *a, **k: [read.append(s) or s for s in scanned(*a, **k)]
    )
    with (folder / JOURNAL_NAME).open("ab") as file:
        file.write(parts[-1])
    with open_index(tmp_path) as index:
        assert agrees(index, lines)
    assert [span.n for span in read] == [len(lines) - 1]


@pytest.mark.parametrize("harm", ["shorter", "changed", "another", "damaged"])
def test_a_journal_that_is_not_what_it_was_is_read_from_its_beginning(
    tmp_path, lines, new_sweep, harm
):
    folder = written_journals.write(tmp_path, "demo", lines)
    journal = folder / JOURNAL_NAME
    open_index(tmp_path).close()
    whole = journal.read_bytes()
    if harm == "shorter":
        lines = lines[:20]
        written_journals.write(tmp_path, "demo", lines)
    elif harm == "changed":
        lines = [*lines[:4], {**lines[4], "overrides": {"method.adapter.r": 2}}, *lines[5:]]
        written_journals.write(tmp_path, "demo", lines)
    elif harm == "another":
        lines = new_sweep(trials=40)
        written_journals.write(tmp_path, "demo", lines)
    else:
        journal.write_bytes(whole.replace(b'"n":9', b'"n":8', 1))
    os.utime(journal, (1, 1))
    with open_index(tmp_path) as index:
        if harm == "damaged":
            assert "line 10" in index.sweeps()[0]["problem"]
            assert index.search(limit=None).total == 0
            journal.write_bytes(whole)
            index.refresh()
        assert agrees(index, lines)


@pytest.mark.parametrize(
    "line",
    [
        {"event": "trial_ended", "trial": "t001", "state": "COMPLETE", "measures": "many"},
        {"event": "trial_ended", "trial": "t001", "state": "COMPLETE", "intervals": [1]},
        {"event": "trial_ended", "trial": "t001"},
        {"event": "stage_report", "trial": "t001", "report": {"task_index": 0, "tokens": 10**30}},
        {"event": "stage_report", "trial": "t001", "report": 7},
        {"event": "trial_proposed", "trial": "t001", "overrides": 3},
        {"event": "trial_proposed", "trial": ["t001"], "overrides": {}},
        {"event": "trial_ended", "trial": "t001", "state": ["COMPLETE"]},
        {"event": "sweep_continued", "retried": 3},
    ],
)
def test_a_journal_of_another_program_does_not_hide_the_others(tmp_path, lines, line):
    written_journals.write(tmp_path, "demo", lines)
    written_journals.write(tmp_path, "strange", [*lines, {"time": 1.0, **line}])
    with open_index(tmp_path) as index:
        assert agrees(index, lines)
        problems = [row["problem"] for row in index.sweeps() if "problem" in row]
        assert all(str(tmp_path / "strange" / JOURNAL_NAME) in problem for problem in problems)


def test_folders_are_followed_when_they_are_renamed_copied_and_removed(tmp_path, lines, new_sweep):
    written_journals.write(tmp_path, "demo", lines)
    written_journals.write(tmp_path, "other", new_sweep(trials=2))
    with open_index(tmp_path) as index:
        numbers = dict(index._database.execute("SELECT folder, id FROM sweep"))
        (tmp_path / "demo").rename(tmp_path / "renamed")
        index.refresh()
        assert agrees(index, lines, "renamed")
        assert dict(index._database.execute("SELECT folder, id FROM sweep")) == {
            "renamed": numbers["demo"], "other": numbers["other"],
        }  # fmt: skip
        shutil.rmtree(tmp_path / "other")
        index.refresh()
        assert [row["sweep"] for row in index.sweeps()] == ["renamed"]
        with pytest.raises(UsageError, match="Sweeps there: renamed"):
            index.search(sweep="other")
    moved = tmp_path.with_name("moved")
    shutil.copytree(tmp_path, moved)
    with open_index(moved) as index:
        assert agrees(index, lines, "renamed")
        assert index.sweeps()[0]["folder"] == str(moved / "renamed")


@pytest.mark.parametrize("harm", ["noise", "older", "cut", "foreign", "half"])
def test_a_file_that_is_no_index_of_ours_is_made_again(tmp_path, lines, harm):
    written_journals.write(tmp_path, "demo", lines)
    open_index(tmp_path).close()
    file = database.index_file(tmp_path)
    if harm == "noise":
        file.write_bytes(os.urandom(9000))
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[:4096])
    elif harm == "half":
        raw = bytearray(file.read_bytes())
        raw[4096 : len(raw) // 2] = bytes(len(raw) // 2 - 4096)
        file.write_bytes(raw)
    else:
        with sqlite3.connect(file) as made:
            made.execute("PRAGMA user_version = 99" if harm == "older" else "DROP TABLE trial")
        made.close()
    with open_index(tmp_path) as index:
        assert agrees(index, lines)


def test_a_storage_that_cannot_be_written_has_an_index_in_memory(tmp_path, lines):
    written_journals.write(tmp_path, "demo", lines)
    (tmp_path / "cache").write_text("a file where the folder should be")
    with open_index(tmp_path) as index:
        assert agrees(index, lines)
    assert (tmp_path / "cache").read_text().startswith("a file")
    with open_index(tmp_path / "nowhere") as index:
        assert index.sweeps() == []
        assert index.search("gain > 0").total == 0
    assert not (tmp_path / "nowhere").exists()


def test_a_full_disk_costs_the_index_and_not_the_answer(tmp_path, lines, monkeypatch):
    written_journals.write(tmp_path, "demo", lines)
    opened = database._opened

    def full(place):
        made = opened(place)
        if place != ":memory:":
            made.execute("PRAGMA max_page_count = 16")
        return made

    monkeypatch.setattr(database, "_opened", full)
    with open_index(tmp_path) as index:
        assert agrees(index, lines)


def test_two_may_fill_one_index_at_once(tmp_path, lines):
    for n in range(6):
        written_journals.write(tmp_path, f"s{n}", lines)
    problems = []

    def fill():
        try:
            with open_index(tmp_path) as index:
                assert all(agrees(index, lines, f"s{n}") for n in range(6))
        except BaseException as error:  # noqa: BLE001 - told to the test
            problems.append(error)

    threads = [threading.Thread(target=fill) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


def test_a_part_of_a_sweep_is_what_the_whole_says_of_it(tmp_path, lines):
    folder = written_journals.write(tmp_path, "demo", lines[:-1])
    whole = SweepState.of([{"n": n, **line} for n, line in enumerate(lines[:-1])])
    with open_index(tmp_path) as index:
        place, part = part_of(index, "demo", ["t003", "t002"])
        assert place == folder
        assert list(part.everything) == ["base", "t002", "t003"]
        for name in part.everything:
            assert part.everything[name] == whole.everything[name]
            assert part.settings(part.trial(name)) == whole.settings(whole.trial(name))
        assert (part.verdict, part.experiment) == (whole.verdict, whole.experiment)
        with pytest.raises(UsageError, match=r"'t009'.*Its trials: base, t001, t002"):
            part_of(index, "demo", ["t009"])


def test_fields_of_many_sweeps_need_no_room_in_one_table(tmp_path, lines, monkeypatch):
    from orchestrator.registry.index import fields

    monkeypatch.setattr(fields, "BLOCK_FIELDS", 7)
    written_journals.write(tmp_path, "demo", lines)
    with open_index(tmp_path) as index:
        assert agrees(index, lines)
        names = [field.name for field in index.fields() if field.group == "setting"]
        assert len(names) > 20
        page = index.search(" or ".join(f"`{n}` is not missing" for n in names), order=names)
        assert page.total == 7
        assert json.dumps(page.rows)


def test_what_the_test_data_say_and_what_it_has_cost_can_be_asked_for(tmp_path, new_sweep):
    lines = new_sweep(trials=5, tested=True)
    for line in lines:
        if line["event"] == "stage_report" and line["trial"] != "base":
            line["report"]["seconds"] = 10.0 * (line["report"]["task_index"] + 1)
    document = lines[0]["experiment"]
    document["resources"] |= {"workers": 2, "cpus_per_worker": 3}
    folder = written_journals.write(tmp_path, "demo", lines[:-1])
    with open_index(tmp_path) as index:
        assert agrees(index, lines[:-1])
        assert index.search("test_gain is not missing").total == 0
        with (folder / JOURNAL_NAME).open("ab") as file:
            file.write(written_journals.content(lines)[-1])
        index.refresh()
        assert agrees(index, lines)
        found = index.search("test_gain > 0.2", order=["-test_gain"], columns=["champion", *FOUND])
        assert found.rows == [
            {"champion": True, "core_seconds": 180.0, "test_gain": 0.35, "test_gain_low": 0.2,
             "test_gain_high": 0.5},
            {"champion": False, "core_seconds": 180.0, "test_gain": 0.3, "test_gain_low": 0.1,
             "test_gain_high": 0.4},
        ]  # fmt: skip
        assert index.search("sweep_test_gain = 0.35 and sweep_core_seconds = 900").total == 5
        assert index.search("sweep_hypervolume > 0.1 and sweep_hypervolume < 1").total == 5
        spent = {"time": 9999.0, "event": "budget_spent", "seconds": 60.0, "core_seconds": 400.0}
        written_journals.write(tmp_path, "demo", [*lines, spent])
        index.refresh()
        assert index.sweeps()[0]["core_seconds"] == 400.0
