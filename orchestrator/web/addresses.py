"""The addresses of pages, which stay the same: they may be kept, mailed and bookmarked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlencode


def sweep_page(sweep: str) -> str:
    """Of a sweep."""
    return f"/sweeps/{quote(sweep, safe='')}"


def trial_page(sweep: str, trial: str) -> str:
    """Of a trial."""
    return f"{sweep_page(sweep)}/trials/{quote(trial, safe='')}"


def file_page(sweep: str, trial: str, path: str) -> str:
    """Of a file that is kept of a trial."""
    return f"{trial_page(sweep, trial)}/files/{quote(path)}"


def lineage_page(sweep: str) -> str:
    """Of a sweep's adapters and what each was made from."""
    return f"{sweep_page(sweep)}/lineage"


def champion_page(name: str) -> str:
    """Of a champion and its history."""
    return f"/champions/{quote(name, safe='')}"


def data(sweep: str, what: str) -> str:
    """Of what a chart of a sweep draws."""
    return f"/data/sweeps/{quote(sweep, safe='')}/{what}"


def trial_data(sweep: str, trial: str, what: str) -> str:
    """Of what a chart of a trial draws."""
    return f"/data/sweeps/{quote(sweep, safe='')}/trials/{quote(trial, safe='')}/{what}"


def with_query(path: str, fields: Mapping[str, str | int | Sequence[str] | None]) -> str:
    """An address with a query; what is empty is left out."""
    kept = {name: value for name, value in fields.items() if value}
    return f"{path}?{urlencode(kept, doseq=True)}" if kept else path


def card_page(sweep: str, trial: str, learnt: int) -> str:
    """Of the card of a trial's adapter after so many tasks."""
    return f"{trial_page(sweep, trial)}/cards/{learnt}"
