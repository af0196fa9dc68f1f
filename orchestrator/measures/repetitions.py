"""How much a measure differs between runs of the same settings: what seeds do to it, and orders.

Runs differ in their seed and, where tasks are learnt in several orders, in that. The model is
nested: a run's measure is its settings' mean, plus what its order does, plus what its seed does
within that order (Searle, Casella and McCulloch 1992, Variance Components, chapter 3). Both
variances are estimated by moments, pooled over all settings that were repeated.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from orchestrator.measures.intervals import RunError

USUAL_DEVIATION = 0.02
"""Of gains between seeds, where nothing else is known: the root mean square over the twelve methods
of docs/results.md."""
USUAL_FREEDOM = 4
"""As how many degrees of freedom that counts."""
USUAL_ORDER_DEVIATION = 0.03
"""Of gains between orders of the tasks: a guess, as nothing was measured of them. It counts as one
degree of freedom, so that two orders that differ more say so."""


@dataclass(frozen=True)
class Run:
    """A repetition of some settings."""

    order: Hashable
    """In which it learnt the tasks."""
    seed: int
    value: float
    """What it measured."""


@dataclass(frozen=True)
class Spread:
    """How much a single run differs from others of its settings.

    Variances are badly known from few runs, so they are moderated by what is usual: both count by
    their degrees of freedom (Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3).
    """

    seeds: float
    """Moderated variance between runs in the same order; between all, unless orders stand apart."""
    orders: float
    """Moderated variance between orders; 0 unless they stand apart."""
    seeds_freedom: float
    orders_freedom: float
    seed_deviation: float
    """The standard deviation that was seen, as are the orders'."""
    order_deviation: float | None
    """None where orders do not differ, or cannot be told from seeds: no order had two runs."""

    def of_mean(self, orders: Sequence[Hashable]) -> RunError:
        """The error of a mean over runs.

        Args:
            orders: Of each run, its order.

        Returns:
            Its parts.
        """
        count = len(orders)
        shares = [sum(other == order for other in orders) / count for order in {*orders}]
        return RunError(
            seeds=self.seeds / count,
            orders=self.orders * sum(share**2 for share in shares),
            seeds_freedom=self.seeds_freedom,
            orders_freedom=self.orders_freedom,
        )


def spread_over(groups: Iterable[Sequence[Run]], scale: float = 1.0) -> Spread | None:
    """Estimate what seeds and orders do.

    Settings share the orders, so what these do to all of them alike was seen once for each order
    and not once for each of the settings: their degrees of freedom count orders.

    Args:
        groups: The runs of each of the settings; values that are not finite are left out.
        scale: By what the usual standard deviations are multiplied.

    Returns:
        The spread; None where nothing was run twice.
    """
    within, between, orders = _Sum(), _Sum(), set[Hashable]()
    balance = 0.0
    for group in groups:
        runs = [run for run in group if math.isfinite(run.value)]
        own = {run.order: [r.value for r in runs if r.order == run.order] for run in runs}
        if not runs:
            continue
        mean = sum(run.value for run in runs) / len(runs)
        for values in own.values():
            centre = sum(values) / len(values)
            within.add(sum((value - centre) ** 2 for value in values), len(values) - 1)
            between.add(len(values) * (centre - mean) ** 2, 0)
        between.add(0.0, len(own) - 1)
        balance += len(runs) - sum(len(values) ** 2 for values in own.values()) / len(runs)
        orders |= {*own} if len(own) > 1 else set()
    if not within.freedom and not between.freedom:
        return None
    if not within.freedom or not between.freedom:
        # One kind of difference alone: seeds, or seeds and orders together.
        both = _Sum(within.squares + between.squares, within.freedom + between.freedom)
        return Spread(
            both.moderated(scale * USUAL_DEVIATION), 0.0, both.freedom + USUAL_FREEDOM, math.inf,
            math.sqrt(both.squares / both.freedom), None,
        )  # fmt: skip
    # E[between] = freedom * seeds + balance * orders.
    seen = within.squares / within.freedom
    between_orders = max(0.0, (between.squares - between.freedom * seen) / balance)
    counted = len(orders) - 1
    return Spread(
        seeds=within.moderated(scale * USUAL_DEVIATION),
        orders=(counted * between_orders + (scale * USUAL_ORDER_DEVIATION) ** 2) / (counted + 1),
        seeds_freedom=within.freedom + USUAL_FREEDOM,
        orders_freedom=counted + 1,
        seed_deviation=math.sqrt(seen),
        order_deviation=math.sqrt(between_orders),
    )


def differences(one: Sequence[Run], other: Sequence[Run]) -> list[Run]:
    """What runs of one measure more than those of another with the same seed and order.

    Args:
        one: Runs of some settings.
        other: Runs of others.

    Returns:
        A run for each pair.
    """
    theirs = {(run.order, run.seed): run.value for run in other}
    return [
        Run(run.order, run.seed, run.value - theirs[(run.order, run.seed)])
        for run in one
        if (run.order, run.seed) in theirs
    ]


def difference_error(
    one: Sequence[Run], other: Sequence[Run], groups: Sequence[Sequence[Run]]
) -> RunError | None:
    """The error that seeds and orders leave in the difference of two means.

    Where both have the same seeds and orders, what these do to both alike cancels.

    Args:
        one: Runs of some settings; a single one of what was not repeated.
        other: Runs of others; empty for what has none, such as the untouched base.
        groups: All that were repeated.

    Returns:
        The error; None where nothing was run twice.
    """
    paired = differences(one, other)
    if len(paired) == len(one) == len(other) > 1:
        apart = [differences(one, group) for group in groups if list(group) != list(one)]
        spread = spread_over(apart, math.sqrt(2.0))
        if spread is not None:
            return spread.of_mean([run.order for run in one])
    spread = spread_over(groups)
    if spread is None:
        return None
    errors = [spread.of_mean([run.order for run in runs]) for runs in (one, other) if runs]
    return RunError(
        sum(error.seeds for error in errors), sum(error.orders for error in errors),
        spread.seeds_freedom, spread.orders_freedom,
    )  # fmt: skip


@dataclass
class _Sum:
    """A sum of squares and its degrees of freedom."""

    squares: float = 0.0
    freedom: int = 0

    def add(self, squares: float, freedom: int) -> None:
        self.squares += squares
        self.freedom += freedom

    def moderated(self, usual: float) -> float:
        """The variance, with what is usual counted in."""
        return (self.squares + USUAL_FREEDOM * usual**2) / (self.freedom + USUAL_FREEDOM)
