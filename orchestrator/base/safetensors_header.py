"""The header of a safetensors file: names, shapes and places of its tensors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from orchestrator.base.errors import COPY_AGAIN, BaseFilesError
from orchestrator.system.strict_json import parse
from orchestrator.system.wording import cut

_WIDTHS = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2,
    "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8, "C64": 8,
}  # fmt: skip
"""Bytes of a number in safetensors, of the kinds whose numbers fill whole bytes."""


def read_header(file: Path) -> dict[str, Any]:
    """Names, shapes and places in a safetensors file: eight bytes of length, then JSON."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(length) if length <= size else b""
    try:
        header = parse(text.decode("utf-8"))
        ends = [_end(name, entry) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f" ({error})" if isinstance(error, _EntryError) else ""
        raise BaseFilesError(
            f"{file} is not a complete safetensors file: its header cannot be read{reason}, "
            f"and the file has {size:,} bytes. {COPY_AGAIN}"
        ) from None
    whole = 8 + length + max(ends, default=0)
    if size < whole:
        raise BaseFilesError(
            f"{file} is cut short: its header promises {whole:,} bytes, and it has {size:,}. "
            f"{COPY_AGAIN}"
        )
    return header


class _EntryError(ValueError):
    pass


def _end(name: str, entry: Any) -> int:
    """Where a tensor of a header ends, its shape and place agreeing."""
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    numbers = [*shape, begin, end]
    if not all(type(number) is int and number >= 0 for number in numbers) or begin > end:
        raise _EntryError(f"the entry of {cut(name)!r} has no shape and place")
    width = _WIDTHS.get(entry["dtype"])
    if width is not None and math.prod(shape) * width != end - begin:
        raise _EntryError(f"{cut(name)!r} has {end - begin:,} bytes for a shape of {shape}")
    return end
