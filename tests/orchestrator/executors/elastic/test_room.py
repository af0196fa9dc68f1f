"""What a cluster has for a sweep, and what it could have."""

from orchestrator.executors.elastic.room import LOOK_SECONDS, ClusterRoom, Room, room_of
from orchestrator.spec.sections import ResourceSpec

HEAD = {"Alive": True, "Resources": {"CPU": 0.0, "memory": 8e9}}
GPU = {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}
ON_GPU = ResourceSpec(gpus_per_worker=1, cpus_per_worker=4)


def test_without_a_bound_a_sweep_uses_what_is_there():
    assert room_of([HEAD, GPU, GPU], ON_GPU, ()) == Room(2, 2, 16.0, 2.0)


def test_a_bound_counts_for_what_is_not_there_yet():
    bounded = ON_GPU.model_copy(update={"max_workers": 4})
    assert room_of([HEAD], bounded, ()) == Room(0, 4, 16.0, 4.0)
    assert room_of([HEAD, *[GPU] * 6], bounded, ()) == Room(6, 4, 48.0, 6.0)


def test_what_an_autoscaler_may_add_is_asked_for_without_a_bound():
    types = [
        {"resources": {"CPU": 8.0, "GPU": 1.0}, "count": 5},
        {"resources": {"CPU": 64.0}, "count": 9},  # holds no such worker
    ]
    assert room_of([HEAD, GPU], ON_GPU, types).most == 5


def test_a_cluster_is_asked_seldom_and_growth_is_noted():
    now, nodes = [0.0], [[HEAD, GPU]]
    room = ClusterRoom(ON_GPU, nodes=lambda: nodes[0], draining=dict, clock=lambda: now[0])
    assert room().there == 1
    nodes[0] = [HEAD, GPU, GPU]
    now[0] = LOOK_SECONDS / 2
    assert room().there == 1
    now[0] = LOOK_SECONDS + 1
    assert room().there == 2
    assert room.grew == now[0]
    nodes[0] = [HEAD]
    now[0] += LOOK_SECONDS + 1
    assert room().there == 0
    assert room.grew < now[0]


def test_a_node_that_is_to_be_taken_away_is_no_room():
    leaves = {**GPU, "NodeID": "a"}
    room = ClusterRoom(ON_GPU, nodes=lambda: [HEAD, leaves, GPU], draining=lambda: {"a": 7.0})
    assert room().there == 1
    assert room.draining == {"a": 7.0}
