import io
import subprocess
import sys
import threading

import pytest
from rich.console import Console

from orchestrator.cli.output import live
from orchestrator.cli.output.tables import print_on
from orchestrator.records.events import read_event


def text_of(shown, width=100):
    out = io.StringIO()
    print_on(Console(file=out, width=width), shown)
    return out.getvalue()


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
    return live.LiveDisplay(console, clock=clock), out, clock


def test_without_a_terminal_every_event_is_a_line(with_champion):
    shown, out, _ = lines_display()
    for line in with_champion:
        shown.event(read_event(line))
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
        shown.event(read_event(line))
    shown.progress("t004", progress(0.4))
    out.truncate(0)
    clock.now += 9
    shown.beat()
    assert not out.getvalue()
    clock.now += 2
    shown.beat()
    assert "3 of 4 trials; t004 training text_source 2/3 3/8 40%; elapsed 11 s" in out.getvalue()
    assert live.HEARTBEAT_SECONDS < 15


def test_lines_of_an_earlier_call_are_counted_and_not_repeated(story):
    shown, out, clock = lines_display(now=99_999.0)
    for line in story.lines:
        shown.event(read_event(line), replayed=True)
    clock.now -= 9_000  # what tells them apart is no clock
    line = {"n": 99, "time": clock.now, "event": "trial_started", "trial": "t004", "attempt": 2}
    shown.event(read_event(line))
    said = out.getvalue().splitlines()
    assert [text.split("  ", 1)[1] for text in said] == [
        "continuing demo: 3 of 4 trials had finished",
        "t004 starts again, attempt 2",
    ]


def test_time_left_comes_from_finished_trials_and_the_running_share(story):
    shown, _, clock = lines_display()
    for line in story.lines:
        shown.event(read_event(line))
    story.start("t004")
    shown.event(read_event(story.lines[-2]))
    shown.event(read_event(story.lines[-1]))
    clock.now = story.lines[-1]["time"]
    view = shown.view
    seconds = [view.trial(n).ended - view.trial(n).started for n in ("t002", "t003")]
    shown.progress("t004", progress(0.25))
    assert shown.time_left() == pytest.approx(0.75 * sum(seconds) / 2)


def test_time_left_before_the_first_trial_has_finished_comes_from_the_running_ones(new_story):
    story = new_story()
    story.start("t001")
    shown, _, clock = lines_display()
    for line in story.lines:
        shown.event(read_event(line))
    assert shown.time_left() is None
    clock.now = story.lines[-1]["time"] + 30
    shown.progress("t001", progress(0.5))
    assert shown.time_left() == pytest.approx(60 * 3.5)


def test_terminal_gets_a_panel_with_every_running_trial(story):
    shown, out, clock = lines_display(terminal=True, now=5.0)
    with shown:
        for line in story.lines:
            shown.event(read_event(line))
        shown.progress("t004", progress(0.4))
        clock.now += 10
        panel = text_of(shown.panel())
    for wanted in ("demo", "3 of 4 trials", "1 failed", "t004", "text_source 2/3", "3/8",
                   "loss 0.650", "40%", "best so far  t003, gain +0.200", "elapsed"):  # fmt: skip
        assert wanted in panel
    assert "t003 complete" in out.getvalue()


def test_the_panel_shows_what_is_known_before_a_trial_has_ended(new_story):
    story = new_story()
    shown, _, _ = lines_display(terminal=True)
    base = story.lines.pop()  # its end; its scores are there
    for line in story.lines:
        shown.event(read_event(line))
    panel = text_of(shown.panel(), 140)
    assert "untouched base  movie_sentiment 0.550, text_source 0.300" in panel
    assert "product_sentiment -" not in panel
    assert "best so far  -" in panel
    story.lines.append(base)
    for number, fraction in (("t001", 0.25), ("t002", 0.5)):
        story.start(number)
        story.report(number, 0, fraction)
    for line in story.lines[-7:]:
        shown.event(read_event(line))
    panel = text_of(shown.panel(), 140)
    told = "t002, score 0.610 on movie_sentiment at 50%, +0.060 over the untouched base"
    assert f"best so far  {told}" in panel
    story.report("t001", 0, 1.0, row=[0.75, 0.3, None])
    shown.event(read_event(story.lines[-1]))
    panel = text_of(shown.panel(), 140)
    told = "t001, score 0.525 on all tasks after movie_sentiment, +0.100 over the untouched base"
    assert f"best so far  {told}" in panel


def test_a_score_stands_alone_while_the_base_is_measured(new_story):
    story = new_story()
    del story.lines[3:]
    story.start("t001")
    story.report("t001", 0, 0.25)
    shown, _, _ = lines_display(terminal=True)
    for line in story.lines:
        shown.event(read_event(line))
    panel = text_of(shown.panel(), 140)
    assert "untouched base  -" in panel
    assert "best so far  t001, score 0.610 on movie_sentiment at 25%  " in panel


def test_display_may_be_told_from_many_threads(story):
    shown, _, _ = lines_display()
    for line in story.lines:
        shown.event(read_event(line))

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


def test_rays_count_of_processes_does_not_run_through_the_display():
    told = """
import os
from orchestrator.executors.ray_settings import process_environment
os.environ.update(process_environment())
from ray._private.worker import print_to_stdstream
for line in ("WARNING: 9 PYTHON worker processes have been started on node: a", "disk is full"):
    print_to_stdstream({"lines": [line], "pid": "raylet", "is_err": False}, False)
"""
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert "disk is full" in done.stdout
    assert "worker processes" not in done.stdout
