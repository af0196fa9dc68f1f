"""What one MLflow run should show: tags, parameters, points of metrics, artifacts, status."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.records.event import Event
from orchestrator.records.journal_facts import milliseconds
from orchestrator.records.redaction import redacted_document
from orchestrator.system.strict_json import is_number

# MLflow's own limits (mlflow.utils.validation).
_PARAMETER_CHARACTERS = 6000


_KEY_CHARACTERS = 250


@dataclass(frozen=True)
class _Point:
    """One value of a metric."""

    n: int
    """The line that it comes from."""
    key: str
    value: float
    time: int
    """Milliseconds since the epoch."""
    step: int


@dataclass
class Picture:
    """What one MLflow run should show."""

    name: str
    start: int
    tags: dict[str, str]
    parameters: dict[str, str] = field(default_factory=dict)
    points: list[_Point] = field(default_factory=list)
    """What MLflow is not known to have."""
    artifacts: dict[str, str] = field(default_factory=dict)
    status: str = "RUNNING"
    end: int | None = None

    def measure(self, event: Event, values: Mapping[str, Any], step: int) -> None:
        """Add the values that are numbers; what was not measured is left out."""
        for key, value in values.items():
            if is_number(value):
                self.points.append(_Point(event.n, key, value, milliseconds(event.time), step))

    def close(self, event: Event, status: str) -> None:
        """The run is over, for now."""
        self.status, self.end = status, milliseconds(event.time)

    def reopen(self) -> None:
        """The run goes on."""
        self.status, self.end = "RUNNING", None


def json_text(document: Any) -> str:
    """A document as the text of an artifact, without secrets."""
    return json.dumps(redacted_document(document), indent=2, ensure_ascii=False) + "\n"


def flat_parameters(document: Mapping[str, Any]) -> dict[str, str]:
    """Dotted paths to values as text, within what MLflow takes."""
    return {
        re.sub(r"[^\w\-. :/]", "_", path)[:_KEY_CHARACTERS]: shortened(text, _PARAMETER_CHARACTERS)
        for path, text in _flattened(document)
    }


def _flattened(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flattened(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def shortened(text: str, limit: int) -> str:
    """The same text, within a number of characters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
