"""In fp32 on a CPU a trial of the pool ends with the same bits whatever happens to others."""

import pytest
import torch
import yaml

from orchestrator.base.loading import load_base, load_tokenizer
from orchestrator.data.preparation import prepare
from orchestrator.executors.pool.packed_trials import PackedTrials
from orchestrator.loop.task_sequence import task_sequence
from orchestrator.spec.load import load_experiment
from tests.snapshots import save_snapshot

TARGETS = ["q_proj", "v_proj"]
TOKENS = 512


def method(kind, retention="none", r=4, **settings):
    retention = {"kind": retention} | (
        {"max_examples": 8} if retention in {"ewc", "laplace"} else {}
    )
    adapter = {"kind": kind, "r": r, "target_modules": TARGETS, **settings}
    return {"method.adapter": adapter, "method.retention": retention}


METHODS = {
    "curlora": method("curlora"), "laplace": method("curlora", "laplace", r=2),
    "ewc": method("lora", "ewc"), "replay": method("rslora", "replay", r=2),
    "dora": method("dora", r=3),
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tiny_base, tiny_tasks, tmp_path_factory):
    """Each trial's experiment by name, and their data."""
    path = tiny_tasks / "invariant.yaml"
    document = {
        "name": "invariant", "model": {"name": str(tiny_base)}, "tasks": ["mood", "being"],
        "probes": ["prose"], "method": {"adapter": {"kind": "lora", "r": 2}},
        "training": {"learning_rate": 0.03, "batch_size": 4, "max_length": 48,
                     "precision": "fp32", "max_grad_norm": 0.5, "schedule": "linear"},
        "data": {"train_examples": 16, "validation_examples": 10, "probe_tokens": 120,
                 "probe_context": 32, "rung_examples": 4},
        "resources": {"executor": "local"},
        "storage": str(tmp_path_factory.mktemp("invariant")),
    }  # fmt: skip
    path.write_text(yaml.safe_dump(document))
    loaded = load_experiment(path)
    data = prepare(loaded, load_tokenizer(loaded.experiment.model))
    return {
        name: loaded.experiment.with_overrides({**overrides, "training.seed": seed})
        for seed, (name, overrides) in enumerate(METHODS.items())
    }, data


class Run:
    """Trials through packs that may die, and what each has reported and learnt."""

    def __init__(self, world, folder):
        self._trials, self._data = world
        self._folder = folder
        self.reports = {name: [] for name in self._trials}
        self.learnt = {}
        self.matrices = {}

    def go_on(self, names, *, capacity, tokens=TOKENS, reports=10**9):
        """Let some trials learn, from where they were, until so many reports have been made."""
        base = load_base(next(iter(self._trials.values())).model, "fp32")
        pack = PackedTrials(base, TARGETS, capacity=capacity, batch_tokens=tokens,
                            invariant_tokens=TOKENS)  # fmt: skip
        waiting, made = list(names), []
        while (waiting or pack.names) and len(made) < reports:
            while waiting and pack.free:
                self._join(pack, waiting.pop(0), made)
            for end in pack.tick():
                assert end.matrix is not None, end
                self.matrices[end.name] = end.matrix.rows
        return self

    def _join(self, pack, name, made):
        folder = self._folder / name

        def hear(report, matrix):
            made.append(name)
            save_snapshot(pack, name, report, folder / str(len(self.reports[name])))
            self.reports[name].append((report.task, report.step, report.losses, report.row,
                                       report.probes))  # fmt: skip
            self.learnt[name] = pack.engine(name).adapter_values()

        snapshot = folder / str(len(self.reports[name]) - 1) if self.reports[name] else None
        sequence = task_sequence(self._trials[name], self._data)
        pack.join(name, self._trials[name], sequence, hear, snapshot)

    def of(self, name):
        """All that is known of a trial, as text and as tensors."""
        return repr((self.reports[name], self.matrices[name])), self.learnt[name]


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory):
    run = Run(world, tmp_path_factory.mktemp("alone"))
    for name in METHODS:
        run.go_on([name], capacity=1)
    return run


@pytest.mark.parametrize(
    "lives",
    [
        [{"capacity": 5}],
        [{"capacity": 2}],
        [{"capacity": 3, "tokens": 100}],
        [{"capacity": 4, "reports": 7}, {"capacity": 5, "tokens": 256, "reports": 9},
         {"capacity": 2, "tokens": 128}],
    ],
    ids=["together", "two at a time", "small passes", "killed twice"],
)  # fmt: skip
def test_a_trial_ends_with_the_bits_that_it_has_alone(world, alone, tmp_path, lives):
    """A pack that dies is followed by one in which others share the passes of a trial."""
    run, order = Run(world, tmp_path), list(METHODS)
    for life in lives:
        run.go_on([name for name in order if name not in run.matrices], **life)
        order.reverse()
    for name in METHODS:
        (said, learnt), (wanted, adapter) = run.of(name), alone.of(name)
        assert said == wanted, name
        assert learnt.keys() == adapter.keys()
        assert all(torch.equal(learnt[key], adapter[key]) for key in adapter), name
