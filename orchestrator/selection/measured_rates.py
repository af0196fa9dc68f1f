"""Between which learning rates a method does something on a base, and does not explode.

The stated ranges of the portfolio hold for no base in particular. A few steps at each rate of a
ladder say where the loss hardly moves, and where it rises: a method is then tried between. Methods
whose first task is learnt alike (the same adapter, nothing kept yet) share what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.data.prepared import PreparedData
from orchestrator.executors.trial_run import adapted_model, fresh_retention
from orchestrator.loop.scoring import DivergedError
from orchestrator.loop.task_sequence import task_sequence
from orchestrator.selection.portfolio import PORTFOLIO, PRESET, RATE
from orchestrator.spec.experiment import Experiment
from orchestrator.system import machine
from orchestrator.system.content_cache import ContentCache
from orchestrator.system.wording import cut

RATES = 6
"""Rungs of the ladder, from a third of the lowest stated rate to three times the highest."""
STEPS = 4
IDLE = 0.01
"""A rate is idle if a whole task's steps would lower the loss by less than this share of it, at the
pace of the first."""
EXPLODED = 1.1
"""Times the loss before the steps, above which a rate is too high."""

Range = tuple[float, float]


@dataclass(frozen=True)
class Tried:
    """What some steps at a rate did."""

    rate: float
    before: float
    """Loss of the examples of these steps, nats per scored token."""
    after: float
    """NaN where it diverged."""


def ladder(stated: Range) -> list[float]:
    """The rates that are tried, rising."""
    low, high = math.log(stated[0] / 3), math.log(stated[1] * 3)
    return [math.exp(low + (high - low) * place / (RATES - 1)) for place in range(RATES)]


def bearable(tried: Sequence[Tried], steps: int) -> Range | None:
    """The range that some rates span.

    Args:
        tried: What each did, rising.
        steps: Of a whole task.

    Returns:
        From the lowest that is not idle to the highest that does not explode below the first that
        does; None where no rate is neither.
    """
    useful: list[float] = []
    for one in tried:
        if not math.isfinite(one.after) or one.after > EXPLODED * one.before:
            break
        if (one.before - one.after) * steps / STEPS >= IDLE * one.before:
            useful.append(one.rate)
    if not useful:
        return None
    # A single rung still spans half a decade.
    low, high = useful[0], useful[-1]
    return (low, high) if high > low else (low / math.sqrt(math.sqrt(10)), low * 10**0.25)


def measured_rates(
    experiment: Experiment,
    names: Sequence[str],
    data: PreparedData,
    cache: ContentCache | None,
    follows_from: Mapping[str, Any],
    note: Callable[[str], None],
) -> dict[str, Range]:
    """Measure between which rates methods are to be tried, in this process.

    Args:
        experiment: With a decided precision, without a search.
        names: Of `PORTFOLIO`.
        data: The tokenised data; the first task's is learnt.
        cache: Where what was measured is kept; None where what it follows from is not known.
        follows_from: What a loss follows from besides the method: base, data, code.
        note: Told what is measured.

    Returns:
        By method; those without a rate that is neither idle nor too high keep their stated range,
        which is said.
    """
    found: dict[str, Range] = {}
    if data.tasks[experiment.tasks[0]].has_head:
        note("the first task has a linear head, whose learning rate is another: stated ranges")
        return found
    for name in names:
        own = experiment.with_overrides({PRESET: name})
        if own.method.sequence == "joint":
            own = experiment.with_overrides({PRESET: "seq"})
        rates = ladder(PORTFOLIO[name].rates)
        key = {
            **follows_from,
            "adapter": own.method.adapter.model_dump(mode="json"),
            "training": own.training.model_dump(mode="json", exclude={"learning_rate"}),
            "rates": rates, "steps": STEPS,
        }  # fmt: skip
        kept = None if cache is None else cache.read("rates", key)
        if kept is None:
            note(f"trying {RATES} learning rates of {name}, {STEPS} steps each")
            kept = [_try(own, rate, data) for rate in rates]
            if cache is not None:
                cache.write("rates", key, kept)
        tried = [
            Tried(rate, before, math.nan if after is None else after)
            for rate, (before, after) in zip(rates, kept, strict=True)
        ]
        span = bearable(tried, _steps(own, data))
        if span is None:
            note(f"{name}: no rate between {rates[0]:.1e} and {rates[-1]:.1e} is neither idle nor "
                 "too high in a few steps; its stated range is searched")  # fmt: skip
            continue
        found[name] = (_two_digits(span[0]), _two_digits(span[1]))
    return found


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


def _steps(experiment: Experiment, data: PreparedData) -> int:
    sequence = task_sequence(experiment, data)
    return len(sequence.batches(sequence.stages[0]))


def _try(experiment: Experiment, rate: float, data: PreparedData) -> tuple[float, float | None]:
    """The loss before and after some steps of the first task; None where it is not finite."""
    import torch

    from orchestrator.base.loading import quiet_loading
    from orchestrator.engines.plain import PlainEngine

    own = experiment.with_overrides({RATE: rate})
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, machine.usable_cores()))  # nothing else runs yet
    device = "cuda" if own.resources.gpus_per_worker else "cpu"
    sequence = task_sequence(own, data)
    stage = sequence.stages[0]
    batches = sequence.batches(stage)[:STEPS]
    learnt = [example for batch in batches for example in batch]
    before = math.nan
    try:
        with quiet_loading():
            model = adapted_model("measured", own, data, device)
        engine = PlainEngine(
            model, own.training, batch_tokens=own.data.batch_tokens,
            retention=fresh_retention(own),
        )  # fmt: skip
        engine.begin_sequence(len(sequence.tasks), sequence.sources)
        engine.begin_task(0, len(sequence.batches(stage)), sequence.examples(stage))
        before = engine.held_out_loss(learnt)
        for step, batch in enumerate(batches):
            if not math.isfinite(engine.train_step(batch, step)):
                return before, None
        after = engine.held_out_loss(learnt)
    except DivergedError:
        return before, None
    finally:
        torch.set_num_threads(threads)
    return before, after if math.isfinite(after) else None


def range_words(rates: Mapping[str, Range]) -> str:
    """What was found, for people."""
    each = [f"{name} {low:.1e} to {high:.1e}" for name, (low, high) in rates.items()]
    return cut("learning rates by measured steps: " + ", ".join(each), 1000)
