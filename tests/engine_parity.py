"""Every adapter and retention through every engine: what each gives, beside the plain engine.

The cases come from the tables of kinds, so that a new kind is held to its duties without being
named here. A run is a whole sequence of tasks as a trial learns it; what it gives is every step's
loss, the cross-entropy of a text probe after each task and the size of what was merged.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from curlora import ADAPTERS, merged_tensors
from curlora_kinds.adapters.table import sharding_refuses
from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.base.loading import load_base, load_tokenizer, partitioned
from orchestrator.data.preparation import prepare
from orchestrator.engines.deepspeed import DeepSpeedEngine
from orchestrator.engines.plain import PlainEngine
from orchestrator.engines.sharded_base import zero3_config
from orchestrator.executors.pool.admission import packing_refuses
from orchestrator.executors.pool.packed_trials import PackedTrials
from orchestrator.executors.trial_run import adapted_model, fresh_heads, fresh_retention
from orchestrator.loop.answer import run
from orchestrator.loop.learn import learn_sequence
from orchestrator.loop.task_sequence import Start, task_sequence
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.spec.adapter_settings import ADAPTER_SETTINGS
from orchestrator.spec.load import load_experiment
from orchestrator.spec.methods import MethodSpec
from orchestrator.spec.retention_settings import RETENTION_SETTINGS
from tests.tiny import write_training_text

TARGETS = ["q_proj", "v_proj"]

ACTING = {
    "m": 6, "merge_every": 1, "strength": 200.0, "lambda1": 0.5, "max_examples": 8, "capacity": 12,
    "r": 4, "alpha": 2.0, "target_modules": TARGETS,
}  # fmt: skip
"""Settings, where a kind has them, by which it does something in a few steps."""

TURNED = {
    "secura": [{"merge": "none"}, {"merge": "M1"}, {"merge": "M1", "norm": "released"},
               {"merge": "M2"}],
    "laplace": [{"curvature": c} for c in ("diag", "kfac", "tri_kfac", "full")],
    "corda": [{"source": "lore"}],
}  # fmt: skip
"""Settings by which a kind computes something else, each a case of its own."""


@dataclass(frozen=True)
class Case:
    """An adapter and a retention, with settings."""

    adapter: str
    retention: str = "none"
    turned: tuple[tuple[str, str], ...] = ()

    def __str__(self):
        return "-".join([self.adapter, self.retention, *(value for _, value in self.turned)])

    @property
    def method(self):
        """`method` of an experiment."""
        parts = {}
        for part, kind, known in (
            ("adapter", self.adapter, ADAPTER_SETTINGS),
            ("retention", self.retention, RETENTION_SETTINGS),
        ):
            fields = known[kind].model_fields
            settings = ACTING | dict(self.turned)
            parts[part] = {"kind": kind} | {k: v for k, v in settings.items() if k in fields}
        return parts


def cases(adapters=tuple(ADAPTERS), retentions=tuple(RETENTIONS)):
    """Every pair of the tables that is not refused, in every form that computes something else."""
    found = []
    for adapter in adapters:
        for retention in retentions:
            for turned in TURNED.get(adapter, [{}]):
                for more in TURNED.get(retention, [{}]):
                    case = Case(adapter, retention, tuple((turned | more).items()))
                    if RETENTIONS[retention].refuses(adapter, _options(case)) is None:
                        found.append(case)
    return found


def _options(case):
    return {k: v for k, v in case.method["retention"].items() if k != "kind"} | {"r": ACTING["r"]}


def each_adapter_and_each_retention():
    """Each adapter with nothing beside it, and each retention beside LoRA."""
    rest = [kind for kind in RETENTIONS if kind != "none"]
    return [*cases(retentions=["none"]), *cases(adapters=["lora"], retentions=rest)]


class World:
    """A tiny base and two tiny tasks, prepared once; what learns does so on `device`."""

    def __init__(self, base, tasks, folder, device="cpu"):
        self._device = device
        self._base, self._root, self._folder = str(base), Path(tasks), str(folder)
        self._prepared = {}

    def _prepare(self, case):
        """The experiment around a case's method, and its data."""
        document = {
            "name": "parity", "model": {"name": self._base}, "tasks": ["mood", "being"],
            "probes": ["prose"], "method": {"adapter": {"kind": "lora"}},
            # Small enough that no tensor is thrown about by the sign of a gradient near zero.
            "training": {"learning_rate": 0.005, "batch_size": 4, "max_length": 48},
            "data": {"train_examples": 16, "validation_examples": 10, "probe_tokens": 200,
                     "probe_context": 32, "rung_examples": 4},
            "resources": {"executor": "local"}, "storage": self._folder,
        }  # fmt: skip
        if case.adapter == "head_only":
            document["head"] = "linear"
        if case.adapter == "corda":
            document |= {
                "probes": ["prose", write_training_text(self._root)],
                "method": case.method,
            }
        path = self._root / f"parity-{os.getpid()}-{case.adapter}.yaml"
        path.write_text(yaml.safe_dump(document))
        loaded = load_experiment(path)
        return loaded.experiment, prepare(loaded, load_tokenizer(loaded.experiment.model))

    def load(self, case, precision, seed=0, stage=None):
        """The experiment of a case and its data; refused as a file that asks for it would be."""
        key = case.adapter if case.adapter in {"head_only", "corda"} else "any"
        if key not in self._prepared:
            self._prepared[key] = self._prepare(case)
        experiment, data = self._prepared[key]
        document = experiment.model_dump(mode="json")
        document["method"] = case.method
        document["training"] |= {"precision": precision, "seed": seed}
        if stage is not None:
            document["training"]["deepspeed"] = {"zero_optimization": {"stage": stage}}
            document["resources"]["executor"] = "train"
            refused = sharding_refuses(case.adapter, stage)
            if refused is not None:
                raise ValueError(refused)
        return type(experiment).model_validate(document), data

    def learn(self, case, precision, *, seed=0, stage=None):
        """What a run of the case gives: by the plain engine, or DeepSpeed's at a ZeRO stage."""
        experiment, data = self.load(case, precision, seed, stage)
        with partitioned(None if stage is None else zero3_config(experiment.training)):
            model = adapted_model("t001", experiment, data, self._device)
        sequence = task_sequence(experiment, data)
        spec, retention = experiment.training, fresh_retention(experiment)
        engine = (PlainEngine if stage is None else DeepSpeedEngine)(
            model, spec, batch_tokens=256, heads=fresh_heads(sequence, model), retention=retention
        )
        matrix, reports = AccuracyMatrix.empty([t.name for t in sequence.tasks]), []
        run(
            learn_sequence(sequence, retention, matrix, Start()), engine, sequence=sequence,
            matrix=matrix, start=Start(), on_report=lambda report, _: reports.append(report),
            on_progress=lambda _: None,
        )  # fmt: skip
        # What is merged moves the loss of so short a run too little to be seen there.
        merged = [float(t.norm()) for t in merged_tensors(model).values() if t.any()]
        return np.array([*numbers(reports), *merged])

    def learn_packed(self, found, precision, *, seed=0):
        """What runs of some cases give that share their passes, by case."""
        base = load_base(self.load(found[0], precision)[0].model, precision, self._device)
        pack = PackedTrials(base, TARGETS, capacity=len(found), batch_tokens=2048)
        reports = {case: [] for case in found}
        for case in found:
            experiment, data = self.load(case, precision, seed)
            hear = reports[case].append
            pack.join(
                str(case), experiment, task_sequence(experiment, data), lambda r, _, h=hear: h(r)
            )
        while pack.names:
            for end in pack.tick():
                assert end.matrix is not None, end.reason
        return {case: np.array(numbers(made)) for case, made in reports.items()}


def packable(found):
    """Those cases that a pack takes."""
    return [c for c in found if packing_refuses(MethodSpec.model_validate(c.method)) is None]


def numbers(reports):
    """Every step's loss, and the probe's cross-entropy after each task."""
    losses = [loss for report in reports for loss in report.losses]
    probes = [r.probes["prose"]["cross_entropy"] for r in reports if r.probes]
    return [*losses, *probes]


def distances(found, expected):
    """Relative differences, number by number."""
    return np.abs(np.asarray(found) / np.asarray(expected) - 1)


def mean_square(differences):
    """The root of the mean square, over the runs of all seeds."""
    return float(np.sqrt(np.mean(np.square(differences))))
