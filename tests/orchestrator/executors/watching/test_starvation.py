from orchestrator.executors.watching.starvation import AGAIN_SECONDS, Starvation
from tests.made_up_sweep import experiment


def test_what_waits_for_a_place_is_told_within_a_minute_with_the_arithmetic():
    now, told = [0.0], []
    needs = experiment(resources={"workers": 2, "cpus_per_worker": 2}).resources
    watch = Starvation(
        needs, told.append, cluster=lambda: ({"CPU": 8.0}, {"CPU": 1.0}), clock=lambda: now[0]
    )
    while not told:
        watch.look(["t001"])
        now[0] += 1.0
        assert now[0] < 60
    assert "t001 has waited for a place for" in told[0]
    assert "2 workers and so 4 CPUs (of 8 in the cluster, 1 is free)" in told[0]
    watch.look(["t001"])
    assert len(told) == 1
    now[0] += AGAIN_SECONDS
    watch.look([])
    watch.look(["t001"])
    assert len(told) == 1, "another one has only begun to wait"
