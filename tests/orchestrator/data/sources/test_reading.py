import gzip
import json
import time

import datasets
import pytest
from datasets import ClassLabel, Features, Value

from orchestrator.data.formats import placed_row
from orchestrator.data.sources import columns, reading
from orchestrator.data.sources import hub as hub_module
from orchestrator.spec import task_files
from orchestrator.spec.task_files import parse_task
from orchestrator.spec.task_kinds import DataSource


def files(path, **fields):
    return DataSource(files=str(path), **fields)


def plain(rows):
    return [dict(row) for row in rows]


# --- what is read --------------------------------------------------------------------------------


def test_plain_and_gzipped_lines_are_read(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "ä"}\n\n{"text": "b"}\n', encoding="utf-8")
    with gzip.open(tmp_path / "test.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write('{"text": "c"}\n')
    data = files(tmp_path)
    assert [r["text"] for r in reading.read_split(data, "train")] == ["ä", "b"]
    assert [r["text"] for r in reading.read_split(data, "test")] == ["c"]
    assert reading.read_split(data, "validation") is None
    assert reading.split_names(data) == ["test", "train"]


TABLE = [
    {"text": 'He said "no, never"', "label": "01"},
    {"text": "two\nlines\tand a tab", "label": "NA"},
    {"text": "ä, ö; \u2028 ", "label": ""},
    {"text": "1e5", "label": "null"},
]


@pytest.mark.parametrize("separator", [",", "\t"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_value_of_a_table_is_the_text_that_stands_there(
    tmp_path, separator, mark, newline, packed
):
    def quoted(text):
        return '"' + text.replace('"', '""') + '"'

    lines = [["text", "label"], *([row["text"], row["label"]] for row in TABLE)]
    text = newline.join(separator.join(map(quoted, fields)) for fields in lines) + newline
    content = mark + text.encode()
    name = "a.csv" if separator == "," else "a.tsv"
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    assert plain(reading.read_split(files(path), "train")) == TABLE
    assert reading.read_split(files(path), "validation") is None


def test_blank_lines_and_long_fields_are_no_trouble(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n\n" + "x" * 200_000 + ",1\n\n")
    assert [len(r["text"]) for r in reading.read_split(files(path), "train")] == [200_000]


def test_parquet_keeps_types_and_names_classes(tmp_path):
    rows = [
        {"text": "a", "label": 1, "choices": ["x", "y"], "seen": True},
        {"text": None, "label": -1, "choices": [], "seen": False},
    ]
    features = Features(
        {
            "text": Value("string"),
            "label": ClassLabel(names=["bad", "good"]),
            "choices": datasets.Sequence(Value("string")),
            "seen": Value("bool"),
        }
    )
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "test.parquet")
    read = reading.read_split(files(tmp_path), "test")
    assert plain(read) == [
        {**rows[0], "label_text": "good"},
        {**rows[1], "label_text": None},
    ]


def test_rows_in_brackets_are_the_only_ones_read(tmp_path):
    lines = "".join(json.dumps({"n": n}) + "\n" for n in range(10))
    (tmp_path / "train.jsonl").write_text(lines)
    data = files(tmp_path)
    assert [r["n"] for r in reading.read_split(data, "train[:3]")] == [0, 1, 2]
    assert [r["n"] for r in reading.read_split(data, "train[7:]")] == [7, 8, 9]
    assert reading.read_split(data, "test[:3]") is None
    with pytest.raises(placed_row.DataError, match="neither a name nor"):
        reading.read_split(data, "train[:10%]")


# --- names ---------------------------------------------------------------------------------------


def test_hub_columns_are_renamed_and_nested_ones_reached():
    row = {"choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}
    got = columns.canonical_row(
        row,
        {"choices": "choices.text", "answer": "answerKey", "answer_labels": "choices.label"},
    )
    assert (got["choices"], got["answer"], got["answer_labels"]) == (["a", "b"], "B", ["A", "B"])


def test_columns_of_files_are_renamed_joined_and_added(tmp_path):
    (tmp_path / "train.csv").write_text("q.text,one,two,right\nwho,A,B,2\n")
    data = files(
        tmp_path,
        columns={"question": "q.text", "choices": ["one", "two"], "answer": "right"},
        constants={"answer_labels": ["1", "2"]},
        split_names={"learn": "train"},
    )
    (row,) = reading.read_split(data, "learn")
    assert row["question"] == "who"
    assert row["choices"] == ["A", "B"]
    assert row["answer_labels"].index(row["answer"]) == 1


def test_a_missing_column_names_the_row_and_the_nearest(tmp_path):
    (tmp_path / "train.csv").write_text("sentnce,label\na,1\n")
    with pytest.raises(placed_row.DataError) as caught:
        reading.read_split(files(tmp_path, columns={"text": "sentence"}), "train")
    message = str(caught.value)
    assert "train.csv: line 2:" in message
    assert "Did you mean 'sentnce'?" in message


def test_a_data_root_has_canonical_names(tmp_path):
    document = {
        "name": "t",
        "kind": "classification",
        "data": {"hub": "a/b", "columns": {"text": "x"}, "split_names": {"test": "dev"}},
        "prompt": "{text}",
        "labels": {"0": " a", "1": " b"},
    }
    task = parse_task(document, "t.yaml")
    assert task_files.at_data_root(task, tmp_path) == task
    (tmp_path / "t").mkdir()
    data = task_files.at_data_root(task, tmp_path).data
    assert (data.hub, data.columns, data.split_names) == (None, {}, {})
    assert data.files == str((tmp_path / "t").resolve())


# --- what is refused -----------------------------------------------------------------------------


CUT_GZIP = gzip.compress(b"text\n" + b"a\n" * 999, mtime=0)[:-12]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("train.jsonl", b'{"text": "a"}\n{"text"\n', "line 2: not JSON"),
        ("train.jsonl", b'["a"]\n', "line 1: a row is a JSON object"),
        ("train.jsonl", b"[" * 100_000, "line 1: not JSON"),
        ("train.jsonl", b'{"text": "\xe4"}\n', r"line 1: not UTF-8 \(byte 10\).*latin-1"),
        ("train.csv", "text,label\na,ä\n".encode("utf-16"), "UTF-16"),
        ("train.csv", "text,label\naaaaa,b\n".encode("utf-16-le"), "UTF-16"),
        ("train.jsonl", b"", "is empty"),
        ("train.jsonl", b"\n \n", "has no rows"),
        ("train.csv", b"\n\n", "no header and no rows"),
        ("train.csv", b"text,label\n", "a header and no rows"),
        ("train.csv", b"text,label\na,1\nb\n", "line 3: has 1 fields and the header 2"),
        ("train.csv", b'text,label\n"a\nb",1\nc,2,3\n', "line 4: has 3 fields and the header 2"),
        ("train.csv", b'text,label\na,1\n"b,1\nc,2\n', "line 3: not valid CSV"),
        ("train.csv", b'text,label\n"a" b,1\n', "line 2: not valid CSV"),
        ("train.tsv", b'text\tlabel\n"a" b\t1\nc\n', "line 2: not valid TSV"),
        ("train.csv", b"text,label,text\na,1,b\n", "names 'text' more than once"),
        ("train.csv", b"text;label\na;1\n", "separator seems to be ';'"),
        ("train.csv", b"text,label\na\0b,1\n", "a NUL at byte 12"),
        ("train.csv", b"PK\x03\x04rest", "a zip archive or a spreadsheet"),
        ("train.csv", gzip.compress(b"text\na\n", mtime=0), "let its name end in .gz"),
        ("train.csv.gz", CUT_GZIP, "ends in the middle"),
        ("train.jsonl.gz", b'{"text": "a"}\n', "not valid gzip"),
        ("train.parquet", b"PAR1 and nothing else", "not valid parquet"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused_naming_the_place(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(placed_row.DataError, match=expected) as caught:
        reading.read_split(files(tmp_path), "train")
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_says_how_to_get_it(tmp_path):
    with pytest.raises(placed_row.DataError, match="make demo"):
        reading.read_split(files(tmp_path / "none"), "train")
    (tmp_path / "reviews.csv").write_text("a\nb\n")
    with pytest.raises(placed_row.DataError, match=r"Did you mean 'reviews.csv'\?"):
        reading.read_split(files(tmp_path / "review.csv"), "train")


def test_a_folder_without_data_or_with_too_much_is_refused(tmp_path):
    with pytest.raises(placed_row.DataError, match="holds no data"):
        reading.read_split(files(tmp_path), "train")
    (tmp_path / "train.csv").write_text("a\nb\n")
    (tmp_path / "train.jsonl").write_text('{"a": "b"}\n')
    with pytest.raises(placed_row.DataError, match=r"there 2 times \(train.csv, train.jsonl\)"):
        reading.read_split(files(tmp_path), "train")


@pytest.mark.parametrize(
    ("name", "cure"), [("a.json", "JSON object a line"), ("a.xlsx", "as CSV"), ("a.pkl", "")]
)
def test_other_kinds_of_files_are_refused(tmp_path, name, cure):
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(placed_row.DataError, match=f"not a kind of file that is read.*{cure}"):
        reading.read_split(files(tmp_path / name), "train")


# --- the hub -------------------------------------------------------------------------------------


def test_an_unknown_hub_answers_at_once(monkeypatch, tmp_path):
    from huggingface_hub import constants

    def unknown(*arguments, **options):
        raise OSError("Name or service not known")

    monkeypatch.setattr(hub_module.socket, "getaddrinfo", unknown)
    monkeypatch.setattr(hub_module.urllib.request, "getproxies", dict)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for place in (datasets.config, constants):
        monkeypatch.setattr(place, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(placed_row.DataError, match=r"nobody/nothing.*--data-root"):
        reading.read_split(DataSource(hub="nobody/nothing"), "train")
    assert time.monotonic() - started < 5
    assert constants.HF_HUB_OFFLINE is False
    assert datasets.config.HF_HUB_OFFLINE is False


def test_a_script_is_refused_with_the_way_round(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise RuntimeError("Dataset scripts are no longer supported, but found piqa.py")

    monkeypatch.setattr(datasets, "get_dataset_split_names", refuse)
    with pytest.raises(placed_row.DataError, match="refs/convert/parquet"):
        reading.read_split(DataSource(hub=str(tmp_path)), "train")


def test_an_unknown_configuration_lists_the_known(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    datasets.Dataset.from_list([{"text": "a"}]).to_parquet(folder / "data" / "train-0.parquet")
    card = "---\nconfigs:\n- config_name: small\n  data_files: data/train-0.parquet\n---\n"
    (folder / "README.md").write_text(card)
    hub = {"hub": str(folder)}
    assert plain(reading.read_split(DataSource(**hub, config="small"), "train")) == [{"text": "a"}]
    assert reading.read_split(DataSource(**hub, config="small"), "test") is None
    with pytest.raises(placed_row.DataError, match=r"small.*`data.config`"):
        reading.read_split(DataSource(**hub, config="big"), "train")
