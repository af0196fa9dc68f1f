"""Hashes are equal exactly up to the task in which something that differs acts."""

import pytest

from curlora_kinds.retentions.kind import RetentionKind
from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.data.prepared import PreparedData, PreparedTask
from orchestrator.loop.task_keys import TaskKeys, task_keys
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.task_files import parse_task

NAMES = ["mood", "being", "lore"]


def prepared(name, **fields):
    document = {
        "name": name, "kind": "classification", "data": {"files": "."}, "prompt": "{text}",
        "labels": {"no": " no", "yes": " yes"}, **fields,
    }  # fmt: skip
    return PreparedTask(name, parse_task(document, name), (), (), (), ("no", "yes"))


TASKS = {name: prepared(name) for name in NAMES}
HASHES = {name: f"tokens of {name}" for name in NAMES}
DATA = PreparedData(TASKS, HASHES, {})


def keys(data=DATA, follows_from=(), adapter=None, retention=None, tasks=("mood", "being"), **more):
    document = {
        "name": "keys", "model": {"name": "m"}, "tasks": list(tasks),
        "probes": [name for name in NAMES if name not in tasks],
        "method": {"adapter": adapter or {"kind": "lora"},
                   "retention": retention or {"kind": "none"}, **more.pop("method", {})},
        **more,
    }  # fmt: skip
    return task_keys(Experiment.model_validate(document), data, dict(follows_from))


def shared(one, other):
    return one.shared_with(other)


@pytest.mark.parametrize("kind", RETENTIONS)
def test_every_retention_says_what_acts_while_the_first_task_is_learnt(kind):
    found = RETENTIONS[kind]
    assert found.first_task is not None
    acting = found.first_task(found.defaults)
    assert {name: found.defaults[name] for name in acting} == acting
    if not acting:
        assert found.follows == (), "what follows the parameters would be missed by other kinds"


def test_strengths_and_kinds_that_wait_for_a_second_task_share_the_first():
    waiting = [
        {"kind": "none"}, {"kind": "ewc"}, {"kind": "ewc", "strength": 3.0, "decay": 0.5},
        {"kind": "ewc_weight"}, {"kind": "replay", "capacity": 5}, {"kind": "olora"},
        {"kind": "laplace", "curvature": "kfac", "pull": 7.0},
    ]  # fmt: skip
    found = [keys(retention=retention) for retention in waiting]
    assert len({each.learnt[0] for each in found}) == 1
    assert len({each.learnt[1] for each in found}) == len(waiting)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"kind": "laplace"}, {"kind": "laplace", "prior_precision": 0.1}),
        ({"kind": "laplace"}, {"kind": "laplace", "sources": ["lore"]}),
        ({"kind": "laplace", "sources": ["lore"]},
         {"kind": "laplace", "sources": ["lore"], "pull": 2.0}),
        ({"kind": "olora"}, {"kind": "olora", "lambda2": 0.1}),
        ({"kind": "ilora"}, {"kind": "ilora", "ema": 0.1}),
        ({"kind": "ilora"}, {"kind": "replay"}),
    ],
)  # fmt: skip
def test_what_acts_at_once_shares_nothing(one, other):
    assert shared(keys(retention=one), keys(retention=other)) == 0
    assert shared(keys(retention=one), keys(retention=one)) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"training": {"seed": 1}},
        {"training": {"learning_rate": 0.5}},
        {"adapter": {"kind": "lora", "r": 3}},
        {"method": {"early_stopping": {}}},
        {"follows_from": {"base": "another"}},
        {"data": PreparedData(TASKS, HASHES | {"mood": "others"}, {})},
        {"data": PreparedData(TASKS | {"being": prepared("being", head="linear")}, HASHES, {})},
        {"resources": {"cpus_per_worker": 2}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_acts_from_the_start_shares_nothing(changed):
    assert shared(keys(), keys(**changed)) == 0


def test_orders_share_their_beginning_and_later_settings_change_later_tasks():
    diagonal = {"objectives": {"gain": "max", "learning_accuracy": "max"},
                "champion": {"subject_to": {}}}  # fmt: skip
    whole, other = keys(tasks=NAMES, **diagonal), keys(tasks=["mood", "lore", "being"], **diagonal)
    assert shared(whole, other) == 1
    assert shared(whole, keys(tasks=NAMES[:2])) == 2
    assert shared(whole, keys(tasks=["being", "mood", "lore"])) == 0
    assert whole.scored[0] == other.scored[0], "of the same cells, in whatever order"
    # After its last task everything is scored, where a longer sequence goes on.
    assert whole.scored[1] != keys(tasks=NAMES[:2], **diagonal).scored[1]
    assert keys(scoring="full").scored[0] != keys().scored[0]


def test_what_is_not_known_to_learn_alike_has_no_hashes(monkeypatch):
    assert keys(method={"sequence": "joint"}) == TaskKeys()
    assert keys(adapter={"kind": "full"}) == TaskKeys()
    silent = RetentionKind(
        name="silent", summary="", made_by="curlora.retention.protocol:Retention"
    )
    monkeypatch.setitem(RETENTIONS._entries, "silent", silent)
    assert keys(retention={"kind": "silent"}) == TaskKeys(), "as of a plugin that says nothing"
