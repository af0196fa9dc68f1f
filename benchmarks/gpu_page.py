"""Write what `gpu_day.sh` recorded into the results.

    python benchmarks/gpu_page.py gpu_day            # all records of a folder
    python benchmarks/gpu_page.py first second       # the second's parts replace the first's

Keeps `gpu_day.json` (steps 1, 2 and 5), `packed_gpu.json` and the tables of `adapter_step.json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import adapter_step
import packed_gpu
from results_page import PAGE, ROOT, table, write_section

RECORD = ROOT / "benchmarks" / "gpu_day.json"
KEPT = ("1_same", "2_engines", "5_sweeps")
Part = Mapping[str, Any]


def read(folders: Sequence[Path], step: str) -> dict[str, Any] | None:
    """A step's record; of several folders, the parts together."""
    found: dict[str, Any] | None = None
    for file in (folder / f"{step}.json" for folder in folders):
        if file.is_file():
            record = json.loads(file.read_text(encoding="utf-8"))
            if "parts" not in record:  # it was left out there
                continue
            parts = {} if found is None else found["parts"]
            found = record | {"parts": _joined(parts, record["parts"])}
    return found


def _joined(first: Part, second: Part) -> dict[str, Any]:
    """Parts of two runs; the cases of a part that both have are put together."""
    joined = dict(first)
    for name, part in second.items():
        known = joined.get(name, {})
        cases = {"cases": {**known["cases"], **part["cases"]}} if "cases" in known else {}
        joined[name] = {**part, **cases}
    return joined


def page(record: Mapping[str, Any]) -> str:
    """What stands in the results of steps 1, 2 and 5."""
    found = []
    one = next(iter(record.values()))
    on = one["machine"]
    found.append(
        f"{one['device']}, {on['cores']} cores of {on['cpu']}, {on['date']}; Python "
        f"{on['python']}, "
        f"torch {on['torch']}, transformers {on['transformers']}, peft {on['peft']}."
    )
    if (same := record.get("1_same")) is not None:
        found += ["**The GPU beside a CPU**, largest relative differences:", _same(same["parts"])]
    if (engines := record.get("2_engines")) is not None:
        about = "any loss, probe or norm of what was merged:"
        found.append(
            f"**Engines**, whole trials of two tasks in fp32, largest difference of {about}"
        )
        found.append(_engines(engines["parts"]))
    if (sweeps := record.get("5_sweeps")) is not None:
        found += ["**Whole commands**, over a random base:", _sweeps(sweeps["parts"])]
    return "\n\n".join(found)


def _same(parts: Part) -> str:
    rows = [["part", "found", ""]]
    for name, part in parts.items():
        if "error" in part or "left_out" in part:
            rows.append([name, part.get("error", part.get("left_out")), "failed"])
            continue
        if name.startswith("quantised"):
            text = ", ".join(
                f"{kind} {losses[0]:.3f} to {losses[-1]:.3f} in {len(losses)} steps"
                for kind, losses in part.items()
                if isinstance(losses, list)
            )
        elif "from_cpu" in part:
            text = f"losses {part['from_cpu']:.1e} from a CPU's"
            if part.get("moved"):
                text += ", from the CPU's start"
            elif not part.get("same_start", True):
                text += ", each from its own start"
        else:
            text = ", ".join(
                f"{key} {value:.2g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in part.items()
                if key != "ok"
            )
        rows.append([name, text, "as wanted" if part.get("ok", True) else "**not as wanted**"])
    return table(rows)


def _engines(parts: Part) -> str:
    packed, deepspeed = parts["packed"]["cases"], parts["deepspeed"]["cases"]
    rows = [["case", "GPU beside CPU", "packed beside alone", "ZeRO 0", "ZeRO 2", "ZeRO 3"]]
    for name, part in parts.items():
        if not name.startswith("plain_"):
            continue
        case = name.removeprefix("plain_")
        stages = deepspeed.get(case, {})
        cells = [part, packed.get(case), *(stages.get(stage) for stage in ("0", "2", "3"))]
        rows.append([case, *map(_gap, cells)])
    return table(rows)


def _gap(part: Part | None) -> str:
    if part is None:
        return "-"
    return "refused" if "refused" in part else f"{part['largest']:.1e}"


def _sweeps(parts: Part) -> str:
    rows = [
        ["sweep", "trials", "wall of the command", "journal opened to first report", "precision"]
    ]
    rows += [
        [
            name, ", ".join(f"{part['states'].count(s)} {s}" for s in sorted(set(part["states"]))),
            f"{part['seconds']:.0f} s", f"{part['first_report']:.0f} s",
            f"{part['precision']['used']}: {part['precision']['reason']}",
        ]
        for name, part in parts.items()
        if "states" in part and part["first_report"] is not None
    ]  # fmt: skip
    return table(rows)


def main() -> None:
    """Write what the folders hold."""
    folders = [Path(name) for name in sys.argv[1:]]
    if not folders:
        raise SystemExit((__doc__ or "").strip())
    found = {step: read(folders, step) for step in KEPT}
    record = {step: one for step, one in found.items() if one is not None}
    if record:
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        write_section("gpu day", page(record))
    if (steps := read(folders, "3_adapter_step")) is not None:
        for part in steps["parts"].values():
            adapter_step.keep(part)
    if (packed := read(folders, "4_throughput")) is not None:
        packed_gpu.RECORD.write_text(json.dumps(packed, indent=1) + "\n", encoding="utf-8")
        write_section("packed gpu", packed_gpu.page(packed))
    sys.stdout.write(f"Written: {PAGE.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
