import importlib.util
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.cli import doctor
from orchestrator.engines.shm_op import BUILD_SECONDS, OP_NAME, op_folder
from orchestrator.planning.doctor import build, disk, examine, packages, resources
from orchestrator.planning.doctor.check import Check, worst
from orchestrator.system import byte_units


def test_every_check_answers_and_says_how_to_fix_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    checks = examine.examine(tmp_path / "runs")
    assert len({check.name for check in checks}) == len(checks) == 18
    assert all(check.fix for check in checks if check.status != "PASS")
    assert not any(check.fix for check in checks if check.status == "PASS")
    assert not (tmp_path / "runs").exists()
    out = io.StringIO()
    Console(file=out, width=80).print(doctor.render(checks))
    assert all(check.name in out.getvalue() for check in checks)


@pytest.mark.parametrize(
    ("requirement", "installed", "problem"),
    [
        ("torch>=2.6", "2.13.0+cpu", None),
        ("torch>=2.6", "2.5.1", "torch 2.5.1 does not meet >=2.6"),
        ("torch>=2.6,<3", "3.0", "torch 3.0 does not meet <3,>=2.6"),
        ("torch>=2.6", "2.10.0rc1", None),
        ("winloop>=9; sys_platform == 'win32'", "0.1", None),
        ("torch=>2", "2.6", "'torch=>2' is not understood: Expected semicolon (after name with no"),
        ("transformers>=5.0", "5.0", None),
        ("ray[default,train,tune]>=2.51", "2.60.0", None),
        ("typer", "0.1", None),
    ],
)
def test_versions_are_compared_by_number(monkeypatch, requirement, installed, problem):
    monkeypatch.setattr(packages.importlib.metadata, "version", lambda name: installed)
    found = packages.requirement_problem(requirement)
    assert found == problem or (problem is not None and str(found).startswith(problem))


def test_missing_package_fails(monkeypatch):
    monkeypatch.setattr(packages, "requirements", lambda: ["no-such-package>=1.0"])
    check = packages.check_versions()
    assert check.status == "FAIL"
    assert check.found == "no-such-package is missing"


def test_missing_compiler_fails(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert build.check_compiler().status == "FAIL"


def test_op_is_found_where_torch_keeps_its_extensions(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert build.check_op().status == "WARN"
    folder = tmp_path / OP_NAME
    folder.mkdir()
    (folder / "deepspeed_shm_comm.so").touch()
    assert build.check_op() == Check("DeepSpeed op", "PASS", str(folder / "deepspeed_shm_comm.so"))


def test_a_lock_that_outlived_its_build_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    lock = tmp_path / OP_NAME / "lock"
    lock.parent.mkdir()
    lock.touch()
    assert build.check_op().status == "WARN"
    long_ago = time.time() - BUILD_SECONDS - 1
    os.utime(lock, (long_ago, long_ago))
    check = build.check_op()
    assert (check.status, check.fix) == ("FAIL", f"Remove {lock}.")


def test_the_op_is_kept_in_the_environment_unless_a_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    assert op_folder() == Path(sys.prefix) / "torch_extensions" / OP_NAME
    # What the process hands on to torch is the same folder.
    assert os.environ["TORCH_EXTENSIONS_DIR"] == str(op_folder().parent)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert op_folder() == tmp_path / OP_NAME


def answer(code, stderr=""):
    return lambda *args, **kwargs: subprocess.CompletedProcess(args, code, "", stderr)


def test_failed_build_says_why(monkeypatch):
    monkeypatch.setattr(build.subprocess, "run", answer(1, "first\nfatal error: no header\n"))
    check = build.build_op()
    assert check.status == "FAIL"
    assert check.found == "the build failed: fatal error: no header"


def test_build_that_hangs_says_where_the_lock_is(monkeypatch):
    def hang(*args, **kwargs):
        raise subprocess.TimeoutExpired(cmd="build", timeout=1)

    monkeypatch.setattr(build.subprocess, "run", hang)
    check = build.build_op()
    assert check.status == "FAIL"
    assert str(op_folder()) in check.fix


def test_build_code_calls_what_the_engine_offers():
    import ast

    module = build.BUILD_CODE.split()[1]
    file = importlib.util.find_spec(module).origin
    functions = {
        node.name
        for node in ast.parse(Path(file).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    assert "build_communication_op" in functions
    assert "build_communication_op" in build.BUILD_CODE


def test_ray_without_its_default_extra_fails(monkeypatch):
    found = packages.importlib.util.find_spec
    monkeypatch.setattr(
        packages.importlib.util,
        "find_spec",
        lambda name: None if name == "opencensus" else found(name),
    )
    check = packages.check_ray()
    assert check.status == "FAIL"
    assert "ray[default" in check.fix


def test_little_memory_is_a_warning(monkeypatch):
    monkeypatch.setattr(resources, "memory", lambda: (8 * byte_units.GIB, byte_units.GIB))
    assert resources.check_memory().status == "WARN"


def test_storage_that_cannot_be_written_fails(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(disk, "probe_storage", refuse)
    check = disk.check_writable(tmp_path)
    assert check.status == "FAIL"
    assert "Permission denied" in check.found


def test_worst_of_the_checks_counts():
    good = Check("a", "PASS", "")
    bad = Check("b", "FAIL", "", "fix it")
    assert worst([good]) == "PASS"
    assert worst([good, bad]) == "FAIL"
    assert doctor.as_document([good, bad])["checks"][1]["fix"] == "fix it"


def test_import_of_the_room_is_light():
    code = "import sys; import orchestrator.cli.doctor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
