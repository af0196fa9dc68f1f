import gzip

import pytest

from orchestrator import sources as s
from orchestrator.tasks import DataSource


def files(path):
    return DataSource(files=str(path))


def test_plain_and_gzipped_lines_are_read(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "ä"}\n\n{"text": "b"}\n', encoding="utf-8")
    with gzip.open(tmp_path / "test.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write('{"text": "c"}\n')
    data = files(tmp_path)
    assert [r["text"] for r in s.read_split(data, "train")] == ["ä", "b"]
    assert [r["text"] for r in s.read_split(data, "test")] == ["c"]
    assert s.read_split(data, "validation") is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"text": "a"}\n{"text"\n', "line 2: not JSON"),
        (b'["a"]\n', "line 1: a row is a JSON object"),
        ('{"text": "ä"}\n'.encode("latin-1"), "not UTF-8"),
    ],
)
def test_damaged_files_are_refused_naming_the_line(tmp_path, content, expected):
    (tmp_path / "train.jsonl").write_bytes(content)
    with pytest.raises(s.DataError, match=expected):
        s.read_split(files(tmp_path), "train")


def test_a_missing_folder_says_how_to_get_it(tmp_path):
    with pytest.raises(s.DataError, match="make demo"):
        s.read_split(files(tmp_path / "none"), "train")


def test_hub_columns_are_renamed_and_nested_ones_reached():
    row = {"choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}
    got = s.canonical_row(
        row,
        {"choices": "choices.text", "answer": "answerKey", "answer_labels": "choices.label"},
    )
    assert (got["choices"], got["answer"], got["answer_labels"]) == (["a", "b"], "B", ["A", "B"])
