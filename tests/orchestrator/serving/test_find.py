"""Using a trained model: exports that need nothing of ours, files of predictions, the documents."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from typer.testing import CliRunner

from orchestrator import load
from orchestrator.base.errors import ModelError
from orchestrator.cli import app, errors
from orchestrator.serving import answers as answers_module
from orchestrator.serving import find
from orchestrator.system.seals import seal

ROOT = Path(__file__).parents[3]
SWEEP = "sentiment-sequence"  # as in docs/use.md, whose example is run here
TOKENS = [[2, 5, 12, 14, 7, 30, 9], [11, 3, 3, 8, 21, 16, 4]]
ECHO = """\
name: echo
kind: generation
data: {files: ../data/mood}
prompt: 'text : {text} label :'
target_column: label
target: ' {target}'
max_new_tokens: 3
"""
QUIZ = """\
name: quiz
kind: multiple_choice
data: {files: ../data/quiz}
prompt: 'the {what} is'
choices_column: choices
answer_column: answer
"""


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(result, *parts):
    assert result.exit_code == errors.MISTAKE, (result.output, result.exception)
    assert result.stderr.count("orchestrate: ") == 1
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr, result.stderr


@pytest.fixture(scope="module")
def home(tiny_base, tiny_tasks, empty_database, tmp_path_factory):
    """A folder whose `runs` holds three sweeps: label words, linear heads, written texts."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "runs").mkdir()
    shutil.copyfile(empty_database, folder / "runs" / "mlflow.db")
    tasks = folder / "tasks"
    tasks.mkdir()
    (folder / "data").symlink_to(tiny_tasks / "data")
    mood = (tiny_tasks / "tasks" / "mood.yaml").read_text()
    (tasks / "sst2.yaml").write_text(mood.replace("name: mood", "name: sst2"))
    (tasks / "echo.yaml").write_text(ECHO)
    data = folder / "quiz"
    data.mkdir()
    rows = [{"what": "dog", "choices": ["animal", "thing"], "answer": 0},
            {"what": "book", "choices": ["animal", "thing", "red"], "answer": 1}]  # fmt: skip
    for split in ("train", "validation", "test"):
        lines = [json.dumps({**row, "what": f"{row['what']} {split} {i}"})
                 for i in range(8) for row in rows]  # fmt: skip
        (data / f"{split}.jsonl").write_text("\n".join(lines))
    (tasks / "quiz.yaml").write_text(QUIZ.replace("../data/quiz", "../quiz"))

    def run(name, tasks, **fields):
        document = {
            "name": name, "model": {"name": str(tiny_base)}, "tasks": tasks,
            "method": {"adapter": {
                "kind": "curlora", "r": 8, "alpha": 2.0, "target_modules": "all-linear",
            }},
            "training": {
                "learning_rate": 0.03, "head_learning_rate": 0.03, "epochs": 8, "batch_size": 8,
                "max_length": 48, "precision": "fp32",
            },
            "objectives": {"gain": "max"}, "champion": {"maximize": "gain", "subject_to": {}},
            "resources": {"executor": "local"}, "storage": str(folder / "runs"), **fields,
        }  # fmt: skip
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document))
        result = call("sweep" if "search" in document else "run", path)
        assert result.exit_code == 0, result.output

    grid = {"method.adapter.kind": {"choice": ["curlora", "lora"]}}
    run(SWEEP, ["sst2", "quiz"], search={"space": grid, "searcher": "grid", "trials": 2})
    run("headed", ["sst2"], head="linear")
    run("written", ["echo"])
    return folder


@pytest.fixture(scope="module")
def runs(home):
    return home / "runs"


# --- exports, where nothing of ours can be imported ----------------------------------------------

ELSEWHERE = """
import importlib.abc, json, sys

class Nobody(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"curlora", "orchestrator"}:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Nobody())
try:
    import curlora
except ImportError:
    pass
else:
    sys.exit("curlora can be imported")

import torch
from transformers import AutoModelForCausalLM

base, asked = sys.argv[1:]
answers = []
for folder, form, dtype, tokens in json.loads(asked):
    options = {"dtype": getattr(torch, dtype), "attn_implementation": "eager"}
    if form == "lora":
        from peft import PeftModel
        model = AutoModelForCausalLM.from_pretrained(base, **options)
        model = PeftModel.from_pretrained(model, folder)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, **options)
    with torch.no_grad():
        output = model.eval()(input_ids=torch.tensor(tokens), output_hidden_states=True)
    answers.append({"logits": output.logits.float().tolist(),
                    "hidden": output.hidden_states[-1].float().tolist()})
json.dump(answers, sys.stdout)
"""


def exported(runs, reference, form, folder):
    done = call("export", reference, "--as", form, "--to", folder, "--storage", runs)
    assert done.exit_code == 0, done.output
    return done.stdout


def head_prompts(runs):
    """The texts of `TOKENS`, and the tokens of the questions about them."""
    tokenizer = load("headed-run/t001", runs).tokenizer
    texts = [" ".join(tokenizer.convert_ids_to_tokens(row)) for row in TOKENS]
    return texts, [tokenizer(f"text : {text} label :")["input_ids"] for text in texts]


@pytest.fixture(scope="module")
def elsewhere(runs, tiny_base, tmp_path_factory):
    """By model, form and precision: logits and last hidden states of PEFT or transformers alone.

    One process answers for all exports, because loading PEFT takes it most of its time.
    """
    root = tmp_path_factory.mktemp("elsewhere")
    wanted = [(trial, form, precision, TOKENS) for trial, form, precision in EXPORTS]
    wanted += [("headed-run/t001", form, "fp32", head_prompts(runs)[1])
               for form in ("lora", "merged")]  # fmt: skip
    asked = []
    for reference, form, precision, tokens in wanted:
        folder = root / reference / form
        if not folder.exists():
            exported(runs, reference, form, folder)
        asked.append([str(folder), form, DTYPES[precision], tokens])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ELSEWHERE, str(tiny_base), json.dumps(asked)],
        cwd=root, capture_output=True, text=True, check=False,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    answers = zip(wanted, asked, json.loads(done.stdout), strict=True)
    return {
        (reference, form, precision): SimpleNamespace(
            folder=Path(folder), **{name: torch.tensor(value) for name, value in answer.items()}
        )
        for (reference, form, precision, _), (folder, *_), answer in answers
    }


def own_logits(folder, *, adapter=True):
    from orchestrator.serving.predictor import Predictor

    model = Predictor.from_folder(folder, adapter=adapter).model
    with torch.no_grad():
        return model(input_ids=torch.tensor(TOKENS)).logits.float()


# bf16 keeps 8 bits: sums of a few dozen products near 1 differ in the third digit.
TOLERANCE = {"fp32": 2e-5, "bf16": 0.06}
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


EXPORTS = [
    (f"{SWEEP}/{trial}", form, precision)
    for trial, precision in (("t001", "fp32"), ("t001", "bf16"), ("t002", "fp32"))
    for form in ("lora", "merged")
]


@pytest.mark.parametrize(("reference", "form", "precision"), EXPORTS)
def test_exports_compute_the_same_where_nothing_of_ours_can_be_imported(
    reference, form, precision, elsewhere, runs, tmp_path
):
    exported(runs, reference, "adapter", tmp_path / "adapter")
    document = tmp_path / "adapter" / "model.json"
    model = json.loads(document.read_text())
    assert model["experiment"]["method"]["adapter"]["kind"] == (
        "curlora" if reference.endswith("t001") else "lora"
    )
    document.write_text(json.dumps({**model, "precision": precision}))
    seal(tmp_path / "adapter", None)
    expected = own_logits(tmp_path / "adapter")
    got = elsewhere[reference, form, precision]
    untouched = own_logits(tmp_path / "adapter", adapter=False)
    assert (expected - untouched).abs().max() > 0.2, "the adapter does something"
    assert (got.logits - expected).abs().max() < TOLERANCE[precision]
    assert not (got.folder / "heads.safetensors").exists()


@pytest.mark.parametrize("form", ["lora", "merged"])
def test_linear_heads_travel_with_the_export_and_answer_the_same(form, elsewhere, runs, tmp_path):
    from safetensors.torch import load_file

    done = call("export", "headed-run/t001", "--format", form, "--to", tmp_path / form,
                "--storage", runs)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "sst2 are answered by linear heads" in done.stdout
    assert "heads.safetensors" in done.stdout
    assert "heads.json" in done.stdout
    heads = load_file(tmp_path / form / "heads.safetensors")
    labels = json.loads((tmp_path / form / "heads.json").read_text())["sst2"]["labels"]
    assert labels == ["negative", "positive"]
    assert heads["sst2.weight"].shape == (2, 32)

    predictor = load("headed-run/t001", runs)
    texts, _ = head_prompts(runs)
    hidden = elsewhere["headed-run/t001", form, "fp32"].hidden
    logits = hidden[:, -1] @ heads["sst2.weight"].T + heads["sst2.bias"]
    for row, text in zip(logits.softmax(-1).tolist(), texts, strict=True):
        answer = predictor.predict("sst2", [{"text": text}])[0]
        assert [answer.probabilities[label] for label in labels] == pytest.approx(row, abs=1e-4)


def test_an_exported_adapter_folder_is_itself_a_model(runs, tmp_path):
    done = call("export", "headed-run/t001", "--as", "adapter", "--to", tmp_path / "m",
                "--storage", runs)  # fmt: skip
    assert "linear heads" in done.stdout
    assert "model.json" in done.stdout
    rows = [{"text": "good the film good"}]
    assert load(str(tmp_path / "m")).predict("sst2", rows) == load("headed-run/t001", runs).predict(
        "sst2", rows
    )
    result = call("predict", tmp_path / "m", "good the film good")
    assert result.exit_code == 0, result.output
    assert "positive" in result.stdout


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda heads: {k: v[:1].clone() for k, v in heads.items()}, "should be 2 labels x 32"),
        (lambda heads: {"other" + k[4:]: v for k, v in heads.items()}, "got none"),
    ],
)
def test_heads_of_another_shape_or_task_are_refused(changed, said, runs, tmp_path):
    from safetensors.torch import load_file, save_file

    call("export", "headed-run/t001", "--as", "adapter", "--to", tmp_path / "m",
         "--storage", runs)  # fmt: skip
    (tmp_path / "m" / "seal.json").unlink(missing_ok=True)  # as earlier versions wrote it
    (tmp_path / "m" / "adapter" / "seal.json").unlink(missing_ok=True)
    file = tmp_path / "m" / "adapter" / "heads.safetensors"
    save_file(changed(load_file(file)), file)
    with pytest.raises(ModelError, match=said) as caught:
        load(str(tmp_path / "m"))
    assert "heads.safetensors" in str(caught.value)


def test_a_moved_base_is_named_to_commands(runs, tmp_path):
    model, base = tmp_path / "m", tmp_path / "base"
    call("export", "headed-run/t001", "--as", "adapter", "--to", model, "--storage", runs)
    document = json.loads((model / "model.json").read_text())
    shutil.copytree(document["base"]["name"], base)
    document["base"]["name"] = str(tmp_path / "where-it-was")
    (model / "model.json").write_text(json.dumps(document))
    (model / "seal.json").unlink(missing_ok=True)
    lost = call("predict", model, "good the film good")
    assert lost.exit_code != 0
    assert "--base" in lost.output
    found = call("predict", model, "good the film good", "--base", base)
    assert found.exit_code == 0, found.output
    assert "positive" in found.stdout
    done = call("export", model, "--as", "lora", "--to", tmp_path / "lora", "--base", base)
    assert done.exit_code == 0, done.output


# --- files of predictions ------------------------------------------------------------------------

WORDS = ["good the film good", "bad it is bad", "lovely dog, very lovely", 'awful "red" book']


def write_table(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def predict(runs, source, output, *more, reference=f"{SWEEP}@champion", task="sst2"):
    return call("predict", reference, "--task", task, "--input", source, "--output", output,
                "--storage", runs, *more)  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("output", ["csv", "jsonl"])
def test_a_file_of_rows_is_answered_into_a_file(suffix, output, runs, tmp_path):
    rows = [{"id": str(i), "text": text, "note": "käse, \n"} for i, text in enumerate(WORDS)]
    source, target = tmp_path / f"in.{suffix}", tmp_path / f"out.{output}"
    if suffix == "csv":
        write_table(source, rows)
    elif suffix == "jsonl":
        source.write_text("\n".join(map(json.dumps, rows)))
    else:
        import pandas as pd

        pd.DataFrame(rows).to_parquet(source)
    result = predict(runs, source, target)
    assert result.exit_code == 0, result.output
    assert "Wrote 4 rows" in result.stdout
    assert "4 of 4 rows" in result.stderr
    if output == "csv":
        with target.open(newline="", encoding="utf-8") as file:
            got = list(csv.DictReader(file))
    else:
        got = [json.loads(line) for line in target.read_text().splitlines()]
    assert [{k: row[k] for k in rows[0]} for row in got] == rows
    expected = load(f"{SWEEP}@champion", runs).predict("sst2", rows)
    for row, answer in zip(got, expected, strict=True):
        assert row["prediction"] == answer.label
        for label, chance in answer.probabilities.items():
            assert float(row[f"probability_{label}"]) == pytest.approx(chance, abs=1e-6)
    assert list(got[0]) == ["id", "text", "note", "prediction", "probability_negative",
                            "probability_positive"]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source.name, target.name])


def test_written_text_and_choices_have_their_columns(runs, tmp_path):
    source = write_table(tmp_path / "in.csv", [{"text": text} for text in WORDS])
    result = predict(runs, source, tmp_path / "out.jsonl", reference="written-run/t001",
                     task="echo")  # fmt: skip
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [set(line) for line in lines] == [{"text", "prediction"}] * len(WORDS)
    rows = [{"what": "dog", "choices": '["animal", "thing"]'},
            {"what": "cat", "choices": '["thing", "animal", "red"]'}]  # fmt: skip
    source = write_table(tmp_path / "quiz.csv", rows)
    assert predict(runs, source, tmp_path / "out.csv", task="quiz").exit_code == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first["prediction"] in {"animal", "thing"}
    assert first["probability_2"] == ""
    assert sum(float(second[f"probability_{i}"]) for i in range(3)) == pytest.approx(1, abs=1e-5)


def test_files_that_will_not_do_are_refused_before_a_model_is_loaded(runs, tmp_path, monkeypatch):
    def never(folder):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(find, "load_folder", never)
    good = write_table(tmp_path / "in.csv", [{"text": "good"}])
    out = tmp_path / "out.csv"
    refused(predict(runs, tmp_path / "inn.csv", out), "no such file", "Did you mean 'in.csv'?")
    refused(predict(runs, good, tmp_path / "out.xlsx"), "should end in .csv or .jsonl")
    refused(predict(runs, good, good, "--force"), "is the input itself")
    refused(predict(runs, good, tmp_path / "no" / "out.csv"), "there is no folder")
    refused(predict(runs, good, tmp_path), "should end in")
    out.write_text("kept")
    refused(predict(runs, good, out), "is there already. Add --force")
    assert out.read_text() == "kept"
    out.unlink()
    wrong = write_table(tmp_path / "wrong.csv", [{"txt": "good"}])
    refused(predict(runs, wrong, out), "line 2 has no column 'text'", "Did you mean 'txt'?")
    taken = write_table(tmp_path / "taken.csv", [{"text": "good", "prediction": "mine"}])
    refused(predict(runs, taken, out), "column 'prediction' already", "Rename it")
    (tmp_path / "empty.csv").touch()
    refused(predict(runs, tmp_path / "empty.csv", out), "is empty")
    (tmp_path / "header.csv").write_text("text\n")
    refused(predict(runs, tmp_path / "header.csv", out), "has a header and no rows")
    refused(predict(runs, good, out, task="sst3"), "Did you mean 'sst2'?")
    words = ("predict", f"{SWEEP}@champion", "--storage", runs)
    refused(call(*words, "--input", good), "`--input` needs `--output`")
    refused(call(*words, "a text", "--input", good, "--output", out), "not both")
    assert not out.exists()


def test_a_failure_half_way_leaves_the_old_file_whole(runs, tmp_path, monkeypatch):
    source = write_table(tmp_path / "in.csv", [{"text": text} for text in WORDS])
    out = tmp_path / "out.csv"
    out.write_text("old")
    monkeypatch.setattr(answers_module, "BATCH_ROWS", 1)
    asked = []

    class Failing:
        def predict(self, task, rows):
            asked.append(rows)
            if len(asked) > 2:
                raise LostError
            return load(f"{SWEEP}@champion", runs).predict(task, rows)

    class LostError(RuntimeError):
        pass

    monkeypatch.setattr(find, "load_folder", lambda folder, base: Failing())
    assert isinstance(predict(runs, source, out, "--force").exception, LostError)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]
    monkeypatch.undo()
    assert predict(runs, source, out, "--force", "--json").exit_code == 0
    assert out.read_text().startswith("text,prediction,")


def test_columns_are_known_by_the_names_of_the_tasks_own_source(runs, tmp_path):
    export = tmp_path / "m"
    call("export", f"{SWEEP}/t002", "--as", "adapter", "--to", export, "--storage", runs)
    document = json.loads((export / "model.json").read_text())
    document["tasks"]["sst2"]["data"]["columns"] = {"text": "sentence"}
    (export / "model.json").write_text(json.dumps(document))
    seal(export, None)
    source = write_table(tmp_path / "in.csv", [{"sentence": text} for text in WORDS])
    result = predict(runs, source, tmp_path / "out.csv", reference=str(export))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out.csv").read_text().startswith("sentence,prediction,")


# --- names, and what the documents say -----------------------------------------------------------


def test_names_that_lead_nowhere_say_what_there_is(runs):
    def words(name):
        return ("predict", name, "--task", "sst2", "a", "--storage", runs)

    refused(call(*words("nobody@champion")), "No registered model 'nobody'", SWEEP)
    refused(call(*words(f"{SWEEP}/t009")), "No trial 't009'", "base, t001, t002")
    refused(call(*words(f"{SWEEP}/base")), "has no adapter")
    refused(call(*words(SWEEP)), "names no model", "NAME@champion")


def test_the_example_of_the_documents_runs(home):
    text = (ROOT / "docs/use.md").read_text(encoding="utf-8")
    block = next(b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "load(" in b)
    assert len(block.strip().splitlines()) <= 10
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(re.match(r"(negative|positive) \(\d+%\): ", line) for line in lines), done.stdout
