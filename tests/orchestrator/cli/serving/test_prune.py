"""What `prune` says before and after: which trials, and why others stay."""

import re

from typer.testing import CliRunner

from orchestrator.cli import app
from tests.synthetic_sweeps import write_sweep


def prune(storage, *words):
    command = ["prune", "--older-than", "1s", "--storage", str(storage), *words]
    answer = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def test_trials_and_reasons_are_named_and_nothing_is_said_to_be_nothing(tmp_path):
    folder = write_sweep(tmp_path, "six", 6)
    assert prune(tmp_path).startswith("Nothing to prune.")
    for number in range(1, 7):
        adapter = folder / "trials" / f"t00{number}" / "adapter"
        adapter.mkdir(parents=True)
        (adapter / "weights").write_bytes(b"x" * 1000)
    said = prune(tmp_path)
    stay = re.search(r"six: (\d) trials stay, whatever their age: (.*)\.", said)
    kept = set(re.findall(r"t00\d", stay[2]))
    assert len(kept) == int(stay[1])
    assert "(it is or was champion)" in stay[2]
    assert "base" not in stay[2]
    gone = set(re.findall(r"t00\d", said[: stay.start()]))
    assert gone == {f"t00{number}" for number in range(1, 7)} - kept
    prune(tmp_path, "--yes")
    assert not any((folder / "trials" / name / "adapter").exists() for name in gone)
    assert prune(tmp_path).startswith("Nothing to prune.")
