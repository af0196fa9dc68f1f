"""The metrics of a running sweep: their names as Prometheus knows them, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

EXPORTED = "ray_"
"""Ray puts this before the name of every metric that it exports."""
DASHBOARD = "grafana.json"


@dataclass(frozen=True)
class Metric:
    """A gauge; beside its own labels each has `sweep`, the name of the sweep's folder."""

    name: str
    summary: str
    labels: tuple[str, ...] = ()

    @property
    def exported(self) -> str:
        """Its name in Prometheus."""
        return EXPORTED + self.name


METRICS = (
    Metric("orchestrate_trials", "Trials, by their state in the journal.", ("state",)),
    Metric("orchestrate_slots", "Trials that the workers that run now hold at a time."),
    Metric("orchestrate_slots_used", "Trials that are at work in them."),
    Metric("orchestrate_tokens_per_second", "Tokens trained and scored, without padding."),
    Metric("orchestrate_useful_share", "Share of the computed tokens that are no padding."),
    Metric("orchestrate_queue_seconds", "The longest that a trial has waited for a slot."),
    Metric(
        "orchestrate_last_report_age_seconds",
        "The longest that a trial at work has reported nothing.",
    ),
    Metric(
        "orchestrate_last_checkpoint_age_seconds",
        "The longest that a trial at work has saved nothing: what its worker's death would cost.",
    ),
    Metric("orchestrate_projection_lag_lines", "Lines of the journal that MLflow does not show."),
    Metric("orchestrate_projection_lag_seconds", "The age of the oldest of them."),
)
"""Everything that a sweep exports."""


def dashboard() -> str:
    """The dashboard of these metrics for Grafana, as JSON."""
    return (resources.files(__package__ or "") / DASHBOARD).read_text(encoding="utf-8")
