"""Our pages and MLflow's on this machine: they start, answer it alone, and end."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil
import pytest

from orchestrator.cli import mlflow_server
from orchestrator.records.journal import Journal
from orchestrator.records.sweep_state import SweepState
from tests.journals import say


def free_port():
    with socket.socket() as found:
        found.bind((mlflow_server.HOST, 0))
        return found.getsockname()[1]


def test_columns_are_measures_then_settings_of_the_search(new_sweep):
    found = mlflow_server.columns(SweepState.of(new_sweep()))
    assert found[:3] == ["metrics.gain", "metrics.forgetting", "metrics.probe_drift"]
    assert found[3:7] == [f"params.{path}" for path in (
        "method.adapter.kind", "method.adapter.r", "method.adapter.alpha",
        "training.learning_rate")]  # fmt: skip
    assert len(set(found)) == len(found)


def test_port_that_is_taken_is_named_with_the_option(tmp_path):
    with socket.socket() as other:
        other.bind((mlflow_server.HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(mlflow_server.BrowserError, match=rf"Port {port} .*--port {port + 1}"),
            mlflow_server.mlflow_pages("sqlite:///unused.db", port, tmp_path),
        ):
            pass
    assert not list(tmp_path.iterdir())


def test_server_that_does_not_start_says_why(tmp_path):
    with (
        pytest.raises(mlflow_server.BrowserError, match="did not answer"),
        mlflow_server.mlflow_pages("nonsense://x", free_port(), tmp_path),
    ):
        pass


@pytest.mark.slow
def test_pages_answer_on_loopback_only_and_end_with_their_children(tmp_path, new_sweep):
    home = tmp_path / "what? #%20 'ü'"
    with Journal(home / "runs" / "made-up") as journal:
        for line in new_sweep(trials=1, tasks=1):
            fields = {k: v for k, v in line.items() if k not in {"n", "time", "event"}}
            if "adapter" in fields:
                fields["adapter"] = None
            say(journal, line["event"], **fields)
    port = free_port()
    # Tests that run in the background of a shell inherit that Ctrl-C is ignored.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from orchestrator.cli import main; main()"
    running = subprocess.Popen(
        [sys.executable, "-c", code, "ui", "--port", str(port)],
        cwd=home, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},  # noqa: PTH109
    )  # fmt: skip
    try:
        said = ""
        for line in running.stdout:
            said += line
            if "Ctrl-C" in line:
                break
        address = f"http://127.0.0.1:{port}"
        assert said.splitlines()[0] == f"{address}/"
        with urllib.request.urlopen(f"{address}/sweeps/made-up") as answer:
            assert b"made-up" in answer.read()
        beside = address_of_mlflow(f"{address}/mlflow?sweep=made-up")
        assert "/#/experiments/1/runs?viewStateShareKey=" in beside
        with urllib.request.urlopen(f"{beside.partition('/#')[0]}/health") as answer:
            assert answer.status == 200
        started = psutil.Process(running.pid).children(recursive=True)
        assert started
        assert not [p for p in started if "mlflow.db" in " ".join(p.cmdline())]
        for other in addresses_of_this_machine():
            with pytest.raises(OSError), socket.create_connection((other, port), timeout=2):  # noqa: PT011
                pass
        running.send_signal(signal.SIGINT)
        assert running.wait(120) == 0
        assert "Ended." in running.stdout.read()
    finally:
        running.kill()
        running.wait(30)
        running.stdout.close()
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            socket.create_connection((mlflow_server.HOST, port), timeout=1).close()
        except OSError:
            return
    pytest.fail("the server still answers")


def address_of_mlflow(page):
    """Where the page that starts MLflow's server leads once it answers."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_):
            return None

    opener = urllib.request.build_opener(Stay)
    until = time.monotonic() + mlflow_server.START_SECONDS
    while time.monotonic() < until:
        try:
            with opener.open(page) as answer:
                assert "is starting" in answer.read().decode()
        except urllib.error.HTTPError as moved:
            with moved:
                return moved.headers["location"]
        time.sleep(0.5)
    pytest.fail("MLflow's server did not answer")


def addresses_of_this_machine():
    found = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
    return {entry[4][0] for entry in found} - {"127.0.0.1"}
