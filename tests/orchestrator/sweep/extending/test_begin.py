"""A trial that goes on from another one does what a single, longer trial does."""

import shutil
from dataclasses import replace

import pytest

from orchestrator.base.loading import load_tokenizer
from orchestrator.data.preparation import prepare
from orchestrator.executors.job import Job
from orchestrator.executors.local import run_locally
from orchestrator.executors.messages import Finished, Reported
from orchestrator.records.carried_folder import write_carried
from orchestrator.records.stage_report import DONE
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.spec.load import load_experiment
from orchestrator.sweep.errors import SweepError
from orchestrator.sweep.extending.begin import (
    check_made_of_the_same,
    inherited_reports,
    write_beginning,
)
from orchestrator.sweep.extending.parent import Parent, check_kept
from orchestrator.system.seals import Maker, content_hash, file_hashes

SMALL = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
METHODS = {
    "ewc": ({"kind": "lora", **SMALL}, {"kind": "ewc"}),
    "olora": ({"kind": "lora", **SMALL}, {"kind": "olora"}),
    "replay": ({"kind": "curlora", **SMALL}, {"kind": "replay", "capacity": 20}),
}


def learnt(job, data):
    """What a trial says, and its last checkpoint."""
    said = []
    run_locally(job, data, said.append)
    [finished] = [message for message in said if isinstance(message, Finished)]
    return [m.report for m in said if isinstance(m, Reported)], finished.checkpoint_path


@pytest.fixture
def begun(experiment_file, tmp_path):
    """Makes the longer experiment, its data, and the trial that has learnt its first task."""

    def make(kind):
        adapter, retention = METHODS[kind]
        method = {"adapter": adapter, "retention": retention}
        loaded = load_experiment(experiment_file(method=method, resources={"executor": "local"}))
        data = prepare(loaded, load_tokenizer(loaded.experiment.model))
        whole = loaded.experiment
        first = whole.model_copy(update={"tasks": whole.tasks[:1]})
        folder = SweepFolder(tmp_path / "runs" / "first")
        maker = Maker("first-id", "t001", "what it was made of")
        reports, checkpoint = learnt(Job(first, maker, folder), data)
        shutil.copytree(checkpoint / "adapter", folder.adapter("t001"))
        size = write_carried(folder.carried("t001"), checkpoint, maker, {})
        state = SweepState()
        state.sweep_id = state.identity = "first-id"
        state.experiment, record = first.model_dump(mode="json"), state.trial("t001")
        for number, report in enumerate(reports):
            record.take_report(report, number)
        record.state, record.carried_bytes = "COMPLETE", size
        record.adapter = folder.relative(folder.adapter("t001"))
        record.adapter_sha256 = content_hash(file_hashes(folder.adapter("t001")))
        record.carried = folder.relative(folder.carried("t001"))
        record.carried_sha256 = content_hash(file_hashes(folder.carried("t001")))
        parent = Parent(folder, state, record)
        return whole, data, parent

    return make


@pytest.mark.parametrize("kind", METHODS)
def test_going_on_is_bit_for_bit_the_longer_sequence(begun, kind, tmp_path):
    whole, data, parent = begun(kind)
    oracle = Job(whole, Maker("whole", "t001", ""), SweepFolder(tmp_path / "runs" / "whole"))
    expected, at_once = learnt(oracle, data)

    folder = SweepFolder(tmp_path / "runs" / "second")
    longer = whole.model_copy(update={"extends": parent.extension()})
    job = Job(longer, Maker("second-id", "t001", "extended"), folder)
    for _ in range(2):  # what is there already is left alone
        write_beginning(folder.checkpoint("t001"), parent, longer, data, job.maker)
    reports, later = learnt(job, data)

    then, *own = reports
    assert (then.task, then.fraction, then.step) == (whole.tasks[0], DONE, 0)
    assert set(then.per_example) == {*whole.tasks}, "the trial as it was, on every task"
    second = [report for report in expected if report.task_index == 1]
    assert [r.losses for r in own] == [r.losses for r in second]
    assert [r.row for r in own] == [r.row for r in second]
    for name in ("weights.safetensors", "retention.safetensors"):
        assert (later / name).read_bytes() == (at_once / name).read_bytes()
    assert file_hashes(later / "adapter") == file_hashes(at_once / "adapter")
    assert own[-1].tokens < second[-1].tokens, "only what was learnt here is counted"


def test_a_fresh_adapter_learns_the_further_task_alone(begun, tmp_path):
    whole, data, parent = begun("ewc")
    extends = parent.extension().model_copy(update={"begin": "fresh"})
    job = Job(
        whole.model_copy(update={"extends": extends}),
        Maker("second-id", "fresh", ""),
        SweepFolder(tmp_path / "runs" / "second"),
    )
    reports, _ = learnt(job, data)
    assert {report.task for report in reports} == {whole.tasks[1]}
    assert len(reports[-1].row) == 2, "it is scored on all of them"


def test_without_its_beginning_a_trial_fails_instead_of_starting_from_nothing(begun, tmp_path):
    whole, data, parent = begun("ewc")
    longer = whole.model_copy(update={"extends": parent.extension()})
    job = Job(longer, Maker("second-id", "t001", ""), SweepFolder(tmp_path / "runs" / "second"))
    with pytest.raises(ValueError, match="its checkpoint with what that one has learnt is missing"):
        learnt(job, data)


def test_what_is_gone_or_differs_is_refused_with_the_reason(begun):
    whole, data, parent = begun("replay")
    check_kept(parent)
    longer = whole.model_copy(update={"extends": parent.extension()})
    assert inherited_reports(parent, longer) == [], "of one task only the last row is scored again"
    parent.state.base = {"sha256": "a"}
    parent.state.provenance = {"data": {**data.hashes, whole.tasks[0]: "others"}}
    with pytest.raises(SweepError, match="The base model's weights are not those"):
        check_made_of_the_same(parent, longer, "b", data.hashes)
    with pytest.raises(SweepError, match="'replay' replays their training rows"):
        check_made_of_the_same(parent, longer, "a", data.hashes)

    retention = parent.carried / "retention.safetensors"
    kept = retention.read_bytes()
    retention.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(SweepError, match="is not as it was written"):
        check_kept(parent)
    shutil.rmtree(parent.carried)
    with pytest.raises(SweepError, match="is not there: it was removed"):
        check_kept(parent)
    large = replace(parent, record=replace(parent.record, carried_bytes=2**30))
    with pytest.raises(SweepError, match="it has 1,024 MiB, and what has more than 64 MiB"):
        check_kept(large)
    old = replace(parent, record=replace(parent.record, carried=None))
    with pytest.raises(SweepError, match="'replay' protects earlier tasks by what it carries"):
        check_kept(old)


def test_an_adapter_that_was_kept_alone_is_gone_on_from_where_nothing_protects(begun, tmp_path):
    whole, data, parent = begun("ewc")
    document = whole.model_dump(mode="json") | {"extends": parent.extension().model_dump()}
    document["method"]["retention"] = {"kind": "none"}
    longer = type(whole).model_validate(document)
    alone = replace(parent, record=replace(parent.record, carried=None))
    place = tmp_path / "checkpoint"
    write_beginning(place, alone, longer, data, Maker("second-id", "t001", ""))
    kept = (parent.carried / "weights.safetensors").read_bytes()
    assert (place / "weights.safetensors").read_bytes() == kept
    assert not (place / "retention.safetensors").exists()
