"""The search section of an experiment file: space, searcher and number of trials."""

from __future__ import annotations

from functools import cached_property
from itertools import islice
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, field_validator, model_validator

from orchestrator.spec.budgets import compute, duration
from orchestrator.spec.sections import LARGEST_SEED
from orchestrator.spec.space.assignments import assignments, ordered_space, wanted_values
from orchestrator.spec.space.domains import (
    Choice,
    Domain,
    domain_bounds,
    edge_values,
    parse_domain,
    simple_domains,
)
from orchestrator.spec.validation import Spec
from orchestrator.system.wording import suggestion
from orchestrator.system.yaml_file import number_if_written_so

DEFAULT_TRIALS = 8
MOST_TRIALS = 10_000
"""Of a sweep that only its budget ends."""
LARGEST_GRID = 10_000
"""Points of a grid, each of which is tried when the file is read."""


class EarlyStopping(Spec):
    """Which trials of a search are stopped before their last task."""

    keep: float = Field(default=1 / 3, gt=0, lt=1)
    """Share of the trials at a rung that goes on in any case: the best by front."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """A trial that is no worse than those goes on over all rungs with this probability."""


def _as_early_stopping(value: object) -> object:
    return {} if value is True else None if value is False else value


class SearchSpec(Spec):
    """What is searched, how, and how often."""

    space: dict[str, Domain]
    """Dotted path into this file to a domain; `when` names the values it depends on."""
    searcher: Literal["tpe", "random", "grid"] = "tpe"
    trials: int | None = Field(default=None, ge=1)
    """Null: 8, or every point of a grid, or with a budget as many as it allows. A grid that is cut
    is spread over all of its values."""
    time_budget: str | None = None
    """How long the sweep may take, such as `30min` or `8h`; what was spent before an interruption
    counts, the time between does not."""
    compute_budget: str | None = None
    """How much its workers may hold, such as `20 core-hours` or `4 gpu-hours`."""
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    startup_trials: int | None = Field(default=None, ge=1)
    """Random trials before TPE models anything; null: a third of `trials`, from 3 to 10."""
    warm_start: tuple[str, ...] = Field(default=(), exclude_if=lambda names: not names)
    """Sweeps of the same storage, base and tasks whose trials the searcher learns from at once."""
    per: str | None = Field(default=None, exclude_if=lambda per: per is None)
    """A path of the space with a `choice`, such as `method.preset`: each of its values gets the
    same compute and a searcher of its own. Null: one searcher proposes whatever looks best."""
    first: tuple[dict[str, Any], ...] = ()
    """Overrides of the first trials; what an entry leaves open is proposed by the searcher."""
    early_stopping: Annotated[EarlyStopping | None, BeforeValidator(_as_early_stopping)] = Field(
        default=None, exclude_if=lambda stopping: stopping is None
    )
    """Stop trials that are worse than the best ones beyond doubt, on the same examples: `true`, or
    its settings."""
    max_concurrent: int | None = Field(default=None, ge=1)
    """Upper limit on trials at a time; null: as many as the cluster holds."""

    @field_validator("time_budget")
    @classmethod
    def _is_duration(cls, value: str | None) -> str | None:
        if value is not None:
            duration(value)
        return value

    @field_validator("compute_budget")
    @classmethod
    def _is_compute(cls, value: str | None) -> str | None:
        if value is not None:
            compute(value)
        return value

    @property
    def budgets(self) -> dict[str, float]:
        """Seconds that may be spent: of `time`, `core` or `gpu`, as far as they are bounded."""
        found = {} if self.time_budget is None else {"time": duration(self.time_budget)}
        return found | dict([compute(self.compute_budget)] if self.compute_budget else [])

    @property
    def open_ended(self) -> bool:
        """Whether only a budget says how many trials there will be."""
        return self.trials is None and self.searcher != "grid" and bool(self.budgets)

    @field_validator("first")
    @classmethod
    def _numbers(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        return tuple(
            {path: number_if_written_so(one) for path, one in entry.items()} for entry in value
        )

    @cached_property
    def points(self) -> list[dict[str, Any]]:
        """Every point of a grid, in the order of the file; none for another searcher."""
        found = assignments(self.space, edge_values) if self.searcher == "grid" else iter(())
        return list(islice(found, LARGEST_GRID + 1))

    @property
    def count(self) -> int:
        """How many trials there will be in all, at most."""
        if self.open_ended:
            return MOST_TRIALS
        if self.searcher != "grid":
            return self.trials or DEFAULT_TRIALS
        return min(self.trials or len(self.points), len(self.points))

    @property
    def left_out(self) -> str | None:
        """What of the file will not be tried as `trials` is smaller, in words; None: nothing."""
        if self.count < len(self.points):
            return (
                f"The grid has {len(self.points)} points, and {self.count} will run "
                "(`search.trials`), spread over all of its values"
            )
        if self.count < len(self.first):
            return (
                f"`search.first` has {len(self.first)} entries, and {self.count} trials will run "
                "(`search.trials`)"
            )
        return None

    @field_validator("space", mode="before")
    @classmethod
    def _domains(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            path: parse_domain(str(path), raw)
            for path, raw in cast("dict[str, Any]", value).items()
        }

    @model_validator(mode="after")
    def _conditions(self) -> SearchSpec:
        for path, domain in simple_domains(self.space):
            bounds = domain_bounds(domain)
            if bounds is not None and not bounds[0] < bounds[1]:
                raise ValueError(
                    f"`{path}`: the lower bound must be below the upper, got {list(bounds)}"
                )
            if self.searcher == "grid" and not isinstance(domain, Choice):
                raise ValueError(f"`{path}`: a grid needs `choice` domains; list the values to try")
            for parent, wanted in domain.when.items():
                if parent not in self.space:
                    raise ValueError(
                        f"`{path}`: `when` names {parent!r}, which is not in the space."
                        f"{suggestion(parent, list(self.space))}"
                    )
                other = self.space[parent]
                for value in wanted_values(wanted):
                    if isinstance(other, Choice) and value not in other.choice:
                        raise ValueError(
                            f"`{path}`: `when` wants {parent} = {value!r}, which is not among "
                            f"{list(other.choice)}"
                        )
        self._check_searcher()
        if self.first and self.searcher == "grid":
            raise ValueError("`first` has no place in a grid, which is walked in order")
        list(ordered_space(self.space))
        if self.searcher == "grid" and len(self.points) > LARGEST_GRID:
            raise ValueError(
                f"a grid of more than {LARGEST_GRID} points is not walked; list fewer values, or "
                "use `searcher: random` or `tpe`, which draw from the same lists"
            )
        return self

    def _check_searcher(self) -> None:
        if self.warm_start and self.searcher != "tpe":
            raise ValueError(
                f"`warm_start` is for `searcher: tpe`: `{self.searcher}` learns from no trial"
            )
        if self.per is None:
            return
        choices = [path for path, domain in self.space.items() if isinstance(domain, Choice)]
        domain = self.space.get(self.per)
        if not isinstance(domain, Choice) or domain.when:
            raise ValueError(
                f"`per` must be a path of the space with a `choice` and no `when`, got "
                f"{self.per!r}.{suggestion(self.per, choices)} There are: "
                f"{', '.join(choices) or 'none'}"
            )
        if self.searcher == "grid":
            raise ValueError("`per` has no place in a grid, which is walked in order")
