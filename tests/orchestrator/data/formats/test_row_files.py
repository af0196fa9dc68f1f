"""Files as people have them: every layout, and every value as it stands there."""

import csv
import io
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.data.formats import placed_row
from orchestrator.data.formats.row_files import read_rows
from orchestrator.data.sources import reading
from orchestrator.spec.task_kinds import DataSource
from orchestrator.system.strict_json import JsonError, parse


def read(folder, split="train", **fields):
    return reading.read_split(DataSource(files=str(folder), **fields), split)


def texts(rows):
    return None if rows is None else [row["text"] for row in rows]


def write(path, *values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": value}) + "\n" for value in values))


# --- layouts -------------------------------------------------------------------------------------

LAYOUTS = {
    "shards below data/": ["data/train-00001-of-00002.jsonl", "data/train-00000-of-00002.jsonl",
                           "data/test-00000-of-00001.jsonl"],
    "shards in the folder": ["train-00001-of-00002.jsonl", "train-00000-of-00002.jsonl",
                             "test-00000-of-00001.jsonl"],
    "shards with a hash": ["train-00001-of-00002-deadbeef01.jsonl",
                           "train-00000-of-00002-deadbeef02.jsonl", "test.jsonl"],
    "numbered": ["train-1.jsonl", "train-0.jsonl", "test.jsonl"],
    "numbered from one": ["train_2.jsonl", "train_1.jsonl", "test_1.jsonl"],
    "a folder a split": ["train/b10.jsonl", "train/b9.jsonl", "test/any.jsonl"],
    "folders below data/": ["data/train/0001.jsonl", "data/train/0000.jsonl",
                            "data/test/0000.jsonl"],
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_that_people_have_are_read_in_order(tmp_path, layout):
    second, first, test = LAYOUTS[layout]
    write(tmp_path / second, "c", "d")
    write(tmp_path / first, "a", "b")
    write(tmp_path / test, "e")
    assert texts(read(tmp_path)) == ["a", "b", "c", "d"]
    assert texts(read(tmp_path, "train[1:3]")) == ["b", "c"]
    assert texts(read(tmp_path, "test")) == ["e"]
    assert read(tmp_path, "validation") is None
    data = DataSource(files=str(tmp_path))
    assert reading.split_names(data) == ["test", "train"]
    before = reading.source_sha256(data)
    write(tmp_path / second, "c", "D")
    assert reading.source_sha256(data) not in {before, None}
    (line,) = [placed_row.where_is(row) for row in read(tmp_path) if row["text"] == "D"]
    assert line == f"{tmp_path / second}: line 2"


def test_names_with_numbers_that_are_no_shards_stay_splits(tmp_path):
    for name in ("report_2023", "report_2024", "train", "train-0"):
        write(tmp_path / f"{name}.jsonl", name)
    assert texts(read(tmp_path)) == ["train"]
    assert texts(read(tmp_path, "report_2024")) == ["report_2024"]
    assert texts(read(tmp_path, "train-0")) == ["train-0"]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["train-00000-of-00003.jsonl", "train-00002-of-00003.jsonl"],
         "has 2 of its 3 shards; number 1 is missing"),
        (["train.jsonl", "train-00000-of-00001.jsonl"], "there 2 times"),
        (["train.jsonl", "data/train.jsonl"], "there 2 times"),
        (["train.jsonl", "train/a.jsonl"], "there 2 times"),
        (["train-00000-of-00002.jsonl", "train-00000-of-00002.csv"], "there 2 times"),
        (["default/train-00000-of-00001.jsonl", "default/test.jsonl"], "Write `files: .*/default`"),
        (["default/train/0000.jsonl"], "Write `files: .*/default`"),
        (["inner/train.jsonl"], "Write `files: .*/inner`"),
    ],
)  # fmt: skip
def test_layouts_that_cannot_be_right_say_why(tmp_path, names, told):
    for name in names:
        write(tmp_path / name, name)
    with pytest.raises(placed_row.DataError, match=told):
        read(tmp_path)


def test_a_pattern_is_answered_with_the_folder(tmp_path):
    write(tmp_path / "train-0.jsonl", "a")
    with pytest.raises(placed_row.DataError, match=f"name the folder {tmp_path}"):
        read(tmp_path / "train-*.jsonl")


def test_a_slice_beyond_the_end_is_told(tmp_path):
    write(tmp_path / "train.jsonl", "a", "b")
    with pytest.raises(placed_row.DataError, match=r"'train\[2:9\]' takes no row; it has 2"):
        read(tmp_path, "train[2:9]")


# --- JSON ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"text": "a", "label": 1, "text": "b"}', "line 2: the key 'text' stands in one object"),
        ('{"meta": {"a": 1, "a": 2}}', "line 2: the key 'a' stands in one object"),
        ('{"text": "good \\ud83d"}', "line 2: `text` holds half of a character"),
        ('{"turns": [{"said": "\\ude00"}]}', r"line 2: `turns.0.said` holds half"),
        ('{"\\ud83d": 1}', "line 2: .*holds half"),
        ('{"n": ' + "9" * 5000 + "}", "line 2: not JSON that can be read"),
        ('{"n": ' + "[" * 100_000, "line 2: not JSON"),
    ],
)
def test_a_line_that_would_lose_something_is_refused(tmp_path, line, told):
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n' + line + "\n")
    with pytest.raises(placed_row.DataError, match=told) as caught:
        read(tmp_path)
    str(caught.value).encode()


def test_a_repeated_key_of_a_document_is_told_with_both_lines():
    text = '{\n "a": {"b": 1},\n "c": "\\"a\\": {",\n "a": 2\n}'
    with pytest.raises(JsonError, match="'a' stands in one object twice, first in line 2") as error:
        parse(text)
    assert error.value.line == 4


def test_whole_characters_and_equal_keys_of_different_objects_are_kept():
    assert parse('{"a": "\\ud83d\\ude00", "b": {"a": 1}}') == {"a": "\U0001f600", "b": {"a": 1}}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.dictionaries(st.text(), values, max_size=4), st.booleans())
def test_every_json_object_is_read_as_json_reads_it(row, ascii_only):
    try:
        text = json.dumps(row, ensure_ascii=ascii_only)
        text.encode()
    except UnicodeEncodeError:
        return
    assert parse(text) == json.loads(text)


def outcome(path):
    """The rows of a file, or the one message."""
    try:
        return read_rows(path), None
    except placed_row.DataError as error:
        return [], str(error)


# --- quotes in tables ----------------------------------------------------------------------------


def merged(separator):
    """Twelve rows, with a quote that opens in the fourth and closes in the sixth."""
    rows = [("positive" if n % 2 else "negative", f"text {n}") for n in range(12)]
    rows[3] = (rows[3][0], '"' + rows[3][1])
    rows[5] = (rows[5][0], rows[5][1] + '"')
    lines = [separator.join(row) for row in [("label", "text"), *rows]]
    return "\n".join(lines) + "\n", rows


def test_a_quote_that_swallows_rows_of_a_csv_is_refused_with_both_lines(tmp_path):
    text, _ = merged(",")
    (tmp_path / "train.csv").write_text(text)
    told = "line 5: a quote that opens here closes in line 7, so 3 lines became one row; line 6"
    with pytest.raises(placed_row.DataError, match=told):
        read(tmp_path)


def test_a_tsv_without_quoting_has_a_row_in_each_line(tmp_path):
    """As GLUE and most programs write it: only tabs and line ends are special."""
    text, rows = merged("\t")
    (tmp_path / "train.tsv").write_text(text)
    assert [(row["label"], row["text"]) for row in read(tmp_path)] == rows
    (tmp_path / "train.tsv").write_text('text\tlabel\n"So," he said\t1\n"never closed\t0\n')
    assert texts(read(tmp_path)) == ['"So," he said', '"never closed']


def test_a_tsv_with_quoting_keeps_lines_within_fields(tmp_path):
    """As pandas and spreadsheets write it."""
    (tmp_path / "train.tsv").write_text('text\tlabel\n"two\nlines"\t1\n"a ""b"""\t0\n')
    assert texts(read(tmp_path)) == ["two\nlines", 'a "b"']


def test_a_tsv_that_is_whole_in_neither_way_is_refused(tmp_path):
    (tmp_path / "train.tsv").write_text('text\tlabel\n"a\nb" c\t1\n')
    with pytest.raises(placed_row.DataError, match=r"line 2: not valid TSV .* read on to line 3"):
        read(tmp_path)


def test_lines_within_a_field_that_only_might_be_rows_are_kept_and_marked(tmp_path):
    text = 'question,answer\n"one, two\nthree, four\nfive",six\nseven,eight\n'
    (tmp_path / "train.csv").write_text(text)
    first, second = read(tmp_path)
    assert first["question"] == "one, two\nthree, four\nfive"
    assert (first.number, first.until, second.number) == (2, 4, 5)
    (tmp_path / "train.csv").write_text(text.replace("three, four", "three"))
    assert [row.until for row in read(tmp_path)] == [None, None]


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=6), st.sampled_from([",", "\t"]))
def test_what_a_quoting_writer_wrote_is_read_as_it_was(tmp_path_factory, rows, separator):
    if any(not a and not b for a, b in rows):
        return  # a line of nothing is no row
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=separator, quoting=csv.QUOTE_ALL)
    writer.writerows([("text", "label"), *rows])
    path = tmp_path_factory.mktemp("t") / f"train.{'csv' if separator == ',' else 'tsv'}"
    path.write_text(stream.getvalue(), newline="")
    found, refusal = outcome(path)
    if refusal is None:
        assert [(row["text"], row["label"]) for row in found] == rows
    else:
        assert "looks like a row of its own" in refusal  # it does


# --- anything at all -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train.csv", "train.tsv", "train.jsonl", "train.csv.gz"])
def test_damaged_files_are_rows_or_one_message(tmp_path, name):
    """A seeded short form of `benchmarks/fuzz.py`."""
    chance = random.Random(name)
    text = merged("\t" if "tsv" in name else ",")[0]
    if "jsonl" in name:
        text = "".join(json.dumps({"text": f"t{n} \ud83d\ude00", "label": n}) + "\n"
                       for n in range(9))  # fmt: skip
    whole = text.encode("utf-8", "surrogatepass" if "jsonl" not in name else "strict")
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(damaged))
            damaged[at : at + chance.randrange(3)] = chance.choice(
                [b'"', b"\n", b"\xff", b"\0", b",", b"\t", b"{", b"\\ud83d", b"NaN", b"\r", b""]
            )
        (tmp_path / name).write_bytes(damaged)
        rows, refusal = outcome(tmp_path / name)
        assert rows or (str(tmp_path / name) in refusal and "\n" not in refusal)
