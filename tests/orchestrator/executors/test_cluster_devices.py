"""What the nodes of a cluster compute with, asked of a real one, and where workers go."""

import pytest

from orchestrator.base.devices import Device, processor
from orchestrator.executors import cluster_devices
from orchestrator.executors.cluster_devices import NodesToAvoid, node_devices
from orchestrator.executors.worker_group import NODE_ID, away_from, worker_group
from orchestrator.spec.sections import ResourceSpec

pytestmark = pytest.mark.ray
RESOURCES = ResourceSpec(workers=2)
OLD = Device("Zen 3", bf16=False, because="it has no instruction for products of bf16")


def test_nodes_are_asked_what_they_compute_with(ray_cluster):
    import ray

    found = cluster_devices.cluster_devices(RESOURCES)
    assert found == [processor()] * len([n for n in ray.nodes() if n["Alive"]])
    huge = ResourceSpec(cpus_per_worker=4096)
    assert cluster_devices.cluster_devices(huge) == []


def test_a_node_that_came_later_and_does_not_multiply_bf16_is_avoided(ray_cluster, monkeypatch):
    import ray

    monkeypatch.setattr(cluster_devices, "node_devices", lambda names, _: {n: [OLD] for n in names})
    notes = []
    avoid = NodesToAvoid(RESOURCES, notes.append)
    [own] = {str(node["NodeID"]) for node in ray.nodes() if node["Alive"]}
    assert avoid() == (own,)
    assert "Zen 3 does not multiply bf16" in notes[0]
    assert avoid() == (own,)
    assert len(notes) == 1, "a node is asked, and told of, once"


def test_workers_are_not_placed_on_nodes_to_avoid(ray_cluster):
    import ray

    own = ray.get_runtime_context().get_node_id()
    where = ray.remote(num_cpus=0)(lambda: ray.get_runtime_context().get_node_id())
    assert ray.get(where.options(label_selector=away_from(["another"])).remote()) == own
    nowhere = where.options(label_selector=away_from([own])).remote()
    assert ray.wait([nowhere], timeout=2.0)[0] == []
    ray.cancel(nowhere)
    assert away_from([]) is None
    scaling = worker_group(RESOURCES, ["a", "b"])["scaling_config"]
    assert scaling.label_selector == {NODE_ID: "!in(a,b)"}


def test_a_node_that_does_not_answer_is_named_with_the_cure(ray_cluster, monkeypatch):
    monkeypatch.setattr(cluster_devices, "ASK_SECONDS", 1.0)
    with pytest.raises(cluster_devices.ClusterError, match="Name a precision"):
        node_devices(["0" * 56], RESOURCES)
