"""Which experiments a search can reach: under single overrides, edge values, and all methods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from orchestrator.spec.experiment import Experiment
from orchestrator.spec.methods import MethodSpec
from orchestrator.spec.space.assignments import grid_points, narrowed
from orchestrator.spec.space.domains import Choice, IntUniform, simple_domains
from orchestrator.spec.validation import ExperimentError


def refusal(experiment: Experiment, overrides: Mapping[str, Any]) -> str | None:
    """Why a trial with these overrides cannot be; None where it can."""
    try:
        experiment.with_overrides(overrides)
    except ExperimentError as error:
        return str(error)
    return None


def possible_methods(experiment: Experiment) -> list[MethodSpec]:
    """Every method that a trial may have, continuous settings left at one value.

    Args:
        experiment: An experiment whose space was checked.

    Returns:
        The methods, each once; of a range of whole numbers its two ends.
    """
    parts = simple_domains(experiment.search.space) if experiment.search else ()
    entries = experiment.search.first if experiment.search else ()
    paths = [path for path, domain in parts if isinstance(domain, Choice | IntUniform)]
    paths += [path for entry in entries for path in entry]
    wanted = [path for path in dict.fromkeys(paths) if path.startswith("method.")]
    found: dict[str, MethodSpec] = {}
    for reached in reachable(experiment, wanted):
        found.setdefault(reached.method.model_dump_json(), reached.method)
    return list(found.values())


def reachable(experiment: Experiment, paths: Sequence[str]) -> Iterator[Experiment]:
    """The experiment under every edge value that a trial may give some fields.

    Args:
        experiment: The experiment.
        paths: Dotted paths; the fields that their conditions depend on are added.

    Yields:
        Experiments without a search; the file's own alone when none of the fields is searched.
    """
    search = experiment.search
    if search is None:
        yield experiment
        return
    wanted = [path for path in paths if path in search.space]
    for path in wanted:
        domains = [d for where, d in simple_domains(search.space) if where == path]
        parents = [parent for domain in domains for parent in domain.when]
        wanted += [parent for parent in dict.fromkeys(parents) if parent not in wanted]
    space = {path: domain for path, domain in search.space.items() if path in wanted}
    yield from _possible(experiment, grid_points(space))
    for entry in search.first:
        rest = {path: entry[path] for path in paths if path in entry and path not in space}
        points = grid_points(narrowed(space, entry))
        yield from _possible(experiment, ({**point, **rest} for point in points))


def _possible(experiment: Experiment, points: Iterable[Mapping[str, Any]]) -> Iterator[Experiment]:
    """The experiment under those overrides that do not contradict one another."""
    for overrides in points:
        try:
            possible = experiment.with_overrides(overrides)
        except ExperimentError:
            continue  # whoever proposes trials passes over it too
        yield possible
