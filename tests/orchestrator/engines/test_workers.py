"""Rows in shards, and what one worker does where several would talk."""

import pytest
import torch

from orchestrator.engines.workers import ALONE, Workers, WorkersError


@pytest.mark.parametrize("rows", range(1, 9))
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_every_row_counts_on_one_worker_and_none_has_more_than_the_largest_shard(rows, world):
    everything = [f"row {number}" for number in range(rows)]
    counted = []
    for rank in range(world):
        workers = Workers(rank, world)
        own, counts = workers.shard(everything)
        assert 1 <= len(own) <= workers.max_rows(rows)
        counted += own if counts else []
        if not counts:
            assert own == everything[-1:]
    assert sorted(counted) == everything
    assert len(Workers(0, world).shard(everything)[0]) == Workers(0, world).max_rows(rows)


def test_one_worker_needs_no_process_group():
    assert not torch.distributed.is_initialized()
    tensor = torch.ones(2)
    ALONE.all_reduce([tensor])
    assert torch.equal(tensor, torch.ones(2))
    assert ALONE.broadcast("a") == "a"
    assert ALONE.all_gather("a") == ["a"]
    assert ALONE.totals({"a": tensor}, tensor.device)["a"] is tensor


def test_what_fails_within_a_collective_is_named_with_its_worker_and_one_worker_keeps_its_error():
    refused = pytest.raises(WorkersError, match=r"worker 1 of 2 .* ValueError: wrong")
    with refused, Workers(1, 2).collective():
        raise ValueError("wrong")
    with pytest.raises(ValueError, match=r"^wrong$"), ALONE.collective():
        raise ValueError("wrong")
    with pytest.raises(WorkersError, match=r"^twice$"), Workers(1, 2).collective():
        raise WorkersError("twice")
