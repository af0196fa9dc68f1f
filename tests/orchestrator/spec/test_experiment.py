import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import load_experiment
from orchestrator.spec.space.assignments import grid_points
from orchestrator.spec.space.search_space import SearchSpec
from orchestrator.spec.task_files import TaskFileError
from orchestrator.spec.validation import ExperimentError

ROOT = Path(__file__).parents[3]


def edited(path: Path, change) -> Path:
    document = yaml.safe_load(path.read_text())
    change(document)
    path.write_text(yaml.safe_dump(document))
    return path


def refusal(path: Path, error=ExperimentError) -> str:
    with pytest.raises(error) as caught:
        load_experiment(path)
    return str(caught.value)


def test_a_whole_file_is_read(experiment_file, search):
    loaded = load_experiment(experiment_file(search=search))
    assert loaded.experiment.tasks == ("mood", "being")
    assert set(loaded.tasks) == {"mood", "being", "prose"}
    assert Path(loaded.tasks["mood"].data.files).is_absolute()


@pytest.mark.parametrize(
    ("storage", "cure"),
    [
        ("memory://runs", "s3://BUCKET/PREFIX"), ("s3://me:word@bucket", "in the environment"),
        ("file://runs", "file:///PATH"), ("  ", "`storage` is empty"),
    ],
)  # fmt: skip
def test_a_storage_that_can_hold_no_sweeps_is_refused(experiment_file, storage, cure):
    message = refusal(experiment_file(storage=storage))
    assert "storage" in message
    assert cure in message


@pytest.mark.parametrize(
    "storage",
    ["s3://bucket/runs", "gs://b", "./s3:/bucket", "a:b/runs", "what? #%20", "new\nline", "/ü"],
)
def test_a_storage_may_have_any_name(experiment_file, storage):
    assert load_experiment(experiment_file(storage=storage)).experiment.storage == storage


def test_unknown_field_is_named_in_the_error(experiment_file):
    path = edited(experiment_file(), lambda d: d["training"].update(learning_rat=0.1))
    message = refusal(path)
    assert str(path) in message
    assert "training.learning_rat: unknown field" in message
    assert "Did you mean 'learning_rate'?" in message
    assert "got 0.1" in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d["training"].update(epochs="many"), "training.epochs"),
        (
            lambda d: d["method"]["adapter"].update(kind="curlor"),
            "method.adapter: unknown kind 'curlor'. Did you mean 'curlora'?",
        ),
        (lambda d: d["method"]["adapter"].update(r=0), "method.adapter.r"),
        (lambda d: d["method"].update(retention={"kind": "ewd"}), "unknown kind 'ewd'"),
        (
            lambda d: d["method"].update(retention={"kind": "ewc", "strength": -1}),
            "method.retention.strength",
        ),
        (lambda d: d["method"].update(preset="laloar"), "Did you mean 'lalora'?"),
        (lambda d: d["method"].update(preset="zero-shot"), "is no trial"),
        (
            lambda d: d["method"].update(retention={"kind": "laplace", "sources": ["gossip"]}),
            "not among `probes`",
        ),
        (
            lambda d: d["method"].update(sequence="joint", retention={"kind": "ewc"}),
            "`sequence: joint` has no earlier task",
        ),
        (
            lambda d: d.update(published=[{"what": "accuracy", "value": 0.5}]),
            "needs `where` it stands",
        ),
        (lambda d: d.update(objectives={"gian": "max"}), "Did you mean 'gain'?"),
        (lambda d: d["training"].update(batch_size=9, accumulation=2), "must be a multiple"),
        (lambda d: d.update(tasks=["mood", "mood"]), "got twice: ['mood']"),
        (lambda d: d.update(model={}), "exactly one of `name` and `gguf`"),
        (lambda d: d.update(probes=[]), "a language-modelling task in `probes`"),
        (lambda d: d["training"].update(deepspeed={"bf16": {}}), "training.precision"),
        (lambda d: d["training"].update(deepspeed={"zero_optimization": {"stage": 4}}), "stage"),
        (
            lambda d: d.update(resources={"executor": "local", "workers": 2}),
            "`resources.executor: local` is one process",
        ),
    ],
)
def test_mistakes_are_refused_naming_the_place(experiment_file, change, expected):
    assert expected in refusal(edited(experiment_file(), change))


def test_an_unknown_task_names_the_nearest(experiment_file):
    message = refusal(experiment_file(tasks=["mod", "being"]), TaskFileError)
    assert "Did you mean 'mood'?" in message


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ({"method.adapter.rank": {"choice": [1]}}, "Did you mean 'method.adapter.r'?"),
        ({"method.adapter.r": {"choices": [1]}}, "Did you mean 'choice'?"),
        ({"method.adapter.r": [1, 2]}, "a domain is one of"),
        ({"training.learning_rate": {"log_uniform": [0, 1]}}, "above 0"),
        ({"training.learning_rate": {"uniform": [1, 0.5]}}, "below the upper"),
        ({"tasks": {"choice": [["mood"]]}}, "cannot be searched"),
        ({"training.max_length": {"choice": [32, 64]}}, "cannot be searched"),
        ({"method.adapter.r": {"choice": [4, 0]}}, "an impossible combination"),
        (
            {
                "method.adapter.kind": {"choice": ["curlora", "lora"]},
                "method.adapter.temperature": {"log_uniform": [0.05, 4.0]},
            },
            "give it a `when`",
        ),
        (
            {"method.adapter.r": {"choice": [4], "when": {"method.adapter.knd": "lora"}}},
            "which is not in the space",
        ),
        (
            {
                "method.adapter.kind": {"choice": ["curlora"]},
                "method.adapter.r": {"choice": [4], "when": {"method.adapter.kind": "lora"}},
            },
            "which is not among",
        ),
    ],
)
def test_a_space_that_can_propose_an_impossible_trial_is_refused(experiment_file, space, expected):
    assert expected in refusal(experiment_file(search={"space": space}))


RATE = "training.learning_rate"
KIND, R, BATCH = "method.adapter.kind", "method.adapter.r", "training.batch_size"


@pytest.mark.parametrize(
    ("search", "fields", "expected"),
    [
        # Between the bounds there are values that no trial can have.
        ({"space": {BATCH: {"int_uniform": [2, 64]}}}, {"resources": {"workers": 2}},
         r"batch_size=3.*must be a multiple.*List the values that are possible as a `choice`"),
        ({"space": {R: {"uniform": [2, 8]}}}, {}, r"fractional part.*an `int_uniform`"),
        ({"space": {R: {"log_uniform": [2, 8]}}}, {}, r"fractional part.*an `int_uniform`"),
        # Most trials would be impossible, though every value is possible in some.
        ({"space": {BATCH: {"int_uniform": [2, 64]}, "training.accumulation": {"choice": [1, 7]},
                    "resources.workers": {"choice": [1, 5]}}}, {},
         r"of 128 trials drawn from the space would be an impossible combination"),
        # What a first trial asks for would be lost, or could not be told to the searcher.
        ({"space": {RATE: {"log_uniform": [1e-4, 1e-2]}}, "first": [{RATE: 0.05}]}, {},
         r"first: entry 1: training.learning_rate: 0.05 lies outside.*log_uniform: \[0.0001, 0.01"),
        ({"space": {R: {"choice": [4, 8]}}, "first": [{}, {R: 64}]}, {},
         r"first: entry 2: method.adapter.r: 64 lies outside the space, {choice: \[4, 8\]}"),
        ({"space": {KIND: {"choice": ["curlora", "lora"]},
                    R: {"choice": [4], "when": {KIND: "lora"}}}, "first": [{R: 4}]}, {},
         r"entry 1: method.adapter.r: it has a place only under conditions on method.adapter.kind"),
        ({"space": {KIND: {"choice": ["lora"]}}, "first": [{"training.max_length": 16}]}, {},
         r"entry 1: training.max_length: trials of one sweep share this field"),
        # The same trial twice.
        ({"space": {R: {"choice": [2, 2, 4]}}, "searcher": "grid"}, {}, "lists 2 twice"),
        ({"space": {R: {"choice": [2, 2.0]}}}, {}, "lists 2.0 twice"),
        ({"space": {"training.seed": {"choice": [0, 1]}}}, {"finalists": {"fresh_seeds": 2}},
         "needs `training.seed` for itself"),
        # What all trials share.
        ({"space": {"resources.executor": {"choice": ["pool", "train"]}}}, {},
         "cannot be searched"),
        ({"space": {"resources.slots": {"choice": [2, 4]}}}, {}, "cannot be searched"),
        ({"space": {"resources": {"choice": [{"executor": "local"}, {}]}}}, {}, "or one in it"),
        # What can be neither drawn nor recorded.
        ({"space": {RATE: {"uniform": [0.1, float("inf")]}}}, {}, "finite number"),
        ({"space": {RATE: {"choice": [float("nan")]}}}, {}, "cannot be recorded"),
        ({"space": {RATE: {"uniform": [-1e308, 1e308]}}}, {}, "no numbers can be drawn"),
        ({"space": {RATE: {"log_uniform": [0.1, 0.1 + 1e-16]}}}, {}, "no numbers can be drawn"),
        ({"space": {"training.seed": {"int_uniform": [0, 2**60]}}}, {}, r"beyond 2\^53"),
        ({"space": {"training.seed": {"int_uniform": [0, 2**32]}}}, {}, "less than or equal to"),
        ({"space": {R: {"choice": [2]}}, "seed": 2**32}, {}, "search.seed: .*less than or equal"),
        # Conditions.
        ({"space": {KIND: {"choice": ["curlora", "lora"]},
                    R: [{"choice": [2], "when": {KIND: "lora"}}, {"choice": [4]}]}}, {},
         r"method.adapter.r: several of its domains hold at a time.*kind = 'lora'"),
        ({"space": {"training.epochs": {"int_uniform": [1, 3]},
                    R: {"choice": [2], "when": {"training.epochs": 4}}}}, {},
         r"method.adapter.r: `when` {'training.epochs': 4} never holds"),
        # Every point of a grid is known.
        ({"space": {"resources.workers": {"choice": [1, 2]}, BATCH: {"choice": [7, 8]}},
          "searcher": "grid"}, {},
         r"workers=2, training.batch_size=7.*Every point of a grid is tried"),
        ({"space": {f"training.deepspeed.f{n}": {"choice": list(range(10))} for n in range(6)},
          "searcher": "grid"}, {}, "a grid of more than 10000 points"),
    ],
)  # fmt: skip
def test_what_no_trial_can_be_is_decided_when_the_file_is_read(
    experiment_file, search, fields, expected
):
    assert re.search(expected, refusal(experiment_file(search=search, **fields)), re.DOTALL)


STAGE_2 = {"stage": 2}


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"zero_optimization": STAGE_2 | {"allgather_bucket_size": "2e8"}},
         "training.deepspeed.zero_optimization.allgather_bucket_size: '2e8' is a text to YAML, and "
         "DeepSpeed wants a number; write 200000000"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": "1e-5"}}}, "write 1.0e-05"),
        ({"optimizer": {"type": "AdamW", "params": {"betas": ["9e-1", 0.9]}}}, "write 0.9"),
        ({"zero_optimization": STAGE_2 | {"reduce_bucket_size": "auto"}},
         "training.deepspeed.zero_optimization.reduce_bucket_size: `auto` is for the trainer of"),
        ({"train_batch_size": "auto"}, "`train_batch_size` is set by training.batch_size"),
    ],
)  # fmt: skip
def test_a_deepspeed_section_from_elsewhere_is_answered_with_the_cure(
    experiment_file, section, expected
):
    assert expected in refusal(experiment_file(training={"deepspeed": section}))


def test_a_searched_deepspeed_value_is_looked_at_as_well(experiment_file):
    path = "training.deepspeed.zero_optimization.reduce_bucket_size"
    for search in ({"space": {path: {"choice": [1000, "auto"]}}},
                   {"space": {R: {"choice": [2]}}, "first": [{path: "auto"}]}):  # fmt: skip
        assert f"{path}: `auto` is for" in refusal(experiment_file(search=search))


def test_a_relation_that_most_trials_keep_is_left_to_the_searcher(experiment_file):
    space = {"resources.workers": {"choice": [2, 1]}, BATCH: {"int_uniform": [2, 64]}}
    assert load_experiment(experiment_file(search={"space": space})).experiment.search is not None


def test_seeds_and_lengths_at_their_limits(experiment_file):
    largest = 2**32 - 1
    path = experiment_file(training={"seed": largest})
    assert load_experiment(path).experiment.training.seed == largest
    message = refusal(experiment_file(training={"seed": largest + 1}))
    assert f"training.seed: Input should be less than or equal to {largest}" in message
    path = experiment_file(
        training={"seed": largest - 1}, finalists={"fresh_seeds": 2},
        search={"space": {R: {"choice": [2]}}},
    )  # fmt: skip
    assert "go beyond the largest seed" in refusal(path)


def test_a_setting_below_a_null_can_be_overridden(experiment_file):
    experiment = load_experiment(experiment_file()).experiment
    changed = experiment.with_overrides({"method.early_stopping.patience": 2})
    assert changed.method.early_stopping.patience == 2
    whole_first = experiment.with_overrides({R: 2, "method.adapter": {"kind": "lora"}})
    assert (whole_first.method.adapter.kind, whole_first.method.adapter.r) == ("lora", 2)
    with pytest.raises(ExperimentError, match=r"precision\.bits: its parent has no"):
        experiment.with_overrides({"training.precision.bits": 8})


def test_a_grid_has_as_many_trials_as_points_unless_the_file_says_fewer():
    space = {KIND: {"choice": ["curlora", "lora", "dora"]}, RATE: {"choice": [*range(1, 9)]}}
    whole = SearchSpec.model_validate({"space": space, "searcher": "grid"})
    assert (whole.count, whole.left_out) == (24, None)
    cut = SearchSpec.model_validate({"space": space, "searcher": "grid", "trials": 8})
    assert cut.count == 8
    assert "24 points, and 8 will run" in cut.left_out
    assert SearchSpec.model_validate({"space": space}).count == 8
    more = SearchSpec.model_validate({"space": space, "searcher": "grid", "trials": 100})
    assert (more.count, more.left_out) == (24, None)
    first = [{KIND: "lora"}] * 3
    listed = SearchSpec.model_validate({"space": space, "first": first, "trials": 2})
    assert "3 entries, and 2 trials will run" in listed.left_out


def test_overrides_that_change_the_kind_drop_what_the_new_kind_lacks(experiment_file):
    experiment = load_experiment(experiment_file()).experiment
    changed = experiment.with_overrides({"method.adapter.kind": "lora", "method.adapter.r": 2})
    assert changed.method.adapter.model_dump() == {
        "kind": "lora", "r": 2, "alpha": 16.0, "dropout": 0.0,
        "target_modules": ("q_proj", "v_proj"),
    }  # fmt: skip
    with pytest.raises(ExperimentError, match=r"temperature: unknown field"):
        experiment.with_overrides(
            {"method.adapter.kind": "lora", "method.adapter.temperature": 1.0}
        )


def test_grid_respects_conditions():
    search = SearchSpec.model_validate(
        {
            "space": {
                "method.adapter.temperature": {
                    "choice": [0.5, 1.0],
                    "when": {"method.adapter.kind": "curlora"},
                },
                "method.adapter.kind": {"choice": ["curlora", "lora"]},
            },
            "searcher": "grid",
        }
    )
    assert grid_points(search.space) == [
        {"method.adapter.kind": "curlora", "method.adapter.temperature": 0.5},
        {"method.adapter.kind": "curlora", "method.adapter.temperature": 1.0},
        {"method.adapter.kind": "lora"},
    ]


def test_numbers_written_the_yaml_way_are_numbers(experiment_file):
    path = experiment_file()
    path.write_text(path.read_text().replace("learning_rate: 0.02", "learning_rate: 3e-4"))
    assert load_experiment(path).experiment.training.learning_rate == pytest.approx(3e-4)


def test_the_format_is_frozen(experiment_file):
    experiment = load_experiment(experiment_file()).experiment
    with pytest.raises(ValueError, match="frozen"):
        experiment.name = "other"


def test_reading_needs_neither_torch_nor_ray_and_is_quick(experiment_file, search):
    path = experiment_file(search=search)
    code = (
        "import sys, time; began = time.process_time()\n"
        "from pathlib import Path\n"
        "from orchestrator.spec.load import load_experiment\n"
        f"load_experiment(Path({str(path)!r}))\n"
        "heavy = {'torch', 'ray', 'mlflow', 'transformers', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(time.process_time() - began)"
    )
    seconds = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
        )
        seconds.append(float(done.stdout))
        time.sleep(0.05)
    assert min(seconds) < 1.0


def test_the_committed_experiments_and_tasks_are_valid():
    loaded = load_experiment(ROOT / "experiments" / "demo.yaml")
    assert len(loaded.experiment.tasks) == 3
    assert loaded.experiment.search.trials >= 6
    assert {"resources.workers": 2} in loaded.experiment.search.first
    for name in ("sst2", "mrpc", "sentiment140", "wikitext2", "arc_easy"):
        document = Experiment.model_validate(
            {
                "name": "x",
                "model": {"name": "m"},
                "tasks": [name],
                "method": {"adapter": {"kind": "lora"}},
            }
        )
        assert document.tasks == (name,)
