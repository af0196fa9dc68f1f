"""Counts and times, for Prometheus; nothing of what was asked."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """What `/metrics` shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        given = {"registry": self.registry, "namespace": "orchestrate"}
        self.requests = Counter(
            "requests", "Requests that were answered.", ["endpoint", "model", "status"], **given
        )
        self.seconds = Histogram(
            "request_seconds", "From a request to the end of its answer.", ["endpoint"],
            buckets=_SECONDS, **given,
        )  # fmt: skip
        self.first_token = Histogram(
            "first_token_seconds", "From a request to its first text.", buckets=_SECONDS, **given
        )
        self.tokens = Counter(
            "tokens", "Tokens of prompts, written ones, and those read for labels.",
            ["model", "kind"], **given,
        )  # fmt: skip
        self.turned_away = Counter("turned_away", "Requests for which there was no room.", **given)
        self._passes = Counter("passes", "Passes over the base.", ["kind"], **given)
        self._shared = Counter(
            "pass_adapters", "Adapters in these passes, the bare base as one.", ["kind"], **given
        )
        self._waiting = Gauge("waiting", "Jobs that wait.", **given)
        self._rows = Gauge("running", "Texts that are being written.", **given)

    def watch(self, *, waiting: Callable[[], int], rows: Callable[[], int]) -> None:
        """Show what the engine has to do.

        Args:
            waiting: Gives how many jobs wait.
            rows: Gives how many texts are being written.
        """
        self._waiting.set_function(waiting)
        self._rows.set_function(rows)

    def passed(self, kind: str, adapters: int) -> None:
        """Count a pass.

        Args:
            kind: `read`, `prompts` or `write`.
            adapters: How many shared it.
        """
        self._passes.labels(kind).inc()
        self._shared.labels(kind).inc(adapters)

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self.registry)
