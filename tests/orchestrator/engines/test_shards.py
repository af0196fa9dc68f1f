"""Rows that are computed on several workers, seen from each of them in turn."""

import torch

from orchestrator.data.model_inputs import Scored
from orchestrator.engines.shards import gather_texts, gather_values, run_shards, values_by_row
from orchestrator.engines.workers import ALONE, Workers

BATCHES = [[4, 1, 0], [3], [2, 5]]
CPU = torch.device("cpu")


class Together(Workers):
    """A worker whose sums and gathered values are known beforehand."""

    def all_reduce(self, tensors):
        for tensor in tensors:
            tensor.add_(torch.arange(len(tensor), dtype=tensor.dtype))

    def all_gather(self, value):
        return [value, {2: "two", 5: None}]


def doubled(own):
    return [2 * index for index in own]


def test_each_row_is_computed_once_and_all_workers_run_equally_many_passes():
    passes, computed = [], {}
    for rank in range(3):
        seen = []

        def compute(own, seen=seen):
            seen.append(own)
            return doubled(own)

        mine = run_shards(BATCHES, Workers(rank, 3), compute)
        assert not computed.keys() & mine.keys()
        computed |= mine
        passes.append(len(seen))
    assert computed == {index: 2 * index for index in range(6)}
    assert passes == [len(BATCHES)] * 3
    assert run_shards(BATCHES, ALONE, doubled) == computed


def test_a_batch_that_fails_is_replaced_by_what_is_recovered():
    failed = []

    def compute(own):
        return doubled(own) if len(own) == 1 else f"{len(own)} rows"

    def recover(batch, failure, waiting):
        failed.append((list(batch), failure, [list(one) for one in waiting]))
        return [[index] for index in batch] + waiting

    found = run_shards(BATCHES, ALONE, compute, recover)
    assert found == {index: 2 * index for index in range(6)}
    assert failed == [([4, 1, 0], "3 rows", [[3], [2, 5]]), ([2, 5], "2 rows", [])]


def test_one_worker_gathers_its_own_values_and_nothing_for_a_row_that_failed():
    third = 1 / 3
    assert gather_values({1: [third, 1.0]}, [1, 2], ALONE, CPU) == [[], [third, 1.0]]
    assert gather_texts({0: "a", 1: None}, 2, ALONE) == ["a", None]


def test_several_workers_gather_sums_of_their_values_row_by_row():
    mine = {2: [10.0], 0: [1.0, 1.0]}
    assert gather_values(mine, [2, 1, 1], Together(0, 2), CPU) == [[1.0, 2.0], [2.0], [13.0]]
    texts = gather_texts({0: "a", 1: None, 3: "d", 4: "e"}, 6, Together(0, 2))
    assert texts == ["a", None, "two", "d", "e", None]


def test_values_of_a_pass_belong_to_the_rows_by_their_picks():
    rows = [Scored((1, 2, 3), ((0, 1), (1, 2))), Scored((1,), ()), Scored((1, 2), ((0, 3),))]
    assert values_by_row(torch.tensor([1.0, 2.0, 3.0]), rows) == [[1.0, 2.0], [], [3.0]]
