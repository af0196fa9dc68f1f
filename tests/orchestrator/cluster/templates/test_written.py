"""The files that describe a cluster: for Ray's launcher, for Kubernetes, for a container."""

import json
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest
import yaml

from orchestrator.cluster.templates.description import ClusterDescription
from orchestrator.cluster.templates.written import template
from orchestrator.system.user_error import UsageError

ROOT = Path(__file__).parents[4]
SWEEPS = ClusterDescription()

RAY_JOB = {
    "RayJob": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {
        "activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate",
        "metadata", "clusterSelector", "submitterConfig", "managedBy", "deletionStrategy",
        "entrypoint", "runtimeEnvYAML", "jobId", "submissionMode", "entrypointResources",
        "entrypointNumCpus", "entrypointNumGpus", "ttlSecondsAfterFinished",
        "preRunningDeadlineSeconds", "shutdownAfterJobFinishes", "suspend",
    },
    "rayClusterSpec": {
        "suspend", "managedBy", "autoscalerOptions", "headServiceAnnotations",
        "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec", "rayVersion",
        "workerGroupSpecs", "authOptions", "upgradeStrategy",
    },
    "authOptions": {"enableK8sTokenAuth", "secretName", "mode"},
    "autoscalerOptions": {
        "resources", "image", "imagePullPolicy", "securityContext", "idleTimeoutSeconds",
        "upscalingMode", "version", "env", "envFrom", "volumeMounts",
    },
    "headGroupSpec": {
        "template", "headService", "enableIngress", "rayStartParams", "serviceType", "resources",
        "labels",
    },
    "workerGroupSpecs": {
        "suspend", "groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds",
        "rayStartParams", "template", "scaleStrategy", "numOfHosts", "resources", "labels",
    },
}  # fmt: skip
"""Fields of ray.io/v1: docs/reference/api.md of ray-project/kuberay at v1.6.2 (0a9eabde)."""


@pytest.fixture(scope="module", params=["aws", "gcp"])
def provider(request):
    return request.param


@pytest.fixture(scope="module")
def cluster(provider):
    return yaml.safe_load(template(provider, SWEEPS))


def test_the_committed_file_is_what_the_command_prints():
    assert (ROOT / "cluster.yaml").read_text(encoding="utf-8") == template("aws", SWEEPS)


def test_cluster_file_satisfies_rays_own_schema(cluster):
    ray = Path(find_spec("ray").origin).parent
    schema = json.loads((ray / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(cluster, schema)


def test_head_node_takes_no_trial_and_is_not_on_the_spot_market(cluster):
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert not on_spot_market(head)


def on_spot_market(node):
    config = node["node_config"]
    return "InstanceMarketOptions" in config or {"preemptible": True} in config.get(
        "scheduling", []
    )


def test_workers_have_gpus_scale_and_are_given_back(cluster):
    workers = {
        name: node
        for name, node in cluster["available_node_types"].items()
        if name != cluster["head_node_type"]
    }
    assert all(node["resources"]["GPU"] >= 1 for node in workers.values())
    assert any(node["min_workers"] < node["max_workers"] for node in workers.values())
    assert all(node["max_workers"] <= cluster["max_workers"] for node in workers.values())
    assert [on_spot_market(node) for node in workers.values()] == [True, False]
    assert cluster["idle_timeout_minutes"] > 0


def test_every_node_installs_this_package_with_its_constraints(cluster):
    installs = [line for line in cluster["setup_commands"] if " -e " in line]
    assert len(installs) == 1
    assert "cd ~/orchestrator && " in installs[0]
    assert "-c constraints.txt" in installs[0]
    assert cluster["file_mounts"]["~/orchestrator"] == "."
    assert (ROOT / "constraints.txt").is_file()


def test_every_node_asks_for_the_token_that_lies_on_the_machine_of_the_user(cluster):
    token = "~/.ray/auth_token"  # where Ray and `orchestrate submit` look for it
    assert cluster["file_mounts"][token] == token
    assert f"chmod 600 {token}" in cluster["setup_commands"]
    for role in ("head", "worker"):
        (start,) = [c for c in cluster[f"{role}_start_ray_commands"] if "ray start" in c]
        assert "RAY_AUTH_MODE=token ~/venv/bin/ray start" in start
    job = yaml.safe_load(template("kuberay", SWEEPS))
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("kind", ["aws", "gcp", "kuberay"])
def test_what_must_be_replaced_is_marked(kind):
    lines = template(kind, SWEEPS).splitlines()
    for number, line in enumerate(lines):
        if "00000000" in line:
            near = " ".join(lines[max(0, number - 3) : number + 1])
            assert "PLACEHOLDER" in near, f"line {number + 1}: {line}"


def test_the_manifest_has_no_field_that_kuberay_does_not_know():
    job = yaml.safe_load(template("kuberay", ClusterDescription(workers=3)))
    groups = {"RayJob": [job], "spec": [job["spec"]]}
    inner = job["spec"]["rayClusterSpec"]
    groups |= {"rayClusterSpec": [inner], "workerGroupSpecs": inner["workerGroupSpecs"]}
    groups |= {
        name: [inner[name]] for name in ("authOptions", "autoscalerOptions", "headGroupSpec")
    }
    for name, found in groups.items():
        assert all(set(each) <= RAY_JOB[name] for each in found), name
    (workers,) = inner["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"] == 3
    # Parameters of `ray start` are texts, which YAML would read otherwise.
    starts = [inner["headGroupSpec"]["rayStartParams"], workers["rayStartParams"]]
    assert all(isinstance(value, str) for each in starts for value in each.values())
    assert yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_SIGNAL"]


def test_the_image_has_the_pinned_versions_and_the_python_that_is_named():
    text = template("container", SWEEPS)
    installs = [line for line in text.splitlines() if "pip install" in line]
    assert installs
    assert all("-c constraints.txt" in line for line in installs)
    assert f"FROM python:{SWEEPS.python}-" in text


@pytest.mark.parametrize("wrong", [{"name": "My_Sweeps"}, {"name": ""}, {"workers": 0}])
def test_what_a_cloud_would_refuse_is_refused_here(wrong):
    with pytest.raises(UsageError):
        ClusterDescription(**wrong)
