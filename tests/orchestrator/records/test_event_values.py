"""Finalists and sides of a reading, as journals of this version and of earlier ones hold them."""

import json
import math

import pytest

from orchestrator.records.event_values import Finalist, SideScores
from orchestrator.system.strict_json import without_nan

TRIAL = {
    "row": [0.5, None],
    "metrics": {"mood": {"accuracy": 0.5}},
    "per_example": {"mood": [1, 0]},
}
BASE = {
    **TRIAL,
    "head_only": {"mood": {"accuracy": 1.0}},
    "head_only_per_example": {"mood": [1, 1]},
}


@pytest.mark.parametrize("document", [TRIAL, BASE, {**BASE, "head_only": {}}])
def test_a_side_is_written_as_it_was_read(document):
    side = SideScores.from_document(document)
    assert math.isnan(side.row[1])
    written = json.loads(json.dumps(without_nan(side.as_document())))
    assert written == document
    assert list(written) == list(document), "in this order: sums are over the text"


def test_a_finalist_is_written_as_it_was_read():
    line = [{"trial": "t1", "repeats": ["t1-s1"], "mean": {"gain": 0.5}, "spread": {"gain": None}}]
    [finalist] = Finalist.read_all(line)
    assert math.isnan(finalist.spread["gain"])
    assert json.loads(json.dumps(without_nan(Finalist.write_all([finalist])))) == line


def test_what_an_earlier_version_left_out_is_empty_and_what_a_later_one_adds_is_left_out():
    assert Finalist.read_all([{"trial": "t1", "spread": None, "luck": 7}]) == (Finalist("t1"),)
    assert SideScores.from_document({"row": [0.5], "luck": 7}) == SideScores((0.5,))
