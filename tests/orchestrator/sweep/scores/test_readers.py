"""Models that are scored side by side: how they are dealt out, and put together again."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from orchestrator.data.items import Window
from orchestrator.data.prepared import PreparedData
from orchestrator.sweep.scores.readers import dealt_out, joined
from orchestrator.sweep.scores.readings import Side

TASKS = {"short": 10, "long": 40, "longest": 60}


def data():
    window = Window(tuple(range(5)), 1, 5)
    tasks = {name: SimpleNamespace(validation=(window,) * n) for name, n in TASKS.items()}
    return PreparedData(tasks, {}, {})  # type: ignore[arg-type]


def side(**cells):
    return Side(None, None, cells)  # type: ignore[arg-type]


@pytest.mark.parametrize("places", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_every_cell_is_dealt_out_once_and_no_place_is_idle_for_more_than_a_task(places, count):
    sides = {
        f"row-{n}": side(**{task: (7 * n) % size for task, size in TASKS.items()})
        for n in range(count)
    }
    parts = dealt_out(sides, data(), places)
    cells = [(name, task) for name, part in parts for task in part.cells]
    assert sorted(cells) == sorted((name, task) for name in sides for task in TASKS)
    for name, part in parts:
        assert all(sides[name].cells[task] == begin for task, begin in part.cells.items())
    ends = [0] * places
    for _, part in parts:  # whoever is free first takes the next
        at = ends.index(min(ends))
        ends[at] += sum(TASKS[task] - begin for task, begin in part.cells.items())
    if count * len(TASKS) >= places and count % places:
        assert max(ends) - min(ends) <= max(TASKS.values())


def test_the_test_data_of_a_model_are_read_at_once():
    model = replace(side(), cells=None, experiment=SimpleNamespace(tasks=["short"]))  # type: ignore[arg-type]
    whole = PreparedData({"short": SimpleNamespace(test=())}, {}, {})  # type: ignore[arg-type]
    assert dealt_out({"t001": model}, whole, 4) == [("t001", model)]


def test_pieces_are_put_together_in_the_order_of_the_cells():
    pieces = [
        {"row": [0.5], "metrics": {"long": {"accuracy": 0.5}}, "per_example": {"long": [0.0, 1.0]}},
        {"row": [1.0], "metrics": {"short": {"accuracy": 1.0}}, "per_example": {"short": [1.0]}},
    ]
    found = joined(side(short=0, long=0), pieces)
    assert found["row"] == [1.0, 0.5]
    assert list(found["per_example"]) == ["short", "long"]
    assert found["metrics"]["long"] == {"accuracy": 0.5}
    broken = joined(side(short=0, long=0), [pieces[0], {"unread": "its adapter is gone"}])
    assert broken == {"unread": "its adapter is gone"}
