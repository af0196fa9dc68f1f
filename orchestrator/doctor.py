"""What a machine needs to run a sweep: each check says what it found and how to mend it.

Nothing heavier than torch is imported, and no Ray, MLflow or DeepSpeed is started.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.cluster import no_ray_folder
from orchestrator.communication_op import BUILD_SECONDS, forgotten_lock, op_folder
from orchestrator.foreign_settings import (
    hidden_gpus,
    hub_cache,
    hub_hindered,
    ray_folder,
    set_aside,
)
from orchestrator.machine import memory, shared_memory, usable_cores
from orchestrator.preflight import existing_folder, free_disk, probe_storage
from orchestrator.tracking_address import tracking_uri
from orchestrator.tracking_database import network_file_system

Status = Literal["PASS", "WARN", "FAIL"]

DISTRIBUTION = "curlora-orchestrator"
MINIMUM_PYTHON = (3, 11)
BUILD_CODE = "from orchestrator.engine import build_communication_op as b; b()"
"""Builds the op in a process of its own: DeepSpeed prints while it is imported and compiles."""

GIB = 2**30
ENOUGH_MEMORY = 4 * GIB
ENOUGH_DISK = 10 * GIB
ENOUGH_SHARED_MEMORY = 2 * GIB


@dataclass(frozen=True)
class Check:
    """The outcome of one check."""

    name: str
    status: Status
    found: str
    mend: str = ""
    """What to do, empty for PASS."""


def examine(storage: Path, *, build: bool = False) -> list[Check]:
    """Run every check.

    Args:
        storage: The folder that sweeps are kept in; it need not exist yet.
        build: Build DeepSpeed's communication op first, which takes about a minute.

    Returns:
        The outcomes, in the order in which to mend them.
    """
    checks: list[Callable[[], Check]] = [
        check_python,
        check_versions,
        check_torch,
        check_compiler,
        check_ninja,
        build_op if build else check_op,
        check_ray,
        check_mlflow,
        check_cores,
        check_memory,
        check_shared_memory,
        check_ray_folder,
        check_environment,
        check_hub,
        lambda: check_writable(storage),
        lambda: check_disk(storage),
        lambda: check_database(storage),
    ]
    return [check() for check in checks]


def worst(checks: list[Check]) -> Status:
    """The worst status among the checks."""
    found = {check.status for check in checks}
    return "FAIL" if "FAIL" in found else "WARN" if "WARN" in found else "PASS"


def check_python() -> Check:
    """The interpreter's version and whether it runs in a virtual environment."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] < MINIMUM_PYTHON:
        return Check("Python", "FAIL", version, "Install Python 3.11 or newer.")
    return Check("Python", "PASS", f"{version} at {sys.executable}")


def requirements() -> list[str]:
    """What this package requires, without the extras for developers."""
    try:
        declared = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [text for text in declared if "extra ==" not in text]


def check_versions() -> Check:
    """Every required package against its lower bound."""
    wanted = requirements()
    name = "Packages"
    if not wanted:
        return Check(
            name,
            "WARN",
            f"{DISTRIBUTION} is not installed",
            "Run `make venv` or `pip install -e .`.",
        )
    wrong = [problem for text in wanted if (problem := requirement_problem(text)) is not None]
    if wrong:
        return Check(
            name,
            "FAIL",
            "; ".join(wrong),
            "Run `make venv`, or `pip install -c constraints.txt -e .`.",
        )
    return Check(name, "PASS", f"all {len(wanted)} meet their lower bounds")


def requirement_problem(text: str) -> str | None:
    """What is wrong with the installed package of a requirement such as "torch>=2.6".

    Args:
        text: A requirement with at most a lower bound.

    Returns:
        A few words, None when the requirement is met.
    """
    match = re.match(r"^\s*([A-Za-z0-9_.-]+)\s*(?:\[[^\]]*\])?\s*(?:>=\s*([0-9][^\s,;]*))?", text)
    if match is None:
        return f"{text!r} is not understood"
    name, bound = match.groups()
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"{name} is missing"
    if bound is not None and _release(version) < _release(bound):
        return f"{name} {version} is older than {bound}"
    return None


def _release(version: str) -> tuple[int, ...]:
    """The release numbers of a version, trailing zeros left out so that 3.0 equals 3.0.0."""
    numbers = re.match(r"\d+(?:\.\d+)*", version)
    parts = [int(part) for part in numbers.group().split(".")] if numbers else [0]
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def check_torch() -> Check:
    """The torch build and the GPUs that it sees."""
    if importlib.util.find_spec("torch") is None:
        return Check("torch", "FAIL", "missing", "Run `make venv`.")
    import torch

    if torch.cuda.is_available():
        names = ", ".join(
            f"{torch.cuda.get_device_name(i)} "
            f"({torch.cuda.get_device_properties(i).total_memory / GIB:.0f} GiB)"
            for i in range(torch.cuda.device_count())
        )
        return Check("torch", "PASS", f"{torch.__version__}, CUDA {torch.version.cuda}: {names}")
    if torch.version.cuda is not None and (hidden := hidden_gpus()):
        return Check(
            "torch",
            "WARN",
            f"{torch.__version__}, no GPU is seen: {hidden}",
            "Unset it to train on a GPU; trials run on the CPU now.",
        )
    if torch.version.cuda is not None or shutil.which("nvidia-smi") is None:
        why = "no GPU is seen" if torch.version.cuda is not None else "CPU build, no GPU driver"
        return Check("torch", "PASS", f"{torch.__version__}, {why}: trials run on the CPU")
    return Check(
        "torch",
        "WARN",
        f"{torch.__version__} is a CPU build, but this machine has a GPU driver",
        "Install the CUDA build of the same version of torch.",
    )


def check_compiler() -> Check:
    """The C++ compiler that DeepSpeed's ops need."""
    compiler = os.environ.get("CXX") or "g++"
    path = shutil.which(compiler)
    if path is None:
        return Check(
            "C++ compiler",
            "FAIL",
            f"{compiler} is not on the path",
            "Install it (Debian and Ubuntu: `apt-get install g++`); DeepSpeed compiles with it.",
        )
    answer = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    first = answer.stdout.splitlines()[0] if answer.stdout else path
    return Check("C++ compiler", "PASS", first)


def check_ninja() -> Check:
    """The build tool that torch's extensions need, in the environment or on the path."""
    beside = Path(sys.executable).parent / "ninja"
    path = str(beside) if beside.is_file() else shutil.which("ninja")
    if path is None:
        return Check("ninja", "FAIL", "missing", "Run `pip install ninja`.")
    return Check("ninja", "PASS", path)


def check_op() -> Check:
    """Whether DeepSpeed's communication op was built already."""
    name = "DeepSpeed op"
    folder = op_folder()
    lock = forgotten_lock()
    if lock is not None:
        return Check(
            name, "FAIL", f"the lock of a build that never ended: {lock}", f"Remove {lock}."
        )
    built = sorted(folder.glob("*.so"))
    if built:
        return Check(name, "PASS", str(built[-1]))
    return Check(
        name,
        "WARN",
        f"not built yet in {folder}",
        "Run `orchestrate doctor --build` (about a minute); else the first trial builds it.",
    )


def build_op() -> Check:
    """Build DeepSpeed's communication op, and load it once."""
    try:
        answer = subprocess.run(
            [sys.executable, "-c", BUILD_CODE],
            capture_output=True,
            text=True,
            check=False,
            timeout=BUILD_SECONDS,
            # ninja stands beside the interpreter, which need not be on the path.
            env=os.environ | {"PATH": _path_with_interpreter()},
        )
    except subprocess.TimeoutExpired:
        return Check(
            "DeepSpeed op",
            "FAIL",
            f"the build did not end within {BUILD_SECONDS} s",
            f"Remove {op_folder()} (a lock may be left there) and run this again.",
        )
    if answer.returncode == 0:
        return check_op()
    lines = (answer.stderr.strip() or answer.stdout.strip()).splitlines() or ["no output"]
    return Check(
        "DeepSpeed op",
        "FAIL",
        f"the build failed: {lines[-1]}",
        "Mend the C++ compiler and ninja above, then run `orchestrate doctor --build` again.",
    )


def _path_with_interpreter() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # one that replaced itself when it was imported, as `colorful` does
        return True


def check_ray() -> Check:
    """Ray with what its `default` extra brings."""
    if importlib.util.find_spec("ray") is None:
        return Check("ray[default]", "FAIL", "ray is missing", "Run `make venv`.")
    missing = [
        module
        for module in ("aiohttp", "aiohttp_cors", "colorful", "opencensus", "prometheus_client")
        if not _installed(module)
    ]
    if missing:
        return Check(
            "ray[default]",
            "FAIL",
            f"installed without `default`: {', '.join(missing)} missing",
            "Run `pip install 'ray[default,train,tune]'`. Without it, a sweep that stops trials "
            "early waits for ever.",
        )
    return Check("ray[default]", "PASS", importlib.metadata.version("ray"))


def check_mlflow() -> Check:
    """MLflow, with its command, which shows the records."""
    if importlib.util.find_spec("mlflow") is None:
        return Check("MLflow", "FAIL", "missing", "Run `make venv`.")
    version = importlib.metadata.version("mlflow")
    command = Path(sys.executable).parent / "mlflow"
    if not command.is_file():
        return Check(
            "MLflow",
            "WARN",
            f"{version}, without the `mlflow` command beside {sys.executable}",
            "Run `pip install --force-reinstall --no-deps mlflow`.",
        )
    return Check("MLflow", "PASS", version)


def check_cores() -> Check:
    """How many cores this process may use."""
    cores = usable_cores()
    if cores < 2:
        return Check(
            "Cores",
            "WARN",
            f"{cores}",
            "Trials and the driver share one core; expect each to take about twice as long.",
        )
    return Check("Cores", "PASS", f"{cores}")


def check_memory() -> Check:
    """Memory that is free now."""
    found = memory()
    if found is None:
        return Check("Memory", "WARN", "unknown", "See `orchestrate plan FILE` for what is needed.")
    total, available = found
    text = f"{available / GIB:.1f} GiB free of {total / GIB:.1f} GiB"
    if available < ENOUGH_MEMORY:
        return Check(
            "Memory",
            "WARN",
            text,
            "Close other programs, or lower `search.max_concurrent`; `orchestrate plan FILE` says "
            "what a trial needs.",
        )
    return Check("Memory", "PASS", text)


def check_shared_memory() -> Check:
    """Ray's object store lives in /dev/shm."""
    name = "/dev/shm"
    free = shared_memory()
    if free is None:
        return Check(name, "WARN", "missing", "Ray will keep its objects on disk, slowly.")
    text = f"{free / GIB:.1f} GiB free"
    if free < ENOUGH_SHARED_MEMORY:
        return Check(
            name,
            "WARN",
            text,
            "In a container, raise it (`docker run --shm-size=4g`); else Ray keeps its objects on "
            "disk, slowly.",
        )
    return Check(name, "PASS", text)


def check_ray_folder() -> Check:
    """Where a Ray of our own keeps its sockets and logs."""
    name = "Ray's folder"
    try:
        folder = ray_folder()
    except OSError as error:
        return Check(name, "FAIL", "none is usable", no_ray_folder(error))
    if folder.refused:
        return Check(
            name,
            "WARN",
            f"{folder.path}: {folder.refused}",
            "Nothing needs to be done, if there is room for Ray's logs. To choose another, set "
            "RAY_TMPDIR to a folder with a short path.",
        )
    return Check(name, "PASS", str(folder.path))


def check_environment() -> Check:
    """Settings of other programs that a sweep on this machine does not follow."""
    name = "Environment"
    found = set_aside()
    if not found:
        return Check(name, "PASS", "nothing that leads to another Ray")
    return Check(
        name,
        "PASS",
        f"{', '.join(found)}: not followed by a sweep on this machine; `--address` joins a cluster",
    )


def check_hub() -> Check:
    """Whether models and data of the hub can be asked for and kept."""
    hindered = hub_hindered()
    if not hindered:
        return Check("Hub", "PASS", f"kept in {hub_cache()}")
    return Check(
        "Hub",
        "WARN",
        hindered,
        "Models and data of the hub that are not on this machine cannot be had; those in folders "
        "need no hub.",
    )


def check_writable(storage: Path) -> Check:
    """Whether sweeps can be kept in the storage folder."""
    existing = existing_folder(storage)
    try:
        probe_storage(existing)
    except OSError as error:
        return Check(
            "Storage",
            "FAIL",
            f"{existing} cannot be written: {error.strerror or error}",
            "Set `storage` in the experiment file to a folder that you can write to.",
        )
    note = "" if existing == storage.absolute() else ", which is to be made"
    return Check("Storage", "PASS", f"{storage}{note}")


def check_database(storage: Path) -> Check:
    """Whether MLflow's database in the storage folder lies on a disk that SQLite can trust."""
    kind = network_file_system(tracking_uri(None, storage))
    if kind is not None:
        return Check(
            "Database",
            "WARN",
            f"{storage} is on a network file system ({kind}), and SQLite relies on locks that "
            "such ones keep badly",
            "Name a file on a local disk by `tracking: {uri: sqlite:////home/YOU/mlflow.db}`, or a "
            "server.",
        )
    return Check("Database", "PASS", "MLflow's database would be on a disk of this machine")


def check_disk(storage: Path) -> Check:
    """Room where sweeps are kept."""
    free = free_disk(storage)
    if free is None:
        return Check("Disk", "WARN", f"unknown in {storage}", "See whether the disk answers.")
    text = f"{free / GIB:.1f} GiB free in {storage}"
    if free < ENOUGH_DISK:
        return Check(
            "Disk",
            "WARN",
            text,
            "Free some, or set `storage` elsewhere; `orchestrate plan FILE` says what is needed.",
        )
    return Check("Disk", "PASS", text)


def as_document(checks: list[Check]) -> dict[str, Any]:
    """The checks for programs."""
    return {"status": worst(checks), "checks": [asdict(check) for check in checks]}


def render(checks: list[Check]) -> RenderableType:
    """The checks for people: a line each, and below it how to mend what is wrong.

    Args:
        checks: The outcomes.

    Returns:
        The lines and a sentence on all of them.
    """
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(no_wrap=True)
    rows.add_column(no_wrap=True)
    rows.add_column(overflow="fold")
    styles = {"PASS": "green", "WARN": "yellow", "FAIL": "bold red"}
    for check in checks:
        words = Text(check.found)
        words.append("\n" + check.mend if check.mend else "", style="italic")
        rows.add_row(Text(check.status, style=styles[check.status]), Text(check.name), words)
    return Group(rows, Text(), Text(_summary(checks)))


def _summary(checks: list[Check]) -> str:
    count = {
        status: sum(check.status == status for check in checks)
        for status in ("PASS", "WARN", "FAIL")
    }
    words = ", ".join(f"{number} {status.lower()}" for status, number in count.items())
    verdict = {
        "PASS": "Ready.",
        "WARN": "A sweep will run; the warnings say what it may cost.",
        "FAIL": "Mend what failed first.",
    }
    return f"{words}. {verdict[worst(checks)]}"
