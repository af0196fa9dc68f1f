"""The check of a whole search space: paths, domains, conditions, first trials, seeds and values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from orchestrator.spec.experiment import Experiment, known_paths
from orchestrator.spec.sections import LARGEST_SEED
from orchestrator.spec.space.assignments import active
from orchestrator.spec.space.conditions import check_conditions
from orchestrator.spec.space.domains import (
    LARGEST_EXACT,
    Choice,
    IntUniform,
    LogUniform,
    SimpleDomain,
    contains,
    domain_bounds,
    notation,
    simple_domains,
    value_key,
)
from orchestrator.spec.space.search_space import SearchSpec
from orchestrator.spec.space.tried_values import check_draws, check_point, check_values
from orchestrator.spec.validation import ExperimentError
from orchestrator.system.wording import suggestion

_NOT_SEARCHABLE = ("search", "name", "plugins", "extends",
                   "storage", "tracking", "objectives", "champion", "finalists", "scoring",
                   "tasks", "probes", "model", "data", "head", "published",
                   "training.max_length", "training.batch_invariant", "resources.executor",
                   "resources.slots", "resources.members", "resources.max_failures",
                   "resources.retention_gib")  # fmt: skip
"""What all trials of a sweep have in common."""


def check_space(experiment: Experiment) -> None:
    """Refuse a space that can propose an impossible trial, or one that was not asked for.

    Every value at the edge of a domain, and many between, is tried in whole experiments; every
    point of a grid is. What is left are relations between searched fields, which hold for most of
    the trials drawn here; a searcher asks again where one does not.

    Args:
        experiment: An experiment that was read already.

    Raises:
        ExperimentError: If a path is unknown, or a value or a combination is impossible.
    """
    search = experiment.search
    if search is None:
        return
    _check_paths(search)
    for path, domain in simple_domains(search.space):
        _check_domain(path, domain)
    check_conditions(search.space)
    for number, entry in enumerate(search.first, start=1):
        _check_entry(search, f"search.first: entry {number}", entry)
    _check_seeds(experiment, search)
    check_values(experiment, search.space)
    if search.searcher == "grid":
        for point in search.points:
            check_point(experiment, point)
        return
    check_draws(experiment, search.space, {}, "search.space")
    for number, entry in enumerate(search.first, start=1):
        check_draws(experiment, search.space, entry, f"search.first: entry {number}")


def _check_paths(search: SearchSpec) -> None:
    paths = sorted(known_paths())
    places = [("search.space", path) for path in search.space]
    places += [
        (f"search.first: entry {number}", path)
        for number, entry in enumerate(search.first, start=1)
        for path in entry
    ]
    for place, path in places:
        if any(f"{name}.".startswith(f"{path}.") for name in _NOT_SEARCHABLE) or any(
            path.startswith(f"{name}.") for name in _NOT_SEARCHABLE
        ):
            raise ExperimentError(
                f"{place}: {path}: trials of one sweep share this field, or one in it, so that "
                "their scores can be compared; it cannot be searched"
            )
        if path not in paths and not path.startswith("training.deepspeed."):
            raise ExperimentError(f"{place}: {path}: unknown field.{suggestion(path, paths)}")


def _check_domain(path: str, domain: SimpleDomain) -> None:
    """Refuse values that cannot be recorded or drawn, and values that come twice."""
    bounds = domain_bounds(domain)
    if isinstance(domain, Choice):
        seen: list[str] = []
        for value in domain.choice:
            _check_precision(path, value)
            key = value_key(value, f"search.space: {path}")
            if key in seen:
                raise ExperimentError(
                    f"search.space: {path}: `choice` lists {value!r} twice; list it once. Trials "
                    "are repeated with fresh seeds by `finalists.fresh_seeds`, or by searching "
                    "`training.seed`"
                )
            seen.append(key)
    elif bounds is not None:
        low, high = bounds
        wide = isinstance(domain, IntUniform) and max(-low, high) > LARGEST_EXACT
        ratio = high / low if isinstance(domain, LogUniform) else 2.0
        if wide or not math.isfinite(high - low) or not math.isfinite(ratio) or ratio < 1 + 1e-9:
            raise ExperimentError(
                f"search.space: {path}: no numbers can be drawn between {low!r} and {high!r}: the "
                "bounds are too far apart, too close, or beyond 2^53"
            )


def _check_precision(path: str, value: object) -> None:
    whole = isinstance(value, dict) and cast("dict[str, Any]", value).get("precision") == "auto"
    if (path == "training.precision" and value == "auto") or (path == "training" and whole):
        raise ExperimentError(
            f"search.space: {path}: `auto` stands for one precision in all trials of a sweep; list "
            "`bf16` and `fp32`"
        )


def _check_entry(search: SearchSpec, place: str, entry: Mapping[str, Any]) -> None:
    """Refuse an entry of `first` that lies outside the space, or that would be lost."""
    for path, value in entry.items():
        value_key(value, f"{place}: {path}")
        _check_precision(path, value)
        if path not in search.space:
            continue
        domains = [domain for where, domain in simple_domains(search.space) if where == path]
        held = [domain for domain in domains if active(domain, entry)]
        if not held:
            parents = sorted({parent for domain in domains for parent in domain.when})
            raise ExperimentError(
                f"{place}: {path}: it has a place only under conditions on {', '.join(parents)}, "
                "which the entry does not fulfil; set these in it too, or take the field out"
            )
        if not any(contains(domain, value) for domain in held):
            allowed = " or ".join(notation(domain) for domain in held)
            raise ExperimentError(
                f"{place}: {path}: {value!r} lies outside the space, {allowed}. Widen the space, "
                "or take a value from it"
            )


def _check_seeds(experiment: Experiment, search: SearchSpec) -> None:
    """Refuse fresh seeds that would not be fresh, or that nothing takes."""
    fresh, own = experiment.finalists.fresh_seeds, experiment.training.seed
    if fresh and "training.seed" in search.space:
        raise ExperimentError(
            "`finalists.fresh_seeds` needs `training.seed` for itself; take it out of "
            "`search.space`, or set `fresh_seeds: 0`"
        )
    # A seed of `first` had a part in the choice, and is passed over.
    if fresh and own + fresh + len(search.first) > LARGEST_SEED:
        raise ExperimentError(
            f"`training.seed` {own} and {fresh} `finalists.fresh_seeds` after it go beyond the "
            f"largest seed, {LARGEST_SEED}; begin with a smaller one"
        )
