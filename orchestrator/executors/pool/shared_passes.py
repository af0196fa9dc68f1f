"""Passes over one base, each row through the adapter of its slot, and their failures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from curlora.packing.pack import BARE, PackedModel
from curlora.transfers import on_device
from orchestrator.data.items import Tokens
from orchestrator.data.model_inputs import Scored
from orchestrator.engines.generation import write_batch
from orchestrator.engines.joint_rows import layout_of
from orchestrator.engines.row_batches import padded
from orchestrator.engines.scored_model import ScoredModel
from orchestrator.engines.sharded_base import ShardedBase
from orchestrator.engines.shards import values_by_row
from orchestrator.engines.workers import ALONE, Workers, WorkersError
from orchestrator.executors.pool.failures import Failure, Result, attempt
from orchestrator.spec.task_kinds import GenerationTask


class SharedPasses:
    """One base, a pack of adapters, and the passes that rows of several of them share."""

    def __init__(
        self,
        base: Any,
        target_modules: list[str] | str | None,
        *,
        capacity: int,
        tokenizer: Any = None,
        workers: Workers = ALONE,
        sharded: ShardedBase | None = None,
        invariant: bool = False,
    ) -> None:
        """Take a base.

        Args:
            base: A frozen causal language model without an adapter.
            target_modules: The layers of all adapters; None: the family's default.
            capacity: Most adapters at a time.
            tokenizer: Needed where texts are written.
            workers: The workers across which rows are sharded.
            sharded: The base where it is sharded across them, too (ZeRO stage 3).
            invariant: Compute each row to the same bits whatever else a pass holds.
        """
        self.workers = workers
        self.sharded = sharded
        self.scored = ScoredModel(base).eval() if sharded is None else sharded.scored
        self.pack = PackedModel(base, target_modules, capacity=capacity, invariant=invariant)
        self.device: torch.device = next(base.parameters()).device
        self._tokenizer = tokenizer

    @contextmanager
    def readable(self) -> Iterator[None]:
        """Within it the pack can read weights of the base."""
        if self.sharded is None:
            yield
            return
        with self.sharded.readable():
            yield

    def solo(self, number: int) -> Any:
        """A slot's adapter as a model of its own, on the same base; a collective."""
        with self.readable():
            return self.pack.solo(number)

    def attempt(self, work: Callable[[], Result]) -> Result | Failure:
        """Do what concerns one trial.

        Args:
            work: What to do.

        Returns:
            What it returned, or why it failed.

        Raises:
            WorkersError: Memory did not suffice, and there are other workers, where it may have.
        """
        found = attempt(work)
        if isinstance(found, Failure) and found.memory and not self.workers.alone:
            raise WorkersError(f"worker {self.workers.rank} is out of memory: {found.reason}")
        return found

    def in_step(self, work: Callable[[], Result]) -> Result | Failure:
        """Do this worker's shard of a pass.

        Args:
            work: What to do.

        Returns:
            What it returned, or the first worker's failure on whom it failed.

        Raises:
            WorkersError: It failed within a pass of a sharded base, where other workers wait.
        """
        if self.workers.alone:
            return attempt(work)
        if self.sharded is not None:
            with self.workers.collective():
                return work()
        found = attempt(work)
        failures = self.workers.all_gather(found if isinstance(found, Failure) else None)
        return next((failure for failure in failures if failure is not None), found)

    def make_room(self) -> None:
        """Give back what the allocator has kept of a pass that failed."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def learn(
        self, rows: Sequence[tuple[int, Scored]], over: Mapping[int, int], *, counts: bool
    ) -> dict[int, Tensor]:
        """Some rows forward and backward; the host does not wait for the device.

        Args:
            rows: Each with the number of its slot.
            over: What a slot's sum of losses is divided by.
            counts: Whether the rows are part of the step; see `Workers.shard`.

        Returns:
            Of each slot its part of its mean loss, in nats, on the device: 0-dim, or term by term
            where sums must not depend on how rows are parted; the gradients are in the pack.
        """
        numbers = list(dict.fromkeys(number for number, _ in rows))
        owners = [numbers.index(number) for number, row in rows for _ in row.picks]
        found = self._through([row for _, row in rows], [number for number, _ in rows])
        owner = on_device(torch.tensor(owners), self.device)
        sums = found.new_zeros(len(numbers)).index_add(0, owner, -found)
        divisors = torch.tensor([over[n] for n in numbers], dtype=sums.dtype)
        divisors = on_device(divisors, self.device)
        losses = sums / divisors * float(counts)
        losses.sum().backward()
        if self.sharded is not None:
            self.sharded.release()
        if self.pack.invariant:
            terms = (-found.detach() / divisors[owner]).split(_lengths_of_runs(owners))
            return dict(zip(numbers, terms, strict=True))
        return dict(zip(numbers, losses.detach().unbind(), strict=True))

    def _through(
        self,
        rows: Sequence[Scored],
        owners: Sequence[int],
        *,
        joint: bool = False,
        read: bool = True,
    ) -> Tensor:
        """Rows through the base, each with the adapter of its slot.

        Args:
            rows: In one pass.
            owners: The slot of each.
            joint: Whether some may be joint.
            read: Whether log-probabilities of picks are wanted; else hidden states.

        Returns:
            As `ScoredModel.forward`.
        """
        step = self.pack.step_of_lengths
        lengths = [len(row.tokens) for row in rows] if self.pack.invariant else ()
        layout = layout_of(rows, self.device, step) if joint else None
        input_ids, positions, targets = padded(rows, self.device, step)
        with self.pack.rows(owners, lengths):
            return self.scored(input_ids, positions, targets if read else None, layout=layout)

    def score(self, rows: Sequence[Scored], owners: Sequence[int]) -> list[list[float]]:
        """The log-probability of every pick of some rows, each of its slot, in one pass."""
        with torch.no_grad():
            return values_by_row(self._through(rows, owners, joint=True), rows)

    def hidden_states(self, rows: Sequence[Scored]) -> Tensor:
        """The last hidden states of the bare base at the picks of some rows, in one pass."""
        return self._through(rows, [BARE] * len(rows), read=False)

    def write(
        self, number: int, prompts: Sequence[Tokens], task: GenerationTask
    ) -> list[str | None]:
        """What the model of one slot writes after some prompts, in one batch."""
        with self.pack.rows([number] * len(prompts)):
            return write_batch(
                self.scored.model,
                self._tokenizer,
                prompts,
                task,
                self.device,
                synced=self.sharded is not None,
            )


def _lengths_of_runs(owners: Sequence[int]) -> list[int]:
    """How many of them each owner has, which are neighbours, in order."""
    return [len(list(run)) for _, run in itertools.groupby(owners)]
