import json
import shutil

import pytest

from orchestrator.data.formats.placed_row import DataError
from orchestrator.data.held_out import held_by_others, row_marks
from orchestrator.data.sources.reading import read_split
from orchestrator.data.splits import split_rows
from orchestrator.data.task_preparation import prepare_task
from orchestrator.planning.tokens import ByteTokenizer
from orchestrator.spec.sections import DataLimits
from orchestrator.spec.task_files import parse_task
from orchestrator.spec.task_kinds import DataSource


def task(**fields):
    document = {
        "name": "t",
        "kind": "classification",
        "data": {"files": "own.csv"},
        "prompt": "{text} is",
        "labels": {"0": " bad", "1": " good", "2": None},
    }
    return parse_task(document | fields, "t.yaml")


def rows(start, stop, label="0"):
    return [{"text": f"text {i}", "label": label} for i in range(start, stop)]


def texts(part):
    return {row["text"] for row in part}


def test_train_alone_is_cut_into_three_by_what_the_rows_say():
    train = rows(0, 2000)
    splits = split_rows(task(), {"train": train}.get)
    parts = [texts(splits.train), texts(splits.validation), texts(splits.test)]
    assert sum(map(len, parts)) == 2000
    assert set.union(*parts) == texts(train)
    assert all(140 < len(part) < 260 for part in parts[1:])
    assert splits.origins["test"] == splits.origins["validation"]
    assert "chosen by hash" in splits.origins["test"]
    backwards = split_rows(task(), {"train": train[::-1]}.get)
    assert texts(backwards.test) == parts[2]
    # A source that grows keeps what it held out.
    grown = split_rows(task(), {"train": train + rows(2000, 3000)}.get)
    assert parts[2] <= texts(grown.test)
    assert parts[1] <= texts(grown.validation)


def test_equal_texts_never_stand_on_both_sides():
    splits = split_rows(task(), {"train": rows(0, 100) * 3}.get)
    assert not texts(splits.train) & texts(splits.validation)
    assert not texts(splits.train) & texts(splits.test)
    assert splits.overlaps_removed == 0


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_rows_to_cut_from_are_refused(count):
    with pytest.raises(DataError, match=f"{count} rows of train are too few|1 rows of train"):
        split_rows(task(), {"train": rows(0, count)}.get)


def test_three_rows_are_enough():
    splits = split_rows(task(), {"train": rows(0, 3)}.get)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [1, 1, 1]


def test_rows_without_answer_or_text_are_left_out_and_counted():
    train = [*rows(0, 30), *rows(30, 33, "2"), {"text": "x", "label": ""}]
    train += [{"text": "y", "label": None}, {"text": "z", "label": -1}, {"text": None, "label": 1}]
    source = {"train": train, "validation": rows(50, 60), "test": rows(60, 70)}
    splits = split_rows(task(), source.get)
    assert (len(splits.train), splits.left_out, splits.incomplete) == (30, 3, 4)


def test_minus_one_may_be_a_label():
    spec = task(labels={"-1": " bad", "1": " good"})
    source = {"train": rows(0, 9, -1), "validation": rows(10, 19, 1), "test": rows(20, 29, "-1")}
    splits = split_rows(spec, source.get)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [9, 9, 9]


def test_a_test_file_without_labels_is_no_test_split():
    source = {
        "train": rows(0, 300),
        "validation": rows(300, 330),
        "test": [{"text": "what then"}],
    }
    splits = split_rows(task(), source.get)
    assert texts(splits.test) == texts(source["validation"])


def test_unknown_labels_are_counted_and_the_nearest_named():
    spec = task(labels={"good": " good", "bad": " bad"})
    train = [*rows(0, 9, "good"), *rows(9, 12, "Bad"), *rows(12, 14, "meh")]
    with pytest.raises(DataError) as caught:
        split_rows(spec, {"train": train}.get)
    message = str(caught.value)
    assert "own.csv: 5 of 14 rows" in message
    assert "'Bad' (3), 'meh' (2)" in message
    assert "Did you mean 'bad'?" in message
    assert "It lists 'good', 'bad'" in message


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"txt": "a", "label": "0"}, "has no column 'text'.*Did you mean 'txt'"),
        ({"text": "a", "lable": "0"}, "has no column 'label'.*Did you mean 'lable'"),
    ],
)
def test_a_column_that_no_row_has_is_named(row, expected):
    with pytest.raises(DataError, match=expected):
        split_rows(task(), {"train": [row] * 3}.get)
    # What one row lacks and others have is missing there, as null would be.
    splits = split_rows(task(), {"train": [*rows(0, 20), row]}.get)
    assert splits.incomplete == 1
    assert "is missing" in splits.first_incomplete


def test_a_train_split_without_any_answer_is_refused():
    with pytest.raises(DataError, match="none of its 4 rows is complete"):
        split_rows(task(), {"train": rows(0, 4, "")}.get)


# --- several tasks over one source ---------------------------------------------------------------


def twins(folder, **other):
    """Two tasks that ask of the same rows in other words, as an experiment has them."""
    rows = [{"text": f"text {i}", "more": f"more {i}", "label": str(i % 2)} for i in range(200)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = {"labels": {"0": " bad", "1": " good"}, "data": {"files": str(folder / "rows.jsonl")}}
    first = {"name": "first", "kind": "classification", "prompt": "{text} is"} | words
    second = {**first, "name": "second", "prompt": "Is {text} good?", **other}
    return {task["name"]: parse_task(task, "twins.yaml") for task in (first, second)}


@pytest.mark.parametrize(
    ("other", "copied"),
    [
        ({}, False),
        ({}, True),
        # Neither the prompt's columns nor their names are the same, but the rows are.
        ({"prompt": "{more}"}, False),
        ({"prompt": "{said}", "columns": {"said": "text"}}, True),
    ],
)
def test_what_one_task_is_measured_on_no_other_learns(tmp_path, other, copied):
    columns = other.get("columns", {})
    tasks = twins(tmp_path, **{k: v for k, v in other.items() if k != "columns"})
    if copied:
        (tmp_path / "copy").mkdir()
        shutil.copy(tmp_path / "rows.jsonl", tmp_path / "copy")
    place = tmp_path / "copy" / "rows.jsonl" if copied else tmp_path / "rows.jsonl"
    data = DataSource(files=str(place), columns=columns)
    tasks["second"] = tasks["second"].model_copy(update={"data": data})
    held = held_by_others(tasks, read_split)
    both = {n: split_rows(t, lambda name, t=t: read_split(t.data, name)) for n, t in tasks.items()}
    key = "more"  # tells the rows, under both tasks
    out = {n: {r[key] for r in (*s.validation, *s.test)} for n, s in both.items()}
    assert {row[key] for row in both["first"].train} & out["second"]  # the wordings differ
    limits = DataLimits()
    for name, other_name in (("first", "second"), ("second", "first")):
        task = tasks[name]
        kept = [r for r in both[name].train if held[name].isdisjoint(row_marks(task, r))]
        assert not {row[key] for row in kept} & out[other_name]
        assert len(kept) > 100
        made = prepare_task(
            task, ByteTokenizer(), limits, max_length=32, learnt=True, held=held[name]
        )
        assert len(made.train) == len(kept)
        assert made.facts["held_by_others"] == len(both[name].train) - len(kept)


def test_tasks_with_sources_of_their_own_are_not_read(tmp_path):
    tasks = twins(tmp_path)
    (tmp_path / "own.jsonl").write_text('{"text": "a", "label": "0"}\n')
    own = DataSource(files=str(tmp_path / "own.jsonl"))
    tasks["second"] = tasks["second"].model_copy(update={"data": own})
    assert held_by_others(tasks, lambda *_: pytest.fail("a source was read")) == {}


def test_a_task_of_which_nothing_is_left_to_learn_is_refused(tmp_path):
    [task, _] = twins(tmp_path).values()
    rows = read_split(task.data, "train")
    held = frozenset(mark for row in rows for mark in row_marks(task, row))
    with pytest.raises(DataError, match="Give each of them the same `splits`"):
        prepare_task(task, ByteTokenizer(), DataLimits(), max_length=32, learnt=True, held=held)
