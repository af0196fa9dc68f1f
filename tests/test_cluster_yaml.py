import json
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cluster():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


def test_cluster_file_satisfies_rays_own_schema(cluster):
    ray = Path(find_spec("ray").origin).parent
    schema = json.loads((ray / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(cluster, schema)


def test_head_node_takes_no_trial_and_is_not_on_the_spot_market(cluster):
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]


def test_workers_have_gpus_scale_and_are_given_back(cluster):
    workers = {
        name: node
        for name, node in cluster["available_node_types"].items()
        if name != cluster["head_node_type"]
    }
    assert all(node["resources"]["GPU"] >= 1 for node in workers.values())
    assert any(node["min_workers"] < node["max_workers"] for node in workers.values())
    assert all(node["max_workers"] <= cluster["max_workers"] for node in workers.values())
    spot = [n for n in workers.values() if "InstanceMarketOptions" in n["node_config"]]
    assert spot
    assert cluster["idle_timeout_minutes"] > 0


def test_every_node_installs_this_package_with_its_constraints(cluster):
    installs = [line for line in cluster["setup_commands"] if " -e " in line]
    assert len(installs) == 1
    assert "cd ~/orchestrator && " in installs[0]
    assert "-c constraints.txt" in installs[0]
    assert cluster["file_mounts"] == {"~/orchestrator": "."}
    assert (ROOT / "constraints.txt").is_file()


def test_what_must_be_replaced_is_marked():
    lines = (ROOT / "cluster.yaml").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if "00000000" in line:
            near = " ".join(lines[max(0, number - 3) : number + 1])
            assert "PLACEHOLDER" in near, f"line {number + 1}: {line}"
