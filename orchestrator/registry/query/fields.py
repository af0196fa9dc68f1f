"""What a query can name: words, measures, intervals, scores by task, settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.records.trial_record import STATES
from orchestrator.registry.query.errors import QueryError
from orchestrator.system.wording import listed, suggestion

Kind = Literal["value", "text", "state", "truth", "moment"]
"""How a field is compared: numbers as numbers and text as text; as text; as text whose capitals do
not count; as true or false; as a moment."""
Group = Literal["word", "measure", "interval", "score", "setting"]


@dataclass(frozen=True)
class Field:
    """Something that a trial has, and a query can name."""

    name: str
    sql: str
    """The expression that gives it; never made of what a user wrote."""
    kind: Kind = "value"
    group: Group = "word"
    block: int | None = None
    """The table of values that it stands in; None: it is a column of every trial's own row."""
    summary: str = ""
    values: tuple[str, ...] = ()
    """All that it may be, where that is known: a filter that compares it with another is wrong."""


KINDS = ("sweep", "run", "extension", "reproduction")
"""What a sweep may be."""
WORDS: Mapping[str, Field] = {
    field.name: field
    for field in (
        Field("sweep", "sweep.folder", "text", summary="the sweep's name: its folder's"),
        Field("trial", "trial.name", "text", summary="its name"),
        Field("state", "trial.state", "state", summary=", ".join(STATES), values=STATES),
        Field("of", "trial.of", "text", summary="the trial that it repeats with a fresh seed"),
        Field("by", "trial.by", "text", summary="who proposed it: the searcher, or another"),
        Field("on_front", "trial.on_front", "truth", summary="whether none beats it in all "
              "objectives, once its sweep has ended"),
        Field("champion", "trial.champion", "truth", summary="whether its sweep's verdict "
              "chose it"),
        Field("in_use", "trial.in_use", "truth", summary="whether its adapter is in use as the "
              "champion of a name, by the registry"),
        Field("examples", "trial.examples", summary="validation examples of all tasks behind its "
              "measures"),
        Field("base", "sweep.base", "text", summary="the base model's name"),
        Field("base_sha256", "sweep.base_sha256", "text", summary="the hash of its weights"),
        Field("experiment", "sweep.experiment", "text", summary="the name in the experiment file"),
        Field("sweep_kind", "sweep.kind", "state", summary=", ".join(KINDS), values=KINDS),
        Field("sweep_begun", "sweep.begun", "moment", summary="when the sweep began"),
        Field("tasks", "trial.tasks", "text", summary="its tasks in the order learnt"),
        Field("task", "trial.task", "text", summary="the task that it reported last"),
        Field("learnt", "trial.learnt", summary="how many tasks it has learnt"),
        Field("proposed", "trial.proposed", "moment", summary="when it was proposed"),
        Field("begun", "trial.begun", "moment", summary="when it started, the last time"),
        Field("ended", "trial.ended", "moment", summary="when it ended"),
        Field("seconds", "trial.seconds", summary="its wall seconds so far, start-up left out"),
        Field("tokens", "trial.tokens", summary="its useful training tokens so far"),
        Field("core_seconds", "trial.core_seconds", summary="those seconds times the CPUs that its "
              "workers hold"),
        Field("test_gain", "trial.test_gain", summary="its gain on the test data, by the first "
              "reading that shows it"),
        Field("test_gain_low", "trial.test_gain_low", summary="the lower end of its 95 % interval"),
        Field("test_gain_high", "trial.test_gain_high", summary="the upper end"),
        Field("sweep_core_seconds", "sweep.core_seconds", summary="what the sweep has spent: as it "
              "was counted where there is a budget, else the sum over its trials"),
        Field("sweep_hypervolume", "sweep.hypervolume", summary="how much of the box from the "
              "worst to the best value of each objective its trials cover, from 0 to 1"),
        Field("sweep_test_gain", "sweep.test_gain", summary="the gain of the sweep's champion on "
              "the test data"),
        Field("stopped", "trial.stopped", "text", summary="why it was stopped early"),
        Field("adapter", "trial.adapter", "truth", summary="whether its adapter is kept"),
        Field("pruned", "trial.pruned", "moment", summary="when its adapter was pruned"),
        Field("screened", "trial.screened", "truth", summary="whether it was scored on fewer "
              "examples than the untouched base"),
        Field("reason", "trial.reason", "text", summary="why it failed or was stopped"),
        Field("log", "trial.log", "text", summary="where it says so at length"),
        Field("overrides", "trial.overrides", summary="the settings that it was proposed with"),
    )
}  # fmt: skip
"""The words for what a trial is; the rest of what can be named comes from the journals."""
MOMENTS = frozenset(field.name for field in WORDS.values() if field.kind == "moment")
"""The words that are times, in seconds since the epoch."""
_SYNONYMS = {
    "started": "begun", "start": "begun", "finished": "ended", "finish": "ended", "end": "ended",
    "created": "proposed", "status": "state", "duration": "seconds",
}  # fmt: skip
"""What others call some of the words, and no likeness of letters would find."""


def find(name: str, known: Mapping[str, Field], *, said: str, where: str) -> Field:
    """The field of a name.

    Args:
        name: As it was written.
        known: What can be named, by name.
        said: What the user calls the query, for the message.
        where: Among what, for the message: `sweep 'demo'`.

    Returns:
        The field.

    Raises:
        QueryError: There is none; the message names the nearest.
    """
    if name in known:
        return known[name]
    measures = [field.name for field in known.values() if field.group == "measure"]
    raise QueryError(
        f"`{said}`: there is no measure or setting {name!r} in {where}.{_nearest(name, known)} "
        f"Names are {', '.join(WORDS)}, the measures {listed(measures, 40)}, the ends of intervals "
        "(gain_low, gain_high, ...), score.TASK, and settings by their dotted path (`orchestrate "
        "runs show SWEEP TRIAL` lists them)."
    )


def _nearest(name: str, known: Mapping[str, Field]) -> str:
    """A sentence that names what was probably meant, or nothing; capitals do not count."""
    said = name.casefold()
    # The last part of a path is what people remember: `kind` for `method.adapter.kind`.
    meant = [path for path in known if path.casefold().endswith(f".{said}")]
    if said not in known and said in _SYNONYMS:
        meant = [_SYNONYMS[said]]
    return f" Did you mean {meant[0]!r}?" if meant else suggestion(name, list(known))


def chosen(
    names: Sequence[str], known: Mapping[str, Field], *, said: str, where: str
) -> list[Field]:
    """The fields of some names, see `find`; each once, in the order given."""
    return [find(name, known, said=said, where=where) for name in dict.fromkeys(names)]


def split_names(texts: Iterable[str]) -> list[str]:
    """Names that were given one by one, or several with commas between them."""
    parts = (part.strip() for text in texts for part in text.split(","))
    return [part for part in parts if part]
