"""Nothing is registered that is not the adapter which the journal vouches for."""

import shutil
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from orchestrator.records.errors import TrackingError
from orchestrator.records.journal import Journal
from orchestrator.sweep import mlflow_sync
from orchestrator.sweep.mlflow_sync import MlflowSync
from orchestrator.system.seals import Maker, content_hash, file_hashes, seal
from tests.journals import say
from tests.made_up_sweep import experiment

TENSORS = "adapter_model.safetensors"


class Mlflow:
    """A projection that remembers what it was asked to register."""

    def __init__(self):
        self.registered = []

    def catch_up(self, lines, *, running):
        pass

    def register(self, lines, *, just_decided):
        self.registered.append(just_decided)
        return SimpleNamespace(model="sweep", version="1", text="registered")

    def attach(self, folder):
        pass


@pytest.fixture
def mlflow(monkeypatch):
    projection = Mlflow()
    monkeypatch.setattr(mlflow_sync, "Projection", lambda *_, **__: projection)
    monkeypatch.setattr(mlflow_sync, "write_report", lambda _, folder: folder / "index.html")
    return projection


@pytest.fixture
def ended(tmp_path):
    """The journal of a sweep whose champion is t001 of two trials."""
    with Journal(tmp_path / "sweep") as journal:
        say(journal, "sweep_opened", sweep="sweep", sweep_id="5e8a")
        for name in ("t001", "t002"):
            adapter = journal.folder / "trials" / name / "adapter"
            adapter.mkdir(parents=True)
            (adapter / TENSORS).write_text(f"tensors of {name}")
            seal(adapter, Maker("5e8a", name, "some settings"))
            say(
                journal, "trial_ended", trial=name, state="COMPLETE",
                adapter=f"trials/{name}/adapter",
                adapter_sha256=content_hash(file_hashes(adapter)),
            )  # fmt: skip
        say(journal, "sweep_ended", champion="t001", front=["t001"], reason="largest gain")
        yield journal


def finish(journal, observer):
    return MlflowSync(experiment(), journal.folder.parent, journal, observer).finish(
        just_decided=True
    )


def is_told(journal):
    return journal.lines[-1]["event"] == "champion_registered"


def truncate(trials):
    file = trials / "t001" / "adapter" / TENSORS
    file.write_bytes(file.read_bytes()[:-1])


def remove(trials):
    shutil.rmtree(trials / "t001" / "adapter")


def swap(trials):
    for source, target in (("t001", "x"), ("t002", "t001"), ("x", "t002")):
        (trials / source).rename(trials / target)


@pytest.mark.parametrize(
    ("harm", "because"),
    [
        (truncate, f"its file {TENSORS} is damaged"),
        (remove, "it is missing"),
        (swap, "it is that of trial t002"),
    ],
)
def test_an_adapter_that_is_not_the_champions_own_is_refused(
    ended, mlflow, recorder, tmp_path, harm, because
):
    trials = ended.folder / "trials"
    shutil.copytree(trials, tmp_path / "copy")
    harm(trials)
    refused = finish(ended, recorder)
    assert f"is not the adapter that it made: {because}." in refused
    assert "`--retry-failed`" in refused
    assert (mlflow.registered, is_told(ended)) == ([], False)

    shutil.rmtree(trials)
    shutil.copytree(tmp_path / "copy", trials)
    assert finish(ended, recorder) == "", "the same command, once it is restored"
    assert (mlflow.registered, is_told(ended)) == ([True], True)


def test_a_champion_is_registered_once(ended, mlflow, recorder):
    for _ in range(2):
        assert finish(ended, recorder) == ""
    assert (mlflow.registered, recorder.notes) == ([True], ["registered"])
    say(ended, "test_read", champion="t001", reading=1)
    assert finish(ended, recorder) == "", "the registry is to have its test scores, too"
    assert len(mlflow.registered) == 2


# --- beside the loop -----------------------------------------------------------------------------


class Slow(Mlflow):
    """A server that answers when the test lets it, or says that it is down."""

    def __init__(self):
        super().__init__()
        self.wrote, self.may_answer, self.down = [], threading.Event(), False

    def catch_up(self, lines, *, running):
        assert self.may_answer.wait(30)
        if self.down:
            raise TrackingError("MLflow at http://there cannot be used: gone.")
        self.wrote.append(len(list(lines)))


def test_a_server_that_hangs_stops_nothing_and_gets_everything_in_the_end(
    ended, monkeypatch, recorder
):
    slow = Slow()
    monkeypatch.setattr(mlflow_sync, "Projection", lambda *_, **__: slow)
    monkeypatch.setattr(mlflow_sync, "write_report", lambda _, folder: folder / "index.html")
    sync = MlflowSync(experiment(), ended.folder.parent, ended, recorder)
    began = time.monotonic()
    for number in range(20):
        say(ended, "trial_proposed", trial=f"t{number + 3:03d}")
        sync.ask()
    assert time.monotonic() - began < 5, "nothing waits for it"
    assert slow.wrote == []
    slow.may_answer.set()
    assert sync.finish(just_decided=True) == ""
    assert slow.wrote[-1] == len(ended.lines)
    assert slow.wrote == sorted(slow.wrote), "each time with the lines that there were then"


def test_an_outage_is_journalled_with_its_length(ended, monkeypatch, recorder):
    slow = Slow()
    slow.may_answer.set()
    slow.down = True
    monkeypatch.setattr(mlflow_sync, "Projection", lambda *_, **__: slow)
    monkeypatch.setattr(mlflow_sync, "MLFLOW_PAUSE_SECONDS", 0.0)
    sync = MlflowSync(experiment(), ended.folder.parent, ended, recorder)
    sync.catch_up()
    sync.catch_up()
    assert recorder.events("fault_survived") == [], "it is not over"
    slow.down = False
    sync.catch_up()
    (fault,) = recorder.events("fault_survived")
    assert (fault["what"], fault["lost"]) == ("mlflow_away", {})
    assert fault["since"] <= fault["until"]
    assert "gone" in fault["because"]
    assert ended.lines[-1]["event"] == "fault_survived"


def test_a_server_that_accepts_and_never_answers_holds_nothing_up(monkeypatch, recorder, tmp_path):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(mlflow_sync, "write_report", lambda _, folder: folder / "index.html")
    with socket.create_server(("127.0.0.1", 0)) as hung, Journal(tmp_path / "sweep") as journal:
        uri = f"http://127.0.0.1:{hung.getsockname()[1]}"
        own = experiment(tracking={"uri": uri})
        say(journal, "sweep_opened", sweep="sweep", sweep_id="5e8a")
        sync = MlflowSync(own, tmp_path, journal, recorder)
        began = time.monotonic()
        for number in range(20):
            say(journal, "trial_proposed", trial=f"t{number:03d}")
            sync.ask()
        assert time.monotonic() - began < 5, "no trial waits for it"
        said = sync.finish(just_decided=False)
        fault = journal.lines[-1]
    assert "MLflow lags behind" in said
    assert "timed out" in said
    assert (fault["event"], fault["what"], fault["where"]) == ("fault_survived", "mlflow_away", uri)


def test_what_mlflow_does_not_show_is_counted_from_its_oldest_line(mlflow, recorder, tmp_path):
    now = 100.0
    with Journal(tmp_path / "sweep", clock=lambda: now) as journal:
        sync = MlflowSync(experiment(), tmp_path, journal, recorder)
        say(journal, "sweep_opened", sweep="sweep")
        now = 107.0
        assert sync.lag() == (1, 7.0)
        sync.catch_up()
        assert sync.lag() == (0, 0.0)
        for _ in range(2):
            say(journal, "trial_proposed", trial="t001")
            now += 5.0
        assert sync.lag() == (2, 10.0)
