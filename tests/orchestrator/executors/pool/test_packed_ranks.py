"""Two workers that shard the rows of a pack compute what one of them does."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from orchestrator.base.loading import load_base, load_tokenizer
from orchestrator.data.model_inputs import apart
from orchestrator.data.preparation import prepare
from orchestrator.engines.checkpoints import read_tensors
from orchestrator.engines.sharded_base import ShardedBase, zero3_config
from orchestrator.engines.workers import ALONE, Workers
from orchestrator.executors.job import Job
from orchestrator.executors.messages import Finished, Reported
from orchestrator.executors.pool.admission import trial_refuses
from orchestrator.executors.pool.mailbox import ENDINGS, Mailbox
from orchestrator.executors.pool.member import Member
from orchestrator.executors.pool.member_worker import serve
from orchestrator.executors.pool.packed_trials import PackedTrials
from orchestrator.loop.scoring import rows_of
from orchestrator.loop.task_sequence import task_sequence
from orchestrator.loop.trial_state import read_state
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.spec.load import load_experiment
from orchestrator.spec.sections import TrainingSpec
from orchestrator.system.seals import Maker
from tests.process_group import in_two_workers
from tests.questions import flat, questions
from tests.snapshots import save_adapter, save_snapshot

pytestmark = pytest.mark.slow

TARGETS = ["q_proj", "v_proj"]
MIX = {
    "curlora": ("curlora", 4, "none", 4),
    # An odd number of rows, and later one row: then a worker has none.
    "lora": ("lora", 2, "replay", 3),
    "dora": ("dora", 3, "ewc", 1),
    "laplace": ("curlora", 2, "laplace", 4),
}


@pytest.fixture(scope="module")
def loaded(tiny_base, tiny_tasks, tmp_path_factory):
    """What all trials have in common."""
    import yaml

    path = tiny_tasks / "ranks.yaml"
    document = {
        "scoring": "full",
        "name": "ranks", "model": {"name": str(tiny_base)}, "tasks": ["mood", "being"],
        "probes": ["prose"], "method": {"adapter": {"kind": "lora", "r": 2}},
        "training": {"learning_rate": 0.01, "max_length": 48, "precision": "fp32",
                     "max_grad_norm": 0.5, "schedule": "linear"},
        "data": {"train_examples": 6, "validation_examples": 5, "probe_tokens": 60,
                 "probe_context": 32, "rung_examples": 2},
        "resources": {"executor": "local"},
        "storage": str(tmp_path_factory.mktemp("ranks")),
    }  # fmt: skip
    path.write_text(yaml.safe_dump(document))
    return load_experiment(path)


@pytest.fixture(scope="module")
def trials(loaded):
    """Every trial's experiment by name, and their data."""
    made = {}
    for number, (name, (kind, r, retention, batch)) in enumerate(MIX.items()):
        strength = {"strength": 20.0, "max_examples": 3} if retention in {"ewc", "laplace"} else {}
        made[name] = loaded.experiment.with_overrides({
            "method.adapter": {"kind": kind, "r": r, "target_modules": TARGETS},
            "method.retention": {"kind": retention} | strength,
            "training.batch_size": batch, "training.seed": number,
        })  # fmt: skip
    return made, prepare(loaded, load_tokenizer(loaded.experiment.model))


def learn(pack, trials, data, folder, break_it=lambda pack: None):
    """What every trial reports, and its scores or why it failed.

    Its snapshots and its adapter are put into the folder.
    """
    reports, matrices, waiting = {name: [] for name in trials}, {}, list(trials)
    while waiting or pack.names:
        while waiting and pack.free:
            name = waiting.pop(0)

            def hear(report, matrix, name=name):
                reports[name].append(report)
                if matrix.complete:
                    save_adapter(pack, name, folder / name / "adapter")
                save_snapshot(pack, name, report, folder / name / str(len(reports[name])))

            pack.join(name, trials[name], task_sequence(trials[name], data), hear)
            break_it(pack)
        for end in pack.tick():
            # Row 0 is measured elsewhere.
            matrices[end.name] = end.matrix.rows[1:] if end.matrix else end.reason
    return reports, matrices


def pack_of(base, workers=ALONE, **fields):
    # Passes of so few tokens that some trials need more than one.
    return PackedTrials(base, TARGETS, capacity=3, batch_tokens=128, workers=workers, **fields)


def read_joint_rows(pack):
    """The base reads a prompt once for all its continuations, and says what it says of each."""
    joint = rows_of(questions())
    separate = [part for row in joint for part in apart(row)]
    base, seen = pack.bare_base(), []
    hook = pack.scored.model.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append("position_ids" in kwargs), with_kwargs=True
    )
    once, alone = flat(base.log_probabilities(joint)), flat(base.log_probabilities(separate))
    hook.remove()
    assert once == pytest.approx(alone, rel=1e-6)  # the softmax is in float32
    assert seen.count(True) > 1


class Watched(Workers):
    """Says how often this worker had no rows of its own."""

    idle = 0

    def shard(self, rows):
        own, counts = super().shard(rows)
        Watched.idle += not counts
        return own, counts


def _replicated(folder, trials, data):
    base = load_base(next(iter(trials.values())).model, "fp32").double()
    pack = pack_of(base, Watched.of_group())
    read_joint_rows(pack)
    return *learn(pack, trials, data, folder), Watched.idle


ZERO_3 = {
    "zero_optimization": {
        # So small that every tensor of the base is sharded, and none is fetched ahead of its use.
        "stage": 3,
        "stage3_param_persistence_threshold": 0,
        "stage3_prefetch_bucket_size": 0,
        "stage3_max_reuse_distance": 0,
    }
}


def _sharded(folder, trials, data):
    base = load_base(next(iter(trials.values())).model, "fp32").double()
    spec = TrainingSpec(learning_rate=0.01, precision="fp32", batch_size=8, deepspeed=ZERO_3)
    sharded = ShardedBase(base, zero3_config(spec))
    assert whole_numbers(base) == 0
    pack = pack_of(base, Watched.of_group(), sharded=sharded)
    read_joint_rows(pack)
    found = *learn(pack, trials, data, folder), Watched.idle
    left = {n: tuple(p.shape) for n, p in base.named_parameters() if p.numel()}
    assert not left, left
    return found


def _failing(folder, trials, data):
    """A row of the second worker is wrong, and there is memory for two rows at a time there."""
    workers = Workers.of_group()
    base = load_base(next(iter(trials.values())).model, "fp32").double()
    failed = []

    def allocate(_, args, kwargs):
        if workers.rank == 1 and kwargs["input_ids"].shape[0] > 2:
            failed.append(kwargs["input_ids"].shape[0])
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    base.model.register_forward_pre_hook(allocate, with_kwargs=True)

    def break_row(pack):
        if "lora" in pack.names:
            slot = pack._slots.named("lora")
            first, second, third = slot.run.request.examples
            wrong = replace(second, tokens=(10_000, *second.tokens[1:]))
            slot.run.request = replace(slot.run.request, examples=(first, wrong, third))

    some = {name: trials[name] for name in ("curlora", "lora")}
    return *learn(pack_of(base, workers), some, data, folder, break_row), len(failed)


def whole_numbers(base):
    """Numbers of the base that this worker holds whole at the moment."""
    return sum(p.numel() for p in base.parameters())


@pytest.fixture(scope="module")
def alone(trials, tmp_path_factory):
    experiments, data = trials
    folder = tmp_path_factory.mktemp("alone")
    base = load_base(next(iter(experiments.values())).model, "fp32").double()
    return learn(pack_of(base), experiments, data, folder), folder


WORK = {"replicated": _replicated, "sharded": _sharded}


def _learn_every_way(rank, folder, trials, data, loaded):
    from deepspeed.accelerator import get_accelerator

    # Where a processor computes in fp16, DeepSpeed refuses the float64 of these bases, which it
    # takes elsewhere; it makes no use of the type that it looks at.
    get_accelerator().is_fp16_supported = lambda: False
    ways = {**WORK, "failing": _failing}
    # Each worker saves what a member's first one does: not both in one place.
    own = folder if rank == 0 else folder / "second"
    results = {name: work(own / name, trials, data) for name, work in ways.items()}
    changes = {"resources": POOL | {"workers": 2}, "training.deepspeed": ZERO_3}
    return results | {
        "member": served(folder / "member", loaded, data, changes, Workers.of_group())
    }


@pytest.fixture(scope="module")
def two_workers(trials, loaded, tmp_path_factory):
    """What each of two workers saw, in their order; and the folder of what they saved."""
    folder = tmp_path_factory.mktemp("together")
    return in_two_workers(_learn_every_way, folder, *trials, loaded), folder


@pytest.mark.parametrize("way", WORK)
def test_two_workers_report_and_save_what_one_does(alone, two_workers, way):
    (expected, matrices), saved = alone
    found, folder = two_workers[0], two_workers[1] / way
    for rank, (got, finished, idle) in enumerate(result[way] for result in found):
        assert finished == matrices
        assert (idle > 0) == (rank == 1)
        for name, reports in expected.items():
            assert len(got[name]) == len(reports) >= 4
            for mine, theirs in zip(got[name], reports, strict=True):
                assert (mine.task, mine.step, mine.tokens) == (
                    theirs.task, theirs.step, theirs.tokens
                )  # fmt: skip
                assert mine.losses == pytest.approx(theirs.losses, rel=2e-6)
                assert mine.row == pytest.approx(theirs.row, abs=1e-8, nan_ok=True)
                assert mine.metrics == theirs.metrics
                for probe, values in (theirs.probes or {}).items():
                    assert mine.probes[probe] == pytest.approx(values, abs=1e-6)
    for name in MIX:
        for kind in ("weights", "retention"):
            for wanted in sorted((saved / name).glob(f"*/{kind}.safetensors")):
                found = read_tensors(folder / wanted.relative_to(saved))
                assert_same(found, read_tensors(wanted))
        wanted = saved / name / "adapter" / "adapter_model.safetensors"
        assert_same(read_tensors(folder / wanted.relative_to(saved)), read_tensors(wanted))
        last = folder / name / str(len(expected[name]))
        assert read_state(last).matrix.rows[1:] == matrices[name]


def test_what_fails_on_one_worker_fails_on_both_and_harms_no_other_trial(alone, two_workers):
    (expected, matrices), saved = alone
    results, folder = two_workers
    assert [result["failing"][2] for result in results] == [0, pytest.approx(2, abs=1)]
    for got, finished, _ in (result["failing"] for result in results):
        assert finished["lora"].startswith("IndexError: ")
        assert finished["curlora"] == matrices["curlora"]
        for mine, theirs in zip(got["curlora"], expected["curlora"], strict=True):
            assert mine.losses == pytest.approx(theirs.losses, rel=2e-6)
            assert mine.metrics == theirs.metrics
    wanted = Path("curlora") / str(len(expected["curlora"])) / "weights.safetensors"
    assert_same(read_tensors(folder / "failing" / wanted), read_tensors(saved / wanted))


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for place, tensor in wanted.items():
        torch.testing.assert_close(found[place], tensor, rtol=1e-8, atol=1e-8)


def test_a_trial_is_packed_where_the_members_of_the_pool_are_as_it_wants_them(loaded):
    two = loaded.experiment.with_overrides({"resources": POOL | {"workers": 2}})
    assert trial_refuses(two, loaded.tasks) is None
    refused = str(trial_refuses(two, loaded.tasks, sweep=loaded.experiment))
    assert "`resources.workers` is 2, and the pool's members have 1" in refused
    other = loaded.experiment.with_overrides({"training.precision": "bf16"})
    refused = str(trial_refuses(other, loaded.tasks, sweep=loaded.experiment))
    assert "`training.precision` is bf16, and the pool's members have fp32" in refused


# ------------------------------------------------------------------------------- a whole member

POOL = {"executor": "pool", "slots": 2}
JOBS = {
    BASE_TRIAL: {},
    "curlora": {"method.adapter": {"kind": "curlora", "r": 4, "target_modules": TARGETS}},
    "lora": {"method.adapter": {"kind": "lora", "r": 2, "target_modules": TARGETS}},
    # Its layers are others, so it waits until the pack can be made anew.
    "dora": {"method.adapter": {"kind": "dora", "r": 2, "target_modules": ["k_proj"]}},
}


def served(folder, loaded, data, changes, workers=ALONE):
    """What a member says of some jobs, until all have ended; the first worker alone hears it."""
    box, told = Mailbox(), []
    for name, overrides in JOBS.items():
        experiment = loaded.experiment.with_overrides({**changes, **overrides})
        maker = Maker("a sweep", name, "some settings")
        box.ask(Job(experiment, maker, SweepFolder(folder)))

    def exchange(said, free):
        told.extend(said)
        if len([name for name, message in told if isinstance(message, ENDINGS)]) == len(JOBS):
            box.close()
        return box.exchange("member", said, free)

    member = Member(loaded.experiment.with_overrides(changes), data, folder, workers)
    serve(member, exchange, workers)
    return told


def test_a_member_of_two_workers_with_a_sharded_base_says_what_one_worker_says(
    loaded, trials, two_workers, tmp_path
):
    expected = served(tmp_path, loaded, trials[1], {"resources": POOL})
    assert two_workers[0][1]["member"] == []
    found = two_workers[0][0]["member"]
    for name in JOBS:
        wanted = [message for trial, message in expected if trial == name]
        got = [message for trial, message in found if trial == name]
        assert [*map(type, got)] == [*map(type, wanted)]
        assert isinstance(got[-1], Finished), got[-1]
        reports = [(m.report, w.report) for m, w in zip(got, wanted, strict=True)
                   if isinstance(m, Reported)]  # fmt: skip
        for mine, theirs in reports:
            assert mine.losses == pytest.approx(theirs.losses, abs=1e-4)
            assert mine.row == theirs.row
            assert mine.head_only == theirs.head_only
            for probe, values in (theirs.probes or {}).items():
                assert mine.probes[probe] == pytest.approx(values, abs=1e-3)
        if name != BASE_TRIAL:
            saved = two_workers[1] / "member" / "ray" / name / "checkpoint" / "adapter"
            adapter = read_tensors(saved / "adapter_model.safetensors")
            alone = tmp_path / saved.relative_to(two_workers[1] / "member")
            for place, tensor in read_tensors(alone / "adapter_model.safetensors").items():
                torch.testing.assert_close(adapter[place], tensor, rtol=0, atol=2e-4)
