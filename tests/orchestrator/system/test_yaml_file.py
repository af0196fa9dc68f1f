"""Between what a person wrote in YAML and what is checked: keys, texts, names and suffixes."""

import pytest

from orchestrator.data.inspect_task import list_tasks
from orchestrator.spec.load import load_experiment
from orchestrator.spec.task_files import TaskFileError, find_task_file, load_task
from orchestrator.spec.validation import ExperimentError
from orchestrator.system.yaml_file import read_yaml

TASK = """\
name: {name}
kind: classification
data: {{files: rows.jsonl}}
prompt: "{{text}} is"
labels: {{negative: " bad", positive: " good"}}
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with an experiment over the task `mood` and its file."""
    (tmp_path / "mood.yaml").write_text(TASK.format(name="mood"))
    (tmp_path / "exp.yaml").write_text(
        "name: one\nmodel: {name: m}\ntasks: [mood]\nmethod: {adapter: {kind: lora}}\n"
        "objectives: {gain: max}\nchampion: {subject_to: {}}\n"
    )
    return tmp_path


def more(path, text):
    path.write_text(path.read_text() + text)
    return path


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("training:\n  batch_size: 8\n  epochs: 1\n  batch_size: 4\n", "'batch_size'", "8 and 10"),
        ("head: linear\ntasks: [other]\n", "'tasks'", "3 and 8"),
        ("data: {rung_examples: 1, rung_examples: 2}\n", "'rung_examples'", "line 7"),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_both_lines(folder, text, key, lines):
    path = more(folder / "exp.yaml", text)
    with pytest.raises(ExperimentError) as caught:
        load_experiment(path)
    assert f"{path}: the key {key} stands twice" in str(caught.value)
    assert lines in str(caught.value)


def test_two_domains_of_one_field_are_told_how_to_be_written(folder):
    rate = "    training.learning_rate: {choice: [0.1], when: {method.adapter.kind: %s}}\n"
    space = "search:\n  space:\n    method.adapter.kind: {choice: [lora, curlora]}\n"
    path = more(folder / "exp.yaml", space + rate % "lora" + rate % "curlora")
    with pytest.raises(ExperimentError, match=r"lines 10 and 11.*are a list under it, each with a"):
        load_experiment(path)


def test_a_label_that_stands_twice_is_refused_in_a_task_file(folder):
    path = folder / "mood.yaml"
    path.write_text(
        "name: mood\nkind: classification\ndata: {files: rows.jsonl}\nprompt: '{text}'\n"
        "labels:\n  negative: ' bad'\n  positive: ' good'\n  negative: ' good'\n"
    )
    with pytest.raises(TaskFileError, match=r"mood\.yaml: the key 'negative'.*lines 6 and 8"):
        load_task(path)


def test_a_merged_mapping_is_no_repeated_key(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text("own: &own {a: 1, b: 2}\nother: {<<: *own, b: 3}\n")
    assert read_yaml(path, ValueError) == {"own": {"a": 1, "b": 2}, "other": {"a": 1, "b": 3}}


@pytest.mark.parametrize(
    "text", ["day: 2020-13-45", "a: " + "[" * 1000, f"a: {'9' * 5000}", "{[a]: 1}", "a: &x !!set 3"]
)
def test_what_yaml_cannot_hold_is_one_message(tmp_path, text):
    path = tmp_path / "one.yaml"
    path.write_text(text)
    with pytest.raises(TaskFileError, match=r"one\.yaml: not valid YAML \(\S"):
        read_yaml(path, TaskFileError)


@pytest.mark.parametrize(
    ("old", "new", "place", "expected"),
    [
        ('negative: " bad"', "negative: no", "labels.negative", "an unquoted yes, no, on, off"),
        ('positive: " good"', "positive: 1", "labels.positive", "(write it in quotes)"),
        ("name: mood", "name: on", "name", "write it in quotes"),
        ('prompt: "{text} is"', "prompt: 2020-01-02", "prompt", "(write it in quotes)"),
    ],
)
def test_a_text_that_yaml_reads_as_something_else_is_told_to_be_quoted(
    folder, old, new, place, expected
):
    path = folder / "mood.yaml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(TaskFileError) as caught:
        load_task(path)
    assert f"{path}: {place}: Input should be a valid string" in str(caught.value)
    assert expected in str(caught.value)


def test_two_tasks_of_one_name_are_refused_naming_both_files(folder):
    (folder / "mood2.yaml").write_text(TASK.format(name="mood"))
    path = folder / "exp.yaml"
    path.write_text(path.read_text().replace("[mood]", "[mood, mood2]"))
    with pytest.raises(TaskFileError, match=r"mood2\.yaml: name: 'mood' is also.*/mood\.yaml"):
        load_experiment(path)


def test_a_task_file_may_end_in_yml(folder):
    (folder / "mood.yaml").rename(folder / "mood.yml")
    assert find_task_file("mood", [folder]) == folder / "mood.yml"
    assert load_experiment(folder / "exp.yaml").tasks["mood"].name == "mood"
    assert [task["name"] for task in list_tasks([folder])[0]] == ["mood"]
    with pytest.raises(TaskFileError, match=r"There is .*mood\.yml; did you mean it\?"):
        find_task_file("mood.yaml", [folder])
    with pytest.raises(TaskFileError, match=r"Did you mean 'mood'\?.*Known tasks: .*mood"):
        find_task_file("mod", [folder])


def test_a_few_lines_that_stand_for_billions_are_refused(tmp_path):
    path = tmp_path / "t.yaml"
    lines = ["a0: &a0 {k: v}", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}"
                                 for n in range(1, 60))]  # fmt: skip
    path.write_text("\n".join(lines))
    with pytest.raises(TaskFileError, match=r"line \d+: a mapping has [\d,]+ keys with all that"):
        read_yaml(path, TaskFileError)
    path.write_text("a: &a {k: v}\nb: {<<: [" + ", ".join(["*a"] * 17) + "]}\n")
    with pytest.raises(TaskFileError, match="line 2: `<<` merges 17 mappings, and at most 16"):
        read_yaml(path, TaskFileError)
    path.write_text("a: &a {k: v}\nb: {<<: [*a, *a], c: d}\n")
    assert read_yaml(path, TaskFileError) == {"a": {"k": "v"}, "b": {"k": "v", "c": "d"}}


def test_half_characters_are_refused_and_pairs_are_whole(tmp_path):
    """JSON is YAML, and its escapes write an emoji as a pair of surrogates."""
    path = tmp_path / "t.yaml"
    path.write_text('a: 1\n"b\\ud83d\\ude00": "\\ud83d\\ude00!"\n')
    assert read_yaml(path, TaskFileError) == {"a": 1, "b\U0001f600": "\U0001f600!"}
    path.write_text('a: 1\nb: "\\ud83d"\n')
    with pytest.raises(TaskFileError, match="line 2: a text holds half of a character"):
        read_yaml(path, TaskFileError)
