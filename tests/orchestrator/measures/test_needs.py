"""Each measure is computed from the cells that it declares, from all of them, and no other."""

import math
import random

import pytest

from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.measures.matrix_cells import every_cell, last_row
from orchestrator.measures.needs import need_probes, needed_cells
from orchestrator.measures.objectives import MEASURES, Measure, Outcome, ProbeReading

NAN = math.nan
PROBES = (ProbeReading("language_modelling", 3.0, 3.5), ProbeReading("choice", 0.5, 0.4, 0.25))


def value(name, tasks, missing=(), probes=PROBES):
    """A measure of a made-up trial of which some cells were not scored."""
    dice = random.Random(f"{name}{tasks}")
    rows = [[dice.random() for _ in range(tasks)] for _ in range(tasks + 1)]
    for i, j in missing:
        rows[i][j] = NAN
    names = tuple(f"task {j}" for j in range(tasks))
    matrix = AccuracyMatrix(names, tuple(map(tuple, rows)))
    return MEASURES[name].of(Outcome(matrix, None, probes, 1.0, 2.0))


@pytest.mark.parametrize("tasks", [1, 2, 3, 4])
@pytest.mark.parametrize("name", list(MEASURES))
def test_a_measure_needs_exactly_the_cells_that_it_declares(name, tasks):
    whole, cells = value(name, tasks), MEASURES[name].cells(tasks)
    others = every_cell(tasks) - cells
    assert value(name, tasks, others) == pytest.approx(whole, abs=0, nan_ok=True)
    if math.isnan(whole):
        return  # it does not exist for one task
    for cell in cells:
        assert math.isnan(value(name, tasks, [cell])), cell


@pytest.mark.parametrize("name", list(MEASURES))
def test_a_measure_reads_probes_exactly_where_it_says_so(name):
    without = value(name, 2, probes=())
    assert MEASURES[name].reads_probes == math.isnan(without)


def test_a_search_needs_what_all_of_its_measures_need_together():
    assert needed_cells(["gain", "forgetting"], 3) == {
        (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2),
    }  # fmt: skip
    assert needed_cells(["gain", "learning_accuracy"], 2) == {(1, 0), (2, 0), (2, 1)}
    assert needed_cells(["forgetting", "gain"], 3, joint=True) == last_row(3)
    assert need_probes(["gain", "probe_drift"])
    assert not need_probes(["gain", "forgetting", "cost_s"])


def test_a_measure_that_declares_nothing_needs_everything():
    own = Measure(name="own", summary="a plugin's", better="max", of=lambda outcome: 1.0)
    assert own.cells(3) == every_cell(3)
    assert own.reads_probes
