"""Every committed experiment: it is read, it can be planned, and it runs from end to end.

The runs have tiny random bases and made-up rows in the columns of a data root, so that neither a
model nor a data set is needed; tasks, probes, methods and search spaces are the files' own.
"""

import json
import math
import random
import re
import string
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.cli.output.plan_tables import render
from orchestrator.loop.task_sequence import scored_of
from orchestrator.measures.objectives import needs_order
from orchestrator.planning.plan import Machine
from orchestrator.planning.planner import make_plan
from orchestrator.spec.adapter_settings import adapter_options
from orchestrator.spec.experiment import known_paths
from orchestrator.spec.load import load_experiment
from orchestrator.spec.presets import PRESETS
from orchestrator.spec.reach import possible_methods
from orchestrator.spec.space.assignments import grid_points
from orchestrator.spec.task_kinds import (
    ClassificationTask,
    GenerationTask,
    LanguageModellingTask,
    MultipleChoiceTask,
)
from orchestrator.sweep.proposing.search import Proposer
from orchestrator.sweep.run import run_sweep
from orchestrator.sweep.run_options import SweepOptions

FOLDER = Path(__file__).parents[3] / "experiments"
# What `select` writes beside a file is whoever ran it's, and ignored by git.
WRITTEN = "*.selected.yaml"
FILES = {p.stem: p for p in sorted(FOLDER.glob("*.yaml")) if not p.match(WRITTEN)}
BY_METHOD = [name for name, path in FILES.items() if "method.preset:" in path.read_text()]
FILLER = [f"w{number}" for number in range(120)]
TINY = {"train": 80, "validation": 10, "test": 10}
LONG = 10
"""Tasks of a sequence from which on a method that a shorter file runs is not run again."""


def columns_of(task):
    """The columns that a task's prompt shows."""
    return [field for _, field, _, _ in string.Formatter().parse(task.prompt) if field]


def made_up_row(task, number, words):
    """A row as a data root has it; texts do not repeat."""
    text = " ".join([*words.choices(FILLER, k=4), str(number)])
    if isinstance(task, LanguageModellingTask):
        return {task.text_column: text}
    row = {column: f"{text} {column}" for column in columns_of(task)}
    if isinstance(task, ClassificationTask):
        labels = [value for value, word in task.labels.items() if word is not None]
        row[task.label_column] = words.choice(labels)
    elif isinstance(task, MultipleChoiceTask):
        # The base likes repetitions, so that it is right before anything is learnt.
        drawn = words.sample(FILLER, k=7)
        choices = [[drawn[0]] * 3, drawn[1:4], drawn[4:7]]
        right = words.randrange(3)
        choices[0], choices[right] = choices[right], choices[0]
        row[task.choices_column] = [" ".join(choice) for choice in choices]
        row[task.answer_column] = right
    else:
        row[task.target_column] = f"so {number}\n#### {number}"
    return row


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """A folder with made-up rows for the tasks of every experiment."""
    root = tmp_path_factory.mktemp("data-root")
    tasks = {n: t for path in FILES.values() for n, t in load_experiment(path).tasks.items()}
    for name, task in tasks.items():
        (root / name).mkdir()
        words = random.Random(name)
        first = 0
        for split, count in TINY.items():
            rows = [made_up_row(task, first + i, words) for i in range(count)]
            first += count
            lines = "\n".join(json.dumps(row) for row in rows)
            (root / name / f"{split}.jsonl").write_text(lines + "\n")
    return root


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """Folders of a Llama and a GPT-2, wide enough for every rank of the files, and shallow."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    tasks = {n: t for path in FILES.values() for n, t in load_experiment(path).tasks.items()}
    spoken = {
        word.strip()
        for task in tasks.values()
        if isinstance(task, ClassificationTask)
        for word in task.labels.values()
        if word is not None
    }
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<pad>", *FILLER, *sorted(spoken)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>")
    torch.manual_seed(0)
    made = {
        "llama": LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(vocabulary), hidden_size=208, intermediate_size=32,
                num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
                max_position_embeddings=64, tie_word_embeddings=True,
            )
        ),
        "gpt2": GPT2LMHeadModel(
            GPT2Config(vocab_size=len(vocabulary), n_embd=32, n_layer=1, n_head=2, n_positions=64)
        ),
    }  # fmt: skip
    with torch.no_grad():
        # What leaves the Llama is mostly the embedding that entered: it repeats the last word. A
        # base that knows nothing of a probe has nothing to keep, and a measure less.
        made["llama"].model.embed_tokens.weight.mul_(2.0)
        for layer in made["llama"].model.layers:
            layer.self_attn.o_proj.weight.mul_(0.1)
    folders = {}
    for family, model in made.items():
        folders[family] = tmp_path_factory.mktemp(family)
        model.save_pretrained(folders[family])
        fast.save_pretrained(folders[family])
    return folders


def shrunk(loaded, base, storage, points):
    """The same experiment on a tiny base, with little data and the trials of these points."""
    experiment = loaded.experiment
    document = experiment.model_dump(mode="json")
    document["model"] = {"name": str(base)}
    document["storage"] = str(storage)
    document["data"] |= {
        "train_examples": 8, "validation_examples": 4, "test_examples": 4, "rung_examples": 2,
        "probe_tokens": 32, "probe_context": 32, "source_examples": 4, "batch_tokens": 4096,
    }  # fmt: skip
    document["training"] |= {
        "epochs": 1, "max_length": 32, "precision": "fp32", "deepspeed": {},
        "batch_size": 4, "accumulation": 1,
    }  # fmt: skip
    document["resources"] = {"executor": "local", "cpus_per_worker": 1}
    document["finalists"] |= {"fresh_seeds": 0}
    document["search"] |= {"searcher": "random", "first": points, "trials": len(points)}
    tasks = {
        name: task.model_copy(update={"max_new_tokens": 2})
        if isinstance(task, GenerationTask)
        else task
        for name, task in loaded.tasks.items()
    }
    return loaded.model_copy(
        update={"experiment": type(experiment).model_validate(document), "tasks": tasks}
    )


def one_point_a_method(experiment):
    """The first point of the space with each preset and kind of adapter."""
    found = {}
    for point in grid_points(experiment.search.space):
        # Workers beside the first are for Ray; the sweep here is one process.
        found.setdefault(method_of(point), point)
    return list(found.values())


def method_of(point):
    """The preset and the kinds of adapter and retention of a point of a space."""
    return tuple(
        point.get(f"method.{part}") for part in ("preset", "adapter.kind", "retention.kind")
    )


def points_to_run(name):
    """One point a method; of a long sequence the first, and those that no shorter file runs."""
    experiment = load_experiment(FILES[name]).experiment
    found = one_point_a_method(experiment)
    others = [load_experiment(path).experiment for path in FILES.values()]
    shorter = [o for o in others if len(o.tasks) < len(experiment.tasks)]
    if len(experiment.tasks) < LONG:
        return found
    known = {method_of(p) for o in shorter if o.search for p in one_point_a_method(o)}
    return [p for i, p in enumerate(found) if i == 0 or method_of(p) not in known]


# --- reading -------------------------------------------------------------------------------------


def test_files_are_found():
    assert {"demo", "curlora_mistral7b", "methods_small"} <= set(FILES)
    assert len(BY_METHOD) == 5


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_and_planned(name, data_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = load_experiment(FILES[name], data_root)
    experiment = loaded.experiment
    # A hub model that is not here has no sizes, and everything else must still be said.
    model = experiment.model.model_copy(update={"name": f"nobody/{name}"})
    loaded = loaded.model_copy(
        update={"experiment": experiment.model_copy(update={"model": model})}
    )
    planned = make_plan(
        loaded, Machine(cpus=16, gpus=1, memory=None, disk=None, here=False), calibrate=False
    )
    assert planned.problems == []
    assert planned.base is None
    assert planned.trials == experiment.searched_trials + experiment.repeated_trials
    assert [task.name for task in planned.tasks] == [*experiment.tasks, *experiment.probes]
    assert all(task.train_tokens > 0 for task in planned.tasks if not task.probe)
    assert all(task.validation_tokens > 0 for task in planned.tasks)
    assert render(planned) is not None
    # A grid has exactly the points that the file says.
    if experiment.search.searcher == "grid":
        assert experiment.search.trials == len(grid_points(experiment.search.space))


@pytest.mark.parametrize("name", FILES)
def test_the_searcher_proposes_what_the_plan_counts(name):
    experiment = load_experiment(FILES[name]).experiment
    proposer = Proposer(experiment.search, experiment.objectives)
    proposed = []
    while (overrides := proposer.propose(f"t{len(proposed)}")) is not None:
        proposed.append(overrides)
        assert experiment.with_overrides(overrides).search is None
    assert len(proposed) == experiment.searched_trials
    assert len({json.dumps(overrides, sort_keys=True) for overrides in proposed}) == len(proposed)


@pytest.mark.parametrize("name", BY_METHOD)
def test_each_method_is_searched_as_often_with_its_own_learning_rates(name):
    experiment = load_experiment(FILES[name]).experiment
    points = grid_points(experiment.search.space)
    rates = {}
    for point in points:
        rate = point.get("training.learning_rate", experiment.training.learning_rate)
        rates.setdefault(point["method.preset"], set()).add(rate)
    assert len({len(own) for own in rates.values()}) == 1
    for preset, own in rates.items():
        published = PRESETS[preset].learning_rate if preset else None
        # LaLoRA's file has a CURLoRA of nobody's setting, and SECURA's rate is one for merges into
        # weights of 16 bits, which lose most of a small step: the file says so.
        other = {("lalora_llama3", "curlora"), ("sequence_16", "secura")}
        if published is not None and (name, preset) not in other:
            assert published in own
    # The best of each preset is repeated with fresh seeds.
    assert experiment.finalists.per == "method.preset"
    assert experiment.repeated_trials == 2 * len(rates)


def test_every_preset_that_is_a_trial_stands_in_methods_small():
    experiment = load_experiment(FILES["methods_small"]).experiment
    trials = {name for name, preset in PRESETS.items() if preset.method is not None}
    searched = Counter(p["method.preset"] for p in grid_points(experiment.search.space))
    assert set(searched) == trials - {"head-only"}
    assert set(searched.values()) == {3}


def test_sixteen_tasks_are_sixteen():
    loaded = load_experiment(FILES["sequence_16"])
    assert len(set(loaded.experiment.tasks)) == 16
    kinds = Counter(loaded.tasks[name].kind for name in loaded.experiment.tasks)
    assert kinds == {"classification": 8, "multiple_choice": 7, "generation": 1}
    names = {method.name for method in possible_methods(loaded.experiment)}
    assert names == {"secura", "curlora", "seq", "er", "lora + ewc", "i-lora"}


MISTRAL = {
    f"layers.{layer}.self_attn.{name}": (rows, 4096)
    for layer in range(32)
    for name, rows in (("q_proj", 4096), ("k_proj", 1024), ("v_proj", 1024))
}
GPT2_LARGE = {f"h.{layer}.attn.c_attn": (3840, 1280) for layer in range(36)}


@pytest.mark.parametrize(
    ("name", "shapes"), [("curlora_mistral7b", MISTRAL), ("curlora_gpt2_large", GPT2_LARGE)]
)
def test_trained_numbers_are_those_of_the_paper(name, shapes):
    from curlora import ADAPTERS

    experiment = load_experiment(FILES[name]).experiment
    printed = {entry.what: entry.value for entry in experiment.published}
    kinds = {"curlora": "CURLoRA", "lora": "LoRA"}
    checked = 0
    for method in possible_methods(experiment):
        kind = method.adapter.kind
        what = f"trained parameters, {kinds.get(kind)} r = {getattr(method.adapter, 'r', None)}"
        if what in printed:
            options = adapter_options(method.adapter)
            assert ADAPTERS[kind].trained(options, shapes) == printed[what]
            checked += 1
    assert checked >= 3


def test_lora_beside_the_papers_own_has_a_scale_of_one_at_every_rank():
    for name in ("curlora_mistral7b", "curlora_gpt2_large"):
        experiment = load_experiment(FILES[name]).experiment
        plain = [m.adapter for m in possible_methods(experiment) if m.preset == "seq"]
        assert {adapter.r for adapter in plain if adapter.alpha == adapter.r} == {8, 16, 24}


def test_the_documentation_names_every_field():
    page = (FOLDER.parent / "docs" / "experiment.md").read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", page))
    own = {path for path in known_paths() if not path.startswith(("method.adapter.", "method.ret"))}
    unnamed = {path.rsplit(".", 1)[-1] for path in own} - words
    assert unnamed == {"alternatives"}  # how a list of domains is held, not what is written


def test_the_documentations_search_is_one_and_counts_its_trials(tmp_path):
    page = (FOLDER.parent / "docs" / "experiment.md").read_text(encoding="utf-8")
    written = next(
        block for block in re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
        if "method.preset: {choice" in block
    )  # fmt: skip
    (tmp_path / "tasks").mkdir()
    task = (FOLDER / "tasks" / "sst2.yaml").read_text()
    (tmp_path / "tasks" / "sst2.yaml").write_text(task)
    head = "name: page\nmodel: {name: some/model}\ntasks: [sst2]\nmethod: {preset: seq}\n"
    rest = "objectives: {gain: max}\nchampion: {subject_to: {}}\n"
    (tmp_path / "page.yaml").write_text(head + rest + written)
    search = load_experiment(tmp_path / "page.yaml").experiment.search
    assert search.trials == len(grid_points(search.space))
    assert set(Counter(point["method.preset"] for point in grid_points(search.space)).values()) == {
        3
    }


# --- running -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.usefixtures("records")
def test_a_file_runs_from_end_to_end(name, data_root, bases, tmp_path, recorder):
    loaded = load_experiment(FILES[name], data_root)
    family = "gpt2" if "gpt2" in name else "llama"
    points = points_to_run(name)
    small = shrunk(loaded, bases[family], tmp_path / "runs", points)
    lines = run_sweep(small, SweepOptions(data_root=data_root), recorder).lines
    ended = {line["trial"]: line for line in lines if line["event"] == "trial_ended"}
    assert [(t, e["reason"]) for t, e in ended.items() if e["state"] != "COMPLETE"] == []
    assert len(ended) == 1 + len(points)
    rows = {}
    for line in lines:
        if line["event"] == "stage_report" and line["report"]["row"] is not None:
            rows.setdefault(line["trial"], []).append(line["report"]["row"])
    tasks = [loaded.tasks[task] for task in loaded.experiment.tasks]
    cells = scored_of(small.experiment).cells
    headed = [getattr(task, "head", None) == "linear" for task in tasks]
    for trial, end in ended.items():
        if trial == "base":
            continue
        overrides = points[int(trial[1:]) - 1]
        joint = overrides.get("method.preset") == "joint"
        assert len(rows[trial]) == (1 if joint else len(tasks))
        for learnt, row in enumerate(rows[trial], start=1):
            known = len(tasks) if joint else learnt
            for place, score in enumerate(row):
                needed = cells is None or (known, place) in cells
                if needed and (place < known or not headed[place]):
                    assert 0.0 <= score <= 1.0
                else:
                    assert score is None
        wanted = {*small.experiment.objectives, small.experiment.champion.maximize}
        wanted |= {"accuracy", "gain", "cost_tokens"}
        for measure in wanted:
            value = end["measures"][measure]
            if joint and measure in needs_order():
                assert value is None
            else:
                assert math.isfinite(value), measure
    assert lines[-1]["event"] in {"sweep_ended", "champion_registered"}
