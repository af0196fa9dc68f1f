"""Checks of what compiles DeepSpeed's communication op, and its build."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from orchestrator.engines.shm_op import BUILD_SECONDS, forgotten_lock, op_folder
from orchestrator.planning.doctor.check import Check

BUILD_CODE = "from orchestrator.engines.shm_op import build_communication_op as b; b()"
"""Builds the op in a process of its own: DeepSpeed prints while it is imported and compiles."""


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
        "Fix the C++ compiler and ninja above, then run `orchestrate doctor --build` again.",
    )


def _path_with_interpreter() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
