import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from orchestrator.api.differences import diff_sweeps, diff_trials
from orchestrator.cli import diff
from orchestrator.cli.output import documents, outcome_tables, tables, trial_details, trials_table
from orchestrator.records.sweep_state import SweepState
from orchestrator.system.formatting import show_duration, show_setting
from orchestrator.system.strict_json import without_nan

FOLDER = Path("runs/demo")
BEST = "largest gain (+0.200) among the 2 that keep probe_drift <= 0.05"
NOBODY = "no method beats the untouched base: even the largest gain is +0.200"


def text_of(shown, width=100):
    out = io.StringIO()
    tables.print_on(Console(file=out, width=width), shown)
    return out.getvalue()


def outcome(lines, width=100, folder=FOLDER):
    return text_of(outcome_tables.render_outcome(lines, folder, width=width), width)


def row_of(text, start):
    return next(line for line in text.splitlines() if line.startswith(start)).split()


def test_champion_and_front_are_marked_and_the_reason_is_given(with_champion):
    text = outcome(with_champion)
    assert "t003 * curlora" in text
    assert "t002 + lora" in text
    assert f"Champion t003: {BEST}" in " ".join(text.split())
    assert "orchestrate predict demo@champion --task movie_sentiment 'A TEXT'" in text
    assert "orchestrate export demo@champion --as lora --to exported/demo" in text
    assert "orchestrate report demo" in text
    assert "orchestrate ui demo" in text


def test_without_champion_the_outcome_says_that_nothing_beat_the_base(story):
    story.add("sweep_ended", front=["t003"], champion=None, reason=NOBODY)
    text = outcome(story.lines)
    assert f"No champion: {NOBODY}." in " ".join(text.split())
    assert "predict" not in text
    assert "orchestrate export demo/t003" in text


def test_failed_trials_are_shown_with_reason_and_log(with_champion):
    text = outcome(with_champion)
    assert "t001 failed: loss is not a number at step 3 (log: trials/t001/log.txt)" in text


def test_running_sweep_shows_the_best_so_far(story):
    story.start("t004")
    text = outcome(story.lines)
    assert "3 of 4 trials finished so far" in text
    assert "Not ended. Best so far: t003, gain +0.200." in text


def test_empty_sweep_can_be_shown(new_story):
    lines = new_story().lines[:1]
    assert "0 of 4 trials finished so far" in outcome(lines)
    assert json.dumps(without_nan(documents.outcome_document(lines, FOLDER)), allow_nan=False)


def test_scores_stand_beside_the_controls_and_what_was_forgotten_says_after_which_task(
    with_champion,
):
    text = outcome(with_champion)
    assert row_of(text, "zero-shot")[-3:] == ["0.550", "0.300", "-"]
    assert row_of(text, "majority class")[-3:] == ["0.520"] * 3
    assert row_of(text, "chance")[-3:] == ["0.500"] * 3
    assert row_of(text, "t003 right after the task")[-3:] == ["0.700", "0.600", "0.600"]
    assert row_of(text, "t003 after product_sentiment")[-3:] == ["0.660", "0.700", "0.600"]
    assert row_of(text, "forgotten since its best")[-3:] == ["+0.040", "-0.100", "-"]
    assert row_of(text, "  its best was after")[-3:] == ["movie_sentiment", "text_source", "-"]


def test_scores_are_called_validation_scores_of_one_seed(with_champion):
    text = " ".join(outcome(with_champion).split())
    assert "validation scores, by which the trials were chosen" in text
    assert "did not allow for the choice among them" in text  # of an earlier version
    assert "The test examples have not been read" in text
    assert "one seed (0)" in text


@pytest.mark.parametrize("width", [80, 100, 140])
def test_tables_keep_their_rows_whole_at_any_width(with_champion, width):
    lines = outcome(with_champion, width).splitlines()
    commands = {line for line in lines if line.startswith("  ") and "--" in line}
    assert all(len(line.rstrip()) <= width for line in lines if line not in commands)
    measured = [line for line in lines if line.startswith("t003 *") and "+0.200" in line]
    assert len(measured) == 1
    assert "[+0.120, +0.270]" in measured[0]


def test_many_tasks_are_split_over_tables(with_champion):
    names = [f"task_number_{i}" for i in range(12)]
    with_champion[0]["experiment"]["tasks"] = names
    with_champion[0]["controls"] = {}
    story = [line for line in with_champion if line["event"] != "stage_report"]
    text = outcome(story, 80)
    assert all(name in text for name in names)
    assert text.count("Scores by task") > 1


def test_settings_that_only_this_sweep_searches_get_a_column(story):
    story.complete("t004", 0.1, **{"training.epochs": 3})
    text = outcome(story.lines, 140)
    assert "epochs" in text


def test_document_for_programs_is_json_without_nan(with_champion):
    document = without_nan(documents.outcome_document(with_champion, FOLDER))
    again = json.loads(json.dumps(document, allow_nan=False))
    assert again["champion"] == "t003"
    assert again["zero_shot"]["product_sentiment"] is None
    assert [trial["state"] for trial in again["trials"]][:2] == ["FAILED", "COMPLETE"]
    assert again["trials"][2]["settings"]["training.learning_rate"] == 0.002
    assert again["trials"][2]["matrix"]["rows"][3] == pytest.approx([0.66, 0.7, 0.6])


def test_one_trial_is_shown_whole(with_champion):
    view = SweepState.of(with_champion)
    text = text_of(trial_details.render_trial(view, view.trial("t003"), FOLDER))
    for wanted in ("method.adapter.r", "2.0e-03", "Scores on each task", "Reports",
                   "runs/demo/trials/t003/log.txt", "runs/demo/trials/t003/adapter"):  # fmt: skip
        assert wanted in text
    document = documents.trial_document(view, view.trial("t003"), FOLDER)
    assert "per_example" not in document["reports"][0]


def test_a_trial_shows_the_strengths_that_its_penalty_had(with_champion):
    view = SweepState.of(with_champion)
    trial = view.trial("t003")
    assert "strength" not in text_of(trial_details.render_trial(view, trial, FOLDER))
    trial.take_report(replace(trial.reports[-1], strength=1234.5), 0)
    text = text_of(trial_details.render_trial(view, trial, FOLDER))
    assert "strength" in text
    assert "1.23e+03" in text


def test_commands_name_a_storage_that_is_not_the_default(with_champion):
    text = outcome(with_champion, folder=Path("/elsewhere/runs/demo"))
    assert "orchestrate runs show demo --storage /elsewhere/runs" in text


def test_credentials_of_the_tracking_server_are_not_printed(new_story):
    story = new_story(tracking={"uri": "https://me:secret@mlflow.example"})
    assert "secret" not in outcome(story.lines)


def test_grid_counts_its_points(new_story):
    search = {"space": {"method.adapter.r": {"choice": [2, 4, 8]}}, "searcher": "grid"}
    assert SweepState.of(new_story(search=search).lines).total == 3


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(45, "45 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (172_799, "47 h 59 min"),
     (172_800, "2 d 00 h"), (5_912_700, "68 d 10 h"), (None, "-"), (math.nan, "-")],
)  # fmt: skip
def test_durations_are_said_as_people_say_them(seconds, words):
    assert show_duration(seconds) == words


def test_newer_controls_and_fresh_seeds_are_shown(new_sweep):
    lines = new_sweep(repeats=2)
    text = outcome(lines)
    view = SweepState.of(lines)
    assert row_of(text, "head only")[-3:] == ["0.438"] * 3
    best = view.trial(view.champion)
    table = text[text.index(f"{best.name} minus each control") :]
    row = row_of(table, "majority class")
    assert row[2:4] == ["0.500", f"{best.measure('accuracy') - 0.5:+.3f}"]
    assert row[4:] == ["[+0.062,", "+0.312]"]
    assert "Finalists with fresh seeds" in text
    seeds = text[text.index("Finalists with fresh seeds") :]
    assert row_of(seeds, f"{best.name} ")[1:5] == ["3", "+0.312", "+-", "0.062"]
    assert f"t005 = {best.name}" in text
    assert "one seed, but for the finalists" in " ".join(text.split())


def test_journal_without_the_newer_controls_shows_none(with_champion):
    text = outcome(with_champion)
    assert "head only" not in text
    assert "minus each control" not in text


@pytest.mark.parametrize("width", [80, 100])
def test_differences_fit_the_width(new_sweep, width):
    view = SweepState.of(new_sweep())
    shown = diff.render_diff(diff_trials((view, view.trial("t001")), (view, view.trial("t002"))))
    text = text_of(shown, width)
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    assert "Provenance: the same." in text
    assert row_of(text, "mean")[-2].startswith("[")


def test_settings_that_differ_beyond_the_decimals_are_shown_apart(new_sweep):
    left, right = SweepState.of(new_sweep(trials=1)), SweepState.of(new_sweep(trials=1))
    right.experiment["training"]["weight_decay"] = 0.0001
    row = row_of(text_of(diff.render_diff(diff_sweeps(left, right))), "training.weight_decay")
    assert row[1:] == ["0.0", "0.0001"]


def test_test_scores_lead_and_later_readings_are_called_so(new_sweep):
    lines = new_sweep(tested=True)
    view = SweepState.of(lines)
    text = outcome(lines)
    first = text.index("Test examples, reading 1")
    assert first < text.index("Sweep made-up")
    words = " ".join(text.split())
    champion = view.champion
    told = f"On 30 test examples, which had no part in any choice: gain of {champion} +0.350"
    assert f"{told} [+0.200, +0.500] over the untouched base, +0.050 [-0.100, +0.200] over" in words
    table = text[first:]
    assert row_of(table, "majority class")[2:] == ["0.500", "+0.100", "[-0.050,", "+0.250]"]
    assert row_of(table[table.index("Test scores by task") :], "test examples")[-3:] == ["10"] * 3
    again = lines[-1] | {"n": 1 + lines[-1]["n"], "reading": 2, "champion": champion}
    lines.append(again)
    second = SweepState.of(lines)
    assert second.reading is not None
    assert second.reading.reading == 1, "the first reading stays the headline"
    assert "Test examples, reading 2" in outcome(lines)


def test_a_reading_that_could_not_be_made_says_why(new_sweep):
    lines = new_sweep(tested=True)
    lines[-1] |= {"reading": None, "unread": {lines[-1]["champion"]: "its adapter is gone"}}
    text = " ".join(outcome(lines).split())
    assert f"could not be scored: {lines[-1]['champion']}: its adapter is gone." in text


def test_a_sweep_with_more_trials_than_it_ended_with_goes_on(with_champion):
    story = with_champion
    n = len(story)
    story.append({"n": n, "time": 2000.0, "event": "sweep_continued", "trials": 9})
    view = SweepState.of(story)
    assert view.ended, "the same command alone adds nothing"
    story.append({"n": n + 1, "time": 2001.0, "event": "trial_proposed", "trial": "t005",
                  "overrides": {}, "by": "tpe"})  # fmt: skip
    view = SweepState.of(story)
    assert not view.ended
    assert view.champion is None
    assert view.total == 9
    assert story[0]["experiment"]["search"]["trials"] == 4, "the journal's line is not touched"
    text = outcome(story)
    assert "4 of 9 trials finished so far" in text
    assert "Not ended. Best so far: t003" in text


@pytest.mark.parametrize("rate", [0.00404267, 0.002, 3e-5, 1 / 3, 1e-300, 12.5])
def test_a_learning_rate_is_printed_so_that_it_can_be_copied(rate):
    shown = show_setting("training.learning_rate", rate, exact=True)
    assert yaml.safe_load(shown) == rate, "YAML takes 3e-05 for a text"
    in_tables = show_setting("training.learning_rate", rate)
    assert yaml.safe_load(in_tables) == pytest.approx(rate, rel=1e-5)
    assert len(in_tables) <= len("1.23457e-300")


def test_single_trials_and_differences_show_the_very_values(new_story):
    story = new_story()
    story.complete("t001", 0.1, **{"training.learning_rate": 0.00404267123,
                                   "method.adapter.alpha": 0.0512345})  # fmt: skip
    view = SweepState.of(story.lines)
    one = text_of(trial_details.render_trial(view, view.trial("t001"), FOLDER))
    assert "4.04267123e-03" in one
    assert "0.0512345" in one


def test_joint_learning_is_not_the_best_so_far(new_story):
    story = new_story()
    story.complete("t001", 0.1)
    story.complete("t002", 0.3, **{"method.sequence": "joint"})
    assert "Best so far: t001" in outcome(story.lines)


def test_a_task_without_test_examples_leaves_no_mean_and_breaks_no_table(new_sweep):
    lines = new_sweep(tested=True)
    reading, champion = lines[-1], lines[-1]["champion"]
    for side in reading["sides"].values():
        side["row"][1] = None
    reading["examples"][SweepState.of(lines).tasks[1]] = 0
    for name in (champion, reading["runner_up"]):
        reading["accuracy"][name] = reading["gain"][name] = reading["gain_intervals"][name] = None
    reading["runner_up_interval"] = None
    text = outcome(lines)
    assert f"gain of {champion} - - over the untouched base" in " ".join(text.split())
    assert row_of(text[text.index("Test scores by task") :], champion)[-3:] == [
        "0.600",
        "-",
        "0.600",
    ]


def test_times_in_a_table_of_trials_are_dates():
    row = {"trial": "t001", "begun": 1_790_000_011.0, "ended": None, "gain": 0.25}
    shown = text_of(trials_table.chosen_columns([row], list(row), "trials"))
    assert "2026-09-21 14:13 UTC" in shown
    assert "1790000011" not in shown
