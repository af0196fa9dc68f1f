"""What goes wrong in the middle: nothing that is finished is lost, and one message says what to do.

A sweep is stopped, its disk fills up, its trials fail, its tracking server leaves; afterwards the
same command finishes it.
"""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import weakref
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from typer.testing import CliRunner

from orchestrator.cli import app, errors
from orchestrator.executors import signals as signals_module
from orchestrator.executors.local import run_locally
from orchestrator.planning import preflight
from orchestrator.records.errors import JournalError
from orchestrator.records.journal import Journal
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.sweep_state import SweepState
from tests.journals import say

pytestmark = pytest.mark.usefixtures("records")

ROOT = Path(__file__).parents[2]
LOCAL = {"executor": "local"}
GRID = {
    "space": {
        "method.adapter.r": {"choice": [2, 4]},
        "method.adapter.alpha": {"choice": [1.0, 2.0, 4.0]},
    },
    "searcher": "grid",
    "trials": 6,
}


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def one_message(result, code):
    assert result.exit_code == code, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.stderr
    assert result.stderr.count("orchestrate: ") == 1, result.stderr
    return result.stderr[result.stderr.index("orchestrate: ") :]


def ends(lines):
    return {line["trial"]: line for line in lines if line["event"] == "trial_ended"}


def states(folder):
    return {name: line["state"] for name, line in ends(read_journal(folder)).items()}


@pytest.fixture
def small(experiment_file, tmp_path):
    """Writes an experiment of one short task and six trials; `tmp_path/runs/tiny` is its folder."""

    def write(**fields):
        return experiment_file(**{
            "tasks": ["mood"], "probes": [], "search": GRID, "resources": LOCAL,
            "objectives": {"gain": "max"}, "champion": {"maximize": "gain", "subject_to": {}},
            "data": {"train_examples": 16, "validation_examples": 8, "rung_examples": 4},
            **fields,
        })  # fmt: skip

    return write


@pytest.fixture
def failing(monkeypatch):
    """Makes trials fail: those for which `failing.wanted(name)` holds."""

    class Failing:
        reason = "the moon is in the wrong house"
        at_the_end = ()
        """Trials that fail after their last report."""

        @staticmethod
        def wanted(name):
            return name != "base"

        def run(self, job, *rest):
            if self.wanted(job.trial):
                raise RuntimeError(f"something\n{self.reason}")
            run_locally(job, *rest)
            if job.trial in self.at_the_end:
                raise RuntimeError(self.reason)

    failing = Failing()
    monkeypatch.setattr("orchestrator.sweep.locally.run_locally", failing.run)
    return failing


# --- trials that fail ----------------------------------------------------------------------------


def test_a_failed_trial_has_its_reason_and_log_and_the_sweep_goes_on(small, failing, tmp_path):
    failing.wanted = lambda name: name in {"t001", "t002"}
    result = call("sweep", small())
    assert result.exit_code == 0, result.output
    found = ends(read_journal(tmp_path / "runs" / "tiny"))
    assert [found[f"t00{i}"]["state"] for i in range(1, 7)] == ["FAILED"] * 2 + ["COMPLETE"] * 4
    assert found["t001"]["reason"] == failing.reason
    assert found["t001"]["log"] == "trials/t001/log.txt", "the folder may be moved"
    log = (tmp_path / "runs" / "tiny" / found["t001"]["log"]).read_text()
    assert "Traceback" in log
    assert failing.reason in log


def test_a_loss_that_is_not_finite_fails_the_trial_with_a_log(small, tmp_path):
    grid = {**GRID, "space": {"method.adapter.alpha": {"choice": [3.0e38, 2.0]}}}
    assert call("sweep", small(search=grid)).exit_code == 0
    found = ends(read_journal(tmp_path / "runs" / "tiny"))
    assert (found["t001"]["state"], found["t002"]["state"]) == ("FAILED", "COMPLETE")
    log = tmp_path / "runs" / "tiny" / found["t001"]["log"]
    assert found["t001"]["reason"] in log.read_text()


def test_a_sweep_whose_every_trial_fails_stops_early_and_goes_on_once_that_is_cured(
    small, failing, tmp_path
):
    path, folder = small(), tmp_path / "runs" / "tiny"
    text = one_message(call("sweep", path), errors.MISTAKE)
    assert "All 3 trials that were begun have failed, 3 of them with: the moon" in text
    assert str(folder / "trials" / "t001" / "log.txt") in text
    assert "goes on with what is left (3 to run)" in text
    assert states(folder) == {"base": "COMPLETE"} | dict.fromkeys(["t001", "t002", "t003"],
                                                                  "FAILED")  # fmt: skip
    last = read_journal(folder)[-1]
    assert (last["event"], last["trials"]) == ("sweep_stopped", ["t001", "t002", "t003"])

    text = one_message(call("sweep", path), errors.FAILED)  # not cured: the rest fails as well
    assert "6 of 6 failed with: the moon" in text
    assert len(ends(read_journal(folder))) == 7


def test_after_a_cure_the_remaining_trials_run(small, failing, tmp_path):
    path, folder = small(), tmp_path / "runs" / "tiny"
    one_message(call("sweep", path), errors.MISTAKE)
    failing.wanted = lambda name: False
    result = call("sweep", path)
    assert result.exit_code == 0, result.output
    assert list(states(folder).values()).count("COMPLETE") == 4
    started = [x["trial"] for x in read_journal(folder) if x["event"] == "trial_started"]
    assert len(started) == len(set(started)), "nothing ran twice"


def test_what_has_failed_runs_again_when_it_is_asked_for(small, failing, tmp_path):
    grid = {**GRID, "space": {"method.adapter.alpha": {"choice": [1.0, 2.0, 4.0]}}}
    path, folder = small(search=grid), tmp_path / "runs" / "tiny"
    failing.wanted, failing.at_the_end = (lambda name: name == "t003"), ("t002",)
    assert call("sweep", path).exit_code == 0
    assert states(folder) == {
        "base": "COMPLETE", "t001": "COMPLETE", "t002": "FAILED", "t003": "FAILED",
    }  # fmt: skip
    assert "nothing is left to run" in call("sweep", path).stderr, "failures reopen nothing"

    failing.at_the_end = ()
    result = call("sweep", path, "--retry-failed")
    assert result.exit_code == 0, result.output
    assert "running again what failed: t002, t003" in result.stderr
    lines = read_journal(folder)
    assert states(folder) == {
        "base": "COMPLETE", "t001": "COMPLETE", "t002": "COMPLETE", "t003": "FAILED",
    }  # fmt: skip
    again = [x["trial"] for x in lines if x["event"] == "trial_started" and x["attempt"] > 1]
    assert again == ["t002", "t003"], "what was completed stays as it is"
    trials = SweepState.of(lines).everything
    whole, retried = (
        [report.fraction for report in trials[name].reports] for name in ("t001", "t002")
    )
    assert retried == whole, "nothing of the failed attempt is left"
    assert (folder / "trials" / "t002" / "adapter" / "adapter_model.safetensors").is_file()


def test_few_trials_that_all_fail_end_the_sweep_with_their_reason(small, failing, tmp_path):
    grid = {**GRID, "space": {"method.adapter.r": {"choice": [2, 4]}}}
    text = one_message(call("sweep", small(search=grid)), errors.FAILED)
    assert "2 of 2 failed with: the moon is in the wrong house. Log: " in text
    assert read_journal(tmp_path / "runs" / "tiny")[-1]["event"] == "sweep_ended"


def test_one_trial_that_was_completed_keeps_the_sweep_going(small, failing, tmp_path):
    failing.wanted = lambda name: name not in {"base", "t001"}
    assert call("sweep", small()).exit_code == 0
    assert list(states(tmp_path / "runs" / "tiny").values()).count("FAILED") == 5


def test_a_base_that_cannot_be_measured_stops_the_sweep_and_is_measured_again(
    small, failing, tmp_path
):
    path, folder = small(), tmp_path / "runs" / "tiny"
    failing.wanted = lambda name: name == "base"
    text = one_message(call("sweep", path), errors.MISTAKE)
    assert "The untouched base could not be measured" in text
    assert "(7 to run)" in text
    assert states(folder) == {"base": "FAILED"}
    failing.wanted = lambda name: False
    assert call("sweep", path).exit_code == 0
    assert set(states(folder).values()) == {"COMPLETE"}
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert len(runs) == 8
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_ray_that_does_not_start_is_one_message(small, tmp_path, monkeypatch):
    import ray

    def slow(**options):
        raise Exception("The current node timed out during startup.")  # noqa: TRY002 (as Ray does)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", slow)
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # the cluster of other tests may run here
    text = one_message(call("sweep", small(resources={"members": 1})), errors.MISTAKE)
    assert "Ray could not be started on this machine: The current node timed out" in text
    assert "Give the same command again" in text


# --- other drivers and other files ---------------------------------------------------------------


def test_a_second_driver_is_refused_and_harms_nothing(small, tmp_path):
    folder = tmp_path / "runs" / "tiny"
    with Journal(folder) as journal:
        say(journal, "sweep_opened", sweep="tiny")
        text = one_message(call("sweep", small()), errors.MISTAKE)
        assert "Another process is running the sweep" in text
        assert "--new" in text
    assert len(read_journal(folder)) == 1


def test_a_changed_file_is_refused_with_the_difference_while_running_and_when_finished(
    small, failing, tmp_path
):
    folder = tmp_path / "runs" / "tiny"
    grid = {**GRID, "trials": 6}
    one_message(call("sweep", small(search=grid)), errors.MISTAKE)  # given up half way
    before = read_journal(folder)
    changed = {"batch_size": 4, "max_length": 48, "precision": "fp32", "learning_rate": 0.02}
    text = one_message(call("sweep", small(search=grid, training=changed)), errors.MISTAKE)
    assert "training.batch_size: 8 -> 4" in text
    assert read_journal(folder) == before
    failing.wanted = lambda name: False
    assert call("sweep", small(search=grid)).exit_code == 0
    text = one_message(call("sweep", small(search=grid, training=changed)), errors.MISTAKE)
    assert "training.batch_size: 8 -> 4" in text


# --- the tracking server -------------------------------------------------------------------------


def test_records_that_cannot_be_reached_in_the_middle_catch_up_later(
    small, records, tmp_path, monkeypatch
):
    database = tmp_path / "records"
    database.mkdir()
    (records / "mlflow.db").rename(database / "mlflow.db")
    path = small(tracking={"uri": f"sqlite:///{database}/mlflow.db"})

    def vanish(job, *rest):
        if job.trial == "t002":
            database.rename(tmp_path / "away")
        run_locally(job, *rest)

    monkeypatch.setattr("orchestrator.sweep.locally.run_locally", vanish)
    text = one_message(call("sweep", path), errors.FAILED)
    folder = tmp_path / "runs" / "tiny"
    assert f"All trials are finished and kept in {folder}" in text
    assert "the same command catches MLflow up" in text
    assert set(states(folder).values()) == {"COMPLETE"}
    whole = [line for line in read_journal(folder) if line["event"] != "champion_registered"]

    (tmp_path / "away").rename(database)
    assert call("sweep", path).exit_code == 0
    assert read_journal(folder)[: len(whole)] == whole
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{database}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert len(runs) == 8
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_server_that_is_down_is_asked_once_a_minute_and_told_of_once(small, monkeypatch):
    from orchestrator.records.errors import TrackingError
    from orchestrator.records.mlflow.projection import Projection

    asked = []

    def down(self, lines, *, running):
        asked.append(len(lines))
        raise TrackingError("MLflow at http://there cannot be used: gone.")

    monkeypatch.setattr(Projection, "catch_up", down)
    result = call("sweep", small())
    assert result.exit_code == errors.FAILED
    assert "t006" in result.stdout, "the outcome is shown all the same"
    assert result.stderr.count("lags behind") == 2, "once on the way and once at the end"
    assert len(asked) == 2


def test_ctrl_c_leaves_no_run_that_seems_to_be_running(small, records, monkeypatch):
    def stopped(job, *rest):
        if job.trial == "t002":
            raise KeyboardInterrupt
        run_locally(job, *rest)

    monkeypatch.setattr("orchestrator.sweep.locally.run_locally", stopped)
    one_message(call("sweep", small()), errors.INTERRUPTED)
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{records}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    found = {run.info.run_name: run.info.status for run in runs}
    own = found.pop("tiny (the sweep itself)")
    assert own == "KILLED"
    assert found == {"base": "FINISHED", "t001": "FINISHED", "t002": "KILLED"}


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_costs_nothing(small, records, tmp_path, monkeypatch):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    database = f"sqlite:///{records}/mlflow.db"

    started = []

    def serve():
        started.append(subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
             "--backend-store-uri", database, "--workers", "1",
             "--artifacts-destination", str(tmp_path / "artifacts")],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        ))  # fmt: skip
        for _ in range(480):
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                return
            time.sleep(0.25)
        pytest.fail("the MLflow server did not start within two minutes")

    def end():
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def dying(job, *rest):
        if job.trial == "t002":
            end()
        run_locally(job, *rest)

    path, folder = small(tracking={"uri": f"http://127.0.0.1:{port}"}), tmp_path / "runs" / "tiny"
    try:
        serve()
        monkeypatch.setattr("orchestrator.sweep.locally.run_locally", dying)
        text = one_message(call("sweep", path), errors.FAILED)
        assert "All trials are finished and kept" in text
        assert set(states(folder).values()) == {"COMPLETE"}
        serve()
        assert call("sweep", path).exit_code == 0
        import mlflow

        client = mlflow.MlflowClient(f"http://127.0.0.1:{port}")
        runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
        assert [run.info.status for run in runs] == ["FINISHED"] * 8
    finally:
        end()


# --- a disk that is full -------------------------------------------------------------------------


def test_a_journal_that_is_refused_a_write_keeps_whole_lines(tmp_path, monkeypatch):
    written = os.write

    def half(descriptor, content):
        if b'"refused"' in bytes(content):
            written(descriptor, bytes(content)[:7])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(descriptor, content)

    with Journal(tmp_path) as journal:
        say(journal, "sweep_opened")
        monkeypatch.setattr(os, "write", half)
        with pytest.raises(JournalError, match=r"No space left.*run the same command"):
            say(journal, "refused")
        monkeypatch.undo()
        assert [line["event"] for line in read_journal(tmp_path)] == ["sweep_opened"]
        say(journal, "later")
    assert [line["event"] for line in read_journal(tmp_path)] == ["sweep_opened", "later"]
    assert (tmp_path / "journal.jsonl").read_bytes().endswith(b"}\n")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own; gives its folder and what resizes it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        return subprocess.run(["mount", *options, str(folder)], capture_output=True, check=False)

    if mount("-t", "tmpfs", "-o", "size=96k", "tmpfs").returncode:
        pytest.skip("mounting a file system needs root")
    yield folder, lambda size: mount("-o", f"remount,size={size}")
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_journal_on_a_full_disk_goes_on_when_there_is_room(small_disk):
    folder, resize = small_disk

    def fill(journal):
        for _ in range(1000):
            say(journal, "line", text="x" * 500)

    with Journal(folder) as journal:
        say(journal, "sweep_opened")
        with pytest.raises(JournalError, match="No space left"):
            fill(journal)
        count = len(journal.lines)
        assert read_journal(folder) == list(journal.lines)
        resize("1m")
        assert say(journal, "line")["n"] == count
    assert len(read_journal(folder)) == count + 1


def test_a_sweep_on_a_full_disk_stops_with_one_message_and_is_finished_later(
    small, small_disk, records, monkeypatch
):
    folder, resize = small_disk
    path = small(storage=str(folder), tracking={"uri": f"sqlite:///{records}/mlflow.db"})
    text = one_message(call("sweep", path), errors.MISTAKE)
    assert "MiB free, and about 12 MiB are needed for 6 trials" in text
    monkeypatch.setattr(preflight, "free_disk", lambda storage: 2**40)
    text = one_message(call("sweep", path), errors.MISTAKE)
    assert "No space left on device" in text
    assert "run the same command" in text
    kept = states(folder / "tiny")
    assert set(kept.values()) <= {"COMPLETE"}
    resize("64m")
    assert call("sweep", path).exit_code == 0
    assert list(states(folder / "tiny").values()) == ["COMPLETE"] * 7
    started = [x["trial"] for x in read_journal(folder / "tiny") if x["event"] == "trial_started"]
    assert all(started.count(name) == 1 for name in kept)


# --- the same through Ray ------------------------------------------------------------------------


@pytest.mark.ray
@pytest.mark.slow
def test_through_ray_a_sweep_that_only_fails_stops_and_leaves_the_cluster_clean(
    small, tmp_path, ray_cluster
):
    from orchestrator.executors.ray_leftovers import Leftovers, wait_until_clean

    # The base is measured with the file's own settings, so that the trials alone fail.
    unknown = {"training.deepspeed.optimizer.type": {"choice": [f"NoSuch{i}" for i in range(6)]}}
    resources = {"members": 1, "max_failures": 0}
    path = small(search={**GRID, "space": unknown}, resources=resources)
    text = one_message(call("sweep", path), errors.MISTAKE)
    assert "trials that were begun have failed" in text
    assert "NoSuch" in text
    assert "log.txt" in text
    assert wait_until_clean() == Leftovers()
    found = states(tmp_path / "runs" / "tiny")
    # Two run at a time here, so that one more may have begun beside the third.
    assert 3 <= list(found.values()).count("FAILED") <= 4
    assert found["base"] == "COMPLETE"
    assert read_journal(tmp_path / "runs" / "tiny")[-1]["event"] == "sweep_stopped"


FULL_DISK = """
import errno, os, shutil, sys
from pathlib import Path

copytree = shutil.copytree

def full(src, dst, *rest, **more):
    if Path(dst).name.startswith(".adapter."):  # half of a trial's adapter
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return copytree(src, dst, *rest, **more)

if sys.argv[2] == "full":
    shutil.copytree = full
from orchestrator import cli
cli.app(["run", sys.argv[1]])
"""


@pytest.mark.ray
@pytest.mark.slow
def test_through_ray_a_disk_that_fills_up_is_one_message_and_finished_later(small, tmp_path):
    path, folder = small(resources={"members": 1}, search=None), tmp_path / "runs" / "tiny-run"

    def run(disk):
        # A process and a Ray of its own: what the driver dropped goes with them.
        return subprocess.run(
            [sys.executable, "-c", FULL_DISK, str(path), disk],
            cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    done = run("full")
    assert done.returncode == errors.MISTAKE, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    text = done.stderr[done.stderr.index("orchestrate: ") :]
    assert "Cannot write the adapter of t001" in text
    assert "No space left on device" in text
    assert "t001" not in states(folder)
    done = run("roomy")
    assert done.returncode == 0, done.stderr[-2000:]
    assert states(folder) == {"base": "COMPLETE", "t001": "COMPLETE"}


# --- signals -------------------------------------------------------------------------------------


def start(path, folder, log):
    """`orchestrate sweep` in a process of its own."""
    with log.open("wb") as output:
        return subprocess.Popen(
            [Path(sys.executable).with_name("orchestrate"), "sweep", str(path)],
            cwd=folder, stdout=output, stderr=output, env={**os.environ, "COLUMNS": "200"},
        )  # fmt: skip


def wait_for(journal, process, *, event, trial, times=1, seconds=120.0):
    """Wait until a journal holds an event of a trial, so many times."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        lines = read_journal(journal)
        if sum(line["event"] == event and line.get("trial") == trial for line in lines) >= times:
            return
        time.sleep(0.05)
    pytest.fail(f"no {event} of {trial} in {journal}; exit code {process.poll()}")


def test_sigterm_does_what_ctrl_c_does(small, tmp_path):
    # Trials long enough not to be over before a busy machine has noticed that they began.
    training = {"batch_size": 8, "max_length": 48, "precision": "fp32", "epochs": 100}
    path, folder = small(training=training), tmp_path / "runs" / "tiny"
    process = start(path, tmp_path, tmp_path / "log")
    wait_for(folder, process, event="trial_started", trial="t002")
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == errors.INTERRUPTED, (tmp_path / "log").read_text()
    text = (tmp_path / "log").read_text()
    assert "Traceback" not in text
    assert "of 6 trials are finished and kept in" in text
    assert "Continue with:\n" in text
    assert text.endswith(f"orchestrate sweep {path}\n")
    finished = states(folder)
    assert "t001" in finished
    document = yaml.safe_load(path.read_text())
    document["search"]["trials"] = 3
    path.write_text(yaml.safe_dump(document))
    result = call("sweep", path)
    assert result.exit_code == 0, result.output
    lines = read_journal(folder)
    started = [line["trial"] for line in lines if line["event"] == "trial_started"]
    assert all(started.count(name) == 1 for name in finished)
    assert set(states(folder).values()) == {"COMPLETE"}


def test_sigterm_interrupts_what_a_shell_has_started_in_the_background():
    """Such a shell (`command &` without job control) has its commands ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), signals_module.sigterm_as_interrupt():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def ctrl_c():
    """What runs tests for another process is started to ignore Ctrl-C; these ask what it does."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_python_drops_is_not_lost(number, ctrl_c, monkeypatch):
    """An exception that is raised in the callback of a weak reference goes nowhere."""
    dropped = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: dropped.append(what.exc_type))
    thing = Journal.__new__(Journal)
    held = weakref.ref(thing, lambda _: signal.raise_signal(number))
    with signals_module.sigterm_as_interrupt() as raise_if_interrupted:
        raise_if_interrupted()
        del thing
        assert held() is None
        assert dropped == [KeyboardInterrupt]
        with pytest.raises(KeyboardInterrupt):
            raise_if_interrupted()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.ray
@pytest.mark.slow
def test_signals_while_ray_trains_leave_no_process_and_say_how_to_go_on(small, tmp_path):
    training = {"batch_size": 8, "max_length": 48, "precision": "fp32", "epochs": 1000}
    path = small(resources={"members": 1}, training=training)
    folder = tmp_path / "runs" / "tiny"
    # The second life goes on where the first was stopped, and is stopped by Ctrl-C, Ctrl-C.
    for life, signals in enumerate([["SIGTERM"], ["SIGINT", "SIGINT"]], start=1):
        process = start(path, tmp_path, tmp_path / "log")
        try:
            wait_for(folder, process, event="trial_ended", trial="base")
            wait_for(folder, process, event="trial_started", trial="t001", times=life)
            started = psutil.Process(process.pid).children(recursive=True)
            for name in signals:
                process.send_signal(getattr(signal, name))
                time.sleep(0.3)
            assert process.wait(60) == errors.INTERRUPTED, (tmp_path / "log").read_text()
        finally:
            if process.poll() is None:
                process.kill()
        text = (tmp_path / "log").read_text()
        assert "Traceback" not in text
        assert "Continue with:\n" in text
        assert text.endswith(f"orchestrate sweep {path}\n")
        _, left = psutil.wait_procs(started, timeout=10)
        assert not left
        lines = read_journal(folder)
        assert lines[0]["sweep"] == "tiny"
        begun = [line["trial"] for line in lines if line["event"] == "trial_started"]
        assert begun.count("base") == 1, "what was finished is not run again"
        assert states(folder)["base"] == "COMPLETE"
