"""What several slots want to have scored or written, in shared passes of the base."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from curlora.packing.pack import BARE
from orchestrator.data.items import Tokens
from orchestrator.data.model_inputs import Scored
from orchestrator.engines.generation import prompt_batches
from orchestrator.engines.joint_rows import JointRows
from orchestrator.engines.row_batches import mean_loss, scored_example, scoring_batches
from orchestrator.engines.scored_model import hidden_size
from orchestrator.engines.shards import gather_texts, gather_values, hidden_states, run_shards
from orchestrator.executors.pool.failures import Failure, SharedFailureError, attempt, too_long
from orchestrator.executors.pool.shared_passes import SharedPasses
from orchestrator.executors.pool.slot_memory import PassSize
from orchestrator.executors.pool.slots import Slot, charge
from orchestrator.loop.requests import Evaluate, HeldOutLoss
from orchestrator.loop.scoring import Score, prompts_of, rows_of, score_of, score_of_texts
from orchestrator.spec.task_kinds import GenerationTask


class ScoringPasses:
    """Computes log-probabilities, hidden states and texts; its methods are collectives."""

    def __init__(self, passes: SharedPasses, tokens: int, asked: int | None = None) -> None:
        """Take a base.

        Args:
            passes: The base and its pack.
            tokens: Padded tokens of a pass at most, on each worker.
            asked: The same before failures have left less: it says which rows are joint and which
                texts are written together, where numbers must not depend on failures. None: they
                may.
        """
        self._passes = passes
        self._workers = passes.workers
        self.scored = passes.scored
        self._joint = JointRows(self.scored.base, self._workers)
        self.reading = PassSize(tokens)
        self.writing = PassSize(asked or tokens)
        self._longest_joint = asked

    def read(self, readers: Sequence[Slot]) -> dict[int, list[list[float]] | Failure]:
        """What each of some slots wants to have scored, in shared forward passes.

        Args:
            readers: Slots whose request is an `Evaluate` or a `HeldOutLoss`.

        Returns:
            By slot, the log-probabilities of its rows in nats, none where texts are written; or why
            it failed.
        """
        began = time.monotonic()
        wanted: list[tuple[Slot, list[Scored]]] = []
        values: dict[int, list[list[float]] | Failure] = {}
        for slot in readers:
            rows = attempt(partial(_wanted_rows, slot))
            if isinstance(rows, Failure):
                values[slot.number] = rows
            else:
                wanted.append((slot, rows))
        owners = [slot.number for slot, rows in wanted for _ in rows]
        found, failures = self.log_probabilities([r for _, rows in wanted for r in rows], owners)
        by_slot: dict[int, list[list[float]]] = {slot.number: [] for slot, _ in wanted}
        for number, one in zip(owners, found, strict=True):
            by_slot[number].append(one)
        charge(wanted, began)
        return values | by_slot | failures

    def answer(self, slot: Slot, values: list[list[float]]) -> Score | float:
        """The answer to what a slot wants to have scored.

        Args:
            slot: The slot.
            values: What `read` gave it.

        Returns:
            The score, or the mean loss of held-out examples, in nats.

        Raises:
            DivergedError: What the score would be made from is not finite.
        """
        asked = slot.run.request
        if not isinstance(asked, Evaluate):
            return mean_loss(values)
        spec = asked.task.spec
        if isinstance(spec, GenerationTask):
            texts = self.write(slot.number, prompts_of(asked.items), spec)
            found = score_of_texts(asked.items, spec, texts)
        else:
            found = score_of(asked.items, spec, values)
        slot.run.scored(asked)
        return found

    def log_probabilities(
        self, rows: Sequence[Scored], owners: Sequence[int]
    ) -> tuple[list[list[float]], dict[int, Failure]]:
        """The log-probability of every pick of every row.

        Args:
            rows: All of them, on every worker.
            owners: The slot of each, or `curlora.packing.pack.BARE`.

        Returns:
            By row, in nats; and of which slots some could not be computed, and why.

        Raises:
            WorkersError: A pass over a sharded base has failed on one of several workers.
        """
        failures: dict[int, Failure] = {}
        longest_joint = self._longest_joint or self.reading.tokens
        parts = self._joint.parts(rows, longest_joint, self._bare)
        computed = parts.rows

        def owner(index: int) -> int:
            return owners[parts.origins[index]]

        def compute(own: list[int]) -> list[list[float]] | Failure:
            chosen = [computed[i] for i in own]
            slots = [owner(i) for i in own]
            return self._passes.in_step(partial(self._passes.score, chosen, slots))

        def recover(
            batch: list[int], failure: Failure, waiting: list[list[int]]
        ) -> list[list[int]]:
            longest = max(len(computed[i].tokens) for i in batch)
            most = self._workers.max_rows(len(batch))
            if failure.memory:
                self.reading.failed(most, longest)
                self._passes.make_room()
            if len(batch) == 1 and failure.memory and computed[batch[0]].branches:
                return [*([i] for i in parts.split(batch[0])), *waiting]
            if len(batch) == 1:
                failed = owner(batch[0])
                failures[failed] = too_long(failure, longest)
                left = [[i for i in one if owner(i) != failed] for one in waiting]
                return [one for one in left if one]
            if failure.memory and most > 1:
                return self._batches(computed, owner, [i for one in (batch, *waiting) for i in one])
            return [*_halves(batch), *waiting]

        batches = self._batches(computed, owner, range(len(computed)))
        mine = run_shards(batches, self._workers, compute, recover)
        sizes = [len(row.picks) for row in computed]
        found = gather_values(mine, sizes, self._workers, self._passes.device)
        return parts.values(found), failures

    def _bare(self, rows: Sequence[Scored]) -> list[list[float]] | None:
        """What the bare base gives for some rows, on every worker; None if it fails."""
        found = self._passes.in_step(partial(self._passes.score, rows, [BARE] * len(rows)))
        return None if isinstance(found, Failure) else found

    def _batches(
        self, rows: Sequence[Scored], owner: Callable[[int], int], chosen: Sequence[int]
    ) -> list[list[int]]:
        """The chosen rows in batches; within each, those of a slot are neighbours."""
        tokens = self.reading.tokens * self._workers.world
        found = scoring_batches([rows[i] for i in chosen], tokens, self._passes.device)
        return [sorted((chosen[at] for at in one), key=owner) for one in found]

    def hidden_states(self, rows: Sequence[Scored]) -> Tensor:
        """The last hidden state of the bare base at the first pick of every row.

        Args:
            rows: Each with a pick at least.

        Returns:
            float32 (rows, hidden), on the CPU.
        """
        width = hidden_size(self.scored.model)
        with self._workers.collective():
            return hidden_states(
                self._passes.hidden_states, rows, self.reading.tokens, width, self._workers,
                self._passes.device,
            )  # fmt: skip

    def write(
        self, number: int, prompts: Sequence[Tokens], task: GenerationTask
    ) -> list[str | None]:
        """What the model of one slot writes after each prompt.

        Args:
            number: The slot, or `curlora.packing.pack.BARE`.
            prompts: All of them, on every worker.
            task: How much is written, and what ends it.

        Returns:
            The texts, as `write_batch` gives them.

        Raises:
            SharedFailureError: It failed on one worker, and is raised on all.
        """

        def compute(own: list[int]) -> list[str | None] | Failure:
            chosen = [prompts[i] for i in own]
            return self._passes.in_step(partial(self._passes.write, number, chosen, task))

        def recover(
            batch: list[int], failure: Failure, waiting: list[list[int]]
        ) -> list[list[int]]:
            if not failure.memory or len(batch) == 1:
                raise SharedFailureError(failure)
            self._passes.make_room()
            self.writing.tokens = max(1, self.writing.tokens // 2)
            return [*_halves(batch), *waiting]

        batches = prompt_batches(prompts, task, self.writing.tokens * self._workers.world)
        mine = run_shards(batches, self._workers, compute, recover)
        return gather_texts(mine, len(prompts), self._workers)


def _wanted_rows(slot: Slot) -> list[Scored]:
    """The rows whose log-probabilities a slot's request is answered with."""
    match slot.run.request:
        case HeldOutLoss(examples=examples):
            return [scored_example(example) for example in examples]
        case Evaluate() as asked:
            return rows_of(asked.items)
        case other:
            raise TypeError(f"The trial {slot.name!r} asks for {other}, which is no score.")


def _halves(batch: list[int]) -> list[list[int]]:
    half = len(batch) // 2
    return [batch[:half], batch[half:]]
