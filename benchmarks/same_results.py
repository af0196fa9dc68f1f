"""What the code computes, written down: a change of layout alone must give the same again.

    .venv/bin/python -m benchmarks.same_results --write FILE [--part local] [--part pool]
    .venv/bin/python -m benchmarks.same_results --compare A B
    .venv/bin/python -m benchmarks.same_results --against FILE --tolerance 1e-9
    .venv/bin/python -m benchmarks.same_results --extract FILE RECORD

A tiny base and tiny tasks are made up, every preset, adapter and retention of `orchestrate methods`
learns both tasks, and what is written is what anybody can read afterwards: the journal, the
adapters' files and MLflow. `--compare` wants the same bits. `--against` runs again what a file
holds and gives numbers some room: it is for another machine. `--extract` keeps of a file what the
tests hold the code to (`tests/records/local.json`).

The part `local` is the executor `local` in float64, in which machines agree to a few parts in 1e13;
`pool` is the executor `pool` in fp32, and everything that it hands to workers of their own.

Only the command line, the YAML, the files of a sweep and MLflow's client are used, since modules
may be renamed. Two things reach inside, both said where they are: `float32_means_float64`, because
no experiment can ask for float64 (`training.precision`), and `keep_all_digits`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record_differences import differences, worth_keeping

ROOT = Path(__file__).parents[1]
TASKS = ("mood", "being")
ROUNDING = "six_digits"
"""The function through which losses and rates go on their way into the journal."""
SHOWN = 20
"""Differences that are printed."""

_FEW = {"method.retention.max_examples": 8}
_SMALL = {"method.adapter.r": 4}
PRESETS: dict[str, dict[str, Any]] = {
    "curlora": {}, "curlora-author": {}, "lalora": _FEW, "ewc-lora": _FEW, "i-lora": {},
    "o-lora": {}, "seq": {}, "laplace-curlora": _FEW, "early-stopped-lora": {}, "joint": {},
    # Its own widths, 150 and 200, are above those of the base.
    "secura": {"method.adapter.r": 6, "method.adapter.m": 8},
    # Long enough to beat the untouched base for certain, so that there is a champion.
    "er": {"training.epochs": 8, "training.learning_rate": 0.02},
}  # fmt: skip
"""Each preset that is a trial of the label words, and what it needs to be one here."""
ADAPTERS: dict[str, dict[str, Any]] = {
    "rslora": _SMALL, "dora": _SMALL, "pissa": _SMALL, "mica": _SMALL, "miss": _SMALL,
    "tinylora": _SMALL, "randlora": _SMALL, "osf": {}, "full": {},
    "corda": {**_SMALL, "method.adapter.source": "lore"},
}  # fmt: skip
"""Each adapter of no preset."""
RETENTIONS: list[dict[str, Any]] = [
    {"method.retention.kind": "ewc"},
    {"method.retention.kind": "laplace", "method.retention.curvature": "kfac",
     "method.retention.sources": ["lore"]},
    {"method.retention.kind": "laplace", "method.retention.curvature": "tri_kfac"},
]  # fmt: skip
"""Each retention, and form of one, of no preset."""
HEADS = {"head-only": {}, "seq": {}, "lalora": _FEW}
"""Presets that learn linear heads; the first can do nothing else."""
CONTROLS = {"zero-shot", "majority"}
"""Presets that are no trial: row 0 and the controls of every journal have them."""


# --- what is run ---------------------------------------------------------------------------------


def documents(part: str, root: Path) -> dict[str, dict[str, Any]]:
    """The experiments of a part, by name.

    Args:
        part: "local" or "pool".
        root: Where base and tasks are, and the records go.

    Returns:
        YAML documents.
    """
    words = [{"method.preset": name, **more} for name, more in PRESETS.items()]
    words += [{"method.adapter.kind": kind, **more} for kind, more in ADAPTERS.items()]
    words += [{"method.adapter.kind": "lora", **_FEW, **more} for more in RETENTIONS]
    heads = [{"method.preset": name, **more} for name, more in HEADS.items()]
    if part == "local":
        # Two more trials than methods: there the searcher proposes by what it has heard.
        return {
            "words": _document("words", root, words, {"executor": "local"}, more=2),
            "heads": _document("heads", root, heads, {"executor": "local"}, head="linear"),
        }
    # With several slots a trial's rounding depends on who else is in the pass, which is chance.
    one = {"executor": "pool", "slots": 1, "members": 1}
    return {
        "pool": _document("pool", root, words, one, searcher="random"),
        "pool-heads": _document("pool-heads", root, heads, one, searcher="random", head="linear"),
    }


def _document(
    name: str, root: Path, first: Sequence[Mapping[str, Any]], resources: Mapping[str, Any],
    *, more: int = 0, searcher: str = "tpe", **fields: Any,
) -> dict[str, Any]:  # fmt: skip
    return {
        "name": name,
        "model": {"name": str(root / "base")},
        "tasks": list(TASKS),
        "probes": ["prose", "lore"],
        "method": {"adapter": {"kind": "lora", "r": 4}},
        "training": {"batch_size": 8, "max_length": 48, "precision": "fp32"},
        "data": {"train_examples": 24, "probe_tokens": 100, "probe_context": 32,
                 "rung_examples": 4},
        "search": {
            "space": {"training.learning_rate": {"log_uniform": [0.003, 0.03]}},
            "first": [dict(one) for one in first], "trials": len(first) + more,
            "searcher": searcher,
        },
        "champion": {"subject_to": {"probe_drift": 1.0}},
        "scoring": "full",
        "resources": dict(resources),
        "storage": str(root / "runs"),
        **fields,
    }  # fmt: skip


def float32_means_float64() -> None:
    """Let everything that is imported from now on compute in float64 where it asks for float32.

    The experiment has fp32 and bf16. A base in float64 alone would not do: transformers' norms,
    rotary angles and softmax, hidden states and curvature ask for float32 by name. Under another
    meaning of that name the same lines of code run, none of them is replaced.
    """
    import safetensors.torch  # noqa: F401 (its table of dtypes must keep the two apart)
    import torch

    torch.set_default_dtype(torch.float64)
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double


def keep_all_digits() -> None:
    """Journal losses as they are; six digits would hide what differs and be torn by a last bit.

    Raises:
        RuntimeError: If nothing rounds by the expected name.
    """
    package = ROOT / "orchestrator"
    files = [p for p in sorted(package.rglob("*.py")) if ROUNDING in p.read_text(encoding="utf-8")]
    if not files:
        raise RuntimeError(
            f"No module of {package} names `{ROUNDING}`, so losses may be rounded under another "
            "name. Put that name into ROUNDING of benchmarks/same_results.py."
        )
    for file in files:
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        setattr(importlib.import_module(name), ROUNDING, float)


def run_part(part: str, root: Path, *, tracked: bool) -> None:
    """Run a part in this process, and write `record.json` into its folder.

    Args:
        part: "local" or "pool".
        root: An empty folder.
        tracked: Whether MLflow is read as well, which takes seconds.

    Raises:
        RuntimeError: If a sweep did not end well.
    """
    if part == "local":
        float32_means_float64()
    from benchmarks.sweep_record import mlflow_record, sweep_record
    from tests.tiny import write_exact_base, write_tasks, write_training_text

    write_exact_base(root / "base")
    write_training_text(write_tasks(root))
    if part == "local":
        keep_all_digits()
    from orchestrator.cli import app

    made = documents(part, root)
    for name, document in made.items():
        file = root / f"{name}.yaml"
        file.write_text(json.dumps(document), encoding="utf-8")
        code = app(["sweep", str(file)], standalone_mode=False)
        if code:
            raise RuntimeError(f"`orchestrate sweep {file}` ended with {code}; its output says why")
    found: dict[str, Any] = {
        "sweeps": {name: sweep_record(root, name, ordered=part == "local") for name in made}
    }
    if tracked:
        found["mlflow"] = mlflow_record(root)
    (root / "record.json").write_text(json.dumps(found), encoding="utf-8")


def uncovered(listed: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """What the program has and no trial of ours runs.

    Args:
        listed: What `orchestrate methods --json` prints.

    Returns:
        Names.
    """
    trials = [*PRESETS, *HEADS, *CONTROLS]
    runs = [word for entry in RETENTIONS for word in entry.values()]
    named = {one["name"]: str(one["method"]) for one in listed["presets"] if one["name"] in trials}
    words = {word.strip(",") for method in named.values() for word in method.split()}
    have = {*trials, *words, *ADAPTERS, *(run for run in runs if isinstance(run, str)), "none"}
    kinds = [one["kind"] for part in ("adapters", "retentions") for one in listed[part]]
    return [name for name in [*(one["name"] for one in listed["presets"]), *kinds]
            if name not in have]  # fmt: skip


def check_covered() -> None:
    """Refuse to write a record that leaves a method out.

    Raises:
        SystemExit: With the names of those.
    """
    command = "from orchestrator.cli import app; app(['methods', '--json'])"
    told = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, env=_environment(), check=True,
        capture_output=True, text=True,
    ).stdout  # fmt: skip
    lacking = uncovered(json.loads(told))
    if lacking:
        raise SystemExit(
            f"No trial runs {', '.join(lacking)}. Add each to PRESETS, ADAPTERS, RETENTIONS or "
            "HEADS of benchmarks/same_results.py."
        )


def record(parts: Sequence[str], *, tracked: bool) -> dict[str, Any]:
    """Run some parts, each in a process of its own.

    Args:
        parts: "local", "pool".
        tracked: As for `run_part`.

    Returns:
        What each gave, by its name.

    Raises:
        SystemExit: If one failed, with the end of its output.
    """
    found: dict[str, Any] = {}
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="same-results-") as folder:
            log = Path(folder) / "output.txt"
            with log.open("w", encoding="utf-8") as output:
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.same_results", "--run", part, folder,
                     *(["--untracked"] if not tracked else [])],
                    cwd=ROOT, env=_environment(), stdout=output, stderr=output, check=False,
                )  # fmt: skip
            if done.returncode:
                raise SystemExit(
                    f"The part {part!r} ended with {done.returncode}:\n{log.read_text()[-4000:]}"
                )
            found[part] = json.loads((Path(folder) / "record.json").read_text(encoding="utf-8"))
    return found


def _environment() -> dict[str, str]:
    """One thread, the CPU, no network, and this checkout's code wherever a worker starts."""
    return {
        **os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip


# --- the command line ----------------------------------------------------------------------------


def written(document: Any, depth: int = 6) -> str:
    """A record as text, an event a line, so that git shows what changed.

    Args:
        document: JSON.
        depth: Levels whose entries stand on lines of their own.

    Returns:
        Text whose floats read back as the same bits.
    """
    if depth and isinstance(document, dict):
        lines = [f"{json.dumps(k)}:{written(v, depth - 1)}" for k, v in sorted(document.items())]
        return "{\n" + ",\n".join(lines) + "\n}"
    if depth and isinstance(document, list):
        return "[\n" + ",\n".join(written(entry, 0) for entry in document) + "\n]"
    return json.dumps(document, separators=(",", ":"), sort_keys=True)


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise SystemExit(f"There is no record {file}. Write one with `--write {file}`.")
    return json.loads(file.read_text(encoding="utf-8"))


def _answer(found: Sequence[str]) -> None:
    for line in found[:SHOWN]:
        print(line)
    if len(found) > SHOWN:
        print(f"... and {len(found) - SHOWN} more")
    if found:
        raise SystemExit(1)
    print("the same")


def main() -> None:
    """Write, or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--write", type=Path, metavar="FILE", help="run, and write a record")
    wanted.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"), help="bit by bit")
    wanted.add_argument("--against", type=Path, metavar="FILE", help="run again what FILE holds")
    wanted.add_argument("--extract", type=Path, nargs=2, metavar=("FILE", "RECORD"),
                        help="keep what the tests compare")  # fmt: skip
    wanted.add_argument("--run", nargs=2, metavar=("PART", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--untracked", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--part", action="append", choices=("local", "pool"), help="default: both")
    parser.add_argument("--tolerance", type=float, default=1e-9, help="relative; for --against")
    arguments = parser.parse_args()
    if arguments.run:
        part, folder = arguments.run
        run_part(part, Path(folder), tracked=not arguments.untracked)
    elif arguments.compare:
        _answer(differences(*map(_read, arguments.compare)))
    elif arguments.extract:
        file, kept = arguments.extract
        kept.write_text(written(worth_keeping(_read(file))) + "\n", encoding="utf-8")
    elif arguments.against:
        old = _read(arguments.against)
        again = worth_keeping(record(list(old), tracked=False))
        _answer(differences(worth_keeping(old), again, tolerance=arguments.tolerance))
    else:
        check_covered()
        found = record(arguments.part or ["local", "pool"], tracked=True)
        arguments.write.write_text(written(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
