"""What is in use is said by the registry, wherever the verdict's champion is shown."""

import json
import urllib.request

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.records.cards.reference import AdapterKey
from orchestrator.records.registry.change import BY_MLFLOW, Change
from orchestrator.records.registry.registry_file import REGISTRY_NAME, open_registry
from orchestrator.web.guard import Changes
from orchestrator.web.reading import Reading
from orchestrator.web.server import serving
from orchestrator.web.site import Site
from tests.synthetic_sweeps import write_sweep


@pytest.fixture
def storage(tmp_path):
    made = tmp_path / "runs"
    write_sweep(made, "six", 6)
    write_sweep(made, "other", 6, seed=1)
    return made


def say(storage, event, trial=None, who="ann@lab", **more):
    key = None if trial is None else AdapterKey("six", "id-six-0", trial, 2)
    with open_registry(storage) as registry:
        registry.append(Change(event, more.pop("name", "six"), who=who, adapter=key, **more))


def shown(storage, *words):
    done = CliRunner().invoke(
        app, ["runs", *words, "--storage", str(storage)], env={"COLUMNS": "300"}
    )
    assert done.exit_code == 0, done.output
    return done.stdout


def test_another_one_than_the_verdicts_is_named_everywhere(storage):
    reading = Reading(storage)
    row = reading.sweep_row("six")
    chosen = row["champion"]
    assert row["in_use"]["adapter"] == f"six/{chosen}"
    assert row["in_use"]["words"] is None
    other = next(one for one in ("t001", "t002") if one != chosen)
    say(storage, "promoted", other)
    words = f"n use: six/{other}, chosen by ann@lab on "
    rest = f"; the verdict chose {chosen}."
    found = {(r["sweep"], r["trial"]) for r in reading.search("in_use = true").rows}
    assert found == {("six", other), ("other", reading.sweep_row("other")["champion"])}
    assert [r["trial"] for r in reading.search("champion = true", sweep="six").rows] == [chosen]
    used = reading.sweep_row("six")["in_use"]
    with serving(Site(reading, Changes(allowed=False)), 0) as address:

        def asked(path):
            with urllib.request.urlopen(f"{address}{path}") as answer:
                return answer.read().decode()

        for path in ("/", "/sweeps/six", f"/sweeps/six/trials/{chosen}"):
            assert words in asked(path), path
            assert rest in asked(path), path
        pill = ">in use</span>"
        assert asked("/sweeps/six").count(pill) == 1
        assert pill in asked(f"/sweeps/six/trials/{other}")
        page = asked(f"/sweeps/six/trials/{chosen}")
        assert pill not in page
        assert f"/diff?trial=six%2F{other}&amp;trial=six%2F{chosen}" in page
    for listing in (("list",), ("list", "six"), ("show", "six")):
        assert words in shown(storage, *listing), listing
        assert rest in shown(storage, *listing), listing
    (line,) = [line for line in shown(storage, "list", "six").splitlines() if "(in use)" in line]
    assert line.startswith(other)
    document = json.loads(shown(storage, "show", "six", "--json"))
    assert document["champion"] == chosen
    assert document["in_use"] == used


def test_what_became_of_the_alias_counts_and_a_damaged_registry_is_said(storage):
    reading = Reading(storage)
    chosen = reading.sweep_row("six")["champion"]

    def words():
        return reading.sweep_row("six")["in_use"]["words"]

    def used(sweep="six"):
        rows = reading.search("in_use = true", sweep=sweep, columns=["trial"]).rows
        return [row["trial"] for row in rows]

    say(storage, "withdrawn", who=BY_MLFLOW)
    assert "in use: none, as the alias was taken away in MLflow" in words()
    assert used() == []
    say(storage, "moved", who=BY_MLFLOW, version="7")
    assert "in use: MLflow's version 7, which was made elsewhere" in words()
    say(storage, "promoted", chosen)
    assert words() is None
    # Under a name that no sweep has, too.
    say(storage, "promoted", "t006", name="mine")
    assert used() == sorted({chosen, "t006"})
    registry = storage / REGISTRY_NAME
    registry.write_bytes(registry.read_bytes().replace(b"ann@lab", b"eve@lab", 1))
    assert "in use: not known." in words()
    assert used() == []
