"""Which packages each step of `gpu_day.sh` needs, and which of them are missing here.

    python benchmarks/gpu_packages.py --json packages.json
    python benchmarks/gpu_packages.py --lacks 2_engines      # exit code 1 if that one cannot run

What is needed is read from the sources: the packages that the step's script imports at its top, and
every module of the project that it thereby loads. Nothing but the standard library is needed here.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from results_page import ROOT, installed_version

FOLDER = ROOT / "benchmarks"
STEPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "1_same": ("gpu_same", ()),
    "2_engines": ("gpu_engines", ("tokenizers",)),
    "5_sweeps": ("gpu_sweeps", ("ray", "mlflow", "optuna", "deepspeed", "datasets", "pandas")),
    "3_adapter_step": ("adapter_step", ()),
    "4_throughput": ("packed_gpu", ()),
}
"""Each step's script, and what is imported inside functions that it calls."""
DISTRIBUTIONS = {"yaml": "pyyaml"}
MAY_BE_THERE = ("deepspeed", "attrs", "bitsandbytes", "torchao", "triton", "accelerate")
"""Without them some parts are left out."""


def needed(script: str) -> set[str]:
    """The packages of others that a script loads at its start.

    Args:
        script: The name of a script beside this one, without ending.

    Returns:
        Names that are imported, the standard library's left out.
    """
    waiting, seen, others = [script], set[str](), set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        path = _source(name)
        if path is None:  # a class or a function, not a module
            continue
        # The packages around a module are loaded before it.
        waiting += [name.rsplit(".", n)[0] for n in range(1, name.count(".") + 1)]
        for found in _imports(ast.parse(path.read_text(encoding="utf-8"))):
            root = found.partition(".")[0]
            if (ROOT / root).is_dir() or _source(root) is not None:
                waiting.append(found)
            elif root not in sys.stdlib_module_names:
                others.add(root)
    return others


def _source(module: str) -> Path | None:
    """The file of a module of the project, or of a script beside this one."""
    for root in (ROOT, FOLDER):
        place = root.joinpath(*module.split("."))
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return file
    return None


def _imports(node: ast.AST) -> Iterator[str]:
    """What a module imports while it is loaded: not in functions, not for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield child.module
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        else:
            yield from _imports(child)


def missing(step: str) -> list[str]:
    """The packages that a step needs and that are not installed here."""
    script, more = STEPS[step]
    return sorted(n for n in needed(script) | set(more) if importlib.util.find_spec(n) is None)


def facts() -> dict[str, Any]:
    """What is there and what is not."""
    wanted = sorted({n for script, more in STEPS.values() for n in needed(script) | set(more)})
    return {
        "python": platform.python_version(),
        "packages": {n: installed_version(DISTRIBUTIONS.get(n, n)) for n in wanted},
        "may_be_there": {n: installed_version(n) for n in MAY_BE_THERE},
        "missing": {step: missing(step) for step in STEPS},
        "curlora": _imported("import curlora"),
        "cuda": _imported(
            "import torch; print(torch.version.cuda, torch.cuda.get_device_name(), "
            "torch.cuda.get_device_capability(), torch.cuda.mem_get_info())"
        ),
    }


def _imported(code: str) -> str:
    """What some code prints in a process of its own, or the last line of why it failed."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    text = done.stdout if done.returncode == 0 else done.stderr
    return text.strip().rpartition("\n")[2] or "fine"


def main() -> None:
    """Print and keep what is there, or say whether one step can run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="where the facts are kept")
    parser.add_argument("--lacks", choices=STEPS, help="only tell what this step lacks")
    given = parser.parse_args()
    if given.lacks:
        lacking = missing(given.lacks)
        print(json.dumps({"missing": lacking}))
        sys.exit(bool(lacking))
    text = json.dumps(facts(), indent=1)
    print(text)
    if given.json is not None:
        given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
