import io
import json
import math
import threading
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator import display
from orchestrator.experiment import Experiment
from orchestrator.journal import without_nan

TASKS = ["movie_sentiment", "text_source", "product_sentiment"]
FOLDER = Path("runs/demo")
BEST = "largest gain (+0.200) among the 2 that keep probe_drift <= 0.05"
NOBODY = "no method beats the untouched base: even the largest gain is +0.200"


def experiment(**changes):
    document = {
        "name": "demo",
        "model": {"name": "m"},
        "tasks": TASKS,
        "probes": ["python_docs"],
        "method": {"adapter": {"kind": "curlora"}},
        "search": {
            "space": {
                "method.adapter.kind": {"choice": ["curlora", "lora"]},
                "method.adapter.r": {"choice": [4, 8]},
                "training.learning_rate": {"log_uniform": [1e-4, 3e-2]},
            },
            "trials": 4,
        },
    }
    return Experiment.model_validate(document | changes).model_dump(mode="json")


class Story:
    """A synthetic journal; every line is 10 s after the one before."""

    def __init__(self, **changes):
        self.lines = []
        self.add(
            "sweep_opened",
            sweep="demo",
            kind="sweep",
            experiment=experiment(**changes),
            tasks={},
            yaml="",
            origin="demo.yaml",
            provenance={},
            controls={
                t: {"majority": 0.52, "chance": 0.5, "validation_examples": 100} for t in TASKS
            },
        )
        self.start("base")
        self.report("base", -1, 1.0, row=[0.55, 0.3, None])
        self.end("base", "COMPLETE")

    def add(self, event, **fields):
        n = len(self.lines)
        self.lines.append({"n": n, "time": 1000.0 + 10 * n, "event": event, **fields})

    def start(self, trial, **overrides):
        self.add("trial_proposed", trial=trial, overrides=overrides, by="tpe")
        self.add("trial_started", trial=trial, attempt=1)

    def report(self, trial, index, fraction, row=None):
        report = {"task": TASKS[index] if index >= 0 else "", "task_index": index, "step": 4}
        report |= {"steps": 8, "fraction": fraction, "score": 0.61, "loss": 0.7, "row": row}
        report |= {"probes": {"python_docs": {"cross_entropy": 3.3}}, "per_example": {"a": [1]}}
        self.add("stage_report", trial=trial, report=report)

    def end(self, trial, state, gain=None, reason="", adapter=None):
        measures = {} if gain is None else {"gain": gain, "accuracy": 0.7, "cost_s": 93.4}
        interval = None if gain is None else [gain - 0.08, gain + 0.07]
        self.add(
            "trial_ended", trial=trial, state=state, reason=reason, measures=measures,
            gain_interval=interval, adapter=adapter, log=f"trials/{trial}/log.txt",
        )  # fmt: skip

    def complete(self, trial, gain, **overrides):
        self.start(trial, **overrides)
        for index in range(3):
            self.report(trial, index, 0.25)
            self.report(trial, index, 1.0, row=[0.7 - 0.02 * index, 0.5 + 0.1 * index, 0.6])
        self.end(trial, "COMPLETE", gain, adapter=f"trials/{trial}/adapter")


@pytest.fixture
def story():
    story = Story()
    story.start("t001", **{"method.adapter.kind": "curlora"})
    story.end("t001", "FAILED", reason="loss is not a number at step 3")
    story.complete("t002", 0.12, **{"method.adapter.kind": "lora", "method.adapter.r": 8})
    story.complete("t003", 0.2, **{"method.adapter.r": 4, "training.learning_rate": 0.002})
    return story


@pytest.fixture
def with_champion(story):
    story.start("t004")
    story.end("t004", "STOPPED", reason="dominated")
    story.add("sweep_ended", front=["t002", "t003"], champion="t003", reason=BEST)
    story.add("champion_registered", trial="t003", model="demo", version="1")
    return story.lines


def text_of(shown, width=100):
    out = io.StringIO()
    display.print_on(Console(file=out, width=width), shown)
    return out.getvalue()


def outcome(lines, width=100, folder=FOLDER):
    return text_of(display.render_outcome(lines, folder, width=width), width)


def row_of(text, start):
    return next(line for line in text.splitlines() if line.startswith(start)).split()


def test_champion_and_front_are_marked_and_the_reason_is_given(with_champion):
    text = outcome(with_champion)
    assert "t003 * curlora" in text
    assert "t002 + lora" in text
    assert f"Champion t003: {BEST}" in " ".join(text.split())
    assert "orchestrate predict demo@champion --task movie_sentiment 'A TEXT'" in text
    assert "orchestrate export demo@champion --as lora --to exported/demo" in text
    assert "--backend-store-uri sqlite:///" in text


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


def test_empty_sweep_can_be_shown():
    lines = Story().lines[:1]
    assert "0 of 4 trials finished so far" in outcome(lines)
    assert json.dumps(without_nan(display.outcome_document(lines, FOLDER)), allow_nan=False)


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
    document = without_nan(display.outcome_document(with_champion, FOLDER))
    again = json.loads(json.dumps(document, allow_nan=False))
    assert again["champion"] == "t003"
    assert again["zero_shot"]["product_sentiment"] is None
    assert [trial["state"] for trial in again["trials"]][:2] == ["FAILED", "COMPLETE"]
    assert again["trials"][2]["settings"]["training.learning_rate"] == 0.002
    assert again["trials"][2]["matrix"]["rows"][3] == pytest.approx([0.66, 0.7, 0.6])


def test_one_trial_is_shown_whole(with_champion):
    view = display.SweepView.of(with_champion)
    text = text_of(display.render_trial(view, view.trial("t003"), FOLDER))
    for wanted in ("method.adapter.r", "2.0e-03", "Scores on each task", "Reports",
                   "runs/demo/trials/t003/log.txt", "runs/demo/trials/t003/adapter"):  # fmt: skip
        assert wanted in text
    document = display.trial_document(view, view.trial("t003"), FOLDER)
    assert "per_example" not in document["reports"][0]


def test_commands_name_a_storage_that_is_not_the_default(with_champion):
    text = outcome(with_champion, folder=Path("/elsewhere/runs/demo"))
    assert "orchestrate runs show demo --storage /elsewhere/runs" in text


def test_credentials_of_the_tracking_server_are_not_printed():
    story = Story(tracking={"uri": "https://me:secret@mlflow.example"})
    assert "secret" not in outcome(story.lines)


def test_grid_counts_its_points():
    search = {"space": {"method.adapter.r": {"choice": [2, 4, 8]}}, "searcher": "grid"}
    assert display.SweepView.of(Story(search=search).lines).total == 3


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(45, "45 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (None, "-"), (math.nan, "-")],
)
def test_durations_are_said_as_people_say_them(seconds, words):
    assert display.show_duration(seconds) == words


# --- while it runs ---


class Clock:
    def __init__(self, now):
        self.now = now

    def __call__(self):
        return self.now


def progress(done, step=3):
    return {"phase": "training", "task": "text_source", "task_index": 1, "tasks": 3,
            "step": step, "steps": 8, "loss": 0.65, "done": done}  # fmt: skip


def lines_display(terminal=False, now=0.0):
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=terminal, color_system=None)
    clock = Clock(now)
    return display.LiveDisplay(console, clock=clock), out, clock


def test_without_a_terminal_every_event_is_a_line(with_champion):
    shown, out, _ = lines_display()
    for line in with_champion:
        shown.line(line)
    text = out.getvalue()
    assert "sweep demo: 4 trials over movie_sentiment, text_source, product_sentiment" in text
    assert "t003 proposed: r 4, learning_rate 2.0e-03" in text
    assert "t003: movie_sentiment 25% (step 4/8), score 0.610, loss 0.700" in text
    assert "t001 failed: loss is not a number" in text
    assert "t003 complete: gain +0.200 [+0.120, +0.270], 93 s; 3 of 4 trials" in text
    assert "ended, champion t003" in text
    assert "\x1b" not in text


def test_a_quiet_sweep_still_speaks(story):
    shown, out, clock = lines_display()
    for line in story.lines:
        shown.line(line)
    shown.progress("t004", progress(0.4))
    out.truncate(0)
    clock.now += 9
    shown.beat()
    assert not out.getvalue()
    clock.now += 2
    shown.beat()
    assert "3 of 4 trials; t004 training text_source 2/3 3/8 40%; elapsed 11 s" in out.getvalue()
    assert display.HEARTBEAT_SECONDS < 15


def test_lines_of_an_earlier_call_are_counted_and_not_repeated(story):
    shown, out, clock = lines_display(now=99_999.0)
    for line in story.lines:
        shown.line(line)
    clock.now += 5
    line = {"n": 99, "time": clock.now, "event": "trial_started", "trial": "t004", "attempt": 2}
    shown.line(line)
    said = out.getvalue().splitlines()
    assert [text.split("  ", 1)[1] for text in said] == [
        "continuing demo: 3 of 4 trials had finished",
        "t004 starts again, attempt 2",
    ]


def test_time_left_comes_from_finished_trials_and_the_running_share(story):
    shown, _, clock = lines_display()
    for line in story.lines:
        shown.line(line)
    story.start("t004")
    shown.line(story.lines[-2])
    shown.line(story.lines[-1])
    clock.now = story.lines[-1]["time"]
    view = shown.view
    seconds = [view.trial(n).ended - view.trial(n).started for n in ("t002", "t003")]
    shown.progress("t004", progress(0.25))
    assert shown.time_left() == pytest.approx(0.75 * sum(seconds) / 2)


def test_time_left_before_the_first_trial_has_finished_comes_from_the_running_ones():
    story = Story()
    story.start("t001")
    shown, _, clock = lines_display()
    for line in story.lines:
        shown.line(line)
    assert shown.time_left() is None
    clock.now = story.lines[-1]["time"] + 30
    shown.progress("t001", progress(0.5))
    assert shown.time_left() == pytest.approx(60 * 3.5)


def test_terminal_gets_a_panel_with_every_running_trial(story):
    shown, out, clock = lines_display(terminal=True, now=5.0)
    with shown:
        for line in story.lines:
            shown.line(line)
        shown.progress("t004", progress(0.4))
        clock.now += 10
        panel = text_of(shown.panel())
    for wanted in ("demo", "3 of 4 trials", "1 failed", "t004", "text_source 2/3", "3/8",
                   "loss 0.650", "40%", "best so far  t003, gain +0.200", "elapsed"):  # fmt: skip
        assert wanted in panel
    assert "t003 complete" in out.getvalue()


def test_display_may_be_told_from_many_threads(story):
    shown, _, _ = lines_display()
    for line in story.lines:
        shown.line(line)

    def tell(name):
        for step in range(50):
            shown.progress(name, progress(step / 50, step))
            shown.status()
            shown.panel()

    threads = [threading.Thread(target=tell, args=(f"t{i:03d}",)) for i in range(4, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(f"t{i:03d}" in shown.status() for i in range(4, 8))
