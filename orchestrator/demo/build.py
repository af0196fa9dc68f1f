"""Build the parts of the demonstration that are not there yet, each as a whole."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from orchestrator.demo.fetch import DemoAssetsError, Say, sha256_of
from orchestrator.demo.parts import Part
from orchestrator.demo.questions import Row

MANIFEST = "manifest.json"


SPACE_NEEDED = 700 * 2**20
"""Bytes: archive, unpacked GGUF and converted model exist side by side for a moment."""


def fetch_demo_assets(
    into: Path, parts: Iterable[Part], *, say: Say, verify_sums: bool = False
) -> bool:
    """Build the parts that are not there yet.

    Args:
        into: The folder of the demonstration; made when missing.
        parts: What should be there.
        say: Receives one line for each step.
        verify_sums: Compare checksums with the manifest, not only sizes.

    Returns:
        Whether anything had to be built.

    Raises:
        DemoAssetsError: There is not enough room on the disk.
    """
    parts = list(parts)
    if not _missing(into, parts, lambda _: None, verify_sums=verify_sums):
        return False
    into.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(into).free) < SPACE_NEEDED:
        raise DemoAssetsError(
            f"Setting up the demonstration needs {SPACE_NEEDED // 2**20} MiB in "
            f"{str(into)!r}, got {free // 2**20} MiB. Free some space, or choose another folder "
            "with `--into`."
        )
    with _only_one_run(into, say):
        for left_over in into.glob(".partial-*"):  # of a run that was killed
            shutil.rmtree(left_over)
        # Looked at again, because another run may have made them in the meantime.
        for part in _missing(into, parts, say, verify_sums=verify_sums):
            _build(part, into, say)
    return True


@contextlib.contextmanager
def _only_one_run(into: Path, say: Say) -> Iterator[None]:
    with (into / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Waiting for another run that writes to {str(into)!r}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _missing(into: Path, parts: Iterable[Part], say: Say, *, verify_sums: bool) -> list[Part]:
    noted = _read_manifest(into)
    missing = []
    for part in parts:
        note = noted.get(part.name)
        if note is None or note["recipe"] != part.recipe:
            missing.append(part)
        elif damaged := _first_damaged(into, note["files"], verify_sums=verify_sums):
            say(f"{damaged} is missing or differs from the manifest: making it again")
            missing.append(part)
    return missing


def _first_damaged(into: Path, files: Mapping[str, Row], *, verify_sums: bool) -> str | None:
    for name, noted in files.items():
        path = into / name
        if not path.is_file() or path.stat().st_size != noted["bytes"]:
            return name
        if verify_sums and sha256_of(path) != noted["sha256"]:
            return name
    return None


def _build(part: Part, into: Path, say: Say) -> None:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=into) as temporary:
        made_with = part.build(Path(temporary), say)
        files = {}
        for folder in part.folders:
            for path in sorted((Path(temporary) / folder).rglob("*")):
                name = str(path.relative_to(temporary))
                files[name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            target = into / folder
            if target.exists():
                shutil.rmtree(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            (Path(temporary) / folder).rename(target)
        manifest = _read_manifest(into)
        manifest[part.name] = {"recipe": part.recipe, "made_with": made_with, "files": files}
        written = Path(temporary) / MANIFEST
        written.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        written.replace(into / MANIFEST)
    say(f"Ready: {part.name} ({time.monotonic() - started:.1f} s)")


def _read_manifest(into: Path) -> dict[str, Row]:
    path = into / MANIFEST
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
