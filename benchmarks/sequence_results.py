"""The tables of `docs/results_sequence.md`, from the journals of the paper's sequence.

    .venv/bin/python benchmarks/sequence_results.py runs          # prints them
    .venv/bin/python benchmarks/sequence_results.py runs --write  # writes the page

`runs` is the storage folder that holds `curlora-sequence-words` and `curlora-sequence-heads`.
"""

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from results_page import ROOT, table, write_section

from orchestrator.records.journal_lines import read_journal
from orchestrator.records.scores import paired_interval
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord

PAGE = ROOT / "docs" / "results_sequence.md"
SWEEPS = ("curlora-sequence-words", "curlora-sequence-heads")
CONTROLS = {
    "zero_shot": "zero-shot", "majority": "majority", "chance": "chance", "head_only": "head-only",
}  # fmt: skip


def number(value: float | None, *, signed: bool = False, digits: int = 3) -> str:
    """A number, or "-" where there is none."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def interval(bounds: list[float] | None) -> str:
    """An interval in brackets, or "-"."""
    return f"[{bounds[0]:+.3f}, {bounds[1]:+.3f}]" if bounds else "-"


def perplexity(trial: TrialRecord, *, first: bool = False) -> float:
    """Perplexity on the language-modelling probe after everything was learnt."""
    reports = [r.probes for r in trial.reports if r.probes]
    return next(iter(reports[0 if first else -1].values()))["perplexity"]


def kind(trial: TrialRecord) -> str:
    """The adapter of a trial."""
    return str(trial.overrides["method.adapter.kind"])


def controls_table(view: SweepState) -> str:
    """What every accuracy stands beside."""
    rows = [
        [name, *(number(score) for score in view.control_scores(key))]
        for key, name in CONTROLS.items()
    ]
    return table([["control", *view.tasks], *rows])


def trials_table(view: SweepState) -> str:
    """The trials by which learning rates were chosen."""
    finalists = {f.trial for f in view.finalists}
    rows = []
    for trial in sorted(view.searched, key=lambda t: (kind(t), str(t.overrides))):
        rate = f"{trial.overrides['training.learning_rate']:.1e}"
        rows.append([
            f"**{trial.name}**" if trial.name in finalists else trial.name,
            kind(trial), rate, number(trial.measure("accuracy")),
            number(trial.measure("gain"), signed=True), interval(trial.gain_interval),
            number(trial.measure("forgetting"), signed=True),
            number(trial.measure("probe_drift"), signed=True),
            number(perplexity(trial), digits=2) if trial.reports else "-", trial.state,
        ])  # fmt: skip
    return table([["trial", "adapter", "learning rate", "accuracy", "gain", "95 %", "forgetting",
         "probe drift", "perplexity", "state"], *rows])  # fmt: skip


def repeats_of(view: SweepState, name: str) -> list[TrialRecord]:
    """The finished repetitions of a finalist."""
    return [t for t in view.trials if t.of == name and t.state == "COMPLETE"]


def spread(values: list[float], *, signed: bool = False, digits: int = 3) -> str:
    """The mean, and the single values where there are several."""
    each = " ".join(number(v, signed=signed, digits=digits) for v in values)
    return f"{number(statistics.fmean(values), signed=signed, digits=digits)} ({each})"


def finalists_table(view: SweepState) -> str:
    """What the picks scored with seeds that had no part in the choice."""
    rows = []
    for finalist in view.finalists:
        name = finalist.trial
        repeats = repeats_of(view, name)
        values = {m: [t.measure(m) for t in repeats] for m in repeats[0].measures}
        mean = mean_examples([trial.per_example for trial in repeats])
        base = view.everything["base"]
        heads = next(r.head_only_per_example or {} for r in base.reports)
        rows.append([
            f"{kind(view.trial(name))} ({name})",
            spread(values["accuracy"]), spread(values["gain"], signed=True),
            interval(paired_interval(mean, base.per_example, view.tasks)),
            interval(paired_interval(mean, heads, view.tasks)),
            spread(values["forgetting"], signed=True),
            spread([perplexity(t) for t in repeats], digits=2),
        ])  # fmt: skip
    head = ["pick", "accuracy (each seed)", "gain", "over zero-shot, 95 %",
            "over head-only, 95 %", "forgetting", "perplexity after"]  # fmt: skip
    return table([head, *rows])


def mean_examples(sides: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    """Each example's mean score over some trials, of each its scores by task."""
    return {
        task: [statistics.fmean(scores) for scores in zip(*(s[task] for s in sides), strict=True)]
        for task in sides[0]
    }


def sequence_table(views: dict[str, SweepState]) -> str:
    """The paper's rows: each task when it was learnt and after the later ones."""
    columns = [
        (f"{name.rsplit('-', 1)[-1]}: {kind(view.trial(f.trial))}", view,
         repeats_of(view, f.trial))
        for name, view in views.items()
        for f in sorted(view.finalists, key=lambda f: kind(view.trial(f.trial)))
    ]  # fmt: skip
    lines = [
        ("MRPC after MRPC", 0, 0), ("SST-2 after SST-2", 1, 1), ("MRPC after SST-2", 1, 0),
        ("Sentiment140 after Sentiment140", 2, 2), ("MRPC after Sentiment140", 2, 0),
        ("SST-2 after Sentiment140", 2, 1),
    ]  # fmt: skip
    before = [perplexity(view.everything["base"], first=True) for _, view, _ in columns]
    rows = [["WikiText-2 perplexity before", *(number(p, digits=2) for p in before)]]
    for label, after, task in lines:
        cells = [
            statistics.fmean(trial.learnt_rows[after][task] for trial in trials)
            for _, _, trials in columns
        ]
        rows.append([label, *(number(cell) for cell in cells)])
    after = [statistics.fmean(map(perplexity, trials)) for _, _, trials in columns]
    rows.append(["WikiText-2 perplexity after", *(number(p, digits=2) for p in after)])
    return table([["mean of the fresh seeds", *(name for name, _, _ in columns)], *rows])


def facts(view: SweepState) -> str:
    """What the sweep was run on and what it came to, in a line each."""
    packages = view.provenance["packages"]
    seconds = sum(t.ended - t.started for t in view.trials if t.ended and t.started)
    wall = (view.changed or 0.0) - (view.opened or 0.0)
    return "\n".join([
        f"- {len(view.searched)} trials and {len(view.trials) - len(view.searched)} repetitions; "
        f"{wall / 60:.0f} minutes, {seconds / 60:.0f} trial minutes.",
        f"- Base {view.provenance['base']['sha256'][:12]}, code "
        f"{view.provenance['code']['commit'][:12]}, torch {packages['torch']}, DeepSpeed "
        f"{packages['deepspeed']}.",
        f"- Verdict: {view.reason}.",
    ])  # fmt: skip


def main() -> None:
    """Print the tables, or put them into the page."""
    storage = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs")
    views = {name: SweepState.of(read_journal(storage / name)) for name in SWEEPS}
    blocks = {"sequence": sequence_table(views)}
    for name, view in views.items():
        short = name.rsplit("-", 1)[-1]
        blocks |= {
            f"{short}-facts": facts(view),
            f"{short}-controls": controls_table(view),
            f"{short}-trials": trials_table(view),
            f"{short}-finalists": finalists_table(view),
        }
    if "--write" not in sys.argv:
        for name, text in blocks.items():
            print(f"\n## {name}\n\n{text}")
        return
    for name, text in blocks.items():
        write_section(name, text, PAGE)


if __name__ == "__main__":
    main()
