"""The tables and figures of `docs/results.md`, from the journals of three sweeps.

    .venv/bin/python benchmarks/results.py runs            # prints them
    .venv/bin/python benchmarks/results.py runs --write    # puts them into docs/

`runs` is the storage folder that holds `methods-small`, `curlora-settings` and `curlora-selection`,
or those of them that have been run.

*Learnt* is the mean over tasks of the score right after a task was learnt, *forgotten* the mean of
that score minus the one at the end. Both, and every difference to a control, have the paired 95 %
bootstrap interval over the same examples; of several seeds, each example counts with its mean.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results_page import ROOT, table, write_section
from sequence_results import (
    controls_table,
    interval,
    mean_examples,
    number,
    perplexity,
    repeats_of,
)

from orchestrator.base.facts import base_facts
from orchestrator.executors.pool.admission import packing_refuses
from orchestrator.planning.method_sizes import method_facts
from orchestrator.records.journal_lines import JOURNAL_NAME, read_journal
from orchestrator.records.scores import paired_interval
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.spec.experiment import Experiment

PAGE = ROOT / "docs" / "results.md"
FIGURES = ROOT / "docs" / "figures"
COLOURS = {"curlora": "#0b6e99", "lora": "#c2410c", "tinylora": "#6b7280", "inverted": "#0b6e99",
           "uniform": "#15803d", "energy": "#b45309"}  # fmt: skip
TONES = ("#0b6e99", "#c2410c", "#15803d", "#7c3aed", "#ca8a04", "#be185d", "#0d9488", "#1e3a8a",
         "#78350f", "#64748b", "#dc2626", "#111827")  # fmt: skip
MARKS = ("o", "s", "^", "v", "D", "P", "X", "<", ">", "p", "h", "*")
RATE, KIND = "training.learning_rate", "method.adapter.kind"
SELECTION, RANK = "method.adapter.selection", "method.adapter.r"
ALPHA, TEMPERATURE = "method.adapter.alpha", "method.adapter.temperature"
Difference = tuple[float, list[float] | None]
"""A mean difference and its interval."""


# ------------------------------------------------------------------------------ what was measured


@dataclass(frozen=True)
class Outcome:
    """What one setting came to, over one or several seeds."""

    trials: tuple[TrialRecord, ...]
    learnt: float
    """Mean score right after learning."""
    accuracy: float
    """Mean score at the end."""
    learnt_gain: Difference
    """Learnt minus zero-shot."""
    gain: Difference
    over_heads: Difference
    forgotten: Difference | None
    """None where all tasks are learnt at once."""
    perplexity: float
    choice_probe: float
    """Score on the multiple-choice probe at the end; NaN without one."""

    @property
    def seconds(self) -> float:
        """Mean seconds of a trial: its share of the passes that it was in."""
        return statistics.fmean(trial.measure("cost_s") for trial in self.trials)


def outcome(view: SweepState, trials: Sequence[TrialRecord]) -> Outcome:
    """Take the mean of finished trials that differ in their seed only.

    Args:
        view: Their sweep.
        trials: At least one.

    Returns:
        The outcome.
    """
    tasks = view.tasks
    base = view.everything["base"]
    heads: Mapping[str, Any] = next(
        r.head_only_per_example for r in base.reports if r.head_only_per_example
    )
    final = mean_examples([trial.per_example for trial in trials])
    learnt = mean_examples([trial.learnt_per_example(tasks) for trial in trials])
    # A screened trial stands on the first examples, and is compared on these.
    counts = {task: min(len(learnt[task]), len(final[task])) for task in tasks}
    final, learnt, zero_shot, heads = (
        {task: scores[task][: counts[task]] for task in tasks}
        for scores in (final, learnt, base.per_example, heads)
    )
    joint = all(r.task not in tasks for r in trials[0].reports if r.task_index >= 0)
    choices = [score for trial in trials for score in _choice_scores(view, trial).values()]
    return Outcome(
        tuple(trials), _score(learnt, tasks), _score(final, tasks),
        _difference(learnt, zero_shot, tasks), _difference(final, zero_shot, tasks),
        _difference(final, heads, tasks),
        None if joint else _difference(learnt, final, tasks),
        statistics.fmean(perplexity(trial) for trial in trials),
        statistics.fmean(choices) if choices else math.nan,
    )  # fmt: skip


def _last_probes(trial: TrialRecord) -> dict[str, dict[str, float]] | None:
    found = [r.probes for r in trial.reports if r.probes]
    return found[-1] if found else None


def _choice_scores(view: SweepState, trial: TrialRecord) -> dict[str, float]:
    """The last score on each multiple-choice probe, by the metric of its task file."""
    last = _last_probes(trial) or {}
    return {
        name: values[view.task_files[name]["metric"]]
        for name, values in last.items()
        if "perplexity" not in values
    }


def _score(scores: Mapping[str, Sequence[float]], tasks: Sequence[str]) -> float:
    return statistics.fmean(statistics.fmean(scores[task]) for task in tasks)


def _difference(
    mine: Mapping[str, Sequence[float]], other: Mapping[str, Sequence[float]], tasks: Sequence[str]
) -> Difference:
    return _score(mine, tasks) - _score(other, tasks), paired_interval(mine, other, tasks)


def finished(view: SweepState) -> list[TrialRecord]:
    """The searched trials that ended well."""
    return [trial for trial in view.searched if trial.state == "COMPLETE"]


def with_interval(difference: Difference | None) -> str:
    """A difference with its interval, for a table."""
    if difference is None:
        return "-"
    return f"{difference[0]:+.3f} {interval(difference[1])}"


def facts(view: SweepState) -> str:
    """What a sweep was run on and what it took."""
    made = view.provenance
    packages = made["packages"]
    seconds = sum(t.measure("cost_s") for t in view.trials if t.state == "COMPLETE")
    failed = [
        f"{t.name} ({t.reason.partition(' (log')[0]})" for t in view.trials if t.state == "FAILED"
    ]
    repeated = len(view.trials) - len(view.searched)
    lost = f"{len(failed)} failed: {'; '.join(failed)}" if failed else "none failed"
    return "\n".join([
        f"- {len(view.searched)} trials and {repeated} repetitions with fresh seeds, "
        f"{seconds / 3600:.1f} hours of one core; {lost}.".replace(" (more than 30)", ""),
        f"- Base {made['base']['sha256'][:12]}, code {made['code']['commit'][:12]}, torch "
        f"{packages['torch']}, PEFT {packages['peft']}, Ray {packages['ray']}.",
        f"- The untouched base: perplexity {perplexity(view.everything['base'], first=True):.2f} "
        f"on WikiText-2{_choice_words(view)}.",
    ])  # fmt: skip


def _choice_words(view: SweepState) -> str:
    scores = _choice_scores(view, view.everything["base"])
    return "".join(f", {score:.3f} on {name}" for name, score in scores.items())


# ------------------------------------------------------------------------------ methods


def methods_parts(view: SweepState) -> dict[str, str]:
    """Tables and figure of every method's pick on fresh seeds."""
    found: list[tuple[str, TrialRecord, Outcome]] = []
    for finalist in view.finalists:
        pick = view.trial(finalist.trial)
        repeats = repeats_of(view, pick.name)
        if repeats:
            name = str(pick.overrides["method.preset"])
            found.append((name, pick, outcome(view, repeats)))
    found.sort(key=lambda one: -one[2].accuracy)
    head = ["method", "rate", "learnt", "learnt over zero-shot", "final", "each seed",
            "final over zero-shot", "final over head-only", "forgotten", "perplexity", "ARC-easy",
            ]  # fmt: skip
    rows = [
        [
            name, f"{pick.overrides[RATE]:.2g}", number(one.learnt), with_interval(one.learnt_gain),
            number(one.accuracy), " ".join(number(t.measure("accuracy")) for t in one.trials),
            with_interval(one.gain), with_interval(one.over_heads), with_interval(one.forgotten),
            number(one.perplexity, digits=1), number(one.choice_probe),
        ]
        for name, pick, one in found
    ]  # fmt: skip
    figure_of_methods(view, found)
    searched = [
        [
            str(trial.overrides["method.preset"]), f"{trial.overrides[RATE]:.2g}",
            *_searched_cells(view, trial),
        ]
        for trial in sorted(
            view.searched, key=lambda t: (t.overrides["method.preset"], t.overrides[RATE])
        )
    ]  # fmt: skip
    return {
        "methods facts": facts(view),
        "methods controls": controls_table(view),
        "methods": table([head, *rows]),
        "methods cost": _cost_table(view, found),
        "methods searched": table([
            ["method", "rate", "learnt", "final over zero-shot", "forgotten", "perplexity",
             "state"], *searched,
        ]),
    }  # fmt: skip


def _searched_cells(view: SweepState, trial: TrialRecord) -> list[str]:
    if trial.state != "COMPLETE":
        return ["-", "-", "-", "-", f"{trial.state}: {trial.reason.splitlines()[0]}"]
    one = outcome(view, [trial])
    return [number(one.learnt), with_interval(one.gain), with_interval(one.forgotten),
            number(one.perplexity, digits=1), trial.state]  # fmt: skip


def _cost_table(view: SweepState, found: Sequence[tuple[str, TrialRecord, Outcome]]) -> str:
    whole = Experiment.model_validate(view.experiment)
    rows: list[list[str]] = []
    for name, pick, one in found:
        own = whole.with_overrides(pick.overrides)
        base = base_facts(own.model)
        if base is None:
            raise SystemExit(f"the base model {own.model.name!r} is not here; its sizes are told")
        size = method_facts(own.model_copy(update={"search": None}), base)[0]
        reason = packing_refuses(own.method)
        rows.append([
            name, size.adapter.kind, f"{size.adapter.trained:,}",
            f"{size.carried / 2**20:.1f} MiB" if size.carried else "nothing",
            f"{one.seconds / 60:.1f}", "workers of its own" if reason else "packed",
        ])  # fmt: skip
    head = ["method", "adapter", "parameters trained", "carried between tasks",
            "minutes of one core", "ran"]  # fmt: skip
    return table([head, *rows])


# ------------------------------------------------------------------------------ settings


def settings_parts(view: SweepState) -> dict[str, str]:
    """Table and figures of CURLoRA's settings beside LoRA's."""
    rows = [
        [
            str(t.overrides[KIND]), str(t.overrides.get(RANK, "")),
            f"{t.overrides[ALPHA]:g}", f"{t.overrides.get(TEMPERATURE, math.nan):g}".replace(
                "nan", "-"), f"{t.overrides[RATE]:.2g}", f"{step(t):.2g}",
            *_searched_cells(view, t),
        ]
        for t in sorted(view.searched, key=_settings_order)
    ]  # fmt: skip
    head = ["adapter", "r", "alpha", "temperature", "rate", "alpha x rate", "learnt",
            "final over zero-shot", "forgotten", "perplexity", "state"]  # fmt: skip
    figure_of_settings(view)
    return {
        "settings facts": facts(view),
        "settings controls": controls_table(view),
        "settings picks": picks_table(view, lambda t: str(t.overrides[KIND])),
        "settings": table([head, *rows]),
    }


def step(trial: TrialRecord) -> float:
    """Alpha times learning rate: with AdamW, how far a step moves the adapted weights."""
    return float(trial.overrides[ALPHA]) * float(trial.overrides[RATE])


def _settings_order(trial: TrialRecord) -> tuple[Any, ...]:
    got = trial.overrides
    return got[KIND], got.get(RANK, 0), got.get(TEMPERATURE, 0.0), step(trial), got[RATE]


def picks_table(view: SweepState, name: Callable[[TrialRecord], str]) -> str:
    """The picks on fresh seeds, and the first two of them against each other."""
    picks = [(view.trial(f.trial), f) for f in view.finalists]
    found = [(pick, outcome(view, repeats_of(view, pick.name))) for pick, _ in picks]
    found.sort(key=lambda one: name(one[0]))
    head = ["pick", "settings", "learnt", "learnt over zero-shot", "final over zero-shot",
            "final over head-only", "forgotten", "perplexity"]  # fmt: skip
    rows = [
        [
            f"{name(pick)} ({pick.name})", _settings_words(pick), number(one.learnt),
            with_interval(one.learnt_gain), with_interval(one.gain),
            with_interval(one.over_heads), with_interval(one.forgotten),
            number(one.perplexity, digits=1),
        ]
        for pick, one in found
    ]  # fmt: skip
    text = table([head, *rows])
    if len(found) >= 2:
        (first, _), (second, _) = found[:2]
        sides = [repeats_of(view, pick.name) for pick in (first, second)]
        after = [mean_examples([t.learnt_per_example(view.tasks) for t in side]) for side in sides]
        end = [mean_examples([t.per_example for t in side]) for side in sides]
        text += (
            f"\n\n{name(first)} minus {name(second)}, on the same examples: learnt "
            f"{with_interval(_difference(*after, view.tasks))}, final "
            f"{with_interval(_difference(*end, view.tasks))}."
        )
    return text


def _settings_words(trial: TrialRecord) -> str:
    names = {RANK: "r", ALPHA: "alpha", TEMPERATURE: "temperature", RATE: "rate"}
    return ", ".join(
        f"{word} {trial.overrides[path]:g}"
        for path, word in names.items()
        if trial.overrides.get(path) is not None
    )


# ------------------------------------------------------------------------------ selection


def selection_parts(view: SweepState) -> dict[str, str]:
    """Table and figure of CURLoRA's selection laws beside TinyLoRA."""
    groups = selection_groups(view)
    rows = [
        [
            law, f"{rate:.2g}", str(len(one.trials)), number(one.learnt),
            with_interval(one.learnt_gain), with_interval(one.gain), with_interval(one.forgotten),
            number(one.perplexity, digits=1),
        ]
        for (law, rate), one in groups.items()
    ]  # fmt: skip
    head = ["selection", "rate", "draws", "learnt", "learnt over zero-shot",
            "final over zero-shot", "forgotten", "perplexity"]  # fmt: skip
    best: dict[str, Outcome] = {}
    for (law, _), one in groups.items():
        if law not in best or one.gain[0] > best[law].gain[0]:
            best[law] = one
    lines = []
    for law, own in best.items():
        if law == "inverted":
            continue
        sides = [best["inverted"], own]
        end = [mean_examples([t.per_example for t in one.trials]) for one in sides]
        after = [
            mean_examples([t.learnt_per_example(view.tasks) for t in one.trials]) for one in sides
        ]
        lines.append([
            f"inverted minus {law}", with_interval(_difference(*after, view.tasks)),
            with_interval(_difference(*end, view.tasks)),
            f"{sides[0].perplexity:.1f} and {sides[1].perplexity:.1f}",
        ])  # fmt: skip
    figure_of_selection(view, groups)
    return {
        "selection facts": facts(view),
        "selection": table([head, *rows]),
        "selection differences": table([
            ["each law at its best rate", "learnt", "final", "perplexity of both"], *lines,
        ]),
    }  # fmt: skip


def selection_groups(view: SweepState) -> dict[tuple[str, float], Outcome]:
    """The mean over the draws of each law and rate; TinyLoRA has one."""
    groups: dict[tuple[str, float], list[TrialRecord]] = {}
    for trial in finished(view):
        law = str(trial.overrides.get(SELECTION) or trial.overrides[KIND])
        groups.setdefault((law, float(trial.overrides[RATE])), []).append(trial)
    order = ("inverted", "uniform", "energy", "tinylora")
    ranked = sorted(groups, key=lambda key: (order.index(key[0]), key[1]))
    return {key: outcome(view, groups[key]) for key in ranked}


# ------------------------------------------------------------------------------ figures


def _panels(count: int, width: float) -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("svg")
    # Text stays text, and the same journal gives the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "results", "font.size": 9,
                         "axes.spines.top": False, "axes.spines.right": False})  # fmt: skip
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, count, figsize=(width, 3.6), layout="constrained")
    return figure, (axes if count > 1 else [axes])


def _save(figure: Any, name: str) -> None:
    from matplotlib import pyplot

    FIGURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURES / f"{name}.svg", metadata={"Date": None})
    pyplot.close(figure)


def _bars(difference: Difference) -> list[list[float]]:
    value, bounds = difference
    if bounds is None:
        return [[0.0], [0.0]]
    return [[max(0.0, value - bounds[0])], [max(0.0, bounds[1] - value)]]


def figure_of_methods(view: SweepState, found: Sequence[tuple[str, TrialRecord, Outcome]]) -> None:
    """Draw learning against forgetting, and learning against perplexity.

    Picks on fresh seeds have intervals; every setting of the search stands small beside them.
    """
    figure, (left, right) = _panels(2, 10.5)
    before = perplexity(view.everything["base"], first=True)
    top = 40 * before
    for index, (name, _, one) in enumerate(found):
        style = {"fmt": MARKS[index % len(MARKS)], "color": TONES[index % len(TONES)]}
        searched = [
            outcome(view, [t]) for t in finished(view) if t.overrides["method.preset"] == name
        ]
        for each, drawn in [
            *((x, {"ms": 3, "alpha": 0.5}) for x in searched),
            (one, {"ms": 5, "alpha": 0.9, "label": name}),
        ]:
            x = each.learnt_gain
            held = {**style, **drawn, "lw": 0.8, "xerr": _bars(x) if each is one else None}
            if each.forgotten is not None:
                y = _bars(each.forgotten) if each is one else None
                left.errorbar(x[0], each.forgotten[0], yerr=y, **held)
            right.errorbar(x[0], min(each.perplexity, top), **held)
            if each is one and each.perplexity > top:
                right.annotate(
                    f"{each.perplexity:.0e}", (x[0], top), xytext=(0, 6), fontsize=7,
                    textcoords="offset points", ha="center",
                )  # fmt: skip
    right.axhline(before, color="#9ca3af", lw=0.8, ls="--")
    right.set_yscale("log")
    left.axhline(0, color="#9ca3af", lw=0.8, ls="--")
    left.set(xlabel="learnt over zero-shot", ylabel="forgotten by the end")
    right.set(
        xlabel="learnt over zero-shot",
        ylabel=f"perplexity at the end (cut at {top:.0f})",
    )
    handles = dict(zip(*reversed(right.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False)
    _save(figure, "methods")


def figure_of_settings(view: SweepState) -> None:
    """Draw what each rank and temperature learns and forgets over alpha times learning rate."""
    figure, axes = _panels(3, 10.5)
    trials = finished(view)
    curves: dict[tuple[int, float], list[tuple[float, Outcome]]] = {}
    rivals: list[tuple[float, Outcome]] = []
    for trial in trials:
        one = outcome(view, [trial])
        if trial.overrides[KIND] == "lora":
            rivals.append((float(trial.overrides[RATE]), one))
        else:
            key = int(trial.overrides[RANK]), float(trial.overrides[TEMPERATURE])
            curves.setdefault(key, []).append((step(trial), one))
    shown: list[tuple[str, Callable[[Outcome], float]]] = [
        ("learnt over zero-shot", lambda one: one.learnt_gain[0]),
        ("forgotten by the end", lambda one: one.forgotten[0] if one.forgotten else math.nan),
        ("perplexity at the end", lambda one: one.perplexity),
    ]
    tones = {16: "#0b6e99", 64: "#15803d"}
    best = max(rivals, key=lambda pair: pair[1].learnt_gain[0])[1]
    for axis, (label, read) in zip(axes, shown, strict=True):
        for (rank, temperature), points in sorted(curves.items()):
            points.sort(key=lambda pair: pair[0])
            axis.plot(
                [x for x, _ in points], [read(one) for _, one in points], marker="o", ms=3, lw=1,
                color=tones.get(rank), ls="-" if temperature == 1.0 else ":",
                label=f"CURLoRA, r = {rank}, temperature {temperature:g}",
            )  # fmt: skip
        axis.axhline(
            read(best),
            color=COLOURS["lora"],
            lw=1,
            ls="--",
            label="LoRA at its best rate",
        )
        axis.set(xscale="log", xlabel="alpha x learning rate", ylabel=label)
    bounds = best.learnt_gain[1]
    if bounds is not None:
        axes[0].axhspan(*bounds, color=COLOURS["lora"], alpha=0.1, lw=0)
    axes[2].set_yscale("log")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    _save(figure, "settings")
    figure, (axis,) = _panels(1, 6.5)
    for (rank, temperature), points in sorted(curves.items()):
        axis.scatter(
            [one.perplexity for _, one in points], [one.learnt_gain[0] for _, one in points],
            s=16, color=tones.get(rank), marker="o" if temperature == 1.0 else "^",
            label=f"CURLoRA, r = {rank}, temperature {temperature:g}",
        )  # fmt: skip
    axis.scatter(
        [one.perplexity for _, one in rivals], [one.learnt_gain[0] for _, one in rivals],
        s=40, color=COLOURS["lora"], marker="x", label="LoRA, r = 16",
    )  # fmt: skip
    before = perplexity(view.everything["base"], first=True)
    axis.axhline(0, color="#9ca3af", lw=0.8, ls="--")
    axis.axvline(before, color="#9ca3af", lw=0.8, ls="--")
    shown_up_to = 2 * before
    every = [one for points in [*curves.values(), rivals] for _, one in points]
    beyond = sum(one.perplexity > shown_up_to for one in every)
    axis.set_xlim(0.97 * before, shown_up_to)
    axis.set_ylim(bottom=-0.02)
    axis.set(
        xlabel=f"perplexity at the end (dashed: the untouched base; {beyond} of {len(every)} are "
        "beyond)",
        ylabel="learnt over zero-shot",
    )
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    _save(figure, "settings-tradeoff")


def figure_of_selection(view: SweepState, groups: Mapping[tuple[str, float], Outcome]) -> None:
    """Draw what each selection law learns and what it does to the model, over the rate."""
    figure, axes = _panels(3, 10.5)
    laws = dict.fromkeys(law for law, _ in groups)
    shown: list[tuple[str, Callable[[Outcome], float]]] = [
        ("learnt over zero-shot", lambda one: one.learnt_gain[0]),
        ("forgotten by the end", lambda one: one.forgotten[0] if one.forgotten else math.nan),
        ("perplexity at the end", lambda one: one.perplexity),
    ]
    for axis, (label, read) in zip(axes, shown, strict=True):
        for law in laws:
            rates = [rate for known, rate in groups if known == law]
            middle = [read(groups[law, rate]) for rate in rates]
            draws = [
                [read(outcome(view, [trial])) for trial in groups[law, rate].trials]
                for rate in rates
            ]
            axis.plot(rates, middle, marker="o", ms=3, lw=1, color=COLOURS[law], label=law)
            axis.fill_between(
                rates, [min(d) for d in draws], [max(d) for d in draws], color=COLOURS[law],
                alpha=0.12, lw=0,
            )  # fmt: skip
        axis.set(xscale="log", xlabel="learning rate", ylabel=label)
        rates = sorted({rate for _, rate in groups})
        axis.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axis.minorticks_off()
    axes[2].set_yscale("log")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    _save(figure, "selection")


PARTS: dict[str, Callable[[SweepState], dict[str, str]]] = {
    "methods-small": methods_parts,
    "curlora-settings": settings_parts,
    "curlora-selection": selection_parts,
}


def main() -> None:
    """Print the tables, or put them into the page; the figures are drawn either way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("storage", type=Path, help="the folder of the sweeps")
    parser.add_argument("--write", action="store_true", help="write docs/results.md")
    given = parser.parse_args()
    blocks: dict[str, str] = {}
    for name, parts in PARTS.items():
        if (given.storage / name / JOURNAL_NAME).is_file():
            blocks |= parts(SweepState.of(read_journal(given.storage / name)))
    if not blocks:
        raise SystemExit(f"{given.storage} has none of {', '.join(PARTS)}")
    for name, text in blocks.items():
        if given.write:
            write_section(name, text, PAGE)
        else:
            print(f"\n## {name}\n\n{text}")


if __name__ == "__main__":
    main()
