"""What a crash cut short is removed and said; other damage is named and left as it is."""

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.records.cards.reference import AdapterKey
from orchestrator.records.errors import RegistryError
from orchestrator.records.registry.change import Change
from orchestrator.records.registry.registry_file import open_registry, read_changes
from orchestrator.records.registry.registry_repair import RegistryRepair, repair_registry
from tests import written_journals

KEYS = [AdapterKey("demo", "id", f"t00{n}", 1) for n in range(1, 5)]


@pytest.fixture
def file(tmp_path):
    """A registry of four lines: a verdict, two promotions, and what was done in MLflow."""
    with open_registry(tmp_path, clock=lambda: 7.0) as registry:
        registry.append(Change("decided", "demo", who="driver", adapter=KEYS[0]))
        registry.append(Change("promoted", "demo", who="me@here", reason="so", adapter=KEYS[1]))
        registry.append(Change("promoted", "demo", who="you@there", reason="no", adapter=KEYS[2]))
        registry.append(Change("renamed", "demo", what="experiment", now="of mine"))
    return tmp_path / "registry.jsonl"


@pytest.mark.parametrize("cut", [1, 20])
def test_a_line_that_was_cut_short_is_removed_and_said(file, tmp_path, cut):
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    file.write_bytes(whole[:-cut])
    assert repair_registry(tmp_path) == RegistryRepair(3, len(lines[-1]) - cut)
    assert file.read_bytes() == b"".join(lines[:-1])
    assert repair_registry(tmp_path) == RegistryRepair(3, 0)


def test_a_storage_folder_without_a_registry_has_nothing_to_repair(tmp_path):
    assert repair_registry(tmp_path) is None
    assert not (tmp_path / "registry.jsonl").exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda li: [*li[:2], li[2].replace(b"you", b"him"), li[3]],
         [r"vouched for by none: line 3, 4\.", "2 lines can be", "demo/t002 .promoted by me@here"]),
        (lambda li: [li[0], li[1][:30] + b"\n", *li[2:]],
         ["line 2", "demo/t003 .promoted by you@there"]),
        (lambda li: [li[0], *li[2:]], [r"line 2\.", "demo/t003"]),
        (lambda li: [li[1], li[0], *li[2:]], ["out of order", "4 lines", "demo/t003"]),
        (lambda li: [b"noise\n"] * 4, ["0 lines can be read. Nothing was changed"]),
    ],
)  # fmt: skip
def test_other_damage_is_refused_with_its_line_and_what_can_be_read(file, tmp_path, damage, said):
    broken = b"".join(damage(file.read_bytes().splitlines(keepends=True)))
    file.write_bytes(broken)
    for words in [*said, "Restore the file from a copy; or move it away"]:
        with pytest.raises(RegistryError, match=words):
            repair_registry(tmp_path)
    assert file.read_bytes() == broken
    assert [path.name for path in tmp_path.iterdir()] == ["registry.jsonl"]


def test_the_command_says_what_it_found(file, tmp_path, with_champion, empty_database):
    import shutil

    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    written_journals.write(tmp_path, "demo", with_champion)
    file.write_bytes(file.read_bytes()[:-9])
    done = CliRunner().invoke(app, ["repair", "demo", "--storage", str(tmp_path)])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "the registry is whole: 3 lines; " in said
    assert "a line that a crash cut short" in said
    assert [change.n for change in read_changes(tmp_path)][:3] == [0, 1, 2]
    file.write_bytes(file.read_bytes().replace(b"me@here", b"me@home"))
    done = CliRunner().invoke(app, ["repair", "demo", "--storage", str(tmp_path)])
    assert done.exit_code != 0
    assert "vouched for by none: line 2" in " ".join(done.output.split())
