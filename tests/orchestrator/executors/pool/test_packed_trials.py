"""Trials that share a base and their steps compute what each of them computes alone."""

import functools
import gc
import itertools
import math
import random
from dataclasses import replace

import pytest
import torch

import curlora
from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.base.loading import load_base, load_tokenizer
from orchestrator.data.preparation import prepare
from orchestrator.engines import row_batches
from orchestrator.engines.plain import PlainEngine
from orchestrator.executors.pool import packed_trials
from orchestrator.executors.pool.admission import packing_refuses
from orchestrator.executors.pool.learning_passes import LearningPasses
from orchestrator.executors.pool.packed_trials import PackedTrials
from orchestrator.executors.pool.scoring_passes import ScoringPasses
from orchestrator.loop import sequence_run
from orchestrator.loop.answer import run
from orchestrator.loop.learn import learn_sequence
from orchestrator.loop.scoring import DivergedError
from orchestrator.loop.task_sequence import Start, task_sequence
from orchestrator.loop.trial_state import read_state
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.spec.adapter_settings import adapter_options
from orchestrator.spec.load import load_experiment
from orchestrator.spec.retention_settings import retention_options
from tests.snapshots import save_adapter, save_snapshot

TARGETS = ["q_proj", "v_proj"]


def method(kind, retention="none", r=4, **adapter):
    return {
        "method.adapter": {"kind": kind, "r": r, "target_modules": TARGETS, **adapter},
        "method.retention": {"kind": retention} | (
            {"max_examples": 8} if retention in {"ewc", "laplace"} else {}
        ),
    }  # fmt: skip


MIX = {
    "curlora": method("curlora"),
    "laplace": method("curlora", "laplace", r=2, temperature=0.5),
    "ewc": method("lora", "ewc"),
    "replay": method("rslora", "replay", r=2),
    "dora": method("dora", r=3),
}
RATES = dict(zip(MIX, (0.03, 0.02, 0.005, 0.004, 0.003), strict=True))


@pytest.fixture(scope="module")
def world(tiny_base, tiny_tasks, tmp_path_factory):
    """The experiment, its data, and every trial's experiment by name."""
    import yaml

    path = tiny_tasks / "packed.yaml"
    document = {
        "name": "packed", "model": {"name": str(tiny_base)}, "tasks": ["mood", "being"],
        "probes": ["prose"], "method": {"adapter": {"kind": "lora", "r": 2}},
        "training": {"learning_rate": 0.01, "batch_size": 4, "max_length": 48,
                     "precision": "fp32", "max_grad_norm": 0.5, "schedule": "linear"},
        "data": {"train_examples": 16, "validation_examples": 10, "probe_tokens": 120,
                 "probe_context": 32, "rung_examples": 4},
        "resources": {"executor": "local"},
        "storage": str(tmp_path_factory.mktemp("packed")),
    }  # fmt: skip
    path.write_text(yaml.safe_dump(document))
    loaded = load_experiment(path)
    data = prepare(loaded, load_tokenizer(loaded.experiment.model))
    trials = {
        name: loaded.experiment.with_overrides(
            {**overrides, "training.learning_rate": RATES[name], "training.seed": number}
        )
        for number, (name, overrides) in enumerate(MIX.items())
    }
    return trials, data


def alone(experiment, data, base=None):
    """What a trial reports in a process of its own, and its adapter at the end."""
    base = load_base(experiment.model, "fp32") if base is None else base
    adapter, retention = experiment.method.adapter, experiment.method.retention
    model = curlora.attach(
        base, adapter.kind, adapter_options(adapter), seed=experiment.training.seed
    )
    built = RETENTIONS[retention.kind].build(retention_options(retention, experiment.training.seed))
    engine = PlainEngine(model, experiment.training, batch_tokens=256, retention=built)
    sequence = task_sequence(experiment, data)
    matrix = AccuracyMatrix.empty([t.name for t in sequence.tasks])
    reports = []
    run(
        learn_sequence(sequence, built, matrix, Start()), engine, sequence=sequence, matrix=matrix,
        start=Start(), on_report=lambda report, _: reports.append(report),
        on_progress=lambda _: None,
    )  # fmt: skip
    return reports, {n: p.detach().clone() for n, p in curlora.trainable_parameters(model).items()}


@pytest.fixture(scope="module")
def solo(world):
    trials, data = world
    return {name: alone(experiment, data) for name, experiment in trials.items()}


def packed(world, *, capacity, folder=None):
    """All trials through a pack of some capacity; those that find no room join later."""
    trials, data = world
    base = load_base(next(iter(trials.values())).model, "fp32")
    pack = PackedTrials(base, TARGETS, capacity=capacity, batch_tokens=512)
    waiting, reports, ended = list(trials), {name: [] for name in trials}, {}
    while waiting or pack.names:
        while waiting and pack.free:
            name = waiting.pop(0)

            def hear(report, matrix, name=name):
                reports[name].append(report)
                if folder is not None and matrix.complete:
                    save_adapter(pack, name, folder / name)

            pack.join(name, trials[name], task_sequence(trials[name], data), hear)
        for end in pack.tick():
            ended[end.name] = end
    return reports, ended


@pytest.mark.parametrize("capacity", [5, 2])
def test_a_trial_in_a_pack_reports_what_it_reports_alone(world, solo, capacity, tmp_path):
    """In a pack of two, trials join when others leave: at different tasks and steps."""
    reports, ended = packed(world, capacity=capacity, folder=tmp_path)
    assert set(ended) == set(MIX)
    base = load_base(world[0]["curlora"].model, "fp32")
    for name, (expected, trained) in solo.items():
        got = reports[name]
        assert [(r.task, r.step, r.fraction) for r in got] == [
            (r.task, r.step, r.fraction) for r in expected
        ]
        for mine, theirs in zip(got, expected, strict=True):
            assert mine.losses == pytest.approx(theirs.losses, abs=1e-4)
            assert mine.learning_rates == pytest.approx(theirs.learning_rates)
            assert mine.tokens == theirs.tokens
            if mine.row is not None:
                assert mine.row == pytest.approx(theirs.row, abs=1e-6, nan_ok=True)
                for probe, values in theirs.probes.items():
                    assert mine.probes[probe] == pytest.approx(values, abs=1e-3)
        kept = curlora.load_adapter(base, tmp_path / name)
        for place, parameter in trained.items():
            found = dict(kept.named_parameters())[place]
            torch.testing.assert_close(found, parameter, rtol=0, atol=2e-4)
        base = kept.unload() if hasattr(kept, "unload") else kept


def _norm(module, x):
    return module.weight * x * torch.rsqrt(x.square().mean(-1, True) + module.variance_epsilon)


def float64_base(world):
    """A base that computes in float64 throughout: transformers' norms would be float32."""
    base = load_base(next(iter(world[0].values())).model, "fp32").double()
    base.set_attn_implementation("sdpa")  # the eager one has its softmax in float32
    for module in base.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = functools.partial(_norm, module)
    return base


@pytest.fixture(scope="module")
def exact(world):
    """What each trial computes alone in float64, its losses not rounded for the records."""
    trials, data = world
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sequence_run, "six_digits", float)
        return {n: alone(e, data, base=float64_base(world)) for n, e in trials.items()}


def assert_same_to_1e_8(reports, adapter, expected, trained):
    for mine, theirs in zip(reports, expected, strict=True):
        assert mine.losses == pytest.approx(theirs.losses, rel=1e-8, abs=1e-8)
        assert mine.row == pytest.approx(theirs.row, nan_ok=True)
    assert adapter.keys() == trained.keys()
    for place, tensor in trained.items():
        torch.testing.assert_close(adapter[place], tensor, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_packed_equals_solo_in_float64_whoever_comes_and_goes(world, exact, seed, monkeypatch):
    """Trials begin at any tick, into whatever slot; others begin, are dropped and replaced."""
    monkeypatch.setattr(sequence_run, "six_digits", float)
    trials, data = world
    draw = random.Random(seed)
    pack = PackedTrials(float64_base(world), TARGETS, capacity=6, batch_tokens=300)
    waiting, reports, last = draw.sample(list(trials), len(trials)), {}, {}
    guests = itertools.count()

    def join(name, experiment, hear):
        pack.join(name, experiment, task_sequence(experiment, data), hear)

    def hear(name, report, matrix):
        reports.setdefault(name, []).append(report)
        if matrix.complete:
            last[name] = numbers(pack, name)

    def guests_come_and_go():
        staying = [name for name in pack.names if name.startswith("guest")]
        if staying and draw.random() < 0.15:
            pack.drop(draw.choice(staying))
        if pack.free > 1 and draw.random() < 0.2:
            number = next(guests)
            guest = draw.choice(list(trials.values())).with_overrides(
                {"training.seed": 100 + number, "training.batch_size": draw.choice([1, 4, 7])}
            )
            join(f"guest {number}", guest, lambda *_: None)

    while waiting or set(pack.names) & set(trials):
        if waiting and pack.free and draw.random() < 0.3:
            name = waiting.pop()
            join(name, trials[name], functools.partial(hear, name))
        guests_come_and_go()
        assert all(end.matrix is not None for end in pack.tick())
    assert next(guests) > 1
    for name, (expected, trained) in exact.items():
        assert_same_to_1e_8(reports[name], last[name], expected, trained)


@pytest.mark.parametrize("seed", range(20))
def test_slots_are_cut_into_the_passes_that_compute_least(seed):
    draw = random.Random(seed)
    sizes = sorted(
        ((draw.randint(1, 8), draw.randint(5, 60)) for _ in range(draw.randint(1, 8))),
        key=lambda size: -size[1],
    )
    limit, each, world = draw.choice([100, 400, 10_000]), draw.choice([0, 20, 500]), 2

    def share(rows):
        return -(-rows // world)

    def cost(cuts):
        total = 0
        for first, last in cuts:
            tokens = share(sum(rows for rows, _ in sizes[first:last])) * sizes[first][1]
            total += tokens + each if tokens <= limit or last - first == 1 else math.inf
        return total

    every = [
        list(itertools.pairwise([0, *places, len(sizes)]))
        for inner in range(len(sizes))
        for places in itertools.combinations(range(1, len(sizes)), inner)
    ]
    found = row_batches.cut_into_passes(sizes, share, limit, each)
    assert [place for cut in found for place in range(*cut)] == list(range(len(sizes)))
    assert cost(found) == min(map(cost, every))


def test_a_trial_that_diverges_fails_alone(world, solo):
    trials, data = world
    wild = trials["replay"].with_overrides({"method.adapter.alpha": 1e30})
    reports, ended = packed(({**trials, "replay": wild}, data), capacity=5)
    assert ended["replay"].matrix is None
    assert "lower the learning rate" in ended["replay"].reason
    for name in ("curlora", "ewc"):
        expected = solo[name][0][-1]
        assert reports[name][-1].losses == pytest.approx(expected.losses, abs=1e-4)


def test_a_trial_whose_last_step_has_broken_it_fails_where_it_is_scored(world):
    """Alone and packed: its loss was fine before the step, and nobody looks at it again."""
    trials, data = world
    wild = trials["curlora"].with_overrides({
        "training.batch_size": 16, "training.learning_rate": 1e37,
        "training.schedule": "constant", "method.adapter.alpha": 1e3,
    })  # fmt: skip
    with pytest.raises(DivergedError, match="when task 'mood' is scored"):
        alone(wild, data)
    reports, ended = packed(({"wild": wild, "ewc": trials["ewc"]}, data), capacity=2)
    assert ended["wild"].matrix is None
    assert "when task 'mood' is scored" in ended["wild"].reason
    assert ended["ewc"].matrix is not None
    assert not reports["wild"]


@pytest.mark.parametrize(
    ("patience", "names"),
    [(0, ("curlora", "ewc", "dora")), (8, ("curlora", "ewc", "dora")), (8, ("curlora", "ewc"))],
)
def test_trials_that_are_a_step_apart_come_together(world, monkeypatch, patience, names):
    trials, data = world
    monkeypatch.setattr(packed_trials, "PATIENCE", patience)
    seen = []
    learn, read = LearningPasses.learn, ScoringPasses.read

    def noted(work, does):
        def do(pack, slots):
            seen.append((work, len(slots)))
            return does(pack, slots)

        return do

    monkeypatch.setattr(LearningPasses, "learn", noted("learn", learn))
    monkeypatch.setattr(ScoringPasses, "read", noted("read", read))
    base = load_base(trials["ewc"].model, "fp32")
    pack = PackedTrials(base, TARGETS, capacity=3, batch_tokens=512)
    for name in names:
        pack.join(name, trials[name], task_sequence(trials[name], data), lambda *_: None)
        if name == "curlora":
            assert pack.tick() == []  # one ahead of the two that follow
    while pack.names:
        pack.tick()
    assert seen[0] == ("learn", 1)
    apart = [(work, count) for work, count in seen[1:] if count != len(names)]
    if patience:
        # The others, while the first waited to be scored with them.
        assert apart == [("learn", len(names) - 1)]
    else:
        assert ("read", 1) in apart
        assert ("read", 2) in apart


def test_what_cannot_be_packed_is_said(world):
    trials, data = world
    refused = {
        "secura": {"method.adapter": {"kind": "secura", "r": 2}},
        "ilora": {"method.retention": {"kind": "ilora"}},
        "dropout": {"method.adapter.dropout": 0.1},
    }
    for word, overrides in refused.items():
        experiment = trials["ewc"].with_overrides(overrides)
        assert word in str(packing_refuses(experiment.method))
        base = load_base(experiment.model, "fp32")
        pack = PackedTrials(base, TARGETS, capacity=1, batch_tokens=256)
        with pytest.raises(ValueError, match="cannot be packed"):
            pack.join("t", experiment, task_sequence(experiment, data), lambda *_: None)
        assert pack.free == 1
    assert all(packing_refuses(e.method) is None for e in trials.values())


# ------------------------------------------------------------------------------------- snapshots


def pack_of(world, *, capacity=4, batch_tokens=512):
    """A pack on a base of its own, which computes in float64."""
    base = load_base(world[0]["curlora"].model, "fp32").double()
    return PackedTrials(base, TARGETS, capacity=capacity, batch_tokens=batch_tokens)


class Heard:
    """What some trials have reported, their last snapshots and their last numbers."""

    def __init__(self, folder=None):
        self.folder, self.reports, self.last, self.ended = folder, {}, {}, {}

    def join(self, pack, world, name, snapshot=None):
        trials, data = world

        def hear(report, matrix):
            reports = self.reports.setdefault(name, [])
            reports.append(report)
            assert pack.state(name).reports[-1] == report
            assert pack.state(name).matrix == matrix
            if self.folder is not None:
                save_snapshot(pack, name, report, self.folder / name / str(len(reports)))
            if matrix.complete:
                self.last[name] = numbers(pack, name)

        for end in pack.join(
            name, trials[name], task_sequence(trials[name], data), hear, snapshot=snapshot
        ):
            self.ended[end.name] = end

    def run(self, pack, until=math.inf):
        while pack.names and sum(map(len, self.reports.values())) < until:
            for end in pack.tick():
                self.ended[end.name] = end


def slot_of(pack, name):
    return pack._slots.named(name)


def numbers(pack, name):
    """A trial's trained numbers."""
    return slot_of(pack, name).engine.adapter_values()


def assert_same_end(found, wanted, name, limit=1e-8):
    assert found.last[name].keys() == wanted.last[name].keys()
    for place, tensor in found.last[name].items():
        torch.testing.assert_close(tensor, wanted.last[name][place], rtol=limit, atol=limit)


TOGETHER = ("curlora", "ewc", "dora_replay", "laplace")


@pytest.fixture(scope="module")
def four(world):
    """Four trials of different adapters and retentions."""
    trials, data = world
    dora = trials["dora"].with_overrides(
        {**method("dora", "replay", r=3), "training.learning_rate": 0.003}
    )
    return {**trials, "dora_replay": dora}, data


@pytest.fixture(scope="module")
def undisturbed(four):
    heard, pack = Heard(), pack_of(four)
    for name in TOGETHER:
        heard.join(pack, four, name)
    heard.run(pack)
    return heard


@pytest.mark.parametrize("stop", [3, 6, 14, 21])
def test_a_trial_goes_on_from_its_snapshot_as_if_nothing_had_happened(
    four, undisturbed, stop, tmp_path
):
    heard, pack = Heard(tmp_path), pack_of(four)
    for name in TOGETHER:
        heard.join(pack, four, name)
    heard.run(pack, until=stop)
    again, other = Heard(), pack_of(four, capacity=6)
    again.join(other, four, "replay")
    for name in reversed(TOGETHER):
        count = len(heard.reports.get(name, []))
        snapshot = tmp_path / name / str(count) if count else None
        again.join(other, four, name, snapshot)
        again.reports[name] = [*heard.reports.get(name, []), *again.reports.get(name, [])]
    again.run(other)
    for name in TOGETHER:
        assert len(again.reports[name]) == 6
        for mine, theirs in zip(again.reports[name], undisturbed.reports[name], strict=True):
            assert mine.losses == pytest.approx(theirs.losses, rel=2e-6)
            assert mine.row == pytest.approx(theirs.row, nan_ok=True)
            assert mine.tokens == theirs.tokens
        if name in again.last:
            assert_same_end(again, undisturbed, name)
        else:  # it had ended before the pack was lost
            assert_same_end(heard, undisturbed, name)


def test_a_snapshot_is_a_checkpoint_of_an_engine_of_its_own(four, undisturbed, tmp_path):
    heard, pack = Heard(tmp_path), pack_of(four)
    for name in TOGETHER:
        heard.join(pack, four, name)
    heard.run(pack, until=20)
    for name, count in (("ewc", 5), ("dora_replay", 3)):
        reports, trained = continued(four, name, tmp_path / name / str(count))
        assert len(reports) == 6
        for place, tensor in trained.items():
            wanted = undisturbed.last[name][place]
            torch.testing.assert_close(tensor, wanted, rtol=1e-8, atol=1e-8)


def continued(world, name, folder):
    """What an engine makes of the rest of a trial: its reports and its numbers."""
    experiment = world[0][name]
    adapter, spec = experiment.method.adapter, experiment.method.retention
    base, seed = load_base(experiment.model, "fp32").double(), experiment.training.seed
    model = curlora.attach(base, adapter.kind, adapter_options(adapter), seed=seed).double()
    retention = RETENTIONS[spec.kind].build(retention_options(spec, seed))
    engine = PlainEngine(model, experiment.training, batch_tokens=256, retention=retention)
    engine.load(folder)
    state, sequence = read_state(folder), task_sequence(experiment, world[1])
    reports = list(state.reports)
    run(
        learn_sequence(sequence, retention, state.matrix, state.start), engine,
        sequence=sequence, matrix=state.matrix, start=state.start,
        on_report=lambda report, _: reports.append(report), on_progress=lambda _: None,
    )  # fmt: skip
    return reports, {n: p.detach() for n, p in curlora.trainable_parameters(model).items()}


def test_a_snapshot_of_another_trial_is_refused(four, tmp_path):
    heard, pack = Heard(tmp_path), pack_of(four)
    heard.join(pack, four, "ewc")
    with pytest.raises(ValueError, match="No trial 'nobody' is learning here"):
        pack.engine("nobody")
    heard.run(pack, until=1)
    free = pack.free
    with pytest.raises(ValueError, match="does not fit slot"):
        heard.join(pack, four, "dora_replay", tmp_path / "ewc" / "1")
    assert pack.free == free
    assert pack.names == ["ewc"]


def test_how_far_a_trial_is_can_be_asked_and_only_rises(four, tmp_path):
    heard, pack = Heard(tmp_path), pack_of(four)
    heard.join(pack, four, "curlora")
    seen = [pack.progress("curlora")]
    assert (seen[0].phase, seen[0].task, seen[0].step, seen[0].steps) == ("training", "mood", 0, 4)
    while pack.names:
        pack.tick()
        if pack.names:
            seen.append(pack.progress("curlora"))
    done = [reading.done for reading in seen]
    assert done == sorted(done)
    assert done[0] == 0.0
    assert 0.9 < done[-1] < 1.0
    assert {reading.phase for reading in seen} == {"training", "evaluating"}
    assert (seen[-1].task, seen[-1].task_index, seen[-1].tasks) == ("being", 1, 2)
    heard.join(pack, four, "curlora", tmp_path / "curlora" / "2")
    again = pack.progress("curlora")  # inside the first task, with what is left ahead
    assert (again.task, again.step, again.steps, again.done) == ("mood", 2, 4, 0.0)


# -------------------------------------------------------------------------------------- failures


BROKEN = "replay"


def run_with(world, break_it, *, names=(*TOGETHER, BROKEN), prepare=lambda pack: None):
    """Some trials in one pack, one of them broken by `break_it(pack, its slot)`."""
    heard, pack = Heard(), pack_of(world, capacity=len(names))
    prepare(pack)
    for name in names:
        heard.join(pack, world, name)
    if break_it is not None:
        break_it(pack, slot_of(pack, BROKEN))
    heard.run(pack)
    return heard


def raising(error):
    def raise_it(*_, **__):
        raise error

    return raise_it


def break_penalty(pack, slot):
    slot.engine.retention.penalty = raising(KeyError("no such anchor"))


def break_after_step(pack, slot):
    slot.engine.retention.after_step = raising(RuntimeError("no such anchor"))


def break_generator(pack, slot):
    slot.engine.retention.rows = raising(ZeroDivisionError("no such anchor"))


def break_report(pack, slot):
    slot.on_report = raising(StopIteration("no such anchor"))


def break_row(pack, slot):
    """A token that the base does not know, in the very pass that all share."""
    examples = slot.run.request.examples
    wrong = replace(examples[1], tokens=(10_000, *examples[1].tokens[1:]))
    slot.run.request = replace(slot.run.request, examples=(examples[0], wrong, *examples[2:]))


@pytest.mark.parametrize(
    ("break_it", "kind"),
    [
        (break_penalty, "KeyError"),
        (break_after_step, "RuntimeError"),
        (break_generator, "ZeroDivisionError"),
        (break_report, "StopIteration"),
        (break_row, "IndexError"),
    ],
)
def test_whatever_a_trial_raises_ends_it_alone(four, undisturbed, break_it, kind):
    heard = run_with(four, break_it)
    end = heard.ended[BROKEN]
    assert end.matrix is None
    assert end.reason.startswith(f"{kind}: ")
    assert "Traceback" in end.details
    assert end.details.rstrip().splitlines()[-1].startswith(kind)
    for name in TOGETHER:
        assert heard.ended[name].matrix.complete
        assert_same_end(heard, undisturbed, name)


def test_a_failure_in_a_report_is_to_the_others_as_if_the_trial_had_left(four):
    def drop(pack, slot):
        slot.on_report = lambda *_: pack.drop(BROKEN)

    failed, left = run_with(four, break_report), run_with(four, drop)
    assert BROKEN not in left.ended
    for name in TOGETHER:
        assert_same_end(failed, left, name, limit=0)
        assert [r.losses for r in failed.reports[name]] == [r.losses for r in left.reports[name]]


class Memory:
    """Makes a base run out of memory in passes that are too large, as an allocator would."""

    def __init__(self, too_large, where):
        self.too_large, self.where, self.times = too_large, where, []

    def __call__(self, pack):
        model = pack.scored.model.model
        if self.where == "forward":
            model.register_forward_pre_hook(
                lambda _, args, kwargs: self.allocate(kwargs["input_ids"]), with_kwargs=True
            )
        else:  # once the gradients of the upper layers have been added
            model.layers[0].register_forward_hook(self.watch)

    def watch(self, module, args, output):
        if output.requires_grad:
            output.register_hook(self.allocate)

    def allocate(self, tensor):
        if self.too_large(tensor):
            self.times.append(tuple(tensor.shape[:2]))
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("rows", [9, 5, 1])
def test_passes_that_do_not_fit_are_halved_and_nothing_changes(four, undisturbed, rows, where):
    memory = Memory(lambda tensor: tensor.shape[0] > rows, where)
    heard = run_with(four, None, names=TOGETHER, prepare=memory)
    assert memory.times
    # What did not fit once is not tried again and again.
    assert len(memory.times) <= 12
    for name in TOGETHER:
        assert heard.ended[name].matrix.complete
        assert_same_end(heard, undisturbed, name)
        for mine, theirs in zip(heard.reports[name], undisturbed.reports[name], strict=True):
            assert mine.losses == pytest.approx(theirs.losses, rel=2e-6)
            assert mine.metrics == theirs.metrics


def test_a_row_that_does_not_fit_alone_fails_its_trial_alone(four, undisturbed):
    marker = 1  # the padding token, which no text holds

    def break_it(pack, slot):
        first = slot.run.request.examples[0]
        wrong = replace(first, tokens=(marker, *first.tokens[1:]))
        slot.run.request = replace(
            slot.run.request, examples=(wrong, *slot.run.request.examples[1:])
        )

    memory = Memory(lambda tokens: bool((tokens == marker).any()), "forward")
    heard = run_with(four, break_it, prepare=memory)
    assert "a single row of" in heard.ended[BROKEN].reason
    assert "training.max_length" in heard.ended[BROKEN].reason
    assert "can't allocate memory" in heard.ended[BROKEN].details
    for name in TOGETHER:
        assert heard.ended[name].matrix.complete
        assert_same_end(heard, undisturbed, name)


# ------------------------------------------------------------------------------------- admission


def held_bytes():
    """Bytes of all tensors that are alive, storages counted once."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        # Exactly these: what other tests have compiled leaves tensors without storage behind.
        if type(thing) in {torch.Tensor, torch.nn.Parameter}:
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def test_what_a_trial_will_hold_is_known_before_it_joins(world):
    trials, data = world
    wide = {
        name: trials[name].with_overrides({"method.adapter.r": rank})
        for name, rank in {"curlora": 12, "laplace": 16, "ewc": 4, "dora": 8}.items()
    }
    twin = wide["curlora"].with_overrides({"method.adapter.alpha": 3.0})
    base = load_base(twin.model, "fp32")
    pack = PackedTrials(base, TARGETS, capacity=6, batch_tokens=256)
    pack.join("first", twin, task_sequence(twin, data), lambda *_: None)
    before = [held_bytes()]
    for name, experiment in {**wide, "twin": twin}.items():
        expected = pack.bytes_of(experiment)
        pack.join(name, experiment, task_sequence(experiment, data), lambda *_: None)
        full = held_bytes()
        assert full - before[-1] == pytest.approx(expected, rel=0.1), name
        before.append(full)
    for name in pack.names[1:]:
        pack.drop(name)
    # A row more may be kept for the next one.
    assert held_bytes() <= before[0] + pack.bytes_of(twin)


def test_what_a_trial_that_cannot_be_packed_would_hold_is_refused(world):
    pack = pack_of(world)
    refused = world[0]["ewc"].with_overrides({"method.adapter.dropout": 0.1})
    with pytest.raises(ValueError, match="cannot be packed"):
        pack.bytes_of(refused)
