"""Every committed task file, on the columns that its source really has."""

import os
import re
import zlib
from pathlib import Path

import datasets
import pytest
import yaml
from datasets import ClassLabel, Features, Sequence, Translation, Value

from orchestrator.data.encoding import encode_question, encode_writing
from orchestrator.data.prompts import continuation_texts, right_answer, row_text
from orchestrator.data.sources import reading
from orchestrator.data.splits import split_rows
from orchestrator.spec import task_files
from orchestrator.spec.load import load_experiment
from orchestrator.spec.task_files import TaskFileError, load_task, parse_task
from orchestrator.spec.task_kinds import GenerationTask, LanguageModellingTask

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "experiments" / "tasks"
DATA_ROOT = Path(os.environ.get("ORCHESTRATOR_DATA_ROOT", ROOT.parent / "shared" / "data"))

TEXT, INT = Value("string"), Value("int32")
TASKS = {path.stem: load_task(path) for path in sorted(FOLDER.glob("*.yaml"))}
HUB_TASKS = [name for name, task in TASKS.items() if task.data.hub is not None]


class Words:
    """A tokenizer of words."""

    bos_token_id, eos_token_id = None, 0

    def __call__(self, text, add_special_tokens=True):
        words = [word.encode() for word in text.split()]
        return {"input_ids": [100 * zlib.crc32(word) + min(len(word), 99) for word in words]}

    def decode(self, tokens):
        return " ".join("x" * (token % 100) for token in tokens)


# --- the hub's columns ---------------------------------------------------------------------------
# Per set: the features as the hub declares them, a row as a function of its (odd) number, the right
# continuation of row 1, the splits, and what the rows of the public test split have instead of an
# answer where they have none.


def glue(first, second, names):
    features = {first: TEXT, **({second: TEXT} if second else {})}
    return Features({**features, "label": ClassLabel(names=names), "idx": INT})


def glue_row(first, second, label):
    def row(i):
        texts = {first: f"First {i}.", **({second: f"Second {i}."} if second else {})}
        return {**texts, "label": label, "idx": i}

    return row


def arc_row(i):
    labels = ["A", "B", "C"] if i % 2 else ["1", "2", "3"]
    return {
        "id": str(i),
        "question": f"What is {i}?",
        "choices": {"text": [f"less than {i}", f"just {i}", f"more than {i}"], "label": labels},
        "answerKey": labels[1],
    }


ARC = Features(
    {
        "id": TEXT,
        "question": TEXT,
        "choices": Sequence({"text": TEXT, "label": TEXT}),
        "answerKey": TEXT,
    }
)
BANKING = list(TASKS["banking77"].labels)
THREE = ("train", "validation", "test")

HUB = {
    "ag_news": (
        Features(
            {"text": TEXT, "label": ClassLabel(names=["World", "Sports", "Business", "Sci/Tech"])}
        ),
        lambda i: {"text": f"News {i}", "label": 3},
        " Technology",
        ("train", "test"),
        {},
    ),
    "arc_easy": (ARC, arc_row, " just 1", THREE, {}),
    "arc_challenge": (ARC, arc_row, " just 1", THREE, {}),
    "banking77": (
        Features({"text": TEXT, "label": ClassLabel(names=sorted(BANKING, key=str.lower))}),
        lambda i: {"text": f"Where is card {i}?", "label": 0},
        " activate my card",
        ("train", "test"),
        {},
    ),
    "boolq": (
        Features({"question": TEXT, "answer": Value("bool"), "passage": TEXT}),
        lambda i: {"question": f"is {i} odd", "answer": bool(i % 2), "passage": f"About {i}."},
        " yes",
        ("train", "validation"),
        {},
    ),
    "cnn_dailymail": (
        Features({"article": TEXT, "highlights": TEXT, "id": TEXT}),
        lambda i: {"article": f"A story {i}.", "highlights": f"Short {i} .\nEnd .", "id": str(i)},
        " Short 1 .\nEnd .",
        THREE,
        {},
    ),
    "commonsenseqa": (
        Features({"id": TEXT, "question": TEXT, "question_concept": TEXT,
                  "choices": Sequence({"label": TEXT, "text": TEXT}), "answerKey": TEXT}),
        lambda i: {
            "id": str(i), "question": f"Where is {i}?", "question_concept": "place",
            "choices": {"label": list("ABCDE"), "text": ["a", "b", "c", f"at {i}", "e"]},
            "answerKey": "D",
        },
        " at 1",
        THREE,
        {"answerKey": ""},
    ),
    "cola": (
        glue("sentence", None, ["unacceptable", "acceptable"]),
        glue_row("sentence", None, 1),
        " right",
        THREE,
        {"label": -1},
    ),
    "gsm8k": (
        Features({"question": TEXT, "answer": TEXT}),
        lambda i: {"question": f"How many is {i}?", "answer": f"<<{i}={i}>>\n#### {i}"},
        " <<1=1>>\n#### 1",
        ("train", "test"),
        {},
    ),
    "hellaswag": (
        Features(
            {
                "ind": INT, "activity_label": TEXT, "ctx_a": TEXT, "ctx_b": TEXT, "ctx": TEXT,
                "endings": Sequence(TEXT), "source_id": TEXT, "split": TEXT, "split_type": TEXT,
                "label": TEXT,
            }
        ),
        lambda i: {
            "ind": i, "activity_label": "Walking", "ctx_a": f"Man {i} walks.", "ctx_b": "he",
            "ctx": f"Man {i} walks. he", "endings": ["a", "b", "goes on.", "d"], "source_id": "x",
            "split": "train", "split_type": "indomain", "label": "2",
        },
        " goes on.",
        THREE,
        {"label": ""},
    ),
    "logiqa": (
        Features(
            {"context": TEXT, "query": TEXT, "options": Sequence(TEXT), "correct_option": INT}
        ),
        lambda i: {"context": f"All {i}.", "query": "Then?", "options": list("wxyz"),
                   "correct_option": 3},
        " z",
        THREE,
        {},
    ),
    "mmlu": (
        Features({"question": TEXT, "subject": TEXT, "choices": Sequence(TEXT),
                  "answer": ClassLabel(names=list("ABCD"))}),
        lambda i: {"question": f"Q{i}", "subject": "law", "choices": list("wxyz"), "answer": 1},
        " x",
        ("auxiliary_train", "dev", "validation", "test"),
        {},
    ),
    "mnli": (
        glue("premise", "hypothesis", ["entailment", "neutral", "contradiction"]),
        glue_row("premise", "hypothesis", 2),
        " False",
        ("train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched"),
        {"label": -1},
    ),
    "mrpc": (
        glue("sentence1", "sentence2", ["not_equivalent", "equivalent"]),
        glue_row("sentence1", "sentence2", 1),
        " equivalent",
        THREE,
        {},
    ),
    "openbookqa": (
        Features({"id": TEXT, "question_stem": TEXT,
                  "choices": Sequence({"text": TEXT, "label": TEXT}), "answerKey": TEXT}),
        lambda i: {
            "id": str(i), "question_stem": f"Number {i} is",
            "choices": {"text": ["w", "x", f"just {i}", "z"], "label": list("ABCD")},
            "answerKey": "C",
        },
        " just 1",
        THREE,
        {},
    ),
    "piqa": (
        Features({"goal": TEXT, "sol1": TEXT, "sol2": TEXT,
                  "label": ClassLabel(names=["0", "1"])}),
        lambda i: {"goal": f"Open {i}", "sol1": "push", "sol2": "pull", "label": 1},
        " pull",
        THREE,
        {"label": -1},
    ),
    "qqp": (
        glue("question1", "question2", ["not_duplicate", "duplicate"]),
        glue_row("question1", "question2", 0),
        " different",
        THREE,
        {"label": -1},
    ),
    "sentiment140": (
        Features({"text": TEXT, "date": TEXT, "user": TEXT, "sentiment": INT, "query": TEXT}),
        lambda i: {"text": f"Day {i}", "date": "", "user": "u", "sentiment": 4, "query": ""},
        " positive",
        ("train", "test"),
        {},
    ),
    "sst2": (
        Features(
            {"idx": INT, "sentence": TEXT, "label": ClassLabel(names=["negative", "positive"])}
        ),
        lambda i: {"idx": i, "sentence": f"film {i} ", "label": 1},
        " positive",
        THREE,
        {"label": -1},
    ),
    "wikitext2": (Features({"text": TEXT}), lambda i: {"text": f" = {i} = \n"}, None, THREE, {}),
    "winogrande": (
        Features({"sentence": TEXT, "option1": TEXT, "option2": TEXT, "answer": TEXT}),
        lambda i: {"sentence": f"Ann {i} beat Bob so _ won.", "option1": "Ann", "option2": "Bob",
                   "answer": "1"},
        " Ann",
        THREE,
        {"answer": ""},
    ),
    "wmt_de_en": (
        Features({"translation": Translation(languages=["de", "en"])}),
        lambda i: {"translation": {"de": f"Satz {i}.", "en": f"Sentence {i}."}},
        " Sentence 1.",
        THREE,
        {},
    ),
}  # fmt: skip


def hub_folder(folder, task):
    """A folder that `datasets` reads like a repository of the hub."""
    features, row, _, splits, unlabelled = HUB[task.name]
    converted = task.data.revision == "refs/convert/parquet"
    entries = []
    for offset, split in enumerate(splits):
        rows = [row(1 + 2 * i + 100 * offset) for i in range(12)]
        if split.startswith("test"):
            rows = [{**r, **unlabelled} for r in rows]
        # The hub's own branch of converted sets has a folder `default` and no card.
        name = f"default/{split}/0000.parquet" if converted else f"data/{split}-00000.parquet"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        table = datasets.Dataset.from_list(rows, features=features)
        table.to_parquet(folder / name)
        entries.append(f"  - split: {split}\n    path: {name}")
    if not converted:
        config = task.data.config or "default"
        card = f"---\nconfigs:\n- config_name: {config}\n  data_files:\n" + "\n".join(entries)
        (folder / "README.md").write_text(card + "\n---\n")
    return str(folder)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def test_every_hub_set_is_rebuilt_here():
    assert sorted(HUB) == sorted(HUB_TASKS)


@pytest.mark.parametrize("name", HUB_TASKS)
def test_a_task_file_reads_what_the_hub_has(name, tmp_path, cache):
    task = TASKS[name]
    hub = hub_folder(tmp_path / "repository", task)
    data = task.data.model_copy(update={"hub": hub, "revision": None})
    splits = split_rows(task, lambda split: reading.read_split(data, split))
    assert len(splits.validation) >= 1
    if isinstance(task, LanguageModellingTask):
        assert splits.validation[0]["text"].startswith(" = ")
        return
    everything = [*splits.train, *splits.validation, *splits.test]
    assert len(splits.test) == 12
    assert splits.incomplete == 0
    assert not any("None" in row_text(task, row) for row in everything)
    if isinstance(task, GenerationTask):
        right = [continuation_texts(task, row)[0] for row in everything]
        assert all(encode_writing(task, row, Words(), 64).reference for row in everything)
    else:
        texts = [continuation_texts(task, row) for row in everything]
        right = [
            of_row[right_answer(task, row, len(of_row))]
            for of_row, row in zip(texts, everything, strict=True)
        ]
        assert all(encode_question(task, row, Words(), 64).prompt for row in everything)
    assert HUB[name][2] in right


@pytest.mark.skipif(not DATA_ROOT.is_dir(), reason="no data root with the public benchmarks here")
@pytest.mark.parametrize("name", [n for n in TASKS if (DATA_ROOT / n).is_dir()])
def test_the_same_task_file_reads_a_data_root(name):
    task = task_files.at_data_root(TASKS[name], DATA_ROOT)
    assert task.data.files == str((DATA_ROOT / name).resolve())
    splits = split_rows(task, lambda split: reading.read_split(task.data, split))
    assert splits.validation
    for row in [*splits.train[:3], *splits.validation[:3], *splits.test[:3]]:
        if isinstance(task, LanguageModellingTask):
            continue
        if isinstance(task, GenerationTask):
            assert encode_writing(task, row, Words(), 512).target
        else:
            assert encode_question(task, row, Words(), 512).prompt


def test_the_examples_of_the_documentation_are_task_files():
    page = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    examples = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    kinds = [parse_task(yaml.safe_load(example), "docs/tasks.md").kind for example in examples]
    assert set(kinds) == {
        "classification", "multiple_choice", "generation", "language_modelling",
    }  # fmt: skip


def test_label_values_that_yaml_reads_as_something_else_are_text_or_refused():
    document = "{name: t, kind: classification, data: {files: x}, prompt: '{text}', labels: %s}"
    task = parse_task(yaml.safe_load(document % "{0: ' a', 1: ' b'}"), "t.yaml")
    assert list(task.labels) == ["0", "1"]
    with pytest.raises(TaskFileError, match=r"YAML reads an unquoted yes.*quotes"):
        parse_task(yaml.safe_load(document % "{yes: ' a', no: ' b'}"), "t.yaml")


def test_tasks_that_are_named_by_their_files_are_kept_by_their_own_names(experiment_file, tmp_path):
    path = experiment_file()
    for name in ("mood", "being", "prose"):
        found = load_experiment(path).task_files[name]
        (tmp_path / f"file-of-{name}.yaml").write_text(
            Path(found).read_text().replace("files: ../", f"files: {Path(found).parents[1]}/")
        )
    files = {name: str(tmp_path / f"file-of-{name}.yaml") for name in ("mood", "being", "prose")}
    loaded = load_experiment(
        experiment_file(
            "by-file", tasks=[files["mood"], files["being"]], probes=[files["prose"]],
            method={"adapter": {"kind": "lora", "r": 2, "target_modules": ["q_proj"]},
                    "retention": {"kind": "laplace", "sources": [files["prose"]]}},
        )
    )  # fmt: skip
    assert loaded.experiment.tasks == ("mood", "being")
    assert loaded.experiment.probes == ("prose",)
    assert loaded.experiment.method.retention.sources == ("prose",)
    assert loaded.task_files == files
    assert {*loaded.tasks} == {"mood", "being", "prose"}
