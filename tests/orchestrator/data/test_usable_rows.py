"""What rows lack is said with an example that can be copied."""

import re

import pytest
import yaml

from orchestrator.data.formats.placed_row import DataError, PlacedRow
from orchestrator.data.usable_rows import complete_rows
from orchestrator.spec.task_files import parse_task

TASK = parse_task(
    {"name": "t", "kind": "classification", "data": {"files": "x"}, "prompt": "{text} is",
     "labels": {"0": " bad", "1": " good"}},
    "t.yaml",
)  # fmt: skip


@pytest.mark.parametrize("column", ["lab", "l\ufeffbel", "the label", "no", "{label}"])
def test_a_missing_column_is_said_with_a_mapping_of_one_that_is_there(column):
    row = PlacedRow({column: 0, "text": "row"}, "train.csv", 2, "line")
    with pytest.raises(DataError, match="has no column 'label'") as caught:
        complete_rows(TASK, [row], "train.csv", answers=True)
    message = str(caught.value)
    assert message.isprintable()
    example = re.search(r"for example (columns: .*)\.$", message)[1]
    [(name, mapped)] = yaml.safe_load(example)["columns"].items()
    assert (name, mapped) == ("label", min(column, "text"))
