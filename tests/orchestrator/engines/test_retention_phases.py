"""What a retention is given at each phase, by whatever engine and number of workers."""

import math

import pytest
import torch

from curlora.curvature.observation import Observation
from curlora.retention.protocol import Retention
from orchestrator.data.items import Example
from orchestrator.engines.retention_phases import RetentionPhases
from orchestrator.engines.workers import ALONE, Workers
from orchestrator.spec.sections import TrainingSpec

EXAMPLES = [Example(tuple(range(n, n + 4)), 1 + n % 3) for n in range(9)]
SPEC = TrainingSpec(learning_rate=0.5, seed=3, schedule="constant", warmup_fraction=0.0)


class Looking(Retention):
    """Remembers what it saw."""

    observes = frozenset({"gradients"})
    max_examples = 5
    looks_at = 2
    source = "texts"

    def __init__(self):
        super().__init__()
        self.seen = []

    def begin_sequence(self, params, *, tasks, observed=(), total=None):
        self.seen.append(("sequence", tasks, [list(one) for one in observed]))

    def begin_task(self, params, task, *, observed=(), total=None, reach=0.0):
        self.seen.append(("task", task, list(observed), reach))

    def end_task(self, params, task, observed, total, examples):
        self.seen.append(("end", task, list(observed), examples))


class Phases(RetentionPhases):
    """An engine whose derivative of an example is the number of its first token."""

    def __init__(self, retention, workers=ALONE):
        super().__init__(retention, SPEC, workers, torch.device("cpu"))
        self.computed, self.renewed = [], []

    def adapter_values(self):
        return {"a": torch.zeros(1)}

    def _fresh(self, index):
        self.renewed.append(index)

    def _derivatives(self, examples):
        for example in examples:
            self.computed.append(example)
            yield Observation(gradients={"a": torch.tensor(float(example.tokens[0]))})


def firsts(observed):
    return [int(one.gradients["a"]) for one in observed]


def test_a_retention_sees_as_many_examples_as_it_asks_for_with_their_scored_tokens():
    retention = Looking()
    phases = Phases(retention)
    phases.begin_sequence(2, [EXAMPLES, EXAMPLES[:3]])
    phases.begin_task(1, 4, EXAMPLES)
    phases.end_task(1, EXAMPLES)
    (_, tasks, sources), (_, task, looks, reach), (_, ended, observed, count) = retention.seen
    assert (tasks, task, ended, count) == (2, 1, 1, 9)
    assert [len(one) for one in (*sources, looks, observed)] == [5, 3, 2, 5]
    assert phases.renewed == [1]
    assert reach == pytest.approx(4 * 0.5)
    for one in [*sources[0], *sources[1], *looks, *observed]:
        number = int(one.gradients["a"])
        assert one.scored == 4 - EXAMPLES[number].scored_from
    assert len({tuple(firsts(one)) for one in (sources[0], observed)}) == 2, "each set is its own"


@pytest.mark.parametrize("world", [2, 3, 7])
def test_workers_see_together_what_one_sees_and_compute_equally_many(world):
    alone = Looking()
    Phases(alone).end_task(0, EXAMPLES)
    seen, computed = [], set()
    for rank in range(world):
        retention = Looking()
        phases = Phases(retention, Workers(rank, world))
        phases.end_task(0, EXAMPLES)
        seen.append(firsts(retention.seen[0][2]))
        computed.add(len(phases.computed))
    found = [one[turn] for turn in range(5) for one in seen if turn < len(one)]
    assert found == firsts(alone.seen[0][2])
    assert computed == {math.ceil(5 / world)}


def test_nothing_is_computed_for_a_retention_that_does_not_look():
    phases = Phases(Retention())
    phases.begin_task(0, 2, EXAMPLES)
    phases.end_task(0, EXAMPLES)
    looking = Phases(Looking())
    looking.end_task(0, [])
    assert phases.computed == looking.computed == []
