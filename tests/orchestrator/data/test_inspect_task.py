import io
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from orchestrator.cli.application import app
from orchestrator.cli.output import task_check
from orchestrator.data import inspect_facts, inspect_task
from orchestrator.spec.task_files import TaskFileError, load_task, parse_task


class Letters:
    """A tokenizer whose tokens are characters."""

    bos_token_id = eos_token_id = None

    def __call__(self, texts, add_special_tokens=True):
        if isinstance(texts, str):
            return {"input_ids": [ord(letter) for letter in texts]}
        return {"input_ids": [[ord(letter) for letter in text] for text in texts]}


def write(folder, rows, split="train", **fields):
    """A task over the rows; `fields` replace those of the task file."""
    (folder / "data").mkdir(exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "data" / f"{split}.jsonl").write_text(lines)
    document = {
        "name": "t",
        "kind": "classification",
        "data": {"files": "data"},
        "prompt": "{text}\nThis is",
        "labels": {"0": " bad", "1": " good"},
    }
    (folder / "t.yaml").write_text(json.dumps(document | fields))
    return load_task(folder / "t.yaml")


def rows(start, stop, label="0"):
    return [{"text": f"text {i}", "label": label} for i in range(start, stop)]


def shown(check, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(task_check.render(check), crop=False)
    return console.export_text()


@pytest.fixture
def three(tmp_path):
    """Splits with known numbers: train 6 good and 3 bad, validation 30 and 30, test 10 bad."""
    write(tmp_path, [*rows(0, 6, "1"), *rows(6, 9)])
    write(tmp_path, [*rows(20, 50, "1"), *rows(50, 80)], "validation")
    return write(tmp_path, rows(90, 100), "test")


def test_the_facts_are_those_of_the_data(three):
    check = inspect_task.check_task(three)
    assert {name: part.rows for name, part in check.splits.items()} == {
        "train": 9, "validation": 60, "test": 10,
    }  # fmt: skip
    assert check.splits["train"].labels == {" bad": 3, " good": 6}
    # The commonest label of train is " good", which half of validation is.
    assert (check.majority, check.chance) == (0.5, 0.5)
    assert check.splits["train"].characters == inspect_facts.Lengths(9, 19, 19)
    assert check.splits["train"].tokens is None
    assert [sample.continuation for sample in check.samples[:2]] in (
        [" bad", " good"],
        [" good", " bad"],
    )
    assert check.warnings == ("test has one label only, ' bad'",)


def test_tokens_are_counted_against_the_limit(three):
    check = inspect_task.check_task(three, Letters(), 19)
    # "text 20", "\nThis is" and the longest label word " good".
    assert check.splits["validation"].tokens == inspect_facts.Lengths(60, 20, 20, 60)
    assert check.splits["train"].tokens == inspect_facts.Lengths(9, 19, 19, 0)
    assert any("70 of 79 rows looked at are longer" in text for text in check.warnings)


def warned(task, tokenizer=None):
    return " | ".join(inspect_task.check_task(task, tokenizer, 100).warnings)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"prompt": "{text} is "}, "the prompt ends in a space"),
        ({"labels": {"0": "bad", "1": " good"}}, "'bad' begins without a space"),
        ({"labels": {"0": " not good", "1": " not bad"}}, "begin with the same word"),
        ({"labels": {"0": " bad", "1": " good", "7": " odd"}}, "train has no row labelled ' odd'"),
    ],
)
def test_what_is_odd_in_a_task_file_is_said(tmp_path, fields, expected):
    write(tmp_path, [*rows(0, 60), *rows(60, 120, "1")], **fields)
    write(tmp_path, [*rows(200, 230), *rows(230, 260, "1")], "validation", **fields)
    task = write(tmp_path, [*rows(300, 330), *rows(330, 360, "1")], "test", **fields)
    assert expected in warned(task)


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        (rows(0, 60), "train has one label only, ' bad'"),
        ([*rows(0, 95), *rows(95, 100, "1")], "95% of train is labelled ' bad'"),
        (
            [*rows(0, 60), *rows(0, 30, "1"), *rows(300, 303)],
            "30 prompts of train stand there with different answers",
        ),
        ([*rows(0, 60), *rows(200, 203)], "3 rows of train also stood in validation or test"),
        ([*rows(0, 60), {"text": "x", "label": None}], "1 row without an answer or a text"),
    ],
)
def test_what_is_odd_in_the_data_is_said(tmp_path, train, expected):
    write(tmp_path, [*rows(200, 230), *rows(230, 260, "1")], "validation")
    write(tmp_path, [*rows(200, 201), *rows(300, 330, "1")], "test")
    text = warned(write(tmp_path, train))
    assert expected in text
    assert "1 row of validation also stand in test" in text


def test_few_rows_and_files_that_nobody_reads_are_said(tmp_path):
    write(tmp_path, rows(300, 320), "dev")
    text = warned(write(tmp_path, [*rows(0, 60), *rows(60, 120, "1")]))
    assert "one answer moves the score by" in text
    assert "no split of the task names the data of 'dev'" in text


def test_tokens_of_label_words_are_compared(three):
    text = warned(three, Letters())
    assert "share their first token" in text
    assert "' bad' 4, ' good' 5" in text


def test_a_linear_head_has_no_words_to_compare(tmp_path, three):
    task = write(tmp_path, rows(90, 100), "test", head="linear")
    check = inspect_task.check_task(task, Letters(), 100)
    assert not any("token" in text for text in check.warnings)
    assert check.splits["test"].tokens.longest == len("text 90\nThis is")
    assert "linear head" in shown(check)


def test_choices_are_shown_with_the_right_one_marked(tmp_path):
    table = "question,a,b,answer\n" + "".join(f"Which {i},yes {i},no {i},B\n" for i in range(80))
    (tmp_path / "quiz.csv").write_text(table)
    (tmp_path / "t.yaml").write_text(
        "name: t\nkind: multiple_choice\nprompt: '{question}?'\n"
        "data:\n  files: quiz.csv\n  columns: {choices: [a, b]}\n"
        "  constants: {answer_labels: [A, B]}\n"
    )
    check = inspect_task.check_task(load_task(tmp_path / "t.yaml"))
    assert check.chance == 0.5
    assert set(check.splits["train"].labels) == {"choice 2"}
    sample = check.samples[0]
    assert sample.continuation.startswith(" no ")
    assert sample.others == (sample.continuation.replace("no", "yes"),)
    assert f"\u27e6{sample.continuation}\u27e7" in shown(check)


def test_references_that_can_never_be_met_are_said(tmp_path):
    generation = {
        "kind": "generation",
        "labels": None,
        "prompt": "{text}=",
        "answer": "final_number",
        "max_new_tokens": 3,
    }
    fields = {key: value for key, value in generation.items() if value is not None}
    data = [{"text": f"q{i}", "target": "a\nb" if i % 2 else "1234"} for i in range(60)]
    write(tmp_path, data)
    (tmp_path / "t.yaml").write_text(json.dumps({"name": "t", "data": {"files": "data"}, **fields}))
    check = inspect_task.check_task(load_task(tmp_path / "t.yaml"), Letters(), 100)
    text = " | ".join(check.warnings)
    assert "hold no number to compare" in text
    assert "hold a text of `stop`" in text
    assert "longer than `max_new_tokens` 3; the longest has 4 tokens" in text
    assert (check.chance, check.majority) == (None, None)


def test_spaces_and_line_ends_are_visible():
    assert task_check.visible("a  \nb\t\n c ") == "a\u2423\u2423\u21b5\nb\u21e5\u21b5\n c\u2423"


def test_a_page_fits_eighty_columns(tmp_path, three):
    write(tmp_path, [{"text": "word " * 2000, "label": "1"}, *rows(0, 60)])
    text = shown(inspect_task.check_task(load_task(tmp_path / "t.yaml")))
    assert max(map(len, text.splitlines())) <= 80
    assert "characters ...]" in text


# --- the commands --------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch):
    monkeypatch.delenv("ORCHESTRATOR_DATA_ROOT", raising=False)
    return lambda *words: CliRunner().invoke(app, ["tasks", *map(str, words)])


def test_the_command_answers_people_and_programs(run, tmp_path, three, tiny_base):
    page = run("check", tmp_path / "t.yaml", "--model", tiny_base)
    assert page.exit_code == 0, page.output
    assert "\x1b" not in page.stdout
    assert "This is\u27e6 good\u27e7" in page.stdout
    document = json.loads(run("check", tmp_path / "t.yaml", "--json").stdout)
    assert document["splits"]["train"]["labels"] == {" bad": 3, " good": 6}
    assert document["warnings"] == ["test has one label only, ' bad'"]


def test_an_experiment_gives_tokenizer_and_limit(run, tmp_path, three, experiment_file):
    document = json.loads(
        run("check", tmp_path / "t.yaml", "--model", experiment_file(), "--json").stdout
    )
    assert document["max_length"] == 48
    assert document["splits"]["train"]["tokens"]["rows"] == 9


def test_a_data_root_is_read(run, tmp_path, three):
    (tmp_path / "root" / "t").mkdir(parents=True)
    (tmp_path / "root" / "t" / "train.csv").write_text(
        "text,label\n" + "".join(f"own {i},{i % 2}\n" for i in range(90))
    )
    words = ["check", tmp_path / "t.yaml", "--json", "--data-root", tmp_path / "root"]
    assert json.loads(run(*words).stdout)["place"] == str(tmp_path / "root" / "t")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["check", "sst3"], "Did you mean 'sst2'?"),
        (["check", "{folder}/none.yaml"], "No task file"),
        (["check", "{folder}/t.yaml", "--data-root", "{folder}/none"], "is no folder"),
        (["check", "{folder}/t.yaml", "--model", "{folder}/none"], "none"),
        (["check", "{folder}/broken.yaml"], "No data folder or file"),
    ],
)
def test_mistakes_are_one_message(run, tmp_path, three, words, expected):
    (tmp_path / "broken.yaml").write_text(
        (tmp_path / "t.yaml").read_text().replace('"data"}', '"gone.csv"}')
    )
    result = run(*[word.format(folder=tmp_path) for word in words])
    assert result.exit_code == 2
    assert expected in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("{text.x}", "{text.x} reaches into a column. Name the part in `data.columns`"),
        ("{text[0][x]}", "columns: {x: text.0.x}, and write {x}"),
        ("{text.__class__.__mro__}", "reaches into a column"),
        ("{text:d}", "{text:d} asks for a format"),
        ("{text:>9999999999}", "write {text}"),
        ("{text:{text}}", "{text:{text}} asks for a format"),
        ("{text!r}", "{text!r} asks for a format"),
        ("{}", "prompt: cannot fill in {}"),
        ("{0}", "prompt: cannot fill in {0}"),
        ("{txt}", "Did you mean 'text'?"),
    ],
)
def test_prompts_that_cannot_be_filled_in_are_one_message(run, tmp_path, three, prompt, expected):
    write(tmp_path, rows(0, 9), prompt="{text}")
    (tmp_path / "t.yaml").write_text((tmp_path / "t.yaml").read_text().replace("{text}", prompt))
    result = run("check", tmp_path / "t.yaml")
    assert result.exit_code == 2
    assert expected in result.stderr


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "multiple_choice", "continuation": " {choise}"},
        {"kind": "generation", "target": "{target} {other}"},
        {"kind": "multiple_choice", "continuation": " {choice.x}"},
    ],
)
def test_a_continuation_is_filled_in_from_its_own_name_only(fields):
    document = {"name": "t", "data": {"files": "x"}, "prompt": "{text}", **fields}
    with pytest.raises(TaskFileError, match="cannot fill in"):
        parse_task(document, "t.yaml")


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "multiple_choice", "continuation": " {choice:>9999999999}"},
        {"kind": "generation", "target": "{target} {target:>9999999999}"},
        {"kind": "generation", "target": "{target} {target!a}"},
    ],
)
def test_a_continuation_is_filled_in_as_it_is(fields):
    document = {"name": "t", "data": {"files": "x"}, "prompt": "{text}", **fields}
    with pytest.raises(TaskFileError, match="asks for a format"):
        parse_task(document, "t.yaml")


def test_known_tasks_are_listed_and_wrong_files_named(run, tmp_path, three, monkeypatch):
    assert "sst2" in run("list").stdout
    monkeypatch.chdir(tmp_path)
    assert "No task files" in run("list").stdout
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "t.yaml").write_text((tmp_path / "t.yaml").read_text())
    (tmp_path / "tasks" / "bad.yaml").write_text("name: bad\nkind: classfication\n")
    result = run("list", "--json")
    assert [entry["name"] for entry in json.loads(result.stdout)] == ["t"]
    assert "bad.yaml" in result.stderr
