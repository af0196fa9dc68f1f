"""Rated texts in the source distribution of `vaderSentiment`."""

from __future__ import annotations

import html
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

from orchestrator.demo.fetch import DemoAssetsError


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
    r"""Read one of the rated files: lines of identifier, mean rating and text, separated by tabs.

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
                    f"and `text`, separated by tabs, got {line[:80]!r}."
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
