import random

import pytest
import torch

from orchestrator.data.model_inputs import Scored
from orchestrator.engines.row_batches import USEFUL, padded, scoring_batches
from orchestrator.system.pulse import pulse

DEVICES = [torch.device("cpu"), torch.device("cuda")]


def rows_of(seed, count, *, joint):
    generator = random.Random(seed)
    lengths = [round(generator.lognormvariate(4, 0.6)) + 2 for _ in range(count)]
    branches = ((1, 0), (2, 0)) if joint else ()
    return [Scored((0,) * length, (), branches=branches) for length in lengths]


@pytest.mark.parametrize("joint", [False, True], ids=["plain", "joint"])
@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_rows_are_cut_into_batches_with_little_padding(seed, device, joint):
    rows, limit = rows_of(seed, 300, joint=joint), 2048
    batches = scoring_batches(rows, limit, device)
    assert sorted(i for batch in batches for i in batch) == list(range(len(rows)))
    longest = [len(rows[batch[0]].tokens) for batch in batches]
    assert longest == sorted(longest, reverse=True)
    sizes = [len(batch) * most for batch, most in zip(batches, longest, strict=True)]
    assert all(size <= limit or len(b) == 1 for size, b in zip(sizes, batches, strict=True))
    assert sum(len(row.tokens) for row in rows) >= USEFUL * sum(sizes)


def test_a_few_joint_rows_of_different_lengths_are_no_reason_to_go_on_for_ever():
    rows = [Scored((0,) * length, (), branches=((1, 0), (2, 0))) for length in (100, 50, 50)]
    assert scoring_batches(rows, 10_000, DEVICES[1]) == [[0], [1, 2]]
    assert scoring_batches(rows[:1], 10, DEVICES[0]) == [[0]]


def test_the_tokens_of_a_batch_are_counted_with_padding_and_without():
    before = pulse()
    padded([Scored((0,) * length, ()) for length in (10, 7, 3)], DEVICES[0], step=4)
    after = pulse()
    assert after.tokens - before.tokens == 20
    assert after.padded - before.padded == 36
