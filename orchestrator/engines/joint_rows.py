"""Joint rows, which hold several continuations of one prompt: how a base computes them.

Each continuation has the positions that it would have right after the prompt, and sees the prompt
and itself. What a layer may see (everything before, a window, a chunk) is asked of the model's own
mask function at these positions, so every kind of attention that transformers makes masks for is
served alike. Whether a base computes what separate rows give is found out by trying.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from orchestrator.data.model_inputs import Scored, apart, joined
from orchestrator.engines.row_batches import batch_length
from orchestrator.engines.workers import Workers

_log = logging.getLogger(__name__)

_PADDING = -1
_ARGUMENTS = {"attention_mask", "position_ids"}
_SMALL = 1e-5
"""Relative difference of log-probabilities that is always taken for rounding."""
_FINE, _COARSE = 0.01, 0.1
"""And what else is, as a share of what the joint row would be off as running text: of numbers of 32
bits and more, and of fewer or quantised ones. Seen were 1e-4 (fp32, two threads) and 1e-3."""

Computed = Callable[[Sequence[Scored]], list[list[float]] | None]
"""Gives the log-probabilities of rows in one pass, of the same rows on every worker; None: none."""


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a batch of rows stand, some of which are joint."""

    positions: Tensor
    """Of each token in the text that it belongs to, (B, L); 0 of padding."""
    branches: Tensor
    """Which continuation each token belongs to, (B, L); 0: the prompt, -1: padding."""

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What the base is given beside the tokens."""
        # Without a mask, positions that jump back would be taken for those of several texts.
        return {"position_ids": self.positions, "attention_mask": torch.ones_like(self.positions)}

    def sees(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """A mask function of transformers, of places instead of positions.

        Args:
            own: The model's own, of (batch, head, query's place, key's place), as of plain text.

        Returns:
            The same for this layout.
        """

        def function(batch: Any, head: Any, query: Any, key: Any) -> Any:
            branch = self.branches[batch, key]
            may = (branch == 0) | (branch == self.branches[batch, query])
            return may & own(batch, head, self.positions[batch, query], self.positions[batch, key])

        return function


def layout_of(rows: Sequence[Scored], device: torch.device, step: int = 1) -> Layout | None:
    """The layout of a batch of rows, as `padded` pads them; None where none of them is joint."""
    if not any(row.branches for row in rows):
        return None
    length = batch_length(rows, step)
    positions = torch.zeros((len(rows), length), dtype=torch.long)
    branches = torch.full((len(rows), length), _PADDING, dtype=torch.long)
    for index, row in enumerate(rows):
        begins = [begin for begin, _ in row.branches]
        prompt = begins[0] if begins else len(row.tokens)
        ends = [*begins[1:], len(row.tokens)]
        positions[index, :prompt] = torch.arange(prompt)
        branches[index, :prompt] = 0
        for number, (begin, end) in enumerate(zip(begins, ends, strict=False), start=1):
            positions[index, begin:end] = torch.arange(prompt, prompt + end - begin)
            branches[index, begin:end] = number
    return Layout(positions.to(device), branches.to(device))


@contextmanager
def masks_of(layout: Layout | None) -> Iterator[dict[str, Tensor]]:
    """Within it models of transformers make the masks of a layout.

    Args:
        layout: Of the batch that is computed; None: running text, and nothing is changed.

    Yields:
        What the base is given beside the tokens.
    """
    if layout is None:
        yield {}
        return

    def made(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        seen = layout.sees(kwargs["mask_function"])
        return function(*args, **kwargs | {"mask_function": seen, "allow_is_causal_skip": False})

    # Local entries lie over those that all of transformers shares, and there are none otherwise.
    shared = dict(ALL_MASK_ATTENTION_FUNCTIONS)
    for name, function in shared.items():
        ALL_MASK_ATTENTION_FUNCTIONS[name] = functools.partial(made, function)
    try:
        yield layout.inputs
    finally:
        for name in shared:
            del ALL_MASK_ATTENTION_FUNCTIONS[name]


class JointRows:
    """Whether a base takes joint rows; where it does not, they are computed as separate rows."""

    def __init__(self, base: Any, workers: Workers) -> None:
        """Take a base.

        Args:
            base: A causal language model, not a PEFT model around one.
            workers: Which of how many compute with it, all at the same time.
        """
        self._base = base
        self._workers = workers
        self._taken: bool | None = None

    def parts(self, rows: Sequence[Scored], most: int, compute: Computed) -> RowParts:
        """The rows as they are to be computed; a collective, in evaluation mode.

        Args:
            rows: The same on every worker.
            most: Tokens of a joint row at most; of longer ones each continuation is a row.
            compute: Used at most twice, when the first joint rows come.

        Returns:
            The rows, and how their values become those of the rows that were given.
        """
        if self._taken is None and any(row.branches for row in rows):
            self._taken = self._tried(compute)
        return RowParts(rows, lambda row: not self._taken or len(row.tokens) > most)

    def _tried(self, compute: Computed) -> bool | None:
        """Whether a small joint row gives what its separate rows give.

        How far rounding goes differs by two orders of magnitude between bases, so the difference is
        held against the one that the row as running text makes, without positions and mask.

        Args:
            compute: Used twice.

        Returns:
            The same on every worker; None if nothing is known yet.
        """
        name = type(self._base).__name__
        if not _may_take(self._base):
            self._say(name)
            return False
        ids = [i % self._base.config.get_text_config().vocab_size for i in range(1, 13)]
        texts = [ids[:8], ids[:5] + ids[8:11]]
        separate = [
            Scored(tuple(text), tuple((i, text[i - 3]) for i in range(4, len(text))))
            for text in texts
        ]
        joint = joined(separate, 5)
        found, others = compute([joint]), compute([*separate, replace(joint, branches=())])
        agrees = None
        if found is not None and others is not None:
            share = _COARSE if _is_coarse(self._base) else _FINE
            agrees = _agree(found[0], [*others[0], *others[1]], others[2], share)
        everywhere = self._workers.all_gather(agrees)
        if None in everywhere:
            return None
        if not all(everywhere):
            self._say(name)
        return all(everywhere)

    def _say(self, name: str) -> None:
        if self._workers.first:
            _log.warning(
                "%s cannot read a prompt once for several continuations. Each is scored in a row "
                "of its own, which gives the same and takes longer.", name,
            )  # fmt: skip


def _may_take(base: Any) -> bool:
    """Whether a base is given positions, and has no layer that hides places by their distance."""
    backbone = getattr(base, base.base_model_prefix)
    if not inspect.signature(backbone.forward).parameters.keys() >= _ARGUMENTS:
        return False
    # A mask of places that is part of a layer: a window in it would be one of the joint row.
    squares = [b for b in base.buffers() if _is_mask(b)]
    return all(bool(square[..., _lower(square)].all()) for square in squares)


def _is_mask(buffer: Tensor) -> bool:
    square = buffer.ndim == 4 and buffer.shape[-1] == buffer.shape[-2] > 1
    return square and buffer.dtype in {torch.bool, torch.uint8}


def _lower(square: Tensor) -> Tensor:
    return torch.ones(square.shape[-2:], dtype=torch.bool, device=square.device).tril()


def _is_coarse(base: Any) -> bool:
    """Whether a base computes with less than 32 bits, or with weights of less."""
    head: nn.Module = base.get_output_embeddings()
    itemsize = next(head.parameters()).dtype.itemsize
    return itemsize < torch.float32.itemsize or bool(getattr(base, "is_quantized", False))


def _agree(
    found: Sequence[float], wanted: Sequence[float], running: Sequence[float], share: float
) -> bool | None:
    """Whether log-probabilities are the same up to rounding.

    Args:
        found: Of the joint row.
        wanted: Of its separate rows.
        running: Of the joint row as running text.
        share: Of the largest difference between the last two, what is rounding at most.

    Returns:
        None if they are no numbers.
    """
    one, other, wrong = (torch.tensor(values) for values in (found, wanted, running))
    if not bool((torch.isfinite(other) & torch.isfinite(wrong)).all()):
        return None
    size = other.abs().clamp(min=1.0)
    most = max(_SMALL, share * float(((wrong - other).abs() / size).max()))
    return bool(((one - other).abs() / size <= most).all())


class RowParts:
    """Rows as they are computed, some joint ones as separate rows."""

    def __init__(self, rows: Sequence[Scored], split: Callable[[Scored], bool]) -> None:
        """Take rows.

        Args:
            rows: Whose values are wanted.
            split: Whether a joint row is computed as separate rows.
        """
        self.rows: list[Scored] = []
        """What is computed."""
        self.origins: list[int] = []
        """The index of the row that each was made from."""
        self._parts: list[range] = []
        for index, row in enumerate(rows):
            self._parts.append(
                self._add(apart(row) if row.branches and split(row) else [row], index)
            )

    def _add(self, rows: Sequence[Scored], origin: int) -> range:
        first = len(self.rows)
        self.rows += rows
        self.origins += [origin] * len(rows)
        return range(first, len(self.rows))

    def split(self, index: int) -> range:
        """Compute a joint row as separate rows after all.

        Args:
            index: Which of `rows`; whatever value it gets is not used.

        Returns:
            The indices of the separate rows.
        """
        origin = self.origins[index]
        self._parts[origin] = self._add(apart(self.rows[index]), origin)
        return self._parts[origin]

    def values(self, found: Sequence[Sequence[float]]) -> list[list[float]]:
        """The values of the rows that were given.

        Args:
            found: Those of each of `rows`.

        Returns:
            By row, each with as many as it has picks.
        """
        return [[value for i in part for value in found[i]] for part in self._parts]
