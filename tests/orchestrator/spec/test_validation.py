"""Texts that are looked for as paths are refused where no file system could hold them."""

import pytest

from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import load_experiment
from orchestrator.spec.task_files import TaskFileError, load_task
from orchestrator.spec.validation import ExperimentError

IMPOSSIBLE = {
    "long name": ("a" * 5000, "a name of 5,000 bytes; write one of at most 255"),
    "long name of two-byte characters": ("\u00e9" * 200, "a name of 400 bytes"),
    "long path": ("x/" * 3000, "a path of 6,000 bytes is too long"),
    "null": ("a\0b", "no path holds a null character; remove it"),
}
EXPERIMENT = {
    "name": "e", "model": {"name": "m"}, "tasks": ["t"], "method": {"adapter": {"kind": "lora"}},
}  # fmt: skip


def fields(path):
    return {
        "model.name": {"model": {"name": path}},
        "model.gguf": {"model": {"gguf": path}},
        "storage": {"storage": path},
        "tasks.0": {"tasks": [path]},
        "probes.0": {"probes": [path]},
    }


@pytest.mark.parametrize("field", fields(""))
@pytest.mark.parametrize(("path", "told"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_an_experiment_with_an_impossible_path_is_refused_by_its_field(field, path, told):
    with pytest.raises(ValueError, match=told) as caught:
        Experiment.model_validate(EXPERIMENT | fields(path)[field])
    assert field in {".".join(map(str, error["loc"])) for error in caught.value.errors()}


@pytest.mark.parametrize("field", ["files", "local_name"])
@pytest.mark.parametrize(("path", "told"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_a_task_file_with_an_impossible_path_is_one_message(tmp_path, field, path, told):
    import yaml

    data = {"files": "data"} | {field: path}
    task = {"name": "t", "kind": "language_modelling", "data": data}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(task))
    with pytest.raises(TaskFileError, match=rf"t\.yaml: data\.{field}: .*{told}"):
        load_task(tmp_path / "t.yaml")


@pytest.mark.parametrize("path", ["a" * 5000, "x/" * 3000 + "a.py", "a\0/b.py"])
def test_a_plugin_that_no_file_can_be_is_refused(tmp_path, path):
    import yaml

    (tmp_path / "e.yaml").write_text(yaml.safe_dump(EXPERIMENT | {"plugins": [path]}))
    with pytest.raises(ExperimentError, match="is neither the name of a module") as caught:
        load_experiment(tmp_path / "e.yaml")
    assert len(str(caught.value)) < 1500


def test_what_people_write_is_taken():
    for path in ("runs", "~/runs", "/data/a b/\u00e9", "x" * 255, "Qwen/Qwen2-1.5B"):
        for name, changed in fields(path).items():
            assert Experiment.model_validate(EXPERIMENT | changed), name
