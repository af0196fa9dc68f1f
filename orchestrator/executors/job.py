"""What executors are told: of a trial that is to be run, and of the sweep that a member serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from orchestrator.loop.kept_states import KeptStates
from orchestrator.loop.shared_tasks import SharedTasks
from orchestrator.loop.task_keys import TaskKeys
from orchestrator.loop.trial_checkpoints import SetAside
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.spec.experiment import Experiment, experiment_received
from orchestrator.system.seals import Maker

TrialExecutor: TypeAlias = Literal["train", "pool"]


@dataclass(frozen=True)
class Job:
    """A trial that is to be run."""

    experiment: Experiment
    """The sweep's with the trial's overrides, validated."""
    maker: Maker
    """What its checkpoints and its adapter are sealed with."""
    folder: SweepFolder
    executor: TrialExecutor = "train"
    """Whether it has workers of its own or a slot of the pool; the executor `local` has neither."""
    avoid: tuple[str, ...] = ()
    """Ids of nodes on which its workers are not placed."""
    row_0: tuple[float | None, ...] | None = None
    """What the untouched base scores on each task, None where it was not measured; None as a
    whole before row 0 is."""
    keys: TaskKeys = field(default_factory=TaskKeys)
    """What its work follows from, by task; without them it shares nothing with other trials."""

    @property
    def trial(self) -> str:
        """The trial's name."""
        return self.maker.trial

    def shared(self, aside: Callable[[SetAside], None]) -> SharedTasks:
        """What the trial shares with others of its storage folder; see `SharedTasks`.

        Args:
            aside: Told of a state that is damaged.

        Returns:
            The trial's part in it.
        """
        store = KeptStates(self.folder.states)
        origin = self.folder.path.name
        return SharedTasks(
            store, self.keys, self.maker, self.experiment, origin=origin, aside=aside
        )

    def as_config(self) -> dict[str, Any]:
        """The job as it travels; without `tracking`, see `Experiment.for_workers`."""
        return {
            "trial": self.trial,
            "experiment": self.experiment.for_workers(),
            "maker": asdict(self.maker),
            "folder": str(self.folder.path),
            "executor": self.executor,
            "avoid": list(self.avoid),
            "row_0": None if self.row_0 is None else list(self.row_0),
            "keys": {"learnt": list(self.keys.learnt), "scored": list(self.keys.scored)},
        }

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle it as its configuration: what must not travel is left out."""
        return Job.from_config, (self.as_config(),)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Job:
        """The job of `as_config`.

        Args:
            config: What has travelled.

        Returns:
            The job; its experiment is validated here, once for each process.
        """
        row_0 = config["row_0"]
        return cls(
            experiment_received(config["experiment"]),
            Maker(**config["maker"]),
            SweepFolder(Path(config["folder"])),
            config["executor"],
            tuple(config["avoid"]),
            None if row_0 is None else tuple(row_0),
            TaskKeys(**{name: tuple(hashes) for name, hashes in config["keys"].items()}),
        )


@dataclass(frozen=True)
class MemberConfig:
    """What a member of the pool is told at its start; Ray writes it into its own files, too."""

    experiment: dict[str, Any]
    """The sweep's, as `Experiment.for_workers` gives it."""
    folder: str
    """The sweep's."""
    shared: list[Any]
    """Holds the reference of the `PreparedData`."""
    expected: int
    """How many trials it is likely to be given at first."""
