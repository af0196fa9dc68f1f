"""Which trial the driver starts next where some are packed and others have workers of their own."""

from types import SimpleNamespace

import pytest

from orchestrator.base.loading import load_tokenizer
from orchestrator.data.preparation import prepare
from orchestrator.executors.cluster_fit import worker_places
from orchestrator.executors.messages import Failed, Lost
from orchestrator.executors.pool.pool import Pool
from orchestrator.records.journal import Journal
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import load_experiment
from orchestrator.spec.sections import ResourceSpec
from orchestrator.sweep.driver import Driver
from orchestrator.sweep.errors import SweepError
from orchestrator.sweep.protocols import Capacity, Wait
from tests.conftest import Recorder


class Places:
    """A pool of two members with one CPU each, that only says what happened to it."""

    places = 3
    resources = (ResourceSpec(), ResourceSpec())

    def __init__(self):
        self.is_open = False
        self.said = []

    def open(self):
        self.is_open = True
        self.said.append("open")

    def shut(self):
        self.is_open = False
        self.said.append("shut")

    def assign(self, trial):
        self.said.append(f"assign {trial}")

    def release(self, trial):
        self.said.append(f"release {trial}")


@pytest.fixture
def driver(experiment_file, tmp_path):
    """A driver over a grid of methods, whose base is running in the pool."""

    def make(kinds, trials, cpus=2.0, **fields):
        space = {
            "method.adapter.kind": {"choice": kinds},
            "training.learning_rate": {"choice": [0.001 * (n + 1) for n in range(trials)]},
        }
        path = experiment_file(
            search={"space": space, "searcher": "grid", "trials": trials * len(kinds)},
            data={"train_examples": 8, "validation_examples": 4, "probe_tokens": 64,
                  "probe_context": 32},
            **fields,
        )  # fmt: skip
        loaded = load_experiment(path)
        data = prepare(loaded, load_tokenizer(loaded.experiment.model))
        made = Driver(loaded, journal, Recorder(), data)
        made.admission.pool, made.admission.capacity = Places(), Capacity(cpus, 0.0)
        return made

    with Journal(tmp_path / "runs" / "seats") as journal:
        yield make


def names(driver, count):
    """The trials of the next calls; "wait" where none can start."""
    jobs = [driver.next_job() for _ in range(count)]
    return ["wait" if isinstance(job, Wait) else job.trial for job in jobs]


def end(driver, name):
    driver.hear(name, Failed("of no interest here"))
    driver.ended(name, error=False)


def test_neither_trials_nor_members_are_told_where_mlflow_is(driver):
    made = driver(["lora"], 1, tracking={"uri": "postgresql://ada:sesame@db/mlflow"})
    job = made.next_job().as_config()
    pool = Pool(
        made.experiment, made.journal.folder, [],
        SimpleNamespace(members=lambda: 1, crowded=False, draining={}),
        unfinished=lambda: made.unfinished, avoid=tuple, note=print, fault=print,
    )  # fmt: skip
    for told in (job["experiment"], pool._config().experiment):
        assert "sesame" not in repr(told)
        assert Experiment.model_validate(told).tracking.uri is None


def test_a_full_pool_lets_nothing_more_be_proposed_than_one_trial(driver):
    made = driver(["lora"], 8)
    assert names(made, 5) == ["base", "t001", "t002", "wait", "wait"]
    # The next is proposed when more is known, not before.
    assert set(made.trials) == {"base", "t001", "t002", "t003"}
    end(made, "t001")
    assert names(made, 2) == ["t003", "wait"]
    assert made.admission.pool.said[-2:] == ["release t001", "assign t003"]


def test_trials_that_cannot_be_packed_gather_until_the_pool_is_empty(driver):
    made = driver(["secura", "lora"], 2)
    # Two of SECURA wait, for both CPUs are the pool's; two of LoRA go on in it.
    assert names(made, 4) == ["base", "t003", "t004", "wait"]
    assert made.admission.executor_of("t001") == "train"
    for name in ("t003", "t004"):
        end(made, name)
    assert names(made, 1) == ["wait"]  # the base still runs there
    assert "shut" not in made.admission.pool.said
    end(made, "base")
    # Nothing but the base has failed, and without it nothing can go on.
    assert made.given_up


def test_the_pool_is_shut_for_what_it_cannot_hold(driver):
    made = driver(["lora", "secura"], 2)
    made_base(made)
    assert names(made, 3) == ["t001", "t002", "wait"]
    end(made, "t001")
    assert names(made, 1) == ["wait"]
    end(made, "t002")
    assert names(made, 2) == ["t003", "t004"]
    assert [word for word in made.admission.pool.said if word in {"open", "shut"}] == [
        "open",
        "shut",
    ]


def test_the_pool_is_opened_when_the_cpus_are_free_again(driver):
    made = driver(["secura", "lora"], 2)
    made_base(made)
    assert names(made, 3) == ["t001", "t002", "wait"]
    end(made, "t001")
    assert names(made, 1) == ["wait"]
    assert made.admission.pool.said.count("open") == 0
    end(made, "t002")
    assert names(made, 2) == ["t003", "t004"]
    assert made.admission.pool.said.count("open") == 1


def made_base(driver):
    """The base has been measured before."""
    from orchestrator.records.stage_report import DONE, StageReport

    examples = dict.fromkeys(driver.experiment.tasks, (1.0,) * 4)
    report = StageReport(
        task="", task_index=-1, step=0, steps=0, fraction=DONE, score=float("nan"), loss=None,
        row=(0.5,) * len(examples), probes={"prose": {"cross_entropy": 1.0}},
        per_example=examples, head_only={},
        head_only_per_example={},
    )  # fmt: skip
    driver.adopt_base(report)


def test_both_run_side_by_side_where_there_is_room(driver):
    made = driver(["secura", "lora"], 2, cpus=3.0)
    assert names(made, 4) == ["base", "t001", "t003", "t004"]
    assert "shut" not in made.admission.pool.said
    assert [job for job in made.admission.pool.said if job.startswith("assign")] == [
        "assign base", "assign t003", "assign t004",
    ]  # fmt: skip


def test_a_trial_that_no_member_is_left_for_is_no_failure(driver):
    made = driver(["curlora"], 2)
    names(made, 2)
    with pytest.raises(SweepError, match="the base cannot be read"):
        made.hear("t001", Lost("member 0: the base cannot be read"))
    assert made.trials["t001"].state == "RUNNING"  # it is run again when the sweep goes on
    assert made.trials["t001"].failure is None


def test_workers_are_counted_by_node():
    nodes = [
        {"Alive": True, "Resources": {"CPU": 3.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 5.0, "GPU": 4.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
        {"Alive": True, "Resources": {"memory": 1.0}},
    ]
    assert worker_places(nodes, ResourceSpec(cpus_per_worker=2)) == 3
    assert worker_places(nodes, ResourceSpec(cpus_per_worker=1, gpus_per_worker=1)) == 5
