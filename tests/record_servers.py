"""PostgreSQL and an MLflow server, each a process of its own on this machine, for one folder."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.s3_server import S3Server, free_port

INSTALLED = Path("/usr/lib/postgresql")
OWNER = "postgres"


def postgres_programs() -> Path | None:
    """Where Debian's package has its programs; None where it is not installed."""
    found = sorted(INSTALLED.glob("*/bin/initdb"))
    return found[-1].parent if found else None


class Postgres:
    """A database that nobody else uses; Debian's PostgreSQL, which root may not run itself."""

    def __init__(self):
        # Not in a folder of pytest's, which gives and takes the rights of others to enter it.
        self.folder, self.port = Path(tempfile.mkdtemp(prefix="orchestrate-postgres-")), free_port()
        self.uri = f"postgresql://mlflow@127.0.0.1:{self.port}/mlflow"
        programs = postgres_programs()
        assert programs is not None
        self._programs = programs
        if os.geteuid() == 0:
            owner = pwd.getpwnam(OWNER)
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        self._run("initdb", "-D", self.folder / "data", "-U", "mlflow", "-A", "trust", "-E", "UTF8")

    def _run(self, program: str, *words: object) -> None:
        command = [str(self._programs / program), *map(str, words)]
        if os.geteuid() == 0:
            command = ["runuser", "-u", OWNER, "--", *command]
        done = subprocess.run(
            command, capture_output=True, check=False, cwd="/", text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        settings = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        self._run(
            "pg_ctl", "-D", self.folder / "data", "-l", self.folder / "log", "-o", settings,
            "-w", "-t", 60, "start",
        )  # fmt: skip

    def create(self) -> None:
        """Make the database, once the server runs."""
        self._run("createdb", "-h", "127.0.0.1", "-p", self.port, "-U", "mlflow", "mlflow")

    def stop(self, how: str = "fast") -> None:
        """Stop it; `immediate` is as if its machine had failed."""
        self._run("pg_ctl", "-D", self.folder / "data", "-m", how, "-w", "-t", 60, "stop")


class MlflowServer:
    """An MLflow server on a database, that keeps artifacts at an address."""

    def __init__(self, folder: Path, database: str, artifacts: str, environment: dict[str, str]):
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None
        self._log = folder / "mlflow.log"
        self._words = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port",
            str(self.port), "--workers", "1", "--artifacts-destination", artifacts,
        ]  # fmt: skip
        self._environment = {
            **os.environ, **environment, "MLFLOW_BACKEND_STORE_URI": database,
            "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }  # fmt: skip

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._words, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )
        until = time.monotonic() + 300
        while True:
            with suppress(OSError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            assert self.process.poll() is None, self._log.read_text()[-2000:]
            assert time.monotonic() < until, self._log.read_text()[-2000:]
            time.sleep(0.2)

    def kill(self) -> None:
        """End it as a failing machine would."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class RecordServers:
    """All three, as a group of people would have them: database, artifacts, MLflow."""

    def __init__(self, folder: Path):
        self.s3 = S3Server(folder / "s3.log")
        self.database = Postgres()
        self.folder = folder
        self.bucket, self.mlflow = "", None

    def start(self) -> None:
        self.s3.start()
        self.bucket = self.s3.bucket()
        self.database.start()
        self.database.create()
        self.mlflow = MlflowServer(
            self.folder, self.database.uri, f"s3://{self.bucket}/mlflow",
            {**self.s3.environment, "MLFLOW_S3_ENDPOINT_URL": self.s3.url},
        )  # fmt: skip
        self.mlflow.start()

    def cpu_seconds(self) -> float:
        """What the three have spent, with the processes of theirs that still run."""
        assert self.mlflow is not None
        assert self.mlflow.process is not None
        assert self.s3.process is not None
        first = (self.database.folder / "data" / "postmaster.pid").read_text().split()[0]
        total = 0.0
        for pid in (int(first), self.mlflow.process.pid, self.s3.process.pid):
            process = psutil.Process(pid)
            for one in (process, *process.children(recursive=True)):
                spent = one.cpu_times()
                total += spent.user + spent.system
        return total

    def stop(self) -> None:
        if self.mlflow is not None:
            self.mlflow.kill()
        with suppress(AssertionError):  # it had not started
            self.database.stop("immediate")
        shutil.rmtree(self.database.folder, ignore_errors=True)
        self.s3.stop()


@contextmanager
def record_servers(folder: Path):
    """The three of them, in a folder of their own that is removed in the end."""
    inside = folder / "records"
    inside.mkdir()
    servers = RecordServers(inside)
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()
        shutil.rmtree(inside, ignore_errors=True)
