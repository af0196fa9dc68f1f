import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from orchestrator.experiment import (
    Experiment,
    ExperimentError,
    SearchSpec,
    grid_points,
    load_experiment,
)
from orchestrator.tasks import TaskFileError

ROOT = Path(__file__).parents[2]


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
        "import sys, time; began = time.perf_counter()\n"
        "from pathlib import Path\n"
        "from orchestrator.experiment import load_experiment\n"
        f"load_experiment(Path({str(path)!r}))\n"
        "heavy = {'torch', 'ray', 'mlflow', 'transformers', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(time.perf_counter() - began)"
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
