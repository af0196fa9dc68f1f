"""What is missing is missing in every format, and what is no text is never learnt as if it were."""

import json
import math

import pytest

from orchestrator.data.formats.placed_row import DataError
from orchestrator.data.prompts import continuation_texts, right_answer, row_text
from orchestrator.data.row_values import RowReader
from orchestrator.data.sources.columns import at_path
from orchestrator.data.sources.reading import read_split
from orchestrator.data.splits import split_rows
from orchestrator.spec.task_files import parse_task
from orchestrator.spec.task_kinds import DataSource


def task(folder, kind="classification", **fields):
    document = {"name": "t", "kind": kind, "data": {"files": str(folder)}, "prompt": "{text} is"}
    if kind == "classification":
        document["labels"] = {"0": " bad", "1": " good"}
    return parse_task(document | fields, "t.yaml")


def split(spec):
    return split_rows(spec, lambda name: read_split(spec.data, name))


# --- missing -------------------------------------------------------------------------------------

GOOD = [{"text": f"text {n}", "label": n % 2} for n in range(30)]


def lines_file(folder):
    lacking = [
        '{"text": NaN, "label": 1}',
        '{"text": null, "label": 1}',
        '{"label": 1}',
        '{"text": "no label", "label": NaN}',
        '{"text": " ", "label": 1}',
    ]
    text = [json.dumps(row) for row in GOOD[:12]] + lacking
    (folder / "train.jsonl").write_text("\n".join(text + [json.dumps(r) for r in GOOD[12:]]))


def parquet_file(folder):
    import pyarrow as pa
    import pyarrow.parquet

    text = [row["text"] for row in GOOD] + [None, None, None, "no label", " "]
    label = [float(row["label"]) for row in GOOD] + [1.0, 1.0, 1.0, math.nan, 1.0]
    table = pa.table({"text": text, "label": pa.array(label, pa.float64())})
    pyarrow.parquet.write_table(table, folder / "train.parquet")


def csv_file(folder):
    rows = [f"{row['text']},{row['label']}" for row in GOOD]
    text = ["text,label", *rows, ",1", ",1", '"",1', "no label,", " ,1"]
    (folder / "train.csv").write_text("\n".join(text))


@pytest.mark.parametrize("write", [lines_file, parquet_file, csv_file])
def test_what_is_missing_is_left_out_and_counted_in_every_format(tmp_path, write):
    write(tmp_path)
    spec = task(tmp_path)
    splits = split(spec)
    kept = [*splits.train, *splits.validation, *splits.test]
    assert sorted(row_text(spec, row) for row in kept) == sorted(f"{r['text']} is" for r in GOOD)
    assert {right_answer(spec, row, 2) for row in kept} == {0, 1}
    assert splits.incomplete == 5
    assert str(tmp_path) in splits.first_incomplete
    assert "`text` is missing" in splits.first_incomplete or "empty" in splits.first_incomplete


def test_nan_within_a_parquet_column_of_numbers_is_no_word(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    table = pa.table({"text": [1.5, math.nan, *map(float, range(18))], "label": ["0", "1"] * 10,
                      "deep": [[math.nan, 1.0]] * 20})  # fmt: skip
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    rows = read_split(DataSource(files=str(tmp_path)), "train")
    assert [row["text"] for row in rows[:3]] == [1.5, None, 0.0]
    assert rows[0]["deep"] == [None, 1.0]
    assert split(task(tmp_path)).incomplete == 1


def test_running_text_keeps_its_empty_lines(tmp_path):
    lines = [f'{{"text": "{n}"}}\n{{"text": ""}}\n{{"text": NaN}}\n' for n in range(10)]
    (tmp_path / "train.jsonl").write_text("".join(lines))
    spec = parse_task({"name": "t", "kind": "language_modelling", "text_column": "text",
                       "data": {"files": str(tmp_path)}}, "t.yaml")  # fmt: skip
    splits = split(spec)
    rows = [*splits.train, *splits.validation, *splits.test]
    assert (len(rows), splits.incomplete) == (20, 10)


def test_minus_one_is_an_answer_where_a_number_is_written(tmp_path):
    rows = [{"text": f"{n} - {n + 1}", "target": -1} for n in range(20)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    splits = split(task(tmp_path, "generation"))
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 20


@pytest.mark.parametrize(
    ("labels", "value", "expected"),
    [
        ({"0": " a", "1": " b"}, 1.0, "1"),
        ({"0": " a", "1": " b"}, True, "1"),
        ({"true": " a", "false": " b"}, False, "false"),
        ({"True": " a", "False": " b"}, False, "False"),
        ({"0": " a", "1": " b"}, 1.5, "1.5"),
        ({"1": " a", "1.0": " b"}, "1.0", "1.0"),
        ({"0": " a", "1": " b"}, "1.0", "1.0"),
    ],
)
def test_a_number_is_the_same_label_however_it_is_written(tmp_path, labels, value, expected):
    assert task(tmp_path, labels=labels).label_of(value) == expected


# --- no text -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([1, 2], r"holds a list: \[1, 2\]\..*columns: {text: text.0}"),
        ({"en": "a", "de": "b"}, "holds an object.*columns: {text: text.en}"),
        (b"bytes", "holds a bytes"),
        (math.inf, "is inf"),
        ([{"role": "user", "content": "a"}], "columns: {text: text.user.content}"),
    ],
)
def test_what_is_no_text_is_refused_with_the_way_into_it(tmp_path, value, told):
    with pytest.raises(DataError, match=told):
        RowReader(task(tmp_path)).missing({"text": value, "label": 1})


def test_choices_are_texts_and_none_of_them_is_missing(tmp_path):
    spec = task(tmp_path, "multiple_choice")
    reader = RowReader(spec)
    assert reader.missing({"text": "q", "choices": ["a", None], "answer": 0}) is not None
    assert reader.missing({"text": "q", "choices": ["a", 3], "answer": 1.0}) is None
    assert right_answer(spec, {"text": "q", "choices": ["a", 3], "answer": 1.0}, 2) == 1
    with pytest.raises(DataError, match="holds a list"):
        reader.missing({"text": "q", "choices": ["a", ["b"]], "answer": 0})
    with pytest.raises(DataError, match="at least two choices"):
        reader.missing({"text": "q", "choices": "ab", "answer": 0})


# --- chat data -----------------------------------------------------------------------------------

CHAT = {
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "two?"},
        {"role": "assistant", "content": "2"},
    ],
    "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}],
    "nothing": None,
    "dotted.name": "flat",
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("messages.0.content", "be brief"),
        ("messages.-1.content", "2"),
        ("messages.user.content", "two?"),
        ("messages.assistant.content", "2"),
        ("messages.tool.content", None),
        ("messages.99.content", None),
        ("conversations.human.value", "hi"),
        ("nothing.0.content", None),
        ("dotted.name", "flat"),
    ],
)
def test_paths_reach_into_lists_by_place_and_by_speaker(path, expected):
    assert at_path(CHAT, path) == expected


def chat(folder, rows):
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = {"text": "messages.user.content", "target": "messages.assistant.content"}
    return task(folder, "generation", prompt="{text}",
                data={"files": str(folder), "columns": columns})  # fmt: skip


def test_the_last_turns_of_a_conversation_are_prompt_and_target(tmp_path):
    unanswered = {"messages": CHAT["messages"][:2]}
    turns = CHAT["messages"]
    rows = [
        {"messages": [*turns[:3], {"role": "user", "content": f"{n}?"}, turns[4]]}
        for n in range(20)
    ]
    spec = chat(tmp_path, [*rows, unanswered])
    splits = split(spec)
    rows = [*splits.train, *splits.validation, *splits.test]
    assert {(row_text(spec, row), *continuation_texts(spec, row)) for row in rows} == {
        (f"{n}?", " 2") for n in range(20)
    }
    assert splits.incomplete == 1


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"text": "messages.user.contents"}, "line 1.*There it has: 'content', 'role'"),
        ({"text": "mesages.0.content"}, "Did you mean 'messages'"),
        ({"text": "n.0"}, "'n' holds '0', which has no parts"),
        ({"text": "numbers.user"}, "its elements have no `role`"),
    ],
)
def test_a_path_that_leads_nowhere_names_what_is_there(tmp_path, columns, told):
    rows = [{"messages": CHAT["messages"], "n": n, "numbers": [1, 2]} for n in range(3)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=told):
        read_split(DataSource(files=str(tmp_path), columns=columns), "train")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"prompt": "{messages}"}, "columns: {text: messages.user.content}, and write {text}"),
        ({"prompt": "{text}"}, "columns: {text: messages.user.content}"),
        ({"prompt": "{said}", "target_column": "messages"},
         "columns: {target: messages.assistant.content}, with target_column: target"),
    ],
)  # fmt: skip
def test_turns_are_never_learnt_as_python_writes_them(tmp_path, fields, told):
    chat(tmp_path, [{"messages": CHAT["messages"]}] * 20)
    columns = {"target": "messages.-1.content", "said": "messages.user.content"}
    data = {"files": str(tmp_path), "columns": columns}
    with pytest.raises(DataError, match=told):
        split(task(tmp_path, "generation", data=data, **fields))
