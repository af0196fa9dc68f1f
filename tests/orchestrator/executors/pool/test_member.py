"""A member of the pool lets in what fits, and what goes wrong with one trial harms no other."""

import errno
import shutil
import threading
import types
from pathlib import Path

import pytest
import ray
import torch
from ray.exceptions import ActorDiedError

from orchestrator.base.loading import load_tokenizer
from orchestrator.data.preparation import prepare
from orchestrator.engines.checkpoints import WEIGHTS_FILE, read_tensors
from orchestrator.engines.plain import PlainEngine
from orchestrator.engines.workers import ALONE, Workers
from orchestrator.executors.job import Job, MemberConfig
from orchestrator.executors.messages import (
    Failed,
    Finished,
    Paused,
    Ready,
    Reported,
    Todo,
    WorkSetAside,
)
from orchestrator.executors.pool import member_worker
from orchestrator.executors.pool.learning_passes import LearningPasses
from orchestrator.executors.pool.mailbox import ENDINGS
from orchestrator.executors.pool.member import Member
from orchestrator.executors.pool.packed_trials import PackedTrials
from orchestrator.executors.watching import signs_of_life
from orchestrator.loop.progress_file import ProgressFile
from orchestrator.loop.task_keys import TaskKeys, task_keys
from orchestrator.loop.task_sequence import task_sequence
from orchestrator.loop.trial_checkpoints import found_checkpoint, keep_checkpoint
from orchestrator.loop.trial_state import read_state
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.spec.load import load_experiment
from orchestrator.system.seals import Maker, seal


@pytest.fixture(scope="module")
def loaded(tiny_base, tiny_tasks, tmp_path_factory):
    import yaml

    path = tiny_tasks / "member.yaml"
    document = {
        "name": "member", "model": {"name": str(tiny_base)}, "tasks": ["mood", "being"],
        "method": {"adapter": {"kind": "lora", "r": 2, "target_modules": ["q_proj", "v_proj"]}},
        "training": {"learning_rate": 0.01, "max_length": 48, "precision": "fp32"},
        "data": {"train_examples": 16, "validation_examples": 4, "rung_examples": 2},
        "objectives": {"gain": "max"}, "champion": {"maximize": "gain", "subject_to": {}},
        "resources": {"executor": "pool", "slots": 3},
        "storage": str(tmp_path_factory.mktemp("member")),
    }  # fmt: skip
    path.write_text(yaml.safe_dump(document))
    return load_experiment(path)


@pytest.fixture(scope="module")
def data(loaded):
    return prepare(loaded, load_tokenizer(loaded.experiment.model))


@pytest.fixture
def member(loaded, data, tmp_path):
    return Member(loaded.experiment, data, tmp_path)


def maker(name):
    return Maker("a sweep", name, "some settings")


def job(loaded, name, **overrides):
    experiment = loaded.experiment.with_overrides(overrides)
    return Job(experiment, maker(name), SweepFolder(Path("unused")))


def serve(member, names, most=200):
    """Let a member work until all have ended; what it said last of each, and the order."""
    last = {}
    for _ in range(most):
        last |= {name: message for name, message in member.work() if isinstance(message, ENDINGS)}
        if set(last) == set(names):
            return last
    raise AssertionError(f"still at work: {member.names}")


def kinds(last):
    return {name: type(message) for name, message in last.items()}


# ------------------------------------------------------------------------------- who begins when


class Taken:
    """A member whose trials never end: which of them it was given, by turn."""

    def __init__(self):
        self.names, self.turns, self.free = [], [], 8

    @property
    def busy(self):
        return bool(self.names)

    def take(self, job):
        self.names.append(job.trial)

    def drop(self, name):
        self.names = [other for other in self.names if other != name]

    def work(self):
        self.turns.append(tuple(self.names))
        if BASE_TRIAL in self.names:
            self.names.remove(BASE_TRIAL)
        return []


def turns(todo, *, expected, monkeypatch, patience=1e9):
    """What a member holds at each turn, if its desk says these things one after the other."""
    monkeypatch.setattr(member_worker, "GATHER_SECONDS", patience)
    monkeypatch.setattr(member_worker, "IDLE_SECONDS", 0.0)
    monkeypatch.setattr(member_worker, "EXCHANGE_SECONDS", 0.0)
    member, said = Taken(), iter(todo)

    def exchange(*_):
        told = next(said, {"close": True})
        join = [types.SimpleNamespace(trial=name) for name in told.get("join", "")]
        close, all_there = told.get("close", False), told.get("all_there", False)
        return Todo(tuple(join), tuple(told.get("drop", "")), close, all_there)

    member_worker.serve(member, exchange, expected=expected)
    return member.turns


def test_trials_begin_together_once_as_many_have_come_as_were_expected(monkeypatch):
    come = [{"join": "a"}, {}, {"join": "b"}, {}, {"join": "c"}, {"join": "d"}]
    at_once = [("a",), ("a",), ("a", "b"), ("a", "b"), ("a", "b", "c"), ("a", "b", "c", "d")]
    assert turns(come, expected=1, monkeypatch=monkeypatch) == at_once
    gathered = [(), (), (), (), ("a", "b", "c"), ("a", "b", "c", "d")]
    assert turns(come, expected=3, monkeypatch=monkeypatch) == gathered
    # Those that are held back until these have learnt a task do not come, and it is said.
    some = [{"join": "a"}, {"join": "b", "all_there": True}, {}]
    assert turns(some, expected=9, monkeypatch=monkeypatch) == [(), ("a", "b"), ("a", "b")]
    # What is expected may never come.
    assert turns(come, expected=9, monkeypatch=monkeypatch, patience=0.0) == at_once


class Group:
    """An actor's handle of which some calls find it dead; the others are counted."""

    def __init__(self, dead):
        self.dead, self.calls = dead, []

    def __getattr__(self, name):
        def remote(*_):
            self.calls.append(name)
            if name in self.dead:
                return ActorDiedError()
            return 0 if name == "begin" else Todo()

        return types.SimpleNamespace(remote=remote)


@pytest.mark.parametrize("dead", [["begin"], ["exchange"], ["exchange", "beat"]])
def test_a_member_whose_group_has_died_ends(loaded, data, tmp_path, monkeypatch, dead):
    """It must not be started anew: nobody would ever tell it anything again."""

    def get(value):
        if isinstance(value, Exception):
            raise value
        return value

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(signs_of_life, "BEAT_SECONDS", 0.0)
    group = Group(dead)
    monkeypatch.setattr(Workers, "of_group", lambda: ALONE)
    told = MemberConfig(loaded.experiment.for_workers(), str(tmp_path), [data], 1)
    member_worker.work_in_group({"group": group, "member": told})
    assert group.calls[0] == "begin"
    assert ("beat" in group.calls) == ("begin" not in dead)
    assert {thread.name for thread in threading.enumerate()}.isdisjoint({"beat"})


def test_the_base_waits_for_no_trial_and_a_trial_that_is_dropped_never_begins(monkeypatch):
    come = [{"join": ["a", BASE_TRIAL]}, {"drop": "a"}, {"join": "b"}, {"join": "c"}]
    found = turns(come, expected=2, monkeypatch=monkeypatch)
    assert found == [(BASE_TRIAL,), (), (), ("b", "c")]


# ------------------------------------------------------------------------------- what fits


def test_others_begin_once_the_first_has_shown_what_a_pass_takes(member, loaded):
    for name in "abc":
        member.take(job(loaded, name))
    member.begin()
    assert member._base.pack.names == ["a"]
    member.work()
    member.begin()
    assert sorted(member._base.pack.names) == ["a", "b", "c"]


def test_what_does_not_fit_beside_others_waits_and_is_never_refused(member, loaded, monkeypatch):
    monkeypatch.setattr(member._memory, "free", lambda: 1 << 30)
    for name in "abcde":
        member.take(job(loaded, name))
    member.work()
    # From now on a pass seems to take nearly all there is: nobody joins anybody.
    seen = []
    monkeypatch.setattr(type(member._memory), "holds", lambda *_: False)
    last = {}
    while len(last) < 5:
        last |= {n: m for n, m in member.work() if isinstance(m, ENDINGS)}
        seen.append(len(member._base.pack.names))
    assert set(kinds(last).values()) == {Finished}
    assert max(seen) == 1


def test_trials_join_only_as_far_as_the_pass_of_all_of_them_fits(loaded, data, tmp_path):
    """What one trial's step took is known; the rows of the others will come on top."""
    member = Member(loaded.experiment, data, tmp_path)
    for name in "abc":
        member.take(job(loaded, name))
    member.work()
    memory, pack = member._memory, member._base.pack
    of_one = memory.tokens
    assert of_one == pack.largest > 0
    longest = max(len(e.tokens) for task in data.tasks.values() for e in task.train)
    assert pack.tokens_with(loaded.experiment, task_sequence(loaded.experiment, data)) == min(
        2 * loaded.experiment.training.batch_size * longest, pack.pass_tokens[0]
    )
    # Room for the step of two trials and not of three, whatever their numbers take.
    memory.peak = 1 << 40
    batch = loaded.experiment.training.batch_size * longest
    memory.free = lambda: int(1.25 * memory.peak * 2.5 * batch / of_one)
    member.begin()
    assert pack.names == ["a", "b"]


def test_what_does_not_fit_alone_fails_in_words(member, loaded, monkeypatch):
    monkeypatch.setattr(member._memory, "free", lambda: 10)
    member.take(job(loaded, "a"))
    last = serve(member, ["a"])
    assert isinstance(last["a"], Failed)
    assert "GiB are free on the member; lower its rank" in last["a"].reason


def test_a_pass_that_had_to_be_halved_does_not_keep_others_out(member, loaded, monkeypatch):
    fits = LearningPasses._compute
    state = {"left": 1}

    def passes(self, group, count):
        if len(group) > 1 and state["left"]:
            state["left"] -= 1
            raise torch.OutOfMemoryError("full")
        return fits(self, group, count)

    monkeypatch.setattr(LearningPasses, "_compute", passes)
    monkeypatch.setattr(member._memory, "free", lambda: 1 << 62)
    for name in "abc":  # the first is a step ahead
        member.take(job(loaded, name))
    member.work()
    for _ in range(20):
        if state["left"]:
            member._memory.peak = 1 << 60  # of a pass that was to be
            member.work()
    assert not state["left"]
    assert member._memory.peak < 1 << 60
    assert set(kinds(serve(member, "abc")).values()) == {Finished}


# ------------------------------------------------------------------------------- what goes wrong


def test_what_is_foreign_or_damaged_is_set_aside_and_the_checkpoint_before_it_used(
    member, loaded, data, tmp_path
):
    """Of the same settings, so that all three end alike."""
    place = tmp_path / "ray"
    member.take(job(loaded, "a"))
    while not list(place.glob("a/*.old")):
        member.work()
    shutil.copytree(place / "a", place / "b")  # another trial's
    former = read_state(next(place.glob("a/*.old")))
    (place / "a" / "checkpoint" / "weights.safetensors").write_bytes(b"not tensors")

    other, said = Member(loaded.experiment, data, tmp_path), []
    for name in "abc":
        other.take(job(loaded, name))
    while sum(isinstance(message, ENDINGS) for _, message in said) < 3:
        said += other.work()
    aside = [(name, m) for name, m in said if isinstance(m, WorkSetAside)]
    assert [(name, m.because) for name, m in aside] == [
        ("a", "its file weights.safetensors is damaged"),
        *[("b", "it belongs to trial a of the sweep a sweep")] * 2,
    ]
    assert all(message.kept_as.is_dir() for _, message in aside), "they are kept"
    stages = {n: sum(isinstance(m, Reported) for name, m in said if name == n) for n in "abc"}
    assert stages["b"] - stages["a"] == len(former.reports) == 1, "a went on from it"
    last = dict(said)
    assert set(kinds(last).values()) == {Finished}
    losses = {n: [r.losses for r in m.reports] for n, m in last.items()}
    assert losses["a"] == losses["b"] == losses["c"]


def test_what_is_whole_but_cannot_be_gone_on_from_fails_its_trial_alone(
    member, loaded, data, tmp_path
):
    member.take(job(loaded, "a"))
    kept = tmp_path / "ray" / "a" / "checkpoint"
    while not kept.is_dir():
        member.work()
    (kept / "weights.safetensors").unlink()
    seal(kept, maker("a"))

    other = Member(loaded.experiment, data, tmp_path)
    for name in "ab":
        other.take(job(loaded, name))
    last = serve(other, "ab")
    assert kinds(last) == {"a": Failed, "b": Finished}
    assert last["a"].details


def test_memory_that_does_not_suffice_for_joining_is_waited_for(member, loaded, monkeypatch):
    join, tried = PackedTrials.join, []

    def full_beside_others(self, name, *rest):
        tried.append(name)
        if name == "b" and self.names:
            raise torch.OutOfMemoryError("full")
        return join(self, name, *rest)

    monkeypatch.setattr(PackedTrials, "join", full_beside_others)
    for name in "ab":
        member.take(job(loaded, name))
    assert set(kinds(serve(member, "ab")).values()) == {Finished}
    assert tried == ["a", "b", "b"], "joining takes a while, and the other waits meanwhile"


def test_memory_that_does_not_suffice_for_the_base_is_said_and_harms_no_trial(
    member, loaded, monkeypatch
):
    def full(*_):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(PlainEngine, "log_probabilities", full)
    for name in ("a", BASE_TRIAL):
        member.take(job(loaded, name))
    last = serve(member, ["a", BASE_TRIAL])
    assert kinds(last) == {"a": Finished, BASE_TRIAL: Failed}
    assert "OutOfMemoryError" in last[BASE_TRIAL].reason


def test_layers_that_cannot_be_packed_are_said(member, loaded):
    member.take(job(loaded, "a", **{"method.adapter.target_modules": ["embed_tokens"]}))
    member.take(job(loaded, "b"))
    last = serve(member, "ab")
    assert kinds(last) == {"a": Failed, "b": Finished}


def test_progress_that_cannot_be_written_is_left_out(member, loaded, monkeypatch):
    member.take(job(loaded, "a"))
    member.begin()
    path = member._progress["a"]._path
    path.parent.mkdir(parents=True, exist_ok=True)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(path), "write_text", full)
    member._progress["a"].write(member._base.pack.progress("a"))
    assert ProgressFile.read(member._progress["a"]) is None


def test_after_a_death_passes_are_half_as_large(loaded, data, tmp_path):
    whole = Member(loaded.experiment, data, tmp_path)
    assert Member(loaded.experiment, data, tmp_path, halvings=2)._base.batch_tokens == (
        whole._base.batch_tokens // 4
    )


# ------------------------------------------------------------------------------- checkpoints


def test_a_members_checkpoint_is_on_the_disk_before_its_report_is_said(member, loaded, synced):
    member.take(job(loaded, "a"))
    said = []
    while not said:
        assert "name checkpoint" not in synced
        said = [message for _, message in member.work() if isinstance(message, Reported)]
    [reported] = said
    named = synced.index("name checkpoint")
    files = {path.name for path in reported.checkpoint_path.iterdir()}
    assert {"weights.safetensors", "trial.json", "seal.json"} <= files
    assert {f"sync {name}" for name in files} <= set(synced[:named])
    assert synced[named + 1] == "sync a"


def checkpoint(folder, text):
    folder.mkdir()
    (folder / "trial.json").write_text(text)
    return folder


def test_a_member_that_goes_on_repeats_what_the_one_before_may_not_have_been_heard_of(
    loaded, data, tmp_path
):
    first = Member(loaded.experiment, data, tmp_path)
    first.take(job(loaded, "a"))
    said = []
    while not said:
        said = [each for _, each in first.work() if isinstance(each, Reported)]
    second = Member(loaded.experiment, data, tmp_path)
    second.take(job(loaded, "a"))
    (ready,) = [each for _, each in second.work() if isinstance(each, Ready)]
    assert [report.stage for report in ready.reports] == [said[0].report.stage]
    assert ready.checkpoint_path is not None


def test_a_checkpoint_takes_the_place_of_the_one_before(tmp_path):
    kept = tmp_path / "checkpoint"
    for text in ("first", "second"):
        keep_checkpoint(checkpoint(tmp_path / "checkpoint.new", text), kept, maker("a"))
        assert (kept / "trial.json").read_text() == text
    [former] = tmp_path.glob("checkpoint.*.old")
    assert (former / "trial.json").read_text() == "first"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("call", [1, 2])
def test_a_crash_while_it_is_replaced_leaves_a_whole_one(tmp_path, monkeypatch, call):
    kept = tmp_path / "checkpoint"
    keep_checkpoint(checkpoint(tmp_path / "checkpoint.new", "first"), kept, maker("a"))
    fresh = checkpoint(tmp_path / "checkpoint.new", "second")
    replace, calls = type(kept).replace, []

    def crash(self, target):
        calls.append(self)
        if len(calls) == call:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(type(kept), "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        keep_checkpoint(fresh, kept, maker("a"))
    monkeypatch.undo()
    assert found_checkpoint(kept, maker("a")) == (kept, [])
    assert (kept / "trial.json").read_text() == "first"


def put_checkpoints(folder, name, count):
    for number in range(count):
        fresh = checkpoint(folder / f"checkpoint.{name}.new", f"{name}{number}")
        keep_checkpoint(fresh, folder / "checkpoint", maker("a"))


@pytest.mark.parametrize("step", range(2))
def test_two_processes_may_put_theirs_in_one_place(tmp_path, monkeypatch, step):
    """One is overtaken by the other, whole, before its first or second renaming."""
    kept = tmp_path / "checkpoint"
    put_checkpoints(tmp_path, "first", 1)
    fresh = checkpoint(tmp_path / "checkpoint.new", "second")
    replace, calls = type(kept).replace, []

    def overtaken(self, target):
        calls.append(self)
        if len(calls) == 1 + step:
            monkeypatch.setattr(type(kept), "replace", replace)
            put_checkpoints(tmp_path, "other", 1)
        return replace(self, target)

    monkeypatch.setattr(type(kept), "replace", overtaken)
    keep_checkpoint(fresh, kept, maker("a"))
    assert (kept / "trial.json").read_text() == "second"
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".old"] == ["checkpoint"]
    assert len(list(tmp_path.iterdir())) == 2, "the one before is kept, and no other"


def test_a_checkpoint_that_was_left_beside_its_place_is_found(tmp_path):
    """As an earlier version named it, too."""
    seal(checkpoint(tmp_path / "checkpoint.old", "whole"), maker("a"))
    (tmp_path / "checkpoint.5e8a41d0.old").mkdir()  # not whole
    kept = tmp_path / "checkpoint"
    assert found_checkpoint(kept, maker("a")) == (kept, [])
    assert (kept / "trial.json").read_text() == "whole"


def test_no_checkpoint_is_none(tmp_path):
    assert found_checkpoint(tmp_path / "checkpoint", maker("a")) == (None, [])


def test_what_an_earlier_version_left_unsealed_is_gone_on_from(tmp_path):
    kept = checkpoint(tmp_path / "checkpoint", "old")
    known = Maker("a sweep", "a", "some settings", unsealed=True)
    assert found_checkpoint(kept, known) == (kept, [])
    (kept / "trial.json").unlink()
    (kept / "weights.safetensors").write_text("half of it")
    found, [aside] = found_checkpoint(kept, known)
    assert (found, aside.because) == (None, "it has no seal")


def test_nothing_unsealed_is_gone_on_from_in_a_sweep_that_seals(tmp_path):
    kept = checkpoint(tmp_path / "checkpoint", "left by nobody knows whom")
    found, [aside] = found_checkpoint(kept, maker("a"))
    assert (found, aside.because, kept.exists()) == (None, "it has no seal", False)
    assert (aside.kept_as / "trial.json").is_file()


def test_packed_trials_take_over_what_one_of_them_has_learnt(loaded, data, tmp_path):
    """As near to training from the start as packed trials are to trials that run alone."""
    retentions = {
        "first": {"kind": "none"}, "ewc": {"kind": "ewc", "strength": 100.0, "max_examples": 8},
        "replay": {"kind": "replay"},
        "laplace": {"kind": "laplace", "curvature": "kfac", "max_examples": 8},
    }  # fmt: skip
    ends = {}
    for place, waits in (("alike", True), ("alone", False)):
        folder = SweepFolder(tmp_path / place / "sweep")
        member = Member(loaded.experiment, data, folder.path)
        for name, retention in retentions.items():
            own = loaded.experiment.with_overrides({"method.retention": retention})
            keys = task_keys(own, data, {}) if waits else TaskKeys()
            member.take(Job(own, maker(name), folder, keys=keys))
            if name == "first":
                ends[place] = serve(member, ["first"])
        ends[place] |= serve(member, list(retentions)[1:])
        for name in retentions:
            state = folder.checkpoint(name)
            ends[place][name] = (ends[place][name].reports, read_tensors(state / WEIGHTS_FILE))
    for name in retentions:
        (mine, tensors), (theirs, wanted) = ends["alike"][name], ends["alone"][name]
        source = None if name == "first" else "first"
        assert [(r.task, r.taken_from) for r in mine] == [
            (r.task, source if r.task == "mood" else None) for r in theirs
        ]
        assert [(r.stage, r.step, r.tokens, r.strength is None) for r in mine] == [
            (r.stage, r.step, r.tokens, r.strength is None) for r in theirs
        ]
        for report, other in zip(mine, theirs, strict=True):
            assert report.losses == pytest.approx(other.losses, abs=1e-4)
        for key, value in wanted.items():
            torch.testing.assert_close(tensors[key], value, atol=1e-4, rtol=1e-3)


SAVED = {
    "ewc": {"method.retention": {"kind": "ewc", "strength": 100.0, "max_examples": 8}},
    "replay": {"method.retention": {"kind": "replay"}, "training.schedule": "linear"},
    "stopper": {"method.early_stopping": {"checks": 4, "patience": 9}},
}
"""What is known between two steps: a penalty, replayed rows and a schedule, held-out rows."""


def long_job(loaded, name, folder):
    overrides = {**SAVED[name], "training.batch_size": 1}
    return Job(loaded.experiment.with_overrides(overrides), maker(name), SweepFolder(folder))


def ticks(member, most=2000):
    """What a member says, turn by turn, until it has nothing left."""
    said = []
    for _ in range(most):
        said += member.work()
        if not member.busy:
            return said
    raise AssertionError(f"still at work: {member.names}")


@pytest.mark.parametrize("turns", [1, 7, 23])
def test_trials_that_were_saved_between_two_steps_go_on_as_if_nothing_had_happened(
    loaded, data, tmp_path, turns
):
    ends = {}
    for place, moved in (("whole", False), ("moved", True)):
        folder, said = tmp_path / place / "sweep", []
        member = Member(loaded.experiment, data, folder)
        for name in SAVED:
            member.take(long_job(loaded, name, folder))
        if moved:
            for _ in range(turns):
                said += member.work()
            member.leave()
            said += ticks(member)
            paused = [name for name, message in said if isinstance(message, Paused)]
            assert sorted(paused) == sorted(SAVED)
            saved = [SweepFolder(folder).checkpoint(name) for name in paused]
            # After its first turn a trial may have taken no step yet.
            assert turns == 1 or all(read_state(place).start.step for place in saved)
            member = Member(loaded.experiment, data, folder)
            for name in SAVED:
                member.take(long_job(loaded, name, folder))
        last = serve(member, list(SAVED))
        for name in SAVED:
            tensors = read_tensors(SweepFolder(folder).checkpoint(name) / WEIGHTS_FILE)
            ends[place, name] = (last[name].reports, tensors)
    for name in SAVED:
        (mine, tensors), (theirs, wanted) = ends["moved", name], ends["whole", name]
        assert [(r.stage, r.step, r.tokens) for r in mine] == [
            (r.stage, r.step, r.tokens) for r in theirs
        ]
        for report, other in zip(mine, theirs, strict=True):
            assert report.losses == pytest.approx(other.losses, rel=1e-4)
            assert report.learning_rates == other.learning_rates
            assert report.loss == pytest.approx(other.loss, rel=1e-4)
            assert report.held_out_best == pytest.approx(other.held_out_best, rel=1e-4)
        for key, value in wanted.items():
            torch.testing.assert_close(tensors[key], value, atol=1e-5, rtol=1e-4)


def test_a_member_that_leaves_begins_nothing_and_gives_back_what_waits(loaded, data, tmp_path):
    member = Member(loaded.experiment, data, tmp_path)
    member.take(job(loaded, "waits"))
    member.leave()
    member.take(job(loaded, "late"))
    assert [(n, type(m)) for n, m in ticks(member)] == [("waits", Paused), ("late", Paused)]
    assert not SweepFolder(tmp_path).checkpoint("waits").exists()
