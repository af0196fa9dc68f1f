"""From a model, tasks and a budget to the experiment file that a selection runs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from orchestrator.selection.portfolio import PRESET
from orchestrator.spec.validation import ExperimentError
from orchestrator.system import durable
from orchestrator.system.yaml_file import read_yaml

WRITTEN = "# Written by `orchestrate select`"
"""How a file begins that it may write anew."""
SECTION = ("methods", "rates", "trials", "finalists", "fresh_seeds", "warm_start")
"""What stands under `selection` in a file, all of it optional."""


@dataclass(frozen=True)
class Request:
    """What a user asks for without a file of their own."""

    model: str
    tasks: tuple[str, ...]
    probes: tuple[str, ...] = ()
    name: str = "selection"
    methods: tuple[str, ...] | None = None
    """Of `PORTFOLIO`; None: all."""
    train_examples: int = 200
    validation_examples: int = 200
    rates: str = "measured"
    """`measured`: learning rates are searched where a few steps do something; or `stated`."""
    trials: int | None = None
    """Of the search, at most; None: as many as the budget allows."""
    max_length: int = 128
    executor: str = "pool"
    storage: str = "./runs"

    def document(self) -> dict[str, Any]:
        """The experiment, with a `selection` section."""
        return {
            "name": self.name,
            "model": {"name": _absolute(self.model)},
            "tasks": list(map(_absolute, self.tasks)),
            "probes": list(map(_absolute, self.probes)),
            "head": "label_words",
            "training": {"max_length": self.max_length},
            "data": {
                "train_examples": self.train_examples,
                "validation_examples": self.validation_examples,
                "rung_examples": max(1, min(50, self.validation_examples // 2)),
                "probe_tokens": 4096,
                "probe_context": 256,
            },
            "resources": {"executor": self.executor},
            "storage": self.storage,
            "selection": {
                **({} if self.rates == "measured" else {"rates": self.rates}),
                **({} if self.methods is None else {"methods": list(self.methods)}),
                **({} if self.trials is None else {"trials": self.trials}),
            },
        }


def _absolute(name: str) -> str:
    """A path that exists, from the root, as the file may be written elsewhere; or the name."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


def selected(
    document: dict[str, Any], search: Mapping[str, Any], *, has_text_probe: bool, budget: str
) -> dict[str, Any]:
    """The sweep that a selection runs.

    Args:
        document: An experiment with a `selection` section, or without one, and no `search`.
        search: What `portfolio_search` gives.
        has_text_probe: Whether one of its probes is running text, so that drift can be measured.
        budget: How long it may take.

    Returns:
        An experiment file without `selection`: every method of the portfolio has a searcher of its
        own and the same compute, trials that are behind beyond doubt are stopped, and the best
        methods are repeated with fresh seeds.

    Raises:
        ExperimentError: If the section is wrong.
    """
    made = {key: value for key, value in document.items() if key != "selection"}
    settings = section_of(document)
    made.setdefault("method", {"preset": search["space"][PRESET]["choice"][0]})
    made["search"] = {
        **search, "searcher": "tpe", "trials": settings.get("trials"), "time_budget": budget,
        "early_stopping": True, "warm_start": settings.get("warm_start", []),
    }  # fmt: skip
    drift = {"probe_drift": "min"} if has_text_probe else {}
    made.setdefault("objectives", {"gain": "max", "forgetting": "min", **drift})
    made.setdefault(
        "champion",
        {"maximize": "gain", "subject_to": {"probe_drift": 0.1} if has_text_probe else {}},
    )
    made.setdefault(
        "finalists",
        {
            "fresh_seeds": settings.get("fresh_seeds", 3),
            "fresh_orders": len(made.get("tasks", ())) > 1,
            "per": PRESET,
            "most": settings.get("finalists", 3),
        },
    )
    return made


def section_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """The `selection` section of a file, empty where there is none.

    Args:
        document: An experiment.

    Returns:
        Its settings, see `SECTION`.

    Raises:
        ExperimentError: If it is wrong, or stands beside `search`.
    """
    section: Any = document.get("selection") or {}
    wrong = [key for key in section if key not in SECTION] if isinstance(section, dict) else section
    if wrong or not isinstance(section, dict):
        raise ExperimentError(
            f"`selection` holds {', '.join(f'`{key}`' for key in SECTION)}, each optional; got "
            f"{wrong!r}"
        )
    if "search" in document:
        raise ExperimentError(
            "`search` and `selection` exclude each other: a selection writes its own `search`. Run "
            "the file with `orchestrate sweep`, or remove `search`"
        )
    found = cast("dict[str, Any]", section)
    if found.get("rates", "measured") not in {"measured", "stated"}:
        raise ExperimentError(
            f"`selection.rates` is `measured` or `stated`; got {found['rates']!r}"
        )
    return found


def write_experiment(document: dict[str, Any], path: Path, command: Sequence[str]) -> None:
    """Write the file that a selection runs, unless a user's own is in its place.

    Args:
        document: The experiment.
        path: Where.
        command: What was asked for.

    Raises:
        ExperimentError: If there is another file there.
    """
    if path.exists() and not path.read_text(encoding="utf-8").startswith(WRITTEN):
        raise ExperimentError(
            f"{path}: `orchestrate select` would write the experiment here that it runs, and this "
            "file is not one of its own. Rename it, or choose another `--name`."
        )
    head = f"{WRITTEN}:\n#   {shlex.join(command)}\n# It is an experiment file like any other.\n"
    text = head + yaml.safe_dump(document, sort_keys=False, width=110)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        durable.write(path, text)


def read_request(path: Path) -> dict[str, Any]:
    """The document of a user's file.

    Args:
        path: An experiment file with a `selection` section, or without `search`.

    Returns:
        It as it stands there.

    Raises:
        ExperimentError: If it cannot be read, or is no mapping.
    """
    document = read_yaml(path, ExperimentError)
    if not isinstance(document, dict):
        raise ExperimentError(f"{path}: an experiment is a mapping of fields; got {document!r}")
    return cast("dict[str, Any]", document)
