"""Whether the engines compute on a GPU what the plain engine computes on a CPU.

    python benchmarks/gpu_engines.py
    python benchmarks/gpu_engines.py --device cpu --tiny     # tries it

Whole trials of two tiny tasks in fp32, some pairs of adapter and retention: the plain engine on
both devices, then a pool whose trials share their passes, then DeepSpeed with one worker (NCCL on a
GPU) at ZeRO 0, 2 and 3, each against the plain engine on the same device. A number is the largest
relative difference of any loss or probe. Needs pydantic, PyYAML, NumPy and tokenizers beside torch,
transformers and peft; DeepSpeed's part is left out where that is not installed.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from results_page import ROOT

sys.path.insert(0, str(ROOT))

from engine_parity import Plan, known, sharded
from gpu_record import Record, given_options, parser_of, seconds_left

from tests.engine_parity import Case, World, distances, packable
from tests.process_group import in_workers
from tests.tiny import write_base, write_tasks

CASES = (
    Case("curlora"), Case("lora", "ewc"), Case("dora"), Case("curlora", "replay"),
    Case("lora", "laplace", (("curvature", "kfac"),)), Case("lora", "ilora"), Case("lora", "olora"),
    Case("secura", turned=(("merge", "M1"),)), Case("head_only"),
)  # fmt: skip
STAGES = (0, 2, 3)
LARGEST = 1e-4
"""A GPU sums in another order than a CPU."""


class Runs:
    """What each case gives, by way; a run is kept to be compared with."""

    def __init__(self, places: tuple[Path, Path, Path], device: str, until: float) -> None:
        self._places, self._device, self._until = places, device, until
        self._worlds = {place: World(*places, place) for place in {device, "cpu"}}
        self._plain: dict[str, Any] = {}

    def plain(self, case: Case) -> dict[str, Any]:
        """The plain engine, on the device and on a CPU."""
        here = self._plain[str(case)] = self._worlds[self._device].learn(case, "fp32")
        return _apart(here, self._worlds["cpu"].learn(case, "fp32"))

    def packed(self) -> dict[str, Any]:
        """The pool, all packable cases together."""
        found = packable([case for case in CASES if str(case) in self._plain])
        packed = self._worlds[self._device].learn_packed(found, "fp32")
        # The plain engine's numbers go on to what was merged; these are packed adapters' alone.
        each = {str(case): _apart(packed[case], self._plain[str(case)]) for case in found}
        return {"cases": each, "ok": all(one["ok"] for one in each.values())}

    def by_deepspeed(self) -> dict[str, Any]:
        """DeepSpeed with one worker at every stage."""
        if importlib.util.find_spec("deepspeed") is None:
            return {"left_out": "deepspeed is not installed"}
        base, tasks, folder = self._places
        kept = folder / "kept.jsonl"
        plan = Plan(tuple(c for c in CASES if str(c) in self._plain), STAGES, (), self._device)
        ended = "all"
        try:
            in_workers(
                1, sharded, folder, str(base), str(tasks), str(kept), plan,
                timeout=max(10.0, self._until - time.monotonic()), device=self._device,
            )  # fmt: skip
        except TimeoutError:
            ended = "time is up"
        except AssertionError as error:
            ended = f"failed: {str(error)[-2000:]}"  # what was kept before is told all the same
        each = {
            case: {stage: self._at_stage(case, found) for stage, found in stages.items()}
            for case, stages in known(kept, "sharded").items()
        }
        fine = all(one.get("ok", True) for stages in each.values() for one in stages.values())
        return {"cases": each, "ended": ended, "ok": fine and not ended.startswith("failed")}

    def _at_stage(self, case: str, found: list[list[float]] | str) -> dict[str, Any]:
        if isinstance(found, str):
            return {"refused": found}
        return _apart(found[0], self._plain[case])


def _apart(found: Any, wanted: Any) -> dict[str, Any]:
    gap = float(distances(found, wanted).max())
    return {"largest": gap, "ok": gap <= LARGEST}


def parts(runs: Runs) -> Mapping[str, Any]:
    """The name of each part, and what computes it."""
    return {
        **{f"plain_{case}": partial(runs.plain, case) for case in CASES},
        "packed": runs.packed,
        "deepspeed": runs.by_deepspeed,
    }


def main() -> None:
    """Compute, print and keep every part."""
    given = given_options(parser_of(__doc__, seconds=80))
    record, until = Record(given), time.monotonic() + seconds_left(given)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        for name in ("base", "tasks", "run"):
            (root / name).mkdir()
        places = write_base(root / "base"), write_tasks(root / "tasks"), root / "run"
        runs = Runs(places, given.device, until)
        for name, work in parts(runs).items():
            record.part(name, work)
    sys.exit(not record.end())


if __name__ == "__main__":
    main()
