"""Checks of Python and of the packages that a sweep needs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import sys
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from orchestrator.planning.doctor.check import Check
from orchestrator.system.byte_units import GIB
from orchestrator.system.machine import hidden_gpus

DISTRIBUTION = "curlora-orchestrator"
MINIMUM_PYTHON = (3, 11)


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
        text: A requirement as PEP 508 writes it.

    Returns:
        A few words, None when the requirement is met.
    """
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        return f"{text!r} is not understood: {str(error).splitlines()[0]}"
    if requirement.marker is not None and not requirement.marker.evaluate():
        return None  # of another platform or Python
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is missing"
    # A release candidate or a local build that is installed counts by its number.
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} {version} does not meet {requirement.specifier}"
    return None


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
            "early never ends.",
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
