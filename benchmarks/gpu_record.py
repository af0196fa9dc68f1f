"""What the steps of `gpu_day.sh` have in common: options, and a JSON file kept part by part."""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from results_page import machine


def parser_of(doc: str | None, *, seconds: float) -> argparse.ArgumentParser:
    """The options of a step.

    Args:
        doc: What the script says of itself.
        seconds: After how long no further part is begun, by default.

    Returns:
        A parser to which the script may add.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes: tries the script")
    add_record_options(parser, seconds=seconds)
    return parser


def add_record_options(parser: argparse.ArgumentParser, *, seconds: float) -> None:
    """Options of what is kept, and of how long further parts are begun; see `seconds_left`."""
    parser.add_argument("--json", type=Path, help="where the record is kept, part by part")
    parser.add_argument(
        "--seconds", type=float, default=seconds, help="no further part is begun after as many"
    )
    parser.add_argument(
        "--until", type=float, help="instead: none is begun after this Unix time, in seconds"
    )


def seconds_left(given: argparse.Namespace) -> float:
    """For how long further parts are begun: loading the packages may have taken some of it."""
    return given.seconds if given.until is None else given.until - time.time()


def given_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What the command line says; refused where there is no such device."""
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error(
            "there is no CUDA device (torch.cuda.is_available() is False); to try the script on a "
            "CPU: --device cpu --tiny"
        )
    return given


class Record:
    """The parts of a step, each kept as soon as it is known, whatever becomes of the others."""

    def __init__(self, given: argparse.Namespace, *, echo: bool = True) -> None:
        """Start without any part.

        Args:
            given: What `given_options` gave.
            echo: Print what is kept of each part.
        """
        self._echo = echo
        self._file: Path | None = given.json
        self._until = time.monotonic() + seconds_left(given)
        cuda = given.device == "cuda"
        self.kept: dict[str, Any] = {
            "machine": machine(("torch", "transformers", "peft")),
            "device": torch.cuda.get_device_name() if cuda else "cpu",
            "tiny": given.tiny,
            "parts": {},
            "left_out": [],
        }
        self._keep()

    def part(self, name: str, work: Callable[[], Any]) -> Any:
        """Compute a part, unless time is up; what it raises is kept in its place.

        Args:
            name: Its name in the record.
            work: Gives what is kept: numbers, texts, lists and dictionaries.

        Returns:
            What `work` gave; None where it failed or was left out.
        """
        if time.monotonic() > self._until:
            self.kept["left_out"].append(name)
            print(f"{name}: left out, time is up", flush=True)
            self._keep()
            return None
        begin, found = time.monotonic(), None
        try:
            found = work()
            self.kept["parts"][name] = found
        except ModuleNotFoundError as error:
            self.kept["parts"][name] = {"left_out": f"{error.name} is not installed"}
        except Exception as error:  # noqa: BLE001 (one that fails must not take the others along)
            traceback.print_exc()
            self.kept["parts"][name] = {"error": f"{type(error).__name__}: {error}"[:2000]}
        if self._echo:
            took = time.monotonic() - begin
            print(f"{name} ({took:.1f} s): {json.dumps(self.kept['parts'][name])}", flush=True)
        self._keep()
        return found

    def end(self) -> bool:
        """Note that no part is to come.

        Returns:
            Whether no part failed or says that it is not `ok`.
        """
        parts = self.kept["parts"].values()
        bad = [p for p in parts if isinstance(p, dict) and ("error" in p or p.get("ok") is False)]
        self.kept["ended"] = True
        self.kept["ok"] = not bad
        self._keep()
        return self.kept["ok"]

    def _keep(self) -> None:
        if self._file is not None:
            self._file.write_text(json.dumps(self.kept, indent=1) + "\n", encoding="utf-8")
