"""A model folder says what it is, and is refused in words where it does not."""

import json

import pytest

from orchestrator.records.errors import ModelFolderError
from orchestrator.records.model_folder import base_of, read_model_document, tasks_of
from orchestrator.spec.task_files import TaskFileError

TASK = {
    "name": "films", "kind": "classification", "data": {"files": "."}, "prompt": "{text} is",
    "labels": {"neg": " bad", "pos": " good"},
}  # fmt: skip
WHOLE = {
    "base": {"name": "a/base"}, "precision": "fp32", "max_length": 64, "tasks": {"films": TASK},
}  # fmt: skip


def written(folder, document):
    text = document if isinstance(document, str) else json.dumps(document)
    (folder / "model.json").write_text(text)
    return folder


def test_what_was_written_is_read(tmp_path):
    document = read_model_document(written(tmp_path, WHOLE))
    assert base_of(document, tmp_path).name == "a/base"
    assert list(tasks_of(document, tmp_path)) == ["films"]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "model.json"),
        ("[1]", "should hold a JSON object"),
        ({**WHOLE, "base": "a/base"}, "`base` should be an object, got 'a/base'"),
        ({**WHOLE, "precision": "fp8"}, "`precision` should be fp32 or bf16, got 'fp8'"),
        ({**WHOLE, "max_length": 1 << 60}, "`max_length` should be a number of tokens"),
        ({**WHOLE, "max_length": True}, "`max_length` should be a number of tokens, got True"),
        ({**WHOLE, "tasks": {"films": 5}}, "`tasks` should be an object of tasks"),
    ],
)
def test_a_damaged_document_is_refused_by_its_field(tmp_path, document, said):
    with pytest.raises(ModelFolderError, match="export or copy the model folder again") as caught:
        read_model_document(written(tmp_path, document))
    assert said in str(caught.value)


def test_a_base_and_a_task_that_are_none_are_refused(tmp_path):
    with pytest.raises(ModelFolderError, match="export or copy the model folder again"):
        base_of(read_model_document(written(tmp_path, {**WHOLE, "base": {"name": 7}})), tmp_path)
    damaged = {**WHOLE, "tasks": {"films": {**TASK, "kind": "clasification"}}}
    with pytest.raises(TaskFileError, match=r"model.json: tasks.films"):
        tasks_of(read_model_document(written(tmp_path, damaged)), tmp_path)
