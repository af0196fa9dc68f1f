"""Which examples of a task a retention looks at."""

from curlora.retention.task_phases import TaskPhases
from curlora_kinds.retentions.table import RETENTIONS


class Watched(TaskPhases):
    """Gives no statistics, and remembers what it was asked about."""

    def __init__(self, most, seed=0):
        super().__init__(RETENTIONS["ewc"].build({"max_examples": most, "strength": 1.0}), seed)
        self.seen = []

    def adapter_values(self):
        return {}

    def _observations(self, examples):
        self.seen.append(list(examples))
        return iter(())


def looked_at(most, seed=0):
    phases = Watched(most, seed)
    list(phases._observe(list(range(40)), "task 0", most))
    return phases.seen[0]


def test_fewer_examples_are_a_part_of_more():
    assert len({*looked_at(40)}) == 40
    for most in (1, 6, 7, 39):
        assert looked_at(most) == looked_at(40)[:most]
    assert looked_at(6, seed=1) != looked_at(6)
