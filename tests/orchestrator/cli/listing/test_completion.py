"""What Tab proposes, asked for as bash asks."""

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.records.cards.reference import AdapterKey
from orchestrator.records.registry.change import Change
from orchestrator.records.registry.registry_file import open_registry
from tests.synthetic_sweeps import write_sweep


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a file, and a storage of two sweeps and a champion of another name."""
    folder = tmp_path_factory.mktemp("completed")
    for name in ("six", "chaos"):
        write_sweep(folder / "runs", name, 6)
    (folder / "six.yaml").write_text("name: six\n")
    with open_registry(folder / "runs") as registry:
        adapter = AdapterKey("six", "id-six-0", "t002", 2, None, None)
        registry.append(Change("promoted", "other", who="u@h", reason="r", adapter=adapter))
    return folder


@pytest.fixture
def proposed(place, monkeypatch):
    monkeypatch.chdir(place)

    def ask(words):
        """What is proposed for the last word, which may be empty."""
        env = {
            "_ORCHESTRATE_COMPLETE": "complete_bash",
            "COMP_WORDS": f"orchestrate {words}",
            "COMP_CWORD": str(words.count(" ") + 1),
        }
        return CliRunner().invoke(app, [], env=env, prog_name="orchestrate").stdout.split()

    return ask


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("ui --storage runs ch", ["chaos"]),
        ("report ch", ["chaos"]),
        ("prune six ch", ["chaos"]),
        ("select --from ch", ["chaos"]),
        ("sweep six.yaml --add --like t00", ["t001", "t002", "t003", "t004", "t005", "t006"]),
        ("sweep none.yaml --add --like t00", []),
        ("serve six/t002@", ["six/t002@mood", "six/t002@topic"]),
        ("serve six/t001 chaos@", ["chaos@champion"]),
        ("champion promote six/t003@", ["six/t003@mood"]),
        ("champion promote six/t001 --to ot", ["other"]),
        ("champion show ot", ["other"]),
        ("champion show si", ["six"]),
        ("champion rollback o", ["other"]),
        ("export ot", ["other@champion"]),
        ("predict six/t001 --task t", ["topic"]),
        ("predict six/t001@mood --task ", ["mood"]),
        ("predict other@champion --task m", ["mood"]),
        ("predict six@champion --task m", ["mood"]),
        ("predict nothing@champion --task m", []),
        ("runs list --sort gain_l", ["gain_low"]),
        ("runs list --sort -gain_l", ["-gain_low"]),
        ("runs list --sort=-gain_l", ["-gain_low"]),
        ("runs list --sort state,-gain_l", ["state,-gain_low"]),
        ("runs list --so", ["--sort"]),
    ],
)
def test_tab_completes(proposed, words, found):
    assert proposed(words) == found
