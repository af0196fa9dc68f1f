"""Rows of stacked tensors: picked as views where they are neighbours, and written back."""

from collections.abc import Sequence

import torch
from torch import Tensor

from curlora.transfers import on_device

Seats = slice | Tensor


def room_for(taken: int, capacity: int) -> int:
    """Give how many rows to make for so many: a few more than needed, so that copying stays cheap.

    Args:
        taken: Rows that are needed.
        capacity: Rows that may ever be.

    Returns:
        From `taken` to `capacity`: growing one by one to n copies O(n) rows in all.
    """
    return min(capacity, taken + taken // 16)


def pick_seats(numbers: Sequence[int], device: torch.device) -> Seats:
    """Give rising neighbours as a slice, which makes views, and other numbers as a tensor.

    Args:
        numbers: Indices; not empty.
        device: Where a tensor is put.

    Returns:
        What `pick` takes.
    """
    first = numbers[0]
    if list(numbers) == list(range(first, first + len(numbers))):
        return slice(first, first + len(numbers))
    return on_device(torch.tensor(numbers), device)


def pick(stack: Tensor, chosen: Seats) -> Tensor:
    """Give some of a stack, as a view where they are neighbours.

    Args:
        stack: (n, ...).
        chosen: What `pick_seats` gave, of m numbers.

    Returns:
        (m, ...).
    """
    return stack[chosen] if isinstance(chosen, slice) else stack.index_select(0, chosen)


def put_back(stack: Tensor, chosen: Seats, changed: Tensor) -> None:
    """Write back what `pick` gave and was changed in place; nothing to do where it was a view.

    Args:
        stack: (n, ...).
        chosen: What `pick_seats` gave, of m different numbers.
        changed: (m, ...).
    """
    if isinstance(chosen, Tensor):
        stack.index_copy_(0, chosen, changed)


def add_to(stack: Tensor, chosen: Seats, terms: Tensor) -> None:
    """Add to some of a stack, where numbers may repeat.

    Args:
        stack: (n, ...), changed in place.
        chosen: What `pick_seats` gave, of m numbers.
        terms: (m, ...); cast to the dtype of `stack`.
    """
    if isinstance(chosen, slice):
        stack[chosen].add_(terms)
    else:
        stack.index_add_(0, chosen, terms.to(stack.dtype))


def neighbours(stack: Tensor, seats: Seats) -> Tensor:
    """Cut a stack down to seats that are neighbours; others are picked at every use."""
    return stack[seats] if isinstance(seats, slice) else stack


def within(seats: Seats) -> Seats:
    """Give where the seats are in what `_neighbours` gives."""
    return slice(None) if isinstance(seats, slice) else seats
