"""PEFT's own tests, run with the configs of CURLoRA and SECURA.

    pip download --no-binary :all: --no-deps peft==0.21.2   # or fetch the archive from pypi.org
    tar xf peft-0.21.2.tar.gz
    python benchmarks/peft_suite.py --source peft-0.21.2
    python benchmarks/peft_suite.py --source peft-0.21.2 --files encoder_decoder -- -k merge

Drives the test files as they are, from a copy in a temporary folder. Changed is only: the lists of
methods, which hold ours alone (`peft_cases.py`); the models, which are random ones
(`tiny_models.py`) instead of the hub's; and what is in `SKIPS_LIFTED`. Tests that take no method of
ours are left out. PEFT's `init_weights=False` fills `U` (SECURA: `B`) at random.

Every failure must be one of `CANNOT_APPLY`, or the exit status is 1. What came out is in
`docs/curlora.md`.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import tempfile
import types
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from peft_cases import CANNOT_APPLY, CASES, SKIPS_LIFTED, Cur, Sec, let_start_changed
from tiny_models import write_models
from transformers.utils import logging

FILES = {name.removeprefix("test_").removesuffix("_models"): name for name in CASES}


class OurMethods:
    """A plugin of pytest: PEFT's tests with our methods, counted."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()

    @pytest.hookimpl(tryfirst=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Put ours in the place of PEFT's methods, in the very lists that its tests hold."""
        module: Any = metafunc.module
        for name, cases in CASES[Path(module.__file__).stem].items():
            getattr(module, name)[:] = cases
        for place, name in SKIPS_LIFTED:
            if hasattr(sys.modules.get(f"tests.{place}"), name):
                setattr(sys.modules[f"tests.{place}"], name, lambda *_: None)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[Any]) -> None:
        """Leave out what takes no method of ours."""
        ours = [item for item in items if _takes_ours(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in ours])
        items[:] = ours

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test by what came of it, and why."""
        test = report.nodeid.split("::")[-1]
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.outcomes[_judged(test, crash.message if crash else str(report.longrepr))] += 1
        elif report.skipped:
            reason: Any = report.longrepr
            self.outcomes["skips itself", str(reason[2]).removeprefix("Skipped: ")] += 1
        elif report.when == "call":
            self.outcomes["passed", ""] += 1


def _takes_ours(item: Any) -> bool:
    return hasattr(item, "callspec") and item.callspec.params.get("config_cls") in (Cur, Sec)


def _judged(test: str, error: str) -> tuple[str, str]:
    name = test.partition("[")[0]
    for reason in CANNOT_APPLY:
        if re.match(reason.tests, test) and re.search(reason.error, error):
            return "cannot apply", f"{name}: {reason.why}"
    return "failed", name


def _stand_in_for_diffusers() -> None:
    """Let PEFT's tests import the one class of diffusers that they name, where it is missing."""
    if importlib.util.find_spec("diffusers") is None:
        module: Any = types.ModuleType("diffusers")
        module.__spec__ = importlib.machinery.ModuleSpec("diffusers", None)
        module.StableDiffusionPipeline = type("StableDiffusionPipeline", (), {})
        sys.modules["diffusers"] = module


def _check_version(source: Path) -> str:
    found = re.search(
        r"^Version: (.+)$", (source / "PKG-INFO").read_text(encoding="utf-8"), re.MULTILINE
    )
    theirs, installed = found and found[1], importlib.metadata.version("peft")
    if theirs != installed:
        raise SystemExit(
            f"{source} holds PEFT {theirs}, but {installed} is installed. Unpack the source "
            f"distribution of {installed}."
        )
    return installed


def _run(source: Path, files: list[str], options: list[str]) -> Counter[tuple[str, str]]:
    plugin = OurMethods()
    plain = ["--rootdir=.", "-c", os.devnull, "-p", "no:cacheprovider", "-q", "--tb=short"]
    with tempfile.TemporaryDirectory(prefix="peft-suite-") as folder:
        write_models(Path(folder))
        shutil.copytree(source / "tests", Path(folder, "tests"))
        Path(folder, "tests", "__init__.py").touch()  # they import from each other, relatively
        before = Path.cwd()
        os.chdir(folder)
        try:
            paths = [f"tests/{FILES[name]}.py" for name in files]
            pytest.main([*plain, *options, *paths], plugins=[plugin])
        finally:
            os.chdir(before)
    return plugin.outcomes


def main() -> int:
    """Run the files asked for and print what came of their tests.

    Returns:
        0 when every test passed, skipped itself or cannot apply for a known reason, else 1.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="unpacked source distribution")
    parser.add_argument("--files", nargs="+", choices=FILES, default=["decoder"])
    parser.add_argument("rest", nargs="*", metavar="-- OPTIONS", help="for pytest")
    options = parser.parse_args()
    version = _check_version(options.source)
    logging.disable_progress_bar()
    _stand_in_for_diffusers()
    let_start_changed()
    outcomes = _run(options.source.resolve(), options.files, options.rest)
    print(f"\nPEFT {version}, transformers {importlib.metadata.version('transformers')}, ", end="")
    print(f"torch {torch.__version__}; {', '.join(options.files)}")
    for (outcome, why), count in sorted(outcomes.items()):
        print(f"{count:5} {outcome}{': ' if why else ''}{why}")
    return int(not outcomes or any(outcome == "failed" for outcome, _ in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
