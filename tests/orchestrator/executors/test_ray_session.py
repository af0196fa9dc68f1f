"""What a cluster holds, and what is said of one that cannot be used or was not left clean."""

import http.client
import re
import tomllib
import types
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import psutil
import pytest

from orchestrator.executors import cluster_checks, cluster_fit, ray_leftovers, ray_session
from orchestrator.executors.cluster_fit import (
    HEAD_RESOURCE,
    TRAIN_BYTES,
    ClusterError,
)
from orchestrator.executors.ray_leftovers import Leftovers
from orchestrator.executors.ray_processes import ray_children, with_descendants
from orchestrator.records.journal_lines import read_journal
from orchestrator.spec.sections import ResourceSpec
from orchestrator.sweep import locally, on_ray
from orchestrator.sweep.scores.completion import score_here
from orchestrator.system.package_versions import versions_here
from tests.hosts import listening

GIB = 2**30
CLUSTER_PAGE = Path(__file__).parents[3] / "docs" / "cluster.md"


def nodes(head_memory, *others):
    head = {"CPU": 0.0, HEAD_RESOURCE: 1.0, "memory": head_memory}
    return [
        {"Alive": True, "Resources": head},
        *({"Alive": True, "Resources": {"CPU": 8.0, "memory": one}} for one in others),
    ]


def test_a_cluster_is_sent_every_package_that_ours_imports():
    sent = ray_session.package_folders()
    document = tomllib.loads((sent[0].parent / "pyproject.toml").read_text())
    assert {folder.name for folder in sent} == set(
        document["tool"]["importlinter"]["root_packages"]
    )
    assert all((folder / "__init__.py").is_file() for folder in sent)


# --- the head node -------------------------------------------------------------------------------


def test_a_trial_with_workers_of_its_own_needs_room_on_the_head():
    resources = ResourceSpec(executor="train")
    found = cluster_fit.head_fit(resources, nodes(10.0 * GIB, 64 * GIB))
    assert found.at_once == 10 * GIB // TRAIN_BYTES, "other nodes hold no trial's own process"
    assert "10.0 GiB for processes" in found.arithmetic


def test_a_small_head_holds_one_trial_and_an_unknown_one_any():
    resources = ResourceSpec(executor="train")
    assert cluster_fit.head_fit(resources, nodes(1.0)).at_once == 1
    lost = [{"Alive": False, "Resources": nodes(GIB)[0]["Resources"]}]
    assert cluster_fit.head_fit(resources, lost).at_once > 10**6


def test_trials_of_a_pool_need_no_room_on_the_head():
    assert cluster_fit.head_fit(ResourceSpec(), nodes(1.0)).at_once > 10**6


@pytest.mark.parametrize(("trials", "told"), [(40, True), (2, False)])
def test_a_bound_is_told_where_it_bounds(monkeypatch, experiment_file, trials, told):
    import ray

    from orchestrator.spec.load import load_experiment

    monkeypatch.setattr(ray, "nodes", lambda: nodes(float(4 * TRAIN_BYTES), 64 * GIB))
    search = {
        "space": {"training.learning_rate": {"log_uniform": [0.001, 0.01]}}, "trials": trials,
    }  # fmt: skip
    resources = {"executor": "train"}
    loaded = load_experiment(experiment_file("head", search=search, resources=resources))
    notes = []
    assert on_ray.trials_at_once(loaded.experiment, 8.0, 0.0, notes.append) == 4
    assert any("4 trial(s) at a time. A head node with more" in note for note in notes) == told


# --- who drives, and where storage is -----------------------------------------------------------


def test_a_cluster_is_not_driven_through_its_client():
    with pytest.raises(ClusterError, match=r"Ray Client.*ray job submit"):
        cluster_checks.check_driver("ray://head:10001")
    cluster_checks.check_driver("10.0.0.1:6379")
    cluster_checks.check_driver(None)


@pytest.mark.ray
def test_a_node_that_is_not_ours_must_reach_storage_and_base_and_have_our_versions(
    ray_cluster, tmp_path, monkeypatch
):
    import ray

    elsewhere = types.SimpleNamespace(get_node_id=lambda: "f" * 56)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: elsewhere)
    here = versions_here()
    weights = tmp_path / "weights"
    weights.write_bytes(b"12345")
    cluster_checks.check_nodes(tmp_path, {str(weights): 5}, here)
    assert list(tmp_path.iterdir()) == [weights], "nothing is left"
    with pytest.raises(ClusterError, match=r"weights has 5 bytes there and 6 here"):
        cluster_checks.check_nodes(tmp_path, {str(weights): 6}, here)
    with pytest.raises(ClusterError, match=r"cannot read the base model .*gone: No such file"):
        cluster_checks.check_nodes(tmp_path, {str(tmp_path / "gone"): 5}, here)
    with pytest.raises(ClusterError, match=r"other versions: torch .* \(here 0\.1\)"):
        cluster_checks.check_nodes(tmp_path, {}, {**here, "torch": "0.1"})
    really = ray.get

    def on_another_disk(written, timeout):
        said = really(written, timeout=timeout)
        for probe in (tmp_path / "other" / "nodes").iterdir():
            probe.unlink()
        return said

    monkeypatch.setattr(ray, "get", on_another_disk)
    with pytest.raises(ClusterError, match=r"is not seen here.*must be a shared folder"):
        cluster_checks.check_nodes(tmp_path / "other", {}, here)


@pytest.mark.ray
def test_what_asks_for_the_running_ray_finds_ours(ray_cluster):
    """Ray's cleaner of placement groups does so, and removes those of whom it does not find."""
    import ray
    from ray._private.services import canonicalize_bootstrap_address_or_die

    ours = ray.get_runtime_context().gcs_address
    asked = ray.remote(num_cpus=0)(canonicalize_bootstrap_address_or_die)
    assert ray.get(asked.remote(None)) == ours
    assert canonicalize_bootstrap_address_or_die(None) == ours


# --- what it listens on ---------------------------------------------------------------------------

QUESTIONS = {
    "gcs_server": ["NodeInfoGcsService/CheckAlive"],
    "raylet": ["NodeManagerService/GetSystemConfig", "ObjectManagerService/Pull"],
    "ray::DashboardAgent": ["ReporterService/HealthCheck"],
}
"""By process, what can be asked of it."""
OF_WORKERS = "CoreWorkerService/Exit"
METRICS = "metrics"
OPEN = {"ray::DashboardAgent"}
"""Processes that answer some questions whoever asks: with metrics."""


@pytest.mark.ray
def test_a_ray_of_our_own_is_reached_from_this_machine_alone_and_with_its_token(ray_cluster):
    import ray

    ray.get(ray.remote(num_cpus=0)(lambda: 1).remote())  # there is a worker
    ours = [("driver", where) for _, where in listening([psutil.Process()])]
    ports = [*ours, *listening(with_descendants(ray_children(set())))]
    assert {where.ip for _, where in ports} == {"127.0.0.1"}
    named = re.findall(r"^\| `([^`]+)`", CLUSTER_PAGE.read_text(), re.MULTILINE)
    for name, where in ports:
        known = [each for each in named if name.startswith(each.rstrip("…"))]
        assert known, f"{name}, which listens, is not in docs/cluster.md"
        answers = {answer(where.port, words) for words in (*QUESTIONS.get(name, ()), OF_WORKERS)}
        answers.add(http_answer(where.port))
        refused = {"UNAUTHENTICATED", 401}
        assert answers & {*refused, METRICS} or name in OPEN, (name, answers)
        assert not answers & {"OK", 200} or name in OPEN, (name, answers)


def answer(port, words):
    """What a service of Ray's says to somebody without a token."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(f"/ray.rpc.{words}")(b"", timeout=3)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


def http_answer(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/jobs/", timeout=3) as found:
            # A port of metrics answers whatever it is asked with them, and with nothing else.
            return METRICS if found.read(6) == b"# HELP" else found.status
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):
        return None  # it speaks another language


# --- what is left --------------------------------------------------------------------------------


def state_api(monkeypatch, answer):
    """A cluster whose dashboard answers every question alike, or raises."""
    import ray

    def ask(**_):
        if isinstance(answer, Exception):
            raise answer
        return answer

    context = types.SimpleNamespace(gcs_address="127.0.0.1:1", get_job_id=lambda: "01000000")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr("ray.util.state.list_actors", ask)
    monkeypatch.setattr("ray.util.state.list_placement_groups", lambda **_: [])


def test_a_cluster_without_a_dashboard_is_no_dirty_one(monkeypatch):
    from ray.util.state.exception import ServerUnavailable

    for error in (
        ServerUnavailable("no dashboard"), ConnectionError("refused"),
        ValueError("Couldn't obtain the API server address from GCS."),
    ):  # fmt: skip
        state_api(monkeypatch, error)
        left = ray_leftovers.wait_until_clean()
        assert not left
        assert str(error).rstrip(".") in left.unknown


def test_what_is_left_is_named(monkeypatch):
    actor = types.SimpleNamespace(class_name="LoneMember", actor_id="0123456789", state="ALIVE")
    dead = types.SimpleNamespace(class_name="LoneMember", actor_id="9876543210", state="DEAD")
    state_api(monkeypatch, [actor, dead])
    left = ray_leftovers.wait_until_clean(0.0)
    assert left == Leftovers(("LoneMember 01234567",))
    assert str(left) == "actor LoneMember 01234567"


@pytest.fixture
def leaving(monkeypatch):
    """Sweeps of Ray run in this process, and leave what `leaving.left` says on their cluster."""
    leaving = types.SimpleNamespace(left=Leftovers())

    def run(driver, options, projection, ending, raise_if_interrupted):
        locally.run_trials_locally(driver, projection, raise_if_interrupted)
        ending.decide(score_here)
        return on_ray.leftovers_complaint(leaving.left, driver.observer.note)

    monkeypatch.setattr("orchestrator.sweep.run.run_trials_on_ray", run)
    return leaving


def test_the_verdict_comes_before_a_complaint(experiment_file, records, leaving, tmp_path):
    from typer.testing import CliRunner

    from orchestrator.cli import app, errors

    leaving.left = Leftovers(("LoneMember 01234567",), ("89abcdef",))
    path = experiment_file(
        tasks=["mood"], probes=[], resources={"executor": "train"}, objectives={"gain": "max"},
        champion={"maximize": "gain", "subject_to": {}},
        data={"train_examples": 16, "validation_examples": 8, "rung_examples": 4},
    )  # fmt: skip
    done = CliRunner().invoke(app, ["run", str(path)])
    assert done.exit_code == errors.FAILED
    assert "t001 after mood" in done.stdout
    assert "Traceback" not in done.stderr
    complaint = done.stderr[done.stderr.index("orchestrate: ") :]
    assert (
        "its verdict is recorded, but it left something on the cluster: actor LoneMember"
        in complaint
    )
    assert "placement group 89abcdef" in complaint
    assert read_journal(tmp_path / "runs" / "tiny-run")[-1]["event"] in {
        "sweep_ended", "champion_registered",
    }  # fmt: skip


def test_a_cluster_that_could_not_be_asked_is_told_of():
    notes = []
    assert not on_ray.leftovers_complaint(Leftovers(unknown="no dashboard"), notes.append)
    assert notes == ["whether anything is left on the cluster could not be asked: no dashboard"]
