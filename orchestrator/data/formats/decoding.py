"""The bytes of a text file as text: UTF-8 or UTF-16, or a message that says what they are."""

from __future__ import annotations

from pathlib import Path

from orchestrator.data.formats.placed_row import DataError

_SIGNATURES = {
    b"PK\x03\x04": "a zip archive or a spreadsheet; save the sheet as CSV",
    b"\x1f\x8b": "gzip; let its name end in .gz",
    b"PAR1": "parquet; let its name end in .parquet",
    b"%PDF": "a PDF",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the data with `git lfs pull`",
}


def decoded(path: Path, content: bytes) -> str:
    """The text of a file; refused where the bytes are another format's or no UTF-8 or UTF-16."""
    for signature, kind in _SIGNATURES.items():
        if content.startswith(signature):
            raise DataError(f"{path}: looks like {kind}.")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: {_not_utf8(path, 0, 'UTF-16')}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # A byte-order mark is not counted by the decoder.
        offset = error.start + 3 * content.startswith(b"\xef\xbb\xbf")
        guess = "UTF-16" if _is_utf16(content) else "latin-1"
        line = content.count(b"\n", 0, offset) + 1
        raise DataError(f"{path}: line {line}: {_not_utf8(path, offset, guess)}") from None
    if "\0" in text:
        offset = content.index(0)
        kind = "UTF-16 without a mark" if _is_utf16(content) else "a binary file"
        raise DataError(
            f"{path}: holds a NUL at byte {offset}, so it is {kind} rather than text. "
            "Save it as UTF-8 text."
        )
    return text


def _is_utf16(content: bytes) -> bool:
    """Whether every other byte of the beginning is mostly zero, as in text of Latin letters."""
    beginning = content[:200]
    return any(4 * beginning[start::2].count(0) > len(beginning) for start in (0, 1))


def _not_utf8(path: Path, offset: int, guess: str) -> str:
    name = path.name
    return (
        f"not UTF-8 (byte {offset}); it is probably {guess}. Convert it, for example with "
        f"`iconv -f {guess} -t UTF-8 {name} > new.{name}`."
    )
