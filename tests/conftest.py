"""What the tests share: a tiny base model with a tokenizer, tiny tasks, one Ray cluster."""

import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.engines.shm_op import keep_in_environment
from tests.tiny import write_base, write_tasks

keep_in_environment()  # for the processes that tests start

# One thread each: the tests share two cores with the processes that they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Ray would let its workers wait for every other process: the tests beside those with Ray.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Tests with Ray come first, as one group: they take longest. Then files by slow tests.

    What is long and comes last is waited for by a process that has nothing left to do.
    """
    slow = Counter()
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif item.get_closest_marker("slow"):
            slow[item.path] += 1
    items.sort(key=lambda item: (item.get_closest_marker("ray") is None, -slow[item.path]))


def pytest_collection_finish(session):
    """Refuse a pair of pytest and xdist that loses groups: each process would start a cluster."""
    grouped = getattr(session.config.option, "loadgroup", False)
    marked = [item for item in session.items if item.get_closest_marker("ray")]
    if grouped and not all(item.nodeid.endswith("@ray") for item in marked):
        raise pytest.UsageError(
            "Tests with Ray are not told apart: this pytest and pytest-xdist lose groups. Install "
            "the versions in constraints.txt."
        )


def pytest_xdist_make_scheduler(config, log):
    """Where tests run in two processes: those with Ray in one of them, others a file at a time."""
    from xdist.scheduler import LoadScopeScheduling

    class OneCluster(LoadScopeScheduling):
        """The tests with Ray are one scope, and the first: it takes longest."""

        def _split_scope(self, nodeid):
            return "with Ray" if nodeid.endswith("@ray") else nodeid.partition("::")[0]

    config.option.loadscopereorder = False  # in the order of `pytest_collection_modifyitems`
    return OneCluster(config, log)


@pytest.fixture(autouse=True)
def fixed_seeds():
    """Every test begins with the same random numbers."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    random.seed(0)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """A folder with a tiny random Llama and a word tokenizer."""
    return write_base(tmp_path_factory.mktemp("tiny-base"))


@pytest.fixture(scope="session")
def tiny_tasks(tmp_path_factory) -> Path:
    """A folder of task files (`mood`, `being`, probe `prose`) with their data."""
    return write_tasks(tmp_path_factory.mktemp("experiments"))


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """A database with MLflow's tables, to be copied: making them takes seconds."""
    from orchestrator.records.mlflow.projection import Projection

    folder = tmp_path_factory.mktemp("database")
    Projection(f"sqlite:///{folder / 'mlflow.db'}", folder / "none").check()
    return folder / "mlflow.db"


@pytest.fixture
def records(empty_database, tmp_path) -> Path:
    """`tmp_path/runs` with the database that a sweep there would have to make."""
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copyfile(empty_database, folder / "mlflow.db")
    return folder


@pytest.fixture
def experiment_file(tiny_base, tiny_tasks, tmp_path):
    """Writes an experiment over the tiny base and tasks; keyword arguments replace fields."""
    import yaml

    def write(name: str = "tiny", **fields) -> Path:
        document = {
            "name": name,
            "model": {"name": str(tiny_base)},
            "tasks": ["mood", "being"],
            "probes": ["prose"],
            "method": {
                "adapter": {
                    "kind": "curlora", "r": 4, "alpha": 2.0, "target_modules": ["q_proj", "v_proj"],
                }
            },
            "training": {
                "learning_rate": 0.02, "batch_size": 8, "max_length": 48, "precision": "fp32",
            },
            "data": {"probe_tokens": 200, "probe_context": 32, "rung_examples": 8},
            "storage": str(tmp_path / "runs"),
            **fields,
        }  # fmt: skip
        path = tiny_tasks / f"{name}-{tmp_path.name}.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return path

    return write


SEARCH = {
    "space": {
        "method.adapter.kind": {"choice": ["curlora", "lora"]},
        "method.adapter.r": {"choice": [2, 4]},
        "method.adapter.temperature": {
            "log_uniform": [0.05, 4.0], "when": {"method.adapter.kind": "curlora"},
        },
        "training.learning_rate": {"log_uniform": [0.001, 0.03]},
    },
    "searcher": "tpe",
    "trials": 3,
}  # fmt: skip


@pytest.fixture
def search() -> dict:
    """A search over kind, rank, temperature and learning rate."""
    return json.loads(json.dumps(SEARCH))


class Recorder:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.notes, self.lines, self.steps = [], [], []

    def note(self, text):
        self.notes.append(text)

    def event(self, event, *, replayed=False):
        self.line(event.to_line())

    def line(self, line):
        self.lines.append(line)

    def progress(self, trial, progress):
        self.steps.append((trial, progress))

    def events(self, name):
        return [line for line in self.lines if line["event"] == name]


@pytest.fixture
def recorder() -> Recorder:
    """An observer that remembers."""
    return Recorder()


@pytest.fixture
def synced(monkeypatch):
    """What was synced to disk and renamed from now on, in order: "sync NAME", "name NEW_NAME"."""
    said, paths, replace_, open_ = [], {}, Path.replace, os.open

    def opened(path, *rest, **options):
        descriptor = open_(path, *rest, **options)
        paths[descriptor] = Path(path).name
        return descriptor

    def replaced(self, target):
        said.append(f"name {Path(target).name}")
        return replace_(self, target)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", lambda file: said.append(f"sync {paths.get(file, 'a file')}"))
    monkeypatch.setattr(Path, "replace", replaced)
    return said


@pytest.fixture(scope="session")
def _one_cluster():
    from orchestrator.executors.ray_session import connected

    with connected(None) as resources:
        yield resources


@pytest.fixture
def ray_cluster(request):
    """One local Ray for the whole session, left clean; for tests marked `ray` only."""
    marked = request.node.get_closest_marker("ray")
    assert marked, "a test with the cluster is marked `ray`, else two processes start one each"
    return request.getfixturevalue("_one_cluster")
