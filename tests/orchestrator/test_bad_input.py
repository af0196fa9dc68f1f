"""What is wrong is said in one message, before anything is begun, with what to do about it."""

import gzip
import json
import shutil
import socket
import time

import pytest
import yaml
from typer.testing import CliRunner

from orchestrator.cli import app, errors
from orchestrator.planning import preflight, resource_problems
from orchestrator.records.journal_lines import read_journal

LOCAL = {"executor": "local"}
SECONDS = 30
TASK = """\
name: mine
kind: classification
data: {files: %s}
prompt: 'text : {text} label :'
labels: {positive: ' positive', negative: ' negative'}
"""
ROWS = [
    {"text": f"{word} the film {word} {number}", "label": label}
    for number in range(20)
    for word, label in (("good", "positive"), ("bad", "negative"))
]


def call(*words):
    # Seconds of a core, because other programs may have the cores for a moment.
    begun = time.process_time()
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert time.process_time() - begun < SECONDS
    return result


def refused(result, *parts):
    """One message, exit code 2, no traceback, nothing on stdout."""
    assert result.exit_code == errors.MISTAKE, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert not result.stdout
    assert result.stderr.count("orchestrate: ") == 1
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr, result.stderr


@pytest.fixture
def sweep(experiment_file, search, tmp_path):
    """Runs a sweep over the tiny base and its tasks; nothing may be left when it is refused."""

    def refuse(*parts, **fields):
        path = experiment_file(**{"resources": LOCAL, "search": search, **fields})
        result = call("sweep", path)
        refused(result, *parts)
        assert not list(tmp_path.glob("runs/*/journal.jsonl")), "a sweep was begun"
        return result

    return refuse


@pytest.fixture
def mine(tiny_base, search, tmp_path):
    """Writes an experiment over one task whose data a test makes; gives file and data folder."""
    (tmp_path / "tasks").mkdir()
    data = tmp_path / "data"
    data.mkdir()

    def write(files="../data", task=TASK, **fields):
        (tmp_path / "tasks" / "mine.yaml").write_text(task % files)
        document = {
            "name": "mine", "model": {"name": str(tiny_base)}, "tasks": ["mine"],
            "method": {"adapter": {"kind": "lora", "r": 2, "target_modules": ["q_proj"]}},
            "training": {"batch_size": 8, "max_length": 24, "precision": "fp32"},
            "search": {"space": {"method.adapter.r": {"choice": [2, 4]}}, "trials": 1},
            "objectives": {"gain": "max"},
            "champion": {"maximize": "gain", "subject_to": {}},
            "resources": LOCAL, "storage": str(tmp_path / "runs"), **fields,
        }  # fmt: skip
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return path

    return write


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


# --- files that are not there --------------------------------------------------------------------


def test_a_missing_experiment_is_named(tmp_path):
    refused(call("sweep", tmp_path / "none.yaml"), "none.yaml: no such file")


def test_a_missing_task_names_the_nearest(sweep):
    sweep("No task file for 'moood'", "Did you mean 'mood'?", tasks=["moood", "being"])


def test_a_missing_data_folder_is_named(mine):
    refused(call("sweep", mine(files="../dta")), "No data folder or file", "Did you mean 'data'?")


# --- data that cannot be read --------------------------------------------------------------------

BAD_FILES = {
    "empty": ("train.csv", b"", "train.csv: is empty"),
    "header only": ("train.csv", b"text,label\n", "has a header and no rows"),
    "too many fields": ("train.csv", b"text,label\na,b,c\n", "line 2: has 3 fields"),
    "other separator": ("train.csv", b"text;label\na;b\n", "separator seems to be ';'"),
    "not JSON": ("train.jsonl", b'{"text": "a", "label": "positive"}\n{"text": \n', "line 2: not"),
    "no object": ("train.jsonl", b'["a", "positive"]\n', "a row is a JSON object"),
    "latin-1": ("train.csv", "text,label\ncaf\u00e9,positive\n".encode("latin-1"), "latin-1"),
    "UTF-16": ("train.csv", "text,label\na,positive\n".encode("utf-16"), "UTF-16"),
    "cut gzip": ("train.jsonl.gz", gzip.compress(lines(ROWS).encode())[:60], "ends in the middle"),
    "no parquet": ("train.parquet", b"PAR1 and nothing", "not valid parquet"),
    "a zip archive": ("train.csv", b"PK\x03\x04rest", "save the sheet as CSV"),
    "no split": ("training.csv", b"text,label\na,positive\n", "no validation split"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_data_are_one_message_and_begin_nothing(kind, mine, tmp_path):
    name, content, message = BAD_FILES[kind]
    (tmp_path / "data" / name).write_bytes(content)
    refused(call("sweep", mine()), message)
    assert not list(tmp_path.glob("runs/*"))


def test_a_label_outside_the_task_is_named_with_those_that_are_known(mine, tmp_path):
    rows = [*ROWS, {"text": "so so", "label": "positiv"}]
    (tmp_path / "data" / "train.jsonl").write_text(lines(rows))
    refused(call("sweep", mine()), "'positiv'", "mean 'positive'?",
            "lists 'positive', 'negative'")  # fmt: skip


def test_a_column_that_the_prompt_names_and_no_row_has(mine, tmp_path):
    (tmp_path / "data" / "train.jsonl").write_text(lines({"txt": "a", **r} for r in ROWS))
    task = TASK.replace("{text}", "{texts}")
    refused(call("sweep", mine(task=task)), "'texts'", "Did you mean 'text'?")


@pytest.mark.usefixtures("records")
def test_texts_that_are_too_long_are_shortened_and_counted(mine, tmp_path):
    rows = [{**ROWS[0], "text": "good " + "red " * 200 + "film"}, *ROWS]
    (tmp_path / "data" / "train.jsonl").write_text(lines(rows))
    result = call("sweep", mine())
    assert result.exit_code == 0, result.output
    controls = read_journal(tmp_path / "runs" / "mine")[0]["controls"]["mine"]
    shortened = {name: value for name, value in controls.items() if "max_length" in name
                 or "shortened" in name}  # fmt: skip
    assert sum(int(value) for value in shortened.values() if isinstance(value, int)) == 1, controls


# --- what the model cannot do --------------------------------------------------------------------


def test_a_rank_that_a_layer_cannot_hold_is_refused_wherever_the_search_may_reach_it(sweep, search):
    space = {**search["space"], "method.adapter.r": {"choice": [2, 33]}}
    arithmetic = "a weight of 32 x 32: the rank is at most min(32, 32) = 32"
    method = {"adapter": {"kind": "curlora", "r": 4, "target_modules": ["q_proj"]}}
    sweep("may become 33", arithmetic, method=method, search={**search, "space": space})
    space["method.adapter.r"] = {
        "int_uniform": [2, 40], "when": {"method.adapter.kind": "lora"},
    }  # fmt: skip
    sweep("may become 40", method=method, search={**search, "space": space})
    first = [{"method.adapter.r": 17}]
    narrow = {"adapter": {"kind": "lora", "r": 4, "target_modules": ["k_proj"]}}
    space.pop("method.adapter.r")
    sweep("may become 17", "16 x 32", method=narrow, search={"space": space, "first": first})


def test_a_target_that_matches_nothing_names_the_layers_that_there_are(sweep):
    def targets(*names):
        return {"adapter": {"kind": "curlora", "r": 4, "target_modules": list(names)}}

    sweep("'q_porj' matches no layer", "Did you mean 'q_proj'?", "down_proj, gate_proj",
          method=targets("q_porj", "v_proj"))  # fmt: skip
    sweep("'mlp' is a LlamaMLP, and only linear layers", method=targets("mlp"))
    sweep("'lm_head' is the model's output layer, which is not adapted", method=targets("lm_head"))


def test_targets_in_the_search_space_are_checked_as_well(sweep, search):
    choices = [["q_proj"], ["q_proj", "w_proj"]]
    space = {**search["space"], "method.adapter.target_modules": {"choice": choices}}
    sweep("'w_proj' matches no layer", search={**search, "space": space})


ADAPTER = {"kind": "curlora", "r": 2, "target_modules": ["q_proj", "v_proj"]}
RATES = {
    "space": {"training.learning_rate": {"choice": [0.01, 0.02]}}, "searcher": "grid", "trials": 2,
}  # fmt: skip


def test_a_pair_that_does_not_go_is_refused_with_the_reason(sweep):
    retention = {"kind": "laplace", "curvature": "tri_kfac"}
    sweep(
        "the retention 'laplace' with the adapter 'curlora'",
        "It needs LoRA's two factors",
        search=RATES,
        method={"adapter": ADAPTER, "retention": retention},
    )


def test_pairs_are_checked_wherever_the_search_may_reach_them(sweep):
    space = {"method.retention.kind": {"choice": ["none", "olora"]}}
    grid = {"space": space, "searcher": "grid", "trials": 2}
    sweep("the retention 'olora' with the adapter 'curlora'", search=grid,
          method={"adapter": ADAPTER})  # fmt: skip


def test_a_state_beyond_the_budget_is_refused_with_the_arithmetic(sweep):
    """Two layers, q 32 x 32 and v 16 x 32, of a Fisher as large as the weights."""
    sweep(
        "more than `resources.retention_gib` allows (1e-06 GiB)",
        "32 x 32",
        "ewc_weight",
        search=RATES,
        method={"adapter": {**ADAPTER, "kind": "lora"}, "retention": {"kind": "ewc_weight"}},
        resources={**LOCAL, "retention_gib": 1e-6},
    )


def test_texts_longer_than_the_context_are_refused_with_the_arithmetic(sweep):
    training = {"batch_size": 8, "precision": "fp32"}
    sweep("`training.max_length` is 65 tokens, and the model reads at most 64: 65 - 64 = 1",
          training={**training, "max_length": 65})  # fmt: skip
    data = {"probe_tokens": 200, "probe_context": 100, "rung_examples": 8}
    sweep("`data.probe_context` is 100 tokens", "100 - 64 = 36 too many", data=data)


def test_every_reason_is_told_at_once(sweep):
    method = {"adapter": {"kind": "lora", "r": 4, "target_modules": ["q_porj"]}}
    training = {"batch_size": 8, "precision": "fp32", "max_length": 100}
    sweep("2 problems found", "  1. ", "'q_porj'", "  2. ", "100 - 64",
          method=method, training=training)  # fmt: skip


@pytest.fixture
def broken_base(tiny_base, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    return folder


def test_a_model_folder_without_weights_config_or_itself_is_refused(sweep, broken_base):
    model = {"name": str(broken_base)}
    (broken_base / "model.safetensors").unlink()
    sweep("has no weights", "save_pretrained", model=model)
    (broken_base / "config.json").unlink()
    sweep("has no config.json", model=model)
    sweep("There is no model folder", model={"name": str(broken_base / "nowhere")})


def test_weights_that_are_cut_short_are_found_by_their_header(sweep, broken_base):
    model = {"name": str(broken_base)}
    weights = broken_base / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    sweep("is cut short", f"promises {len(whole):,} bytes", f"has {len(whole) - 100:,}",
          model=model)  # fmt: skip
    weights.write_bytes(whole[:50])
    sweep("is not a complete safetensors file", model=model)


def test_a_missing_shard_is_named(sweep, broken_base):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (broken_base / "model.safetensors.index.json").write_text(json.dumps(index))
    sweep("lacks 1 of its 2 weight files: model-00002", model={"name": str(broken_base)})


def test_a_gguf_file_that_is_cut_short_is_refused(sweep, tmp_path):
    import numpy as np
    from gguf import GGUFWriter

    path = tmp_path / "tiny.gguf"
    writer = GGUFWriter(str(path), "llama")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.zeros((64, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.write_bytes(path.read_bytes()[:-4000])
    sweep("is not a complete GGUF file", model={"gguf": str(path)})
    sweep("There is no GGUF file", model={"gguf": str(tmp_path / "none.gguf")})


# --- the machine, the storage, the tracking server -----------------------------------------------


def test_more_workers_than_there_are_cores_are_refused_without_starting_ray(sweep, search):
    training = {"batch_size": 64, "max_length": 48, "precision": "fp32"}
    result = sweep("64 worker(s) x 1 CPU = 64 CPUs", "the cluster has", training=training,
                   resources={"workers": 64})  # fmt: skip
    assert "starting Ray" not in result.stderr
    sweep("`resources.gpus_per_worker` is 9", resources={**LOCAL, "gpus_per_worker": 9})


def test_storage_below_a_file_is_refused(sweep, tmp_path):
    (tmp_path / "file").touch()
    sweep("Set `storage` to a folder", storage=str(tmp_path / "file" / "runs"))


def test_storage_that_refuses_a_write_is_refused(sweep, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(resource_problems, "probe_storage", refuse)
    sweep("cannot be written", "Permission denied", "Set `storage` to a folder")


def test_too_little_room_is_refused_with_what_is_needed(sweep, monkeypatch):
    monkeypatch.setattr(preflight, "free_disk", lambda storage: 2**20)
    sweep("1 MiB free, and about 6 MiB are needed for 3 trials")


@pytest.fixture
def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_tracking_server_that_does_not_answer_stops_the_sweep_before_it_begins(
    sweep, closed_port
):
    uri = f"http://ada:sesame@127.0.0.1:{closed_port}"
    result = sweep("MLflow at http://***@127.0.0.1", "refused", "Check `tracking.uri`",
                   tracking={"uri": uri})  # fmt: skip
    assert "sesame" not in result.stderr


def test_a_server_that_takes_the_call_and_says_nothing_is_given_up(sweep, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
        sweep("cannot be used", "timed out", tracking={"uri": uri})


@pytest.mark.parametrize("uri", ["./mlruns", "sqlite:////nowhere/at/all/mlflow.db"])
def test_tracking_addresses_that_cannot_work_are_refused(sweep, uri):
    sweep("`tracking.uri`", tracking={"uri": uri})


def test_the_plan_shows_what_a_sweep_would_refuse_and_fails(experiment_file, search, closed_port):
    path = experiment_file(
        search=search, resources=LOCAL, tracking={"uri": f"http://127.0.0.1:{closed_port}"},
        method={"adapter": {"kind": "lora", "r": 64, "target_modules": ["q_proj", "mlp"]}},
    )  # fmt: skip
    result = call("plan", path)
    assert result.exit_code == errors.FAILED
    text = " ".join(result.stdout.split())
    for part in ("'mlp' is a LlamaMLP", "MLflow at http://127.0.0.1", "In the way:"):
        assert part in text
    problems = json.loads(call("plan", path, "--json").stdout)["problems"]
    assert len(problems) == 2, problems
