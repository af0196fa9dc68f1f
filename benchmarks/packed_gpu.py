"""What packing gains on one GPU: useful tokens per second of K adapters in passes over one base.

    python benchmarks/packed_gpu.py                          # on a GPU, nothing else needed
    python benchmarks/packed_gpu.py --write                  # and keeps it: json, RESULTS.md
    python benchmarks/packed_gpu.py --device cpu --tiny      # tries it

A Llama with random weights in bf16, all linear layers adapted, r = 16. A *tick* is a forward and a
backward pass of the rows of K slots, in passes of at most 16384 tokens as in the pool, and an
optimiser step of each slot. Beside it, in tokens per second:

- alone: one adapter, `curlora.attach` and torch's AdamW, on the rows of one slot;
- ceiling: the frozen base on the rows of a pass, back to its embeddings;
- graph: the tick with its pass replayed as a CUDA graph, for ticks of at most 4096 tokens;
- compiled: the base by `torch.compile` around the adapted layers, and the ceiling so compiled,
  where slots are as many as `--compiled` says.

Model FLOP utilisation counts 4 N a token, N the weights of the linear layers in the blocks: frozen
weights need no gradient, and the loss is read at the last token of a row.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))  # where the project is not installed

from gpu_record import Record, given_options, parser_of
from packed_ways import Bench, Setting
from random_llama import SIZES
from results_page import PAGE, table, write_section

RECORD = PAGE.with_name("packed_gpu.json")
MOST = {"curlora": 256, "lora": 32}
"""Slots at most: a LoRA takes a fraction of a second to join, and hundreds would take minutes."""
GRAPH_TOKENS = 4096
"""Tokens of a tick up to which a CUDA graph is tried: beyond, launches are not what takes time."""
BARS = {8: 5.0, 32: 10.0}
"""Least gain over one adapter at a time at rows of 64 tokens, by slots."""


def settings_of(given: argparse.Namespace) -> list[Setting]:
    """All settings, those with the fewest tokens first."""
    found = [
        Setting(kind, slots, rows, length)
        for kind in given.kinds for slots in given.slots if slots <= MOST[kind]
        for rows in given.rows for length in given.lengths
    ]  # fmt: skip
    return sorted(found, key=lambda setting: setting.tokens)


# ----------------------------------------------------------------------------------- what is shown


def page(record: Mapping[str, Any]) -> str:
    """What stands in the results."""
    on, lines = record["machine"], lines_of(record)
    head = ["adapter", "slots", "rows x tokens", "packed, tokens/s", "alone", "packed / alone",
            "as a CUDA graph", "compiled", "ceiling: frozen base", "MFU", "MFU of the ceiling",
            ]  # fmt: skip
    rows = [
        [
            x["kind"], str(x["slots"]), f"{x['rows']} x {x['length']}", f"{x['packed']:,.0f}",
            f"{x['alone']:,.0f}", f"**{x['gain']:.2f}**", _rate(x.get("graph")),
            _rate(x.get("compiled")), f"{x['ceiling']:,.0f}", f"{x['mfu']:.3f}",
            f"{x['ceiling_mfu']:.3f}",
        ]
        for x in lines
    ]  # fmt: skip
    facts = record["parts"]["facts"]
    return (
        f"`python benchmarks/packed_gpu.py --write`, {on['date']}, {record['device']}; torch "
        f"{on['torch']}, peft {on['peft']}. Shape {facts['shape']}, bf16, r = 16; MFU over "
        f"{facts['peak'] / 1e12:.0f} TFLOP/s, what this device's own large products reach."
        f"\n\n{table([head, *rows])}"
    )


def lines_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The settings that were measured."""
    parts = record["parts"]
    return [
        part | parts.get(f"{name}_graph", {}) | parts.get(f"{name}_compiled", {})
        for name, part in parts.items()
        if "packed" in part
    ]


def _rate(found: float | str | None) -> str:
    """Tokens per second; a dash where it was not tried."""
    if found is None:
        return "-"
    return f"failed: {found[:60]}" if isinstance(found, str) else f"{found:,.0f}"


def verdict(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which of the bars were reached, for rows of 64 tokens."""
    return [
        f"{x['kind']}, {x['slots']} slots: {x['gain']:.2f}, bar {BARS[x['slots']]:g}: "
        + ("reached" if x["gain"] >= BARS[x["slots"]] else "NOT reached")
        for x in lines
        if (x["rows"], x["length"]) == (1, 64) and x["slots"] in BARS
    ]


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = parser_of(__doc__, seconds=900)
    parser.add_argument("--shape", choices=SIZES, default="llama-1b")
    parser.add_argument("--kinds", nargs="+", default=["curlora", "lora"], choices=MOST)
    parser.add_argument("--slots", nargs="+", type=int, default=[1, 8, 32, 256])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 4], help="of each slot")
    parser.add_argument("--lengths", nargs="+", type=int, default=[64, 512])
    parser.add_argument("--compiled", type=int, default=8, help="slots with which it is tried")
    parser.add_argument("--each", type=float, default=1.5, help="seconds of a measurement")
    parser.add_argument("--write", action="store_true", help="keep the record and write the page")
    given = given_options(parser)
    if given.tiny:
        given.shape, given.slots, given.lengths = "tiny", [1, 2], [16]
        given.compiled, given.each = 2, 0.1
    return given


def main() -> None:
    """Measure, print and keep."""
    given = arguments()
    record = Record(given)
    made: list[Bench] = []

    def facts() -> dict[str, Any]:
        made.append(Bench(given))
        return {"shape": given.shape, "peak": made[0].peak, "flops_of_token": made[0].flops}

    if record.part("facts", facts) is None:
        raise SystemExit("The base could not be made: see above.")
    for setting in settings_of(given):
        record.part(str(setting), functools.partial(made[0].measured, setting))
    # Then what may fail and leave the device unusable, and last what may take minutes.
    for way, work, wanted in (
        ("graph", made[0].graph, lambda s: given.device == "cuda" and s.tokens <= GRAPH_TOKENS),
        ("compiled", made[0].compiled, lambda s: (s.slots, s.rows) == (given.compiled, 1)),
    ):
        for setting in filter(wanted, settings_of(given)):
            record.part(f"{setting}_{way}", functools.partial(work, setting))
    fine = record.end()
    print(page(record.kept))
    print("\n".join(verdict(lines_of(record.kept))))
    if given.write:
        RECORD.write_text(json.dumps(record.kept, indent=1) + "\n", encoding="utf-8")
        write_section("packed gpu", page(record.kept))
    sys.exit(not fine)


if __name__ == "__main__":
    main()
