"""An adapter that was pruned is kept nowhere: not in lists, not on pages, not for programs."""

import json
import time
import urllib.request

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.records.cards.pruned import pruned_at
from orchestrator.registry.index.index import open_index
from orchestrator.serving.pruning.plan import Rule, carry_out, plan
from orchestrator.serving.pruning.storage import old_sweeps
from orchestrator.web.guard import Changes
from orchestrator.web.reading import Reading
from orchestrator.web.server import serving
from orchestrator.web.site import Site
from tests.synthetic_sweeps import write_sweep


@pytest.fixture
def storage(tmp_path):
    """A sweep whose trials have adapters, which are files."""
    made = tmp_path / "runs"
    write_sweep(made, "forty", 40)
    with open_index(made) as index:
        kept = [row["trial"] for row in index.search("adapter = true").rows]
    for trial in kept:
        for place in ("adapter", "adapters/after-1"):
            folder = made / "forty" / "trials" / trial / place
            folder.mkdir(parents=True)
            (folder / "adapter.safetensors").write_bytes(b"weights")
    return made


def prune(storage):
    """Let go what nothing needs; gives the trials' names."""
    rule, sweeps = Rule(1.0, "front", caches=False, runs=False), old_sweeps(storage, None)
    planned = plan(sweeps, storage, rule, (), time.time() + 1e9)
    assert carry_out(planned, sweeps, rule) == []
    return {piece.trial for piece in planned.pieces}


def listed(storage, *words):
    done = CliRunner().invoke(app, ["runs", *words, "--storage", str(storage), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def asked(address, path):
    with urllib.request.urlopen(f"{address}{path}") as answer:
        return answer.read().decode()


def test_what_was_pruned_is_kept_nowhere(storage):
    today = f"pruned on {time.strftime('%Y-%m-%d', time.gmtime())}"
    before = {row["trial"] for row in listed(storage, "list", "--filter", "adapter=true")}
    reading = Reading(storage)
    with serving(Site(reading, Changes(allowed=False)), 0) as address:
        assert "pruned on" not in asked(address, "/sweeps/forty/trials/t001")
        gone = prune(storage)
        assert gone
        assert gone < before
        rows = {row["trial"]: row for row in listed(storage, "list", "forty")}
        assert {name for name, row in rows.items() if row["adapter"]} == before - gone
        assert {name for name, row in rows.items() if row["pruned"]} == gone
        for words in ("adapter = true", "pruned is missing and adapter = true"):
            kept = {row["trial"] for row in reading.search(words).rows}
            assert kept == before - gone
        assert {row["trial"] for row in reading.search("pruned < 1min ago").rows} == set()
        assert {row["trial"] for row in reading.search("pruned > 1h ago").rows} == gone
        name = min(gone)
        page = asked(address, f"/sweeps/forty/trials/{name}")
        assert page.count(f">{today}<") == 1
        assert ">kept<" not in page
        assert f"it was {today}" in asked(address, f"/sweeps/forty/trials/{name}/cards/2")
        drawn = json.loads(asked(address, f"/data/sweeps/forty/lineage?trial={name}"))
        assert [node["kept"] for node in drawn["nodes"]] == [True, False, False]
        assert today in drawn["nodes"][-1]["words"]
        # With the folder of all went that of each.
        assert pruned_at(storage / "forty" / "trials" / name / "adapters" / "after-1")
        own = listed(storage, "show", "forty", name)
        assert (own["adapter"], own["pruned"]) == (None, rows[name]["pruned"])


def test_notes_are_found_by_an_index_that_is_made_anew_and_lose_what_was_brought_back(storage):
    with open_index(storage) as index:
        gone = prune(storage)
        index.rebuild()
        assert {row["trial"] for row in index.search("pruned is not missing").rows} == gone
        name = min(gone)
        (storage / "forty" / "trials" / name / "adapter").mkdir()
        index.rebuild()
        assert name in {row["trial"] for row in index.search("adapter = true").rows}
