"""The dashboard names what is exported, and all of it."""

import json
import re

from orchestrator.sweep.telemetry.metrics import METRICS, dashboard


def expressions():
    """Every query of the dashboard, with that of its variables."""
    document = json.loads(dashboard())
    found = [target["expr"] for panel in document["panels"] for target in panel["targets"]]
    queries = [each["query"] for each in document["templating"]["list"]]
    return found + [query["query"] for query in queries if isinstance(query, dict)]


def test_the_dashboard_names_only_metrics_that_exist_and_shows_all():
    named = set(re.findall(r"\bray_\w+", " ".join(expressions())))
    assert named == {metric.exported for metric in METRICS}


def test_its_queries_select_and_group_by_labels_that_the_metrics_have():
    labels = {metric.exported: {"sweep", *metric.labels} for metric in METRICS}
    for expression in expressions():
        (name,) = re.findall(r"\bray_\w+", expression)
        used = set(re.findall(r"(\w+)=~?\"", expression))
        for group in re.findall(r"by \(([^)]*)\)", expression):
            used |= set(group.split(", "))
        assert used <= labels[name], expression


def test_what_a_legend_shows_is_a_label():
    document = json.loads(dashboard())
    known = {label for metric in METRICS for label in ("sweep", *metric.labels)}
    for panel in document["panels"]:
        for target in panel["targets"]:
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= known
    places = [tuple(panel["gridPos"].values())[:2] for panel in document["panels"]]
    assert len(set(places)) == len(places)
