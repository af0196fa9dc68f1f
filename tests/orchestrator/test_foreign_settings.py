"""What login scripts and other tools leave in the environment leads a sweep nowhere else."""

import contextlib
import http.server
import os
import stat
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import psutil
import pytest

from orchestrator.executors import cluster_fit, ray_processes, ray_session, ray_settings
from orchestrator.planning import resource_problems
from orchestrator.planning.doctor import packages
from orchestrator.planning.doctor.resources import check_hub, check_ray_folder
from orchestrator.spec.load import load_experiment
from orchestrator.spec.sections import ResourceSpec
from orchestrator.system import ray_environment
from orchestrator.system.environment import changed
from orchestrator.system.hub_environment import hub_hindered
from orchestrator.system.mlflow_environment import LOOPBACK, own_mlflow, spare_loopback
from orchestrator.system.ray_environment import (
    RAY_REDIRECTS,
    own_token,
    ray_folder,
    temporary_holds_sockets,
    token_file,
    token_mode,
    without_redirects,
    without_token,
)


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """None of the variables is set, and what a test sets is gone after it."""
    for name in (*RAY_REDIRECTS, "RAY_TMPDIR", "TMPDIR", "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


@pytest.fixture
def temporary(monkeypatch):
    """Makes `TMPDIR` another folder; `temporary(folder)`."""

    def choose(folder):
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setattr(ray_environment.tempfile, "tempdir", str(folder))

    return choose


def long_folder(tmp_path):
    folder = Path(f"/tmp/{'long' * 25}-{os.getpid()}")
    assert len(str(folder)) > 90
    return folder


# --- which Ray -----------------------------------------------------------------------------------


def test_no_setting_of_another_ray_stands_while_ours_is_started(monkeypatch):
    for name in RAY_REDIRECTS:
        monkeypatch.setenv(name, "theirs")
    with changed(without_redirects(None)):
        assert not [name for name in RAY_REDIRECTS if name in os.environ]
    assert all(os.environ[name] == "theirs" for name in RAY_REDIRECTS)


@pytest.mark.parametrize(
    ("address", "named", "stays"),
    [
        ("auto", "10.0.0.1:6379", True),
        ("auto", "http://10.0.0.1:8265", False),
        ("10.0.0.2:6379", "10.0.0.1:6379", False),
    ],
)
def test_an_address_that_is_given_wins_over_the_environments(monkeypatch, address, named, stays):
    monkeypatch.setenv("RAY_ADDRESS", named)
    monkeypatch.setenv("RAY_NAMESPACE", "of the cluster")
    with changed(without_redirects(address)):
        assert ("RAY_ADDRESS" in os.environ) == stays
        assert os.environ["RAY_NAMESPACE"] == "of the cluster"


def test_a_ray_of_our_own_is_asked_for_by_name_and_told_to_all_of_its_processes(temporary):
    temporary("/tmp")
    options, settings = ray_settings.local_ray_options(7001, {"TOKENIZERS_PARALLELISM": "false"})
    assert options["address"] == "local"
    assert settings["RAY_GCS_SERVER_PORT"] == "7001"
    assert options["runtime_env"]["env_vars"] == {
        "TOKENIZERS_PARALLELISM": "false", "RAY_ADDRESS": "127.0.0.1:7001",
    }  # fmt: skip
    assert options["_temp_dir"] == "/tmp/ray"


def test_settings_that_results_rest_on_are_not_the_users_to_change(monkeypatch):
    needed = {"RAY_TRAIN_V2_ENABLED": "1"}
    for name in needed:
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "900")
    found = ray_settings.process_environment()
    assert {name: found[name] for name in needed} == needed
    assert found["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] == "900"


@pytest.mark.parametrize("runs", [False, True])
def test_the_address_of_a_dashboard_is_told_as_such(monkeypatch, runs):
    monkeypatch.setattr("ray.is_initialized", lambda: runs)
    with (
        pytest.raises(cluster_fit.ClusterError, match=r"dashboard.*HOST:6379"),
        ray_session.connected("http://127.0.0.1:8265"),
    ):
        pass


@pytest.mark.parametrize(
    ("said", "busy"),
    [
        ("The current node timed out during startup", True),
        ("AF_UNIX path length cannot exceed 107 bytes", False),
        ("When connecting to an existing cluster, num_cpus must not be provided", False),
    ],
)
def test_a_busy_machine_is_blamed_only_where_ray_was_too_slow(said, busy):
    text = ray_session.start_failure(RuntimeError(said))
    assert said in text
    assert ("less busy" in text) == busy


# --- where it keeps its sockets ------------------------------------------------------------------


def test_a_long_folder_for_temporary_files_is_not_used_for_sockets(tmp_path, temporary):
    folder = long_folder(tmp_path)
    temporary(folder)
    found = ray_folder()
    assert found.path.parts[:2] == ("/", "tmp")
    assert str(folder) in found.refused
    assert "at most 107" in found.refused
    assert not temporary_holds_sockets()
    options, settings = ray_settings.local_ray_options(1, {})
    assert settings["TMPDIR"] == str(found.path.parent)
    # What trials keep there may be large, and stays where the user has room for it.
    assert options["runtime_env"]["env_vars"]["TMPDIR"] == str(folder)
    check = check_ray_folder()
    assert (check.status, "107" in check.found, "RAY_TMPDIR" in check.fix) == ("WARN", True, True)


def test_a_folder_of_rays_own_wins_over_that_for_temporary_files(tmp_path, temporary, monkeypatch):
    temporary(long_folder(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert ray_folder() == ray_environment.RayFolder(Path("/tmp/ray"))


def test_without_any_folder_preflight_and_doctor_say_so(monkeypatch, experiment_file):
    monkeypatch.setattr(ray_environment, "unusable", lambda folder: "cannot be written")
    check = check_ray_folder()
    assert (check.status, "RAY_TMPDIR" in check.fix) == ("FAIL", True)
    loaded = load_experiment(experiment_file(resources={"executor": "train"}))
    means = resource_problems.Available(cpus=8, gpus=0, free_disk=None)
    found = list(resource_problems.resource_problems(loaded.experiment, means))
    assert any("Ray finds no folder for its sockets: /tmp/ray cannot" in text for text in found)


def test_choosing_a_folder_makes_none(temporary):
    folder = Path(f"/tmp/short-{os.getpid()}")
    folder.mkdir()
    try:
        temporary(folder)
        assert ray_folder().path == folder / "ray"
        assert not list(folder.iterdir())
    finally:
        folder.rmdir()


# --- a token without a home ----------------------------------------------------------------------


@pytest.fixture
def no_token(monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_where_the_home_folder_keeps_nothing_ray_gets_a_token_of_its_own(monkeypatch, no_token):
    monkeypatch.setenv("HOME", "/dev/null/nobody")
    with own_token():
        file = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
        assert len(file.read_text()) == 64
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ
    assert not file.exists()


def test_where_it_can_be_kept_the_token_lies_where_ray_looks_for_this_user_alone(
    monkeypatch, no_token, tmp_path
):
    monkeypatch.setenv("HOME", str(tmp_path))
    before = os.umask(0)
    try:
        with own_token():
            assert "RAY_AUTH_TOKEN_PATH" not in os.environ
    finally:
        os.umask(before)
    (file,) = (tmp_path / ".ray").iterdir()
    assert (file, len(file.read_text())) == (token_file(), 64)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    first = file.read_text()
    with own_token():
        assert file.read_text() == first


# --- a cluster that asks for a token -------------------------------------------------------------


class Refuses(http.server.BaseHTTPRequestHandler):
    """A dashboard that refuses whoever brings no token."""

    def do_GET(self):
        self.send_response(self.server.answer)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(params=[401, 200, 404])
def dashboard(request):
    with http.server.HTTPServer(("127.0.0.1", 0), Refuses) as server:
        server.answer = request.param
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", request.param == 401
        server.shutdown()


def test_a_dashboard_says_whether_it_asks_for_a_token(monkeypatch, no_token, dashboard):
    address, asks = dashboard
    assert token_mode(address) == ({"RAY_AUTH_MODE": "token"} if asks else {})
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert token_mode(address) == {}, "what the user says stands"


def test_nobody_is_asked_twice_where_nobody_answers(no_token):
    assert token_mode("127.0.0.1:1") == token_mode("http://127.0.0.1:1") == {}


def test_what_is_missing_is_said_where_there_is_no_token(monkeypatch, no_token, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "ray get-auth-token" in without_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t")
    assert without_token() == ""


# --- proxies and MLflow --------------------------------------------------------------------------


def test_this_machine_is_never_asked_through_a_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "intranet")
    spare_loopback()
    assert all(urllib.request.proxy_bypass(host) for host in (*LOOPBACK[:2], "intranet"))
    assert not urllib.request.proxy_bypass("huggingface.co")
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"]
    once = os.environ["no_proxy"]
    spare_loopback()
    assert os.environ["no_proxy"] == once


def test_a_server_of_ours_has_the_stores_that_it_is_given():
    reach = {"MLFLOW_TRACKING_TOKEN": "t", "MLFLOW_S3_ENDPOINT_URL": "http://minio", "PATH": "/bin"}
    lead = {
        "MLFLOW_TRACKING_URI": "http://theirs", "MLFLOW_REGISTRY_STORE_URI": "sqlite:///theirs.db",
        "MLFLOW_STATIC_PREFIX": "/mlflow", "MLFLOW_HOST": "0.0.0.0", "MLFLOW_ACTIVE_MODEL_ID": "m",
        "MLFLOW_ARTIFACTS_ONLY": "true", "_MLFLOW_SERVER_FILE_STORE": "x", "MLFLOW_RUN_ID": "r",
        "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
    }  # fmt: skip
    assert own_mlflow(reach | lead) == reach


# --- GPUs and launchers --------------------------------------------------------------------------


def test_gpus_that_a_variable_hides_are_told_of(monkeypatch, experiment_file):
    monkeypatch.delenv("NVIDIA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("HIP_VISIBLE_DEVICES", raising=False)
    means = resource_problems.Available(cpus=8, gpus=0, free_disk=None)
    for executor in ("local", "train"):
        resources = {"executor": executor, "gpus_per_worker": 1}
        loaded = load_experiment(experiment_file(f"gpu-{executor}", resources=resources))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        found = " ".join(resource_problems.resource_problems(loaded.experiment, means))
        assert "0 GPUs" in found
        assert "CUDA_VISIBLE_DEVICES is ''" in found
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        found = " ".join(resource_problems.resource_problems(loaded.experiment, means))
        assert "0 GPUs" in found
        assert "VISIBLE" not in found


def test_a_cuda_build_that_is_shown_no_gpu_is_told_why(monkeypatch):
    import torch

    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    check = packages.check_torch()
    assert (check.status, "CUDA_VISIBLE_DEVICES is '-1'" in check.found) == ("WARN", True)


def test_the_variables_of_another_launcher_choose_no_way_of_exchange(monkeypatch):
    from orchestrator.executors.worker_group import prepare_for_deepspeed
    from orchestrator.spec.experiment import Experiment

    for name in ("LOCAL_SIZE", "DS_ACCELERATOR", "PATH"):
        monkeypatch.setenv(name, os.environ.get(name, "2"))
    document = {
        "name": "x", "model": {"name": "x"}, "tasks": ["a"], "probes": ["p"],
        "method": {"adapter": {"kind": "lora", "r": 4}},
    }  # fmt: skip
    prepare_for_deepspeed(Experiment.model_validate(document))
    assert "LOCAL_SIZE" not in os.environ


# --- the hub -------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Sets the hub's variables, and no others; `hub(NAME=value)`."""
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE",
             "HF_DATASETS_CACHE")  # fmt: skip
    for name in names:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path))

    def choose(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return choose


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, ""),
        ({"HF_HUB_OFFLINE": "0"}, ""),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE says that the hub is not to be asked"),
        ({"HF_HOME": "/dev/null/hf"}, "/dev/null/hf cannot be written; set HF_HOME to"),
        (
            {"HF_DATASETS_CACHE": "/dev/null/x"},
            "/dev/null/x cannot be written; set HF_DATASETS_CACHE to",
        ),
    ],
)
def test_what_hinders_the_hub_is_told_with_its_cure(hub, values, told):
    hub(**values)
    found = hub_hindered()
    assert told in found
    assert bool(found) == bool(told)
    check = check_hub()
    assert (check.status, told in check.found) == ("WARN" if told else "PASS", True)


def test_a_model_of_the_hub_that_cannot_be_had_is_told_with_the_cause(hub):
    from orchestrator.base.errors import ModelError
    from orchestrator.base.loading import load_tokenizer
    from orchestrator.spec.sections import ModelSpec

    hub(HF_HUB_OFFLINE="1")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE says that the hub is not to be asked"):
        load_tokenizer(ModelSpec(name="nobody/has-this-model"))


# --- what is left of a Ray ----------------------------------------------------------------------


@pytest.fixture
def waiting():
    """Starts processes that wait, with words in their commands and a child each, if wanted."""
    started = []

    def start(*words, child=False):
        code = "import subprocess, sys, time\n"
        if child:
            code += "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        code += "print(1, flush=True); time.sleep(600)"
        process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE)
        process.stdout.readline()
        started.append((process, ray_processes.with_descendants([psutil.Process(process.pid)])))
        return started[-1][1]

    yield start
    for process, family in started:
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()
        process.stdout.close()


def ended(family):
    return not psutil.wait_procs(family, timeout=10)[1]


def running(family):
    return all(one.status() == psutil.STATUS_SLEEPING for one in family)


@pytest.fixture
def rays_programs():
    import ray

    return str(Path(ray.__file__).parent)


def test_only_what_ray_has_started_is_ended(monkeypatch, waiting, rays_programs):
    monkeypatch.setattr(ray_processes, "LEAVE_SECONDS", 0.2)
    earlier = waiting(f"{rays_programs}/a_ray_of_somebody_else.py")
    before = set(psutil.Process().children())
    array = waiting("array_worker.py", child=True)
    venv = waiting("/home/me/ray/venv/bin/python")
    raylet = waiting(f"{rays_programs}/core/src/ray/raylet", child=True)
    assert len(array) == len(raylet) == 2
    ray_processes.end(ray_processes.with_descendants(ray_processes.ray_children(before)))
    assert ended(raylet)
    assert running([*earlier, *array, *venv])


def test_a_ray_that_does_not_start_leaves_no_process(monkeypatch, waiting, rays_programs):
    import ray

    started = []

    def init(**options):
        started.extend(waiting(f"{rays_programs}/dashboard/dashboard.py", child=True))
        raise RuntimeError("Failed to start the dashboard")

    monkeypatch.setattr(ray_processes, "LEAVE_SECONDS", 0.2)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with (
        pytest.raises(cluster_fit.ClusterError, match="Failed to start the dashboard"),
        ray_session.connected(None),
    ):
        pass
    assert len(started) == 2
    assert ended(started)


def test_resources_of_a_sweep_need_no_ray_when_it_runs_in_this_process(
    experiment_file, monkeypatch
):
    monkeypatch.setattr(ray_environment, "unusable", lambda folder: "cannot be written")
    loaded = load_experiment(experiment_file(resources=ResourceSpec(executor="local").model_dump()))
    means = resource_problems.Available(cpus=8, gpus=0, free_disk=None)
    assert not list(resource_problems.resource_problems(loaded.experiment, means))
