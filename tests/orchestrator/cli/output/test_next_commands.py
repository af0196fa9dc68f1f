import subprocess
import sys

from orchestrator.cli.output import next_commands


def test_without_a_script_the_module_is_named_and_answers(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    monkeypatch.setattr(next_commands.sys, "executable", str(python))
    assert next_commands.program() == [str(python), "-m", "orchestrator"]
    (tmp_path / "orchestrate").touch()
    monkeypatch.chdir(tmp_path)
    assert next_commands.program() == ["orchestrate"]


def test_the_module_is_the_program():
    said = subprocess.run(
        [sys.executable, "-m", "orchestrator", "sweep"], capture_output=True, text=True, check=False
    )
    assert said.returncode == 2
    assert "Missing argument" in said.stderr
