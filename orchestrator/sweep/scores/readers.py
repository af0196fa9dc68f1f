"""Scoring models side by side on a Ray cluster, in processes that load the base once each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.data.items import token_ids
from orchestrator.data.prepared import PreparedData, PreparedTask
from orchestrator.executors.cluster_fit import worker_places
from orchestrator.executors.worker_group import away_from, leave_out_quantisers
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.sections import ResourceSpec
from orchestrator.sweep.scores.readings import ReadingError, Side, read_sides
from orchestrator.sweep.scores.shared_base import SharedBase

POLL_SECONDS = 1.0
"""How often it is asked whether something is scored, so that Ctrl-C is heard."""


class Reader:
    """An actor that scores what it is given, on one base."""

    def __init__(self) -> None:
        """Begin without a base and without data, so that Ray can start it again."""
        self._data: PreparedData | None = None
        self._base = SharedBase()

    def is_there(self, experiment: Experiment) -> None:
        """Answer, so that it can be given something.

        Args:
            experiment: One of those whose models will be scored, with a quantised base if any has.
        """
        leave_out_quantisers(experiment)

    def read(self, side: Side, shared: list[Any]) -> dict[str, Any]:
        """Score a model; see `read_sides`.

        Args:
            side: The model.
            shared: A list holding the reference of the prepared data.

        Returns:
            What is found of it.
        """
        import ray

        if self._data is None:
            self._data = ray.get(shared[0])
        assert self._data is not None
        return read_sides({"": side}, self._data, self._base)[""]


@dataclass
class _Pieces:
    """What has been found of a side."""

    wanted: int
    """How many pieces it was dealt out in."""
    found: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


def dealt_out(sides: Mapping[str, Side], data: PreparedData, places: int) -> list[tuple[str, Side]]:
    """The order in which some models are scored, so that no place is idle for long.

    The largest come first. The last ones, fewer than there are places, are dealt out by task.

    Args:
        sides: The models by name.
        data: The tokenised data.
        places: How many are scored at a time.

    Returns:
        Name and model; a name comes several times with other cells where it is dealt out.
    """
    order = sorted(sides, key=lambda name: -_tokens(sides[name], data))
    whole = len(order) - len(order) % places
    parts = [(name, sides[name]) for name in order[:whole]]
    rest = [(name, part) for name in order[whole:] for part in _by_task(sides[name])]
    return [*parts, *sorted(rest, key=lambda part: -_tokens(part[1], data))]


def _by_task(side: Side) -> list[Side]:
    if not side.cells:
        return [side]
    return [replace(side, cells={task: begin}) for task, begin in side.cells.items()]


def _tokens(side: Side, data: PreparedData) -> int:
    """About how much is computed for a model."""
    if side.cells is None:
        items = [item for name in side.experiment.tasks for item in data.tasks[name].test]
    else:
        items = [i for name, begin in side.cells.items() for i in _rest(data.tasks[name], begin)]
    return sum(1 for item in items for _ in token_ids(item))


def _rest(task: PreparedTask, begin: int) -> Sequence[Any]:
    return task.validation[begin:]


def joined(side: Side, pieces: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is said of a model that was scored in pieces, in the order of its cells.

    Args:
        side: The model, whole.
        pieces: What `read_sides` says of each piece.

    Returns:
        What `read_sides` would say of it at once.
    """
    unread = next((piece for piece in pieces if "unread" in piece), None)
    if unread is not None or len(pieces) == 1:
        return dict(unread or pieces[0])
    rows = {task: piece["row"][0] for piece in pieces for task in piece["metrics"]}
    tasks = list(side.cells or ())
    return {
        "row": [rows[task] for task in tasks],
        **{
            part: {
                task: piece[part][task] for task in tasks for piece in pieces if task in piece[part]
            }
            for part in ("metrics", "per_example")
        },
    }


def read_side_by_side(
    sides: Mapping[str, Side],
    data: PreparedData,
    resources: ResourceSpec,
    avoid: Sequence[str],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Score models in as many processes as the cluster has room for.

    Args:
        sides: The models by name; their bases must fit onto one worker each.
        data: The tokenised data.
        resources: What a worker of the sweep has.
        avoid: Ids of nodes that do not take part.

    Yields:
        The name of each and what `read_sides` says of it, as soon as it is known.

    Raises:
        ReadingError: If it could not be run.
    """
    import ray
    from ray.exceptions import RayError

    nodes = [node for node in ray.nodes() if node.get("NodeID") not in avoid]
    places = max(1, worker_places(nodes, resources))
    parts = deque(dealt_out(sides, data, places))
    pieces = {name: _Pieces(sum(other == name for other, _ in parts)) for name in sides}
    shared = [ray.put(data)]
    first = min((s.experiment for s in sides.values()), key=lambda e: not e.model.quantization)
    reader = _readers(resources, avoid)
    readers = [reader.remote() for _ in range(min(places, len(parts)))]
    # Whoever answers is given something: not all may find a place.
    asked: dict[Any, tuple[Any, str | None]] = {
        r.is_there.remote(first): (r, None) for r in readers
    }
    try:
        while parts or any(name is not None for _, name in asked.values()):
            for each in ray.wait(list(asked), timeout=POLL_SECONDS)[0]:
                reader, name = asked.pop(each)
                found = ray.get(each)
                if parts:
                    following, side = parts.popleft()
                    asked[reader.read.remote(side, shared)] = reader, following
                else:
                    ray.kill(reader)
                if name is not None:
                    pieces[name].found.append(found)
                    if len(pieces[name].found) == pieces[name].wanted:
                        yield name, joined(sides[name], pieces[name].found)
    except RayError as error:
        raise ReadingError(last_line(error)) from None
    finally:
        for reader in readers:
            with suppress(RayError):
                ray.kill(reader)


def _readers(resources: ResourceSpec, avoid: Sequence[str]) -> Any:
    """The actors' class with what a worker of the sweep has."""
    import ray

    return ray.remote(
        num_cpus=resources.cpus_per_worker,
        num_gpus=resources.gpus_per_worker,
        max_restarts=resources.max_failures,
        max_task_retries=resources.max_failures,
        label_selector=away_from(avoid) or {},
    )(Reader)


def last_line(error: Exception) -> str:
    """The last line of what an error says."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else repr(error)
