"""A task that another trial has learnt alike is taken over, and nothing comes out otherwise."""

import json
import shutil
from dataclasses import replace

import pytest
from safetensors.torch import load_file

from orchestrator.base.loading import load_tokenizer
from orchestrator.data.preparation import prepare
from orchestrator.executors.job import Job
from orchestrator.executors.local import run_locally
from orchestrator.executors.messages import Finished, Reported, WorkSetAside
from orchestrator.loop.shared_tasks import TASK_FILE
from orchestrator.loop.task_keys import task_keys
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.spec.load import load_experiment
from orchestrator.system.seals import Maker, seal
from tests.tiny import write_training_text

LORA = {"kind": "lora", "r": 2, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def loaded(tiny_base, tiny_tasks, tmp_path_factory):
    import yaml

    lore = write_training_text(tiny_tasks)
    document = {
        "name": "shared", "model": {"name": str(tiny_base)}, "tasks": ["mood", "being"],
        "probes": [lore], "method": {"adapter": LORA},
        "training": {"learning_rate": 0.02, "max_length": 48, "precision": "fp32"},
        "data": {"train_examples": 32, "validation_examples": 6, "rung_examples": 2},
        "resources": {"executor": "local"}, "storage": str(tmp_path_factory.mktemp("shared")),
        "scoring": "full",
    }  # fmt: skip
    path = tiny_tasks / "shared.yaml"
    path.write_text(yaml.safe_dump(document))
    return load_experiment(path)


@pytest.fixture(scope="module")
def data(loaded):
    return prepare(loaded, load_tokenizer(loaded.experiment.model))


@pytest.fixture
def run(loaded, data, tmp_path):
    """Runs a trial of a storage folder; gives what it said and its last checkpoint's folder."""

    def learn(storage, name, until=None, experiment=loaded.experiment, **settings):
        own = experiment.with_overrides({f"method.{k}": v for k, v in settings.items()})
        folder = SweepFolder(tmp_path / storage / "sweep")
        said = []

        def tell(message):
            said.append(message)
            if until is not None and sum(isinstance(m, Reported) for m in said) == until:
                raise KeyboardInterrupt

        maker = Maker("id", name, str(settings))
        try:
            run_locally(Job(own, maker, folder, keys=task_keys(own, data, {})), data, tell)
        except KeyboardInterrupt:
            return said, None
        return said, folder.checkpoint(name)

    return learn


def reports(said):
    """What was reported, in order, without what depends on the clock and on who has trained."""
    assert isinstance(said[-1], Finished)
    told = [message.report for message in said if isinstance(message, Reported)]
    assert list(said[-1].reports) == told
    return [json.dumps(replace(r, seconds=0.0, taken_from=None).as_document()) for r in told]


def taken(said):
    return [(r.task, r.fraction) for r in said[-1].reports if r.taken_from]


def tensors(checkpoint, file="weights.safetensors"):
    return {name: t.numpy().tobytes() for name, t in load_file(checkpoint / file).items()}


def adapter(checkpoint):
    return tensors(checkpoint / "adapter", "adapter_model.safetensors")


NONE = {"kind": "none"}
ILORA = {"kind": "ilora", "ema": 0.5}
MOOD = [("mood", share) for share in (0.25, 0.5, 1.0)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (NONE, {"kind": "ewc", "strength": 300.0}),
        (NONE, {"kind": "ewc", "max_examples": 8}),
        (NONE, {"kind": "ewc_weight", "strength": 50.0}),
        (NONE, {"kind": "laplace", "pull": 3.0}),
        (NONE, {"kind": "laplace", "curvature": "tri_kfac", "strength": 30.0}),
        ({"kind": "laplace", "curvature": "kfac", "strength": 1e6}, {"kind": "replay"}),
        ({"kind": "replay", "capacity": 3}, {"kind": "olora", "lambda1": 2.0}),
        ({**ILORA, "strength": 0.0}, {**ILORA, "strength": 5.0}),
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_what_goes_on_from_another_trial_is_bit_for_bit_what_trains_alone(run, first, second):
    run("both", "t001", retention=first)
    alone, trained = run("alone", "t002", retention=second)
    said, forked = run("both", "t002", retention=second)
    assert taken(alone) == []
    assert taken(said) == MOOD
    assert reports(said) == reports(alone)
    assert tensors(forked) == tensors(trained)
    assert adapter(forked) == adapter(trained)
    if second["kind"] != "none":
        state = "retention.safetensors"
        assert tensors(forked, state) == tensors(trained, state)
