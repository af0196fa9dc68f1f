"""`gpu_day.sh` needs little, and loses nothing when a part fails."""

import argparse
import json
import re
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_day.sh"
BARE = {"torch", "transformers", "peft", "safetensors"}
"""PEFT and transformers bring safetensors."""


@pytest.fixture
def packages(benchmark_module):
    return benchmark_module("gpu_packages")


@pytest.mark.parametrize(
    ("step", "more"),
    [
        ("1_same", set()), ("3_adapter_step", set()), ("4_throughput", set()),
        ("2_engines", {"pydantic", "pydantic_core", "yaml", "numpy"}),
    ],
)  # fmt: skip
def test_a_step_loads_nothing_that_a_bare_machine_lacks(packages, step, more):
    script, _ = packages.STEPS[step]
    assert BARE <= packages.needed(script) <= BARE | more


def test_what_a_script_needs_is_found_through_all_that_it_loads(packages):
    assert "typer" in packages.needed("orchestrator.cli.sweeps")
    assert "pydantic" in packages.needed("engine_parity")
    assert "deepspeed" not in packages.needed("engine_parity")  # imported within functions


def test_the_steps_are_those_of_which_the_packages_are_known(packages):
    told = re.findall(r"^step (\S+) \d+ (\S+)\.py", SCRIPT.read_text(), re.MULTILINE)
    assert told == [(step, script) for step, (script, _) in packages.STEPS.items()]


def test_a_missing_package_is_named(packages, monkeypatch):
    monkeypatch.setitem(packages.STEPS, "1_same", ("gpu_same", ("no_such_package",)))
    assert packages.missing("1_same") == ["no_such_package"]


def record_of(benchmark_module, file, **options):
    given = {"device": "cpu", "tiny": True, "json": file, "seconds": 60.0, "until": None}
    given |= options
    return benchmark_module("gpu_record").Record(argparse.Namespace(**given), echo=False)


def test_a_part_that_fails_takes_no_other_along(benchmark_module, tmp_path, capsys):
    file = tmp_path / "record.json"
    record = record_of(benchmark_module, file)
    assert record.part("one", lambda: {"ok": True}) == {"ok": True}
    assert record.part("two", lambda: 1 / 0) is None
    assert record.part("three", lambda: __import__("no_such_package")) is None
    assert "ended" not in json.loads(file.read_text())
    assert record.end() is False
    kept = json.loads(file.read_text())
    assert kept["parts"] == {
        "one": {"ok": True},
        "two": {"error": "ZeroDivisionError: division by zero"},
        "three": {"left_out": "no_such_package is not installed"},
    }
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("limit", [{"seconds": -1.0}, {"until": 1.0}])
def test_no_part_is_begun_when_time_is_up(benchmark_module, tmp_path, limit):
    file = tmp_path / "record.json"
    record = record_of(benchmark_module, file, **limit)
    assert record.part("late", dict) is None
    assert json.loads(file.read_text())["left_out"] == ["late"]
    assert record.end() is True
