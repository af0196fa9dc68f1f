"""Cards as a function of the journal, whatever was killed in between."""

import json
import os
import threading

import pytest

from orchestrator.records.cards.card import SCHEMA, carded
from orchestrator.records.cards.card_files import card_file, card_texts, read_card, write_cards
from orchestrator.records.events import read_event
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.sweep.deciding.card_writer import CardWriter


def expected(folder, lines):
    state = SweepState.of(lines)
    keys = [(trial.name, n) for trial in state.trials for n in carded(state, trial)]
    return {card_file(folder, *key): text for key, text in card_texts(state, keys)}


def written(folder):
    return {place: place.read_text() for place in folder.trials.glob("*/cards/*")}


def drive(folder, lines, begun, *, kill=None):
    """A driver that hears the lines from `begun` on; the cards after line `kill` are lost."""
    state = SweepState(whole=False)
    for line in lines[:begun]:
        state.take(read_event(line))
    writer = CardWriter(folder, state)
    with writer.following(lines[:begun], pytest.fail):
        for line in lines[begun:]:
            event = read_event(line)
            state.take(event)
            if kill is None or event.n <= kill:
                writer.take(event)


@pytest.fixture
def lines(with_champion, story):
    story.add("cells_scored", trial="t003", learnt=1, scores={
        "movie_sentiment": {"value": 0.75, "examples": 40, "metrics": {}, "per_example": []},
    })  # fmt: skip
    story.add("sweep_continued", retried=["t002"])
    story.add("trial_started", trial="t002", attempt=2)
    story.report("t002", 0, 1.0, row=[0.5, 0.5, 0.5])
    return story.lines


def test_cards_follow_from_the_journal_wherever_the_driver_was_killed(lines, tmp_path):
    # A driver that goes on finds what was said when it began: which trials start over.
    again = next(line["n"] for line in lines if line["event"] == "sweep_continued")
    for killed in range(3, again, 4):
        folder = SweepFolder(tmp_path / str(killed))
        folder.trials.mkdir(parents=True)
        drive(folder, lines[:killed], 0, kill=killed - 3)
        drive(folder, lines[:again], killed)
        assert written(folder) == expected(folder, lines[:again]), killed
        drive(folder, lines, again + 1)
        assert written(folder) == expected(folder, lines), killed


def test_a_card_that_is_lost_damaged_or_too_many_is_mended(lines, tmp_path):
    folder, state = SweepFolder(tmp_path), SweepState.of(lines)
    names = list(state.everything)
    assert write_cards(folder, state, names) == len(expected(folder, lines)) == 4
    card_file(folder, "t003", 1).unlink()
    card_file(folder, "t003", 3).write_text("{")
    card_file(folder, "t002", 3).write_text("of an attempt that starts over")
    assert write_cards(folder, state, names) == 3
    assert written(folder) == expected(folder, lines)
    assert write_cards(folder, state, names) == 0


def test_cards_that_wait_for_a_slow_disk_are_written_together(lines, tmp_path, monkeypatch):
    from orchestrator.system import durable

    written_at_once, held = [], threading.Event()
    write_all = durable.write_all

    def slow(files):
        if not written_at_once:
            held.wait(30)
        written_at_once.append(len(files))
        write_all(files)

    monkeypatch.setattr(durable, "write_all", slow)
    folder, state = SweepFolder(tmp_path), SweepState(whole=False)
    folder.trials.mkdir()
    writer = CardWriter(folder, state)
    with writer.following([], pytest.fail):
        for line in lines:
            state.take(read_event(line))
            writer.take(read_event(line))
        held.set()
    assert written(folder).keys() >= expected(folder, lines).keys()
    assert written_at_once[0] == 1
    assert max(written_at_once) > 1
    mark = json.loads((folder.trials / "cards.json").read_text())["line"]
    assert lines[mark]["event"] in {"stage_report", "trial_ended", "cells_scored", "trial_started"}


def replaced(*path, by):
    def change(card):
        *before, last = path
        holder = card
        for name in before:
            holder = holder[name]
        holder[last] = by

    return change


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


OTHERWISE = {
    "of another form": replaced("schema", by="orchestrator/adapter-card/2"),
    "a trial that is no name": replaced("trial", by="../../x"),
    "a number in the place of an object": replaced("base", by=5),
    "a base without a name": lambda card: card["base"].pop("name"),
    "tasks that it has not learnt": replaced("tasks", by=["movie_sentiment"]),
    "a score that is text": replaced(
        "matrix", 1, "scores", "movie_sentiment", "value", by="nought"),
    "half of an interval": replaced("matrix", 1, "scores", "movie_sentiment", "low", by=None),
    "rows of other tasks": replaced("matrix", 2, "scores", by={}),
    "a number that is none": replaced("measures", "gain", by=float("inf")),
    "half of a character": replaced("proposed_by", by="\ud83d"),
    "brackets without end": replaced("overrides", "a", by=deep(500)),
}  # fmt: skip


@pytest.mark.parametrize("change", OTHERWISE.values(), ids=OTHERWISE)
def test_what_is_no_card_is_none_as_it_can_be_made_again(lines, tmp_path, change):
    folder = SweepFolder(tmp_path)
    write_cards(folder, SweepState.of(lines), ["t003"])
    place = card_file(folder, "t003", 3)
    card = read_card(place)
    assert card == json.loads(place.read_text())
    change(card)
    place.write_text(json.dumps(card))
    assert read_card(place) is None


def test_a_card_is_a_file_and_nothing_else(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "endless").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "brackets").write_text("[" * 5000)
    (tmp_path / "digits").write_text("9" * 5000)
    for place in (*tmp_path.iterdir(), tmp_path / "nowhere"):
        assert read_card(place) is None, place.name


def test_a_card_says_what_the_adapter_knows_and_where_it_came_from(lines, tmp_path):
    folder = SweepFolder(tmp_path)
    cards = [json.loads(text) for text in expected(folder, lines).values()]
    by_name = {card["name"]: card for card in cards}
    assert list(by_name) == ["demo/t002@movie_sentiment", "demo/t003@movie_sentiment",
                             "demo/t003@text_source", "demo/t003"]  # fmt: skip
    last, middle = by_name["demo/t003"], by_name["demo/t003@text_source"]
    assert last["schema"] == SCHEMA
    assert [row["learnt"] for row in last["matrix"]] == [0, 1, 2, 3]
    assert [row["learnt"] for row in middle["matrix"]] == [0, 1, 2]
    assert last["matrix"][1]["scores"]["movie_sentiment"]["examples"] == 40, "scored later"
    assert last["measures"]["gain"] == 0.2
    assert middle["measures"] == {}
    assert middle["to_come"] == ["product_sentiment"]
    assert {**middle["parent"], "sweep_id": ""} == {
        "sweep": "demo", "sweep_id": "", "trial": "t003", "learnt": 1,
    }  # fmt: skip
    assert by_name["demo/t003@movie_sentiment"]["parent"] is None
    assert last["method"]["adapter"]["r"] == 4
    assert last["seeds"]["training"] is not None


def test_a_task_that_another_trial_had_learnt_names_that_one(story):
    story.start("t004")
    story.report("t004", 0, 1.0, row=[0.7, 0.5, 0.6])
    story.lines[-1]["report"]["taken_from"] = "t003"
    story.report("t004", 1, 1.0, row=[0.7, 0.5, 0.6])
    state = SweepState.of(story.lines)
    texts = dict(card_texts(state, [("t004", 1), ("t004", 2)]))
    first, second = (json.loads(texts["t004", n]) for n in (1, 2))
    assert (first["same_as"]["trial"], first["same_as"]["learnt"]) == ("t003", 1)
    assert (second["parent"]["trial"], second["parent"]["learnt"]) == ("t003", 1)
    assert second["same_as"] is None


def test_nothing_is_kept_of_what_a_trial_ran_once_it_has_ended(tmp_path, story):
    folder, state = SweepFolder(tmp_path), SweepState(whole=False)
    writer = CardWriter(folder, state)
    ended = {"event": "trial_ended", "trial": "t001", "state": "STOPPED", "n": 90, "time": 1.0}
    lines = [x for x in story.lines if x["event"] != "trial_ended" or x["trial"] != "t001"]
    with writer.following([], pytest.fail):
        for line in [*lines, ended]:
            event = read_event(line)
            state.take(event)
            writer.take(event)
    assert not writer._runs.keys() & {trial.name for trial in state.finished}
