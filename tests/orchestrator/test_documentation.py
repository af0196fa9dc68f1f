"""The documents name what exists, and all of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.spec.adapter_settings import ADAPTER_SETTINGS
from orchestrator.spec.retention_settings import RETENTION_SETTINGS

DOCS = Path(__file__).parents[2] / "docs"


def _settings_rows() -> list[tuple[str, str]]:
    """First and second cell of each row of the table of settings."""
    text = (DOCS / "experiment.md").read_text(encoding="utf-8")
    part = text.partition("### Settings of adapters and retentions")[2].partition("\n\nA preset")[0]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")]
    return [(row[0], row[1]) for row in rows if len(row) == 2]


@pytest.mark.parametrize("kind", [*ADAPTER_SETTINGS, *RETENTION_SETTINGS])
def test_every_setting_of_a_kind_stands_in_the_table(kind: str) -> None:
    settings = {**ADAPTER_SETTINGS, **RETENTION_SETTINGS}[kind]
    rows = _settings_rows()
    everywhere = " ".join(cell for first, cell in rows if first.startswith("all adapters"))
    own = " ".join(cell for first, cell in rows if f"`{kind}`" in first + cell)
    for name in settings.model_fields:
        if name != "kind":
            assert f"`{name}`" in own + everywhere, f"{kind}.{name} is not in docs/experiment.md"


def test_every_setting_in_the_table_exists() -> None:
    every = {
        name
        for settings in (*ADAPTER_SETTINGS.values(), *RETENTION_SETTINGS.values())
        for name in settings.model_fields
    }
    kinds = {*ADAPTER_SETTINGS, *RETENTION_SETTINGS, "all-linear"}
    for _, cell in _settings_rows():
        for name in re.findall(r"`([^`]+)`", cell):
            assert name in every | kinds, f"docs/experiment.md names {name}, which nothing has"
