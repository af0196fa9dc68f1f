from dataclasses import asdict

import pytest
import torch

from orchestrator.data.items import Question

CPU = torch.device("cpu")
ASKED = [Question((1, 2, 3), ((4, 5), (6, 7, 8)), (1, 1), 0)]


@pytest.fixture(scope="module")
def scoring(benchmark_module):
    return benchmark_module("scoring")


def test_tokens_with_and_without_padding_are_counted_by_way(scoring):
    ways = scoring.ways_of(ASKED)
    separate, joint = (scoring.cost_of(ways[way], 512, CPU) for way in ("separate", "joint"))
    # A continuation's last token is no input.
    assert separate == scoring.Cost(rows=2, batches=1, tokens=4 + 5, padded=2 * 5)
    assert joint == scoring.Cost(rows=1, batches=1, tokens=3 + 1 + 2, padded=6)
    assert separate.useful == 0.9


def test_the_table_has_the_ratio_beside_its_bar(scoring):
    ways = scoring.ways_of(ASKED)
    costs = {
        way: {place: asdict(scoring.cost_of(rows, 512, CPU)) for place in scoring.DEVICES}
        for way, rows in ways.items()
    }
    record = {"task": "arc_easy", "questions": 1, "prompt": 3.0, "continuations": 5.0, **costs}
    line = scoring.tokens_table([record]).splitlines()[-1]
    assert line.startswith("| arc_easy | 1 | 3.0 | 5.0 | 9 | 6 | 0.667 | 0.45 | 0.600 |")
