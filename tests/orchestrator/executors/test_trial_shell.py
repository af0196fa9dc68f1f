"""A trial is saved before its report is told, and each worker writes what is its own."""

from contextlib import contextmanager

import pytest

from orchestrator.executors.task_adapters import TaskAdapters
from orchestrator.executors.trial_shell import KeptCheckpoint, TrialShell
from orchestrator.loop.task_sequence import Start
from orchestrator.loop.trial_checkpoints import found_checkpoint
from orchestrator.loop.trial_state import TrialState, read_state
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.stage_report import StageReport
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.spec.experiment import Experiment
from orchestrator.system.seals import Maker, flaw

EXPERIMENT = Experiment.model_validate({
    "name": "shells", "model": {"name": "m"}, "tasks": ["mood", "being"],
    "method": {"adapter": {"kind": "lora"}},
})  # fmt: skip
MATRIX = AccuracyMatrix(("mood",), ((0.5,),))
BEGUN = TrialState(MATRIX, Start(), ())
RUNG = StageReport("being", 1, 2, 4, 0.5, 0.6)
FIRST = StageReport("mood", 0, 4, 4, 1.0, 0.5, row=(0.5,))
END = StageReport("being", 1, 4, 4, 1.0, 0.75, row=(0.75,))


def maker(trial="t001"):
    return Maker("a sweep", trial, "some settings")


def adapters(folder, trial="t001", kind="lora"):
    own = EXPERIMENT.with_overrides({"method.adapter.kind": kind})
    return TaskAdapters(SweepFolder(folder), trial, own)


class Engine:
    """Writes names in the place of tensors."""

    def __init__(self):
        self.calls, self.whole = [], False

    def save(self, folder, *, with_optimizer):
        self.calls.append("save")
        folder.mkdir(exist_ok=True)
        (folder / "weights").write_text("optimizer" if with_optimizer else "")

    def save_adapter(self, folder):
        assert self.whole, "the tensors of all workers are needed"
        self.calls.append("adapter")
        folder.mkdir(parents=True)
        (folder / "tensors").write_text("")

    @contextmanager
    def gathered(self):
        self.calls.append("gather")
        self.whole = True
        yield
        self.whole = False


class Folders:
    """Checkpoints one beside the other, and which reports were told."""

    def __init__(self, place):
        self.place, self.told = place, []

    def fresh(self):
        folder = self.place / str(len(self.told))
        folder.mkdir()
        return folder

    def keep(self, fresh, report):
        self.told.append(
            (report, sorted(p.relative_to(fresh).as_posix() for p in fresh.rglob("*")))
        )


def test_what_is_told_can_be_gone_on_from(tmp_path):
    kept, found = tmp_path / "checkpoint", []

    def tell(message):
        assert found_checkpoint(message.checkpoint_path, maker()) == (kept, [])
        found.append((message.report, read_state(message.checkpoint_path)))

    shell = TrialShell(maker(), BEGUN, KeptCheckpoint(kept, maker(), tell), adapters(tmp_path))
    (tmp_path / "checkpoint.new").mkdir()
    (tmp_path / "checkpoint.new" / "half").write_text("of a process that was killed")
    engine = Engine()
    shell.reported(RUNG, MATRIX, engine)
    assert not (kept / "half").exists()
    assert (kept / "weights").read_text() == "optimizer", "learning goes on within the task"
    shell.reported(END, MATRIX.with_row((0.75,)), engine)
    assert (kept / "weights").read_text() == ""
    assert flaw(kept / "adapter", maker()) is None
    assert [report for report, _ in found] == [RUNG, END]
    assert [state.reports for _, state in found] == [(RUNG,), (RUNG, END)]
    assert shell.state == found[-1][1]


def test_a_checkpoint_is_on_the_disk_before_its_report_is_told(tmp_path, synced):
    """After a loss of power, whatever was told can be gone on from, too."""
    kept, told = tmp_path / "checkpoint", []
    shell = TrialShell(
        maker(),
        BEGUN,
        KeptCheckpoint(kept, maker(), lambda _: told.append(list(synced))),
        adapters(tmp_path),
    )
    for report in (RUNG, END):
        synced.clear()
        shell.reported(report, MATRIX, Engine())
        files = {path.name for path in kept.rglob("*")}
        named = synced.index("name checkpoint")
        moved = next(n for n, said in enumerate(synced) if said.startswith("name checkpoint"))
        for before in (synced[:moved], synced[:named]):
            assert {f"sync {name}" for name in files} <= set(before)
        assert synced[named + 1 :] == [f"sync {tmp_path.name}"]
        assert told[-1] == synced
    assert "tensors" in files


@pytest.mark.parametrize("first", [True, False])
def test_each_worker_saves_its_part_and_the_first_the_rest(tmp_path, first):
    engine, folders = Engine(), Folders(tmp_path)
    shell = TrialShell(maker(), BEGUN, folders, adapters(tmp_path), first=first)
    shell.reported(RUNG, MATRIX, engine)
    shell.reported(END, MATRIX, engine)
    adapter = ["adapter"] if first else []
    assert engine.calls == ["save", "gather", *adapter, "save"]
    rest = ["adapter", "adapter/seal.json", "adapter/tensors"] if first else []
    state = ["trial.json"] if first else []
    assert folders.told == [
        (RUNG, [*state, "weights"]), (END, [*rest, *state, "weights"]),
    ]  # fmt: skip
    assert shell.state.reports == (RUNG, END), "all of them know where the trial is"


def test_of_the_base_nothing_is_saved_but_its_state(tmp_path):
    engine, folders = Engine(), Folders(tmp_path)
    shell = TrialShell(maker("base"), BEGUN, folders, adapters(tmp_path, "base"))
    shell.reported(END, MATRIX, engine)
    assert engine.calls == []
    assert folders.told == [(END, ["trial.json"])]


def test_an_adapter_is_kept_after_each_task_unless_it_is_as_large_as_the_base(tmp_path):
    place = SweepFolder(tmp_path).task_adapter("t001", 1)
    for kind in ("lora", "full", "osf"):
        engine, folders = Engine(), Folders(tmp_path / kind)
        folders.place.mkdir()
        shell = TrialShell(maker(), BEGUN, folders, adapters(tmp_path / kind, kind=kind))
        shell.reported(FIRST, MATRIX, engine)
        shell.reported(END, MATRIX, engine)
        kept = SweepFolder(tmp_path / kind).task_adapter("t001", 1)
        assert (flaw(kept, maker()) is None) == (kind == "lora")
        held = [[name for name in files if "adapter" in name] for _, files in folders.told]
        assert not held[0], "a checkpoint within a sequence is no larger than it was"
        assert held[1]
    assert not place.exists()


def test_an_adapter_of_an_earlier_attempt_is_replaced(tmp_path):
    for attempt in ("0", "1"):
        folders = Folders(tmp_path / attempt)
        folders.place.mkdir()
        shell = TrialShell(maker(), BEGUN, folders, adapters(tmp_path))
        shell.reported(FIRST, MATRIX, Engine())
    assert flaw(SweepFolder(tmp_path).task_adapter("t001", 1), maker()) is None
