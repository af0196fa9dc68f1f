"""A task that another trial has learnt alike is taken over, and nothing comes out otherwise."""

import json
import math
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
from orchestrator.spec.sections import ChampionRule, ScoringSpec
from orchestrator.system.seals import Maker
from tests.tiny import write_training_text

LORA = {"kind": "lora", "r": 2, "target_modules": ["q_proj", "v_proj"]}
NONE = {"kind": "none"}
ILORA = {"kind": "ilora", "ema": 0.5}
MOOD = [("mood", share) for share in (0.25, 0.5, 1.0)]


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
    return runs_in(tmp_path, loaded, data)


@pytest.fixture(scope="module")
def run_beside(loaded, data, tmp_path_factory):
    """The same for all tests of one folder `both`, where a trial of no retention has learnt."""
    run = runs_in(tmp_path_factory.mktemp("storages"), loaded, data)
    run("both", "t001", retention=NONE)
    return run


def runs_in(place, loaded, data):
    def learn(storage, name, until=None, experiment=loaded.experiment, **settings):
        own = experiment.with_overrides({f"method.{k}": v for k, v in settings.items()})
        folder = SweepFolder(place / storage / "sweep")
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


@pytest.mark.parametrize(
    "retention",
    [
        {"kind": "ewc", "strength": 300.0},
        {"kind": "ewc", "max_examples": 8},
        {"kind": "ewc_weight", "strength": 50.0},
        {"kind": "laplace", "pull": 3.0},
        {"kind": "laplace", "curvature": "tri_kfac", "strength": 30.0},
        {"kind": "replay", "capacity": 9},
        {"kind": "olora", "lambda1": 2.0},
        {"kind": "ilora", "ema": 0.5, "strength": 5.0},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_what_goes_on_from_another_trial_is_bit_for_bit_what_trains_alone(run_beside, retention):
    kind, source = retention["kind"], "t001"
    if kind == "ilora":  # its slow adapter moves from the first step on
        source = "t002-ilora"
        run_beside("both", source, until=3, retention={**retention, "strength": 0.0})
    name = f"t003-{retention}".replace(" ", "")
    alone, trained = run_beside(name, name, retention=retention)
    said, forked = run_beside("both", name, retention=retention)
    assert {r.taken_from for r in alone[-1].reports} == {None}
    assert {(r.task, r.taken_from) for r in said[-1].reports} == {("mood", source), ("being", None)}
    assert reports(said) == reports(alone)
    assert tensors(forked) == tensors(trained)
    assert adapter(forked) == adapter(trained)
    carried = "retention.safetensors"
    assert tensors(forked, carried) == tensors(trained, carried)


def test_equal_trials_share_every_task_and_later_tasks_follow_the_retention(run):
    """Each task is taken over where it is, and the retention takes it in again by itself."""
    ewc = {"kind": "ewc", "strength": 300.0, "max_examples": 8}
    said, trained = run("runs", "t001", retention=ewc)
    again, forked = run("runs", "t002", retention=ewc)
    assert taken(again) == [*MOOD, *(("being", share) for _, share in MOOD)]
    assert {r.taken_from for r in again[-1].reports} == {"t001"}
    assert reports(again) == reports(said)
    assert tensors(forked) == tensors(trained)
    costs = [[(r.seconds, r.tokens) for r in each[-1].reports] for each in (said, again)]
    assert costs[0] == costs[1], "costs are those of training"


def test_an_interrupted_trial_goes_on_wherever_it_was(run):
    run("both", "t001", retention=NONE)
    alone, trained = run("alone", "t002", retention={"kind": "replay"})
    for until in (1, 3, 4):  # before its first checkpoint, after the task, within the next
        # Everything finds a place, so that these trials differ in nothing but their settings.
        name, replay = f"t00{until}x", {"kind": "replay", "capacity": 100 + until}
        told, _ = run("both", name, until=until, retention=replay)
        assert len([m for m in told if isinstance(m, Reported)]) == until
        said, forked = run("both", name, retention=replay)
        assert tensors(forked) == tensors(trained)
        assert [r.stage for r in said[-1].reports] == [r.stage for r in alone[-1].reports]
        assert taken(said) == MOOD


def test_a_damaged_state_is_set_aside_and_the_task_is_learnt(run, tmp_path):
    run("both", "t001", retention=NONE)
    alone, _ = run("alone", "t002", retention={"kind": "replay"})
    states = sorted((tmp_path / "both" / "cache" / "states").iterdir())
    assert len(states) == 2
    for state in states:
        (state / TASK_FILE).write_text("{}")
    said, _ = run("both", "t002", retention={"kind": "replay"})
    [damaged] = [message for message in said if isinstance(message, WorkSetAside)]
    assert damaged.because == f"its file {TASK_FILE} is damaged"
    assert damaged.kept_as.is_dir()
    assert taken(said) == []
    assert reports(said) == reports(alone)
    third, _ = run("both", "t003", retention={"kind": "replay", "capacity": 2})
    assert {r.taken_from for r in third[-1].reports} == {"t002", None}, "it is kept anew"


def test_another_order_takes_the_scores_where_they_are_its_own(run, loaded):
    """Of a longer sequence the row after a task has other cells: they are scored then."""
    run("runs", "t001")
    order = {"tasks": ("mood", "lore", "being"), "probes": ()}
    said, _ = run("runs", "u001", experiment=loaded.experiment.model_copy(update=order))
    [first, *rest] = said[-1].reports
    assert (first.task, first.fraction, first.taken_from) == ("mood", 1.0, "t001")
    assert not any(r.taken_from for r in rest)
    assert len(first.row) == 3
    assert set(first.per_example) == {"mood"}
    few = {"scoring": ScoringSpec(), "objectives": {"learning_accuracy": "max"},
           "champion": ChampionRule(subject_to={})}  # fmt: skip
    run("few", "t001", experiment=loaded.experiment.model_copy(update=few))
    said, _ = run("few", "u001", experiment=loaded.experiment.model_copy(update=few | order))
    assert taken(said) == MOOD, "only what was just learnt is scored after a task"
    assert [math.isnan(score) for score in said[-1].reports[2].row] == [False, True, True]
