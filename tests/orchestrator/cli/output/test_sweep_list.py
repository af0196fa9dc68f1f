"""The list of sweeps says what each has found, at any width."""

import io

import pytest
from rich.console import Console

from orchestrator.cli.output.sweep_list import render_sweeps
from orchestrator.cli.output.tables import print_on
from orchestrator.registry.index.index import open_index
from tests import written_journals


@pytest.mark.parametrize("width", [200, 80])
def test_what_sweeps_have_found_and_cost_stands_in_the_list(tmp_path, new_sweep, width):
    written_journals.write(tmp_path, "demo", new_sweep(trials=4, tested=True))
    with open_index(tmp_path) as index:
        rows = index.sweeps()
    out = io.StringIO()
    print_on(Console(file=out, width=width), render_sweeps(rows, now=9000.0, width=width))
    text = out.getvalue()
    (row,) = rows
    assert "+0.350" in text
    assert f"{row['hypervolume']:.3f}" in text
    assert ("What they have found" in text) == (width == 80)
    assert all(len(line) <= width for line in text.splitlines())
