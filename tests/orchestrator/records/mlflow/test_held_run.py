"""A run is written as the difference to what it holds, within MLflow's limits."""

from types import SimpleNamespace

import pytest

from orchestrator.records.events import TrialEnded
from orchestrator.records.mlflow.held_run import (
    HeldRun,
    create_run,
    tag_run,
    write_run,
    write_status,
)
from orchestrator.records.mlflow.picture import Picture

ENDED = TrialEnded("t001", "COMPLETE", n=7, time=2.0)


class Client:
    """Takes everything and remembers the calls."""

    def __init__(self):
        self.calls = []

    def create_run(self, experiment_id, *, start_time, tags, run_name):
        return SimpleNamespace(
            info=SimpleNamespace(run_id=f"{run_name} at {start_time}"), tags=tags
        )

    def __getattr__(self, name):
        return lambda *given, **named: self.calls.append((name, given, named))

    def batches(self, kind):
        """The keys of each batch."""
        sent = [named.get(kind, []) for name, _, named in self.calls if name == "log_batch"]
        return [[one.key for one in batch] for batch in sent]


@pytest.fixture
def client():
    return Client()


def picture(**fields):
    return Picture("t001", 1000, {"own": "tag"}, **fields)


def held_by(client, one):
    return create_run(client, "3", one)


def test_everything_arrives_once_in_batches_that_mlflow_takes(client):
    one = picture(parameters={f"p{n}": str(n) for n in range(250)}, artifacts={"a.json": "{}"})
    held = held_by(client, one)
    one.tags |= {f"t{n}": str(n) for n in range(120)}
    one.measure(ENDED, {f"m{n}": float(n) for n in range(2000)}, 4)
    write_run(client, held, one)
    for kind, count, most in (("metrics", 2000, 800), ("params", 250, 100), ("tags", 121, 100)):
        batches = client.batches(kind)
        assert max(map(len, batches)) <= most
        # The tag of the artifact's content is written last, after the artifact.
        assert len({key for batch in batches for key in batch}) == count
    assert [name for name, _, _ in client.calls].count("log_text") == 1
    assert one.points == [], "kept no longer than until they are sent"


def test_what_is_there_is_not_written_again(client):
    one = picture(parameters={"p": "1"}, artifacts={"a.json": "{}"})
    held = held_by(client, one)
    write_run(client, held, one)
    client.calls.clear()
    write_run(client, held, one)
    assert client.calls == []
    one.artifacts["a.json"] = "{1}"
    one.tags["own"] = "other"
    write_run(client, held, one)
    assert [key for batch in client.batches("tags") for key in batch] == [
        "own", "orchestrator.sha256.a.json",
    ]  # fmt: skip


def test_points_of_lines_that_are_there_for_certain_are_left_out(client):
    one = picture()
    held = held_by(client, one)
    held.mark = ENDED.n
    one.measure(ENDED, {"gain": 0.5}, 0)
    write_run(client, held, one)
    assert client.calls == []


def test_a_deleted_run_is_left_alone(client):
    held = held_by(client, picture())
    held.deleted = True
    tag_run(client, held, {"champion": "true"})
    assert client.calls == []
    assert "champion" not in held.tags


def test_a_run_is_over_goes_on_and_is_over_again(client):
    one = picture()
    held: HeldRun = held_by(client, one)

    def said(rested=None):
        client.calls.clear()
        write_status(client, held, one, rested)
        return [(name, *given[1:], *named.values()) for name, given, named in client.calls]

    assert said() == []
    assert said(rested=5000) == [("set_terminated", "KILLED", 5000)], "no driver runs"
    assert said(rested=5000) == []
    assert said() == [("update_run", "RUNNING")]
    one.close(ENDED, "FINISHED")
    assert said() == [("set_terminated", "FINISHED", 2000)]
    assert said(rested=5000) == []
