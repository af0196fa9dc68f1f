"""How often the host waits for the device in a training step: once, or twice in a pack.

While the host waits it launches nothing, so that on a GPU a small step takes as long as its
launches and its computing one after the other. A pass itself asks the device nothing (see
`curlora.causal_rows`); the waits that are left:

- a step of the plain engine reads the losses of its micro-batches and the gradient's norm
  together. The step must not be taken where the norm is not finite;
- a step of a pack reads the norms of all slots once it is taken, and then the losses, for which
  nothing is waited for any more.

Several workers wait for one another besides, and DeepSpeed within its own step; neither is counted.
"""

import pytest

from orchestrator.base.loading import load_base
from orchestrator.engines.plain import PlainEngine
from orchestrator.executors.pool.packed_trials import PackedTrials
from orchestrator.executors.trial_run import adapted_model, fresh_heads, fresh_retention
from orchestrator.loop.task_sequence import task_sequence
from tests.engine_parity import TARGETS, Case, World
from tests.host_waits import HostWaits

PLAIN = [
    Case("curlora"), Case("lora"), Case("dora"), Case("secura", turned=(("merge", "M1"),)),
    Case("curlora", "ewc"), Case("lora", "laplace", (("curvature", "kfac"),)),
    Case("lora", "olora"), Case("lora", "ewc_weight"), Case("lora", "replay"),
    Case("lora", "ilora"),
]  # fmt: skip
PACKED = [
    Case("curlora"), Case("rslora", "replay"), Case("dora"), Case("lora", "ewc"),
    Case("curlora", "laplace", (("curvature", "diag"),)),
]  # fmt: skip


@pytest.fixture(scope="module")
def world(tiny_base, tiny_tasks, tmp_path_factory):
    return World(tiny_base, tiny_tasks, tmp_path_factory.mktemp("waits"))


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_a_step_of_the_plain_engine_waits_once_for_all_micro_batches(world, case):
    experiment, data = world.load(case, "fp32")
    spec = experiment.training.model_copy(update={"accumulation": 2})
    sequence = task_sequence(experiment, data)
    model = adapted_model("t001", experiment, data, "cpu")
    model.config._attn_implementation = "sdpa"  # as on a GPU
    retention = fresh_retention(experiment)
    engine = PlainEngine(model, spec, heads=fresh_heads(sequence, model), retention=retention)
    first, second = (task.train for task in sequence.tasks[:2])
    engine.begin_sequence(2, [])
    engine.begin_task(0, 2, first)
    engine.train_step(first[:4], 0)
    engine.end_task(0, first)
    engine.begin_task(1, 2, second)
    replayed = [first[at] for _, at in retention.rows(4, 1, 0)]
    engine.train_step(second[:4], 0, replayed)
    assert engine._optimizer is not None
    # AdamW counts its steps on the host, and references to earlier examples are kept there.
    on_host = [state["step"] for state in engine._optimizer.state.values()]
    if case.retention in {"replay", "ilora"}:
        assert replayed
        on_host += [number for number in retention.state_dict().values() if number.ndim == 0]
    with HostWaits(on_host) as waits:
        engine.train_step(second[4:8], 1, replayed)
    assert len(waits.found) == 1, waits.found


def test_a_tick_of_a_pack_waits_twice_however_many_slots_and_passes(world, monkeypatch):
    base = load_base(world.load(PACKED[0], "fp32")[0].model, "fp32")
    base.config._attn_implementation = "sdpa"  # as on a GPU
    pack = PackedTrials(base, TARGETS, capacity=len(PACKED), batch_tokens=128)
    learn, counts, passes = pack._learning.learn, [], []
    monkeypatch.setattr(pack._passes, "learn", _noting(pack._passes.learn, passes))

    def counted(learners):
        before = len(passes)
        with HostWaits() as waits:
            losses = learn(learners)
        counts.append((len(learners), len(passes) - before, waits.found))
        return losses

    monkeypatch.setattr(pack._learning, "learn", counted)
    for case in PACKED:
        experiment, data = world.load(case, "fp32")
        pack.join(str(case), experiment, task_sequence(experiment, data), lambda *_: None)
    while pack.names:
        for end in pack.tick():
            assert end.matrix is not None, end.reason
    assert max(slots for slots, _, _ in counts) == len(PACKED)
    assert max(number for _, number, _ in counts) > 1
    for _, _, found in counts:
        assert len(found) == 2, found


def _noting(work, calls):
    def noted(*args, **kwargs):
        calls.append(None)
        return work(*args, **kwargs)

    return noted
