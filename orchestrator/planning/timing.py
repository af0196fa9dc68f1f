"""How long so many trials take on a machine, and how many a budget allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.planning.cost import TrialCost, TrialCounts, sweep_seconds
from orchestrator.planning.plan import Machine
from orchestrator.planning.speed import Speed
from orchestrator.spec.reach import possible_methods
from orchestrator.system.formatting import count


@dataclass(frozen=True)
class Timing:
    """What the time of a sweep follows from, the number of its trials left open."""

    cost: TrialCost
    speed: Speed | None
    machine: Machine
    alone: Mapping[str, str] | None
    """Methods that cannot be packed, and why; None for an executor that packs nothing."""
    at_once: int
    """Trials with workers of their own that run at a time."""

    def seconds(self, trials: int) -> float | None:
        """From the command to the verdict; None where the speed is unknown, or no trial fits."""
        if not self.at_once:
            return None
        return sweep_seconds(self.cost, self.speed, self._counts(trials), self.machine)

    def _counts(self, trials: int) -> TrialCounts:
        """How many trials are packed, as far as a file tells."""
        at_once = min(self.at_once, trials)
        if self.alone is None:
            return TrialCounts(packed=0, alone=trials, at_once=at_once)
        experiment = self.cost.experiment
        names = [method.name for method in possible_methods(experiment)]
        share = sum(name in self.alone for name in names) / max(1, len(names))
        # A first trial with workers of its own kind is one for sure; what a searcher draws is not.
        first = experiment.search.first if experiment.search is not None else ()
        own = sum(any(path.startswith("resources.") for path in entry) for entry in first)
        number = min(trials, max(own, round(share * trials)))
        return TrialCounts(packed=trials - number, alone=number, at_once=at_once)

    def within_budget(self) -> tuple[int, str | None]:
        """How many trials of the search there will be, and what its budget does, in words.

        Returns:
            The number that the file asks for where no budget ends the search sooner; the words are
            None then, too.
        """
        experiment = self.cost.experiment
        search = experiment.search
        repeated = experiment.repeated_trials + experiment.compared_trials
        if search is None or not search.budgets:
            return experiment.searched_trials, None
        work = self.cost.work_seconds(self.speed)
        if work is None or self.seconds(1) is None:
            unknown = "How many trials the budget allows cannot be told: no speed is known"
            return experiment.expected_trials, unknown
        held = {"core": experiment.resources.cpus_per_worker,
                "gpu": experiment.resources.gpus_per_worker}  # fmt: skip

        def fits(trials: int) -> bool:
            time = self.seconds(trials + repeated) or 0.0
            spent = {"time": time} | {k: work * v * (trials + repeated) for k, v in held.items()}
            return all(spent[kind] <= bound for kind, bound in search.budgets.items())

        low, high = 0, search.count
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        if low == search.count:
            return low, None
        asked = "" if search.open_ended else f" of the {search.count} that the file asks for"
        bounds = " and ".join(filter(None, (search.time_budget, search.compute_budget)))
        return max(1, low), f"The budget of {bounds} allows about {count(low, 'trial')}{asked}"
