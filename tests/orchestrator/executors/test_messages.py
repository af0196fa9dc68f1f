"""What trials say survives the way through Ray's dictionaries."""

import json
import math
import typing
from pathlib import Path

import pytest

from orchestrator.executors.messages import (
    Failed,
    Finished,
    Lost,
    Message,
    Paused,
    Ready,
    Reported,
    WorkSetAside,
    from_metrics,
    to_metrics,
)
from orchestrator.loop.trial_checkpoints import SetAside
from orchestrator.records.stage_report import StageReport

REPORT = StageReport(
    "mood", 0, 4, 4, 1.0, 0.75, losses=(0.5, 0.25), learning_rates=(0.1, 0.1), row=(0.75, 0.5),
    probes={"prose": {"cross_entropy": 1.5}}, metrics={"mood": {"accuracy": 0.75}},
    per_example={"mood": (1.0, 0.0)},
)  # fmt: skip
MESSAGES = [
    Ready(17),
    Ready(17, (REPORT,), Path("/ray/checkpoint_1")),
    Reported(REPORT),
    Reported(REPORT, Path("/ray/checkpoint_1")),
    Finished(),
    Finished((REPORT, REPORT), Path("/ray/checkpoint_2")),
    Failed("no room"),
    Failed("no room", "a traceback", "/runs/demo/trials/t001/log.txt"),
    Lost("member 0: it has ended"),
    Paused(),
    WorkSetAside.of(SetAside(Path("/a"), Path("/a.set-aside-1"), "it is damaged")),
]


def test_every_kind_of_message_is_tried_here():
    assert {*map(type, MESSAGES)} == {*typing.get_args(Message)}


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_is_read_as_it_was_said_whatever_ray_puts_beside_it(message):
    metrics = to_metrics(message) | {"pid": 1, "done": True, "time_total_s": 1.5, "trial_id": "x"}
    assert from_metrics(metrics) == message
    assert from_metrics(json.loads(json.dumps(metrics))) == message, "plain values alone"


def test_what_was_not_measured_is_still_not_measured():
    message = Reported(StageReport("", -1, 0, 0, 1.0, math.nan, row=(math.nan, 0.5)))
    read = from_metrics(to_metrics(message))
    assert math.isnan(read.report.score)
    assert math.isnan(read.report.row[0])
    assert read.report.row[1] == 0.5


def test_the_checkpoint_that_ray_names_belongs_to_the_report():
    """Ray Train passes a checkpoint beside the metrics; Ray Tune's callback adds its path."""
    metrics = to_metrics(Reported(REPORT)) | {"checkpoint_path": "/ray/checkpoint_1"}
    assert from_metrics(metrics) == Reported(REPORT, Path("/ray/checkpoint_1"))


@pytest.mark.parametrize("metrics", [{}, {"done": True}, {"kind": "of a later version"}])
def test_metrics_without_a_message_say_nothing(metrics):
    assert from_metrics(metrics) is None
