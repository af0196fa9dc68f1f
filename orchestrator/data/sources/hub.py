"""Rows of a data set on the Hugging Face hub, or in its cache."""

from __future__ import annotations

import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.data.formats.arrow import rows_of, table_errors
from orchestrator.data.formats.placed_row import DataError, PlacedRow
from orchestrator.spec.task_kinds import DataSource
from orchestrator.system.hub_environment import hub_hindered
from orchestrator.system.wording import one_line


def read_hub(
    data: DataSource, split: str, first: int | None, last: int | None
) -> list[PlacedRow] | None:
    """Rows of a dataset on the hub. Only data are read: a dataset's own code is never run."""
    import datasets

    name = str(data.hub)
    wanted = split if first is None and last is None else f"{split}[{first or ''}:{last or ''}]"
    try:
        with _cache_only_without_hub(name):
            known = datasets.get_dataset_split_names(name, data.config, revision=data.revision)
            if split not in known:
                return None
            table: Any = datasets.load_dataset(
                name, data.config, split=wanted, revision=data.revision
            )
            return list(rows_of(table, f"{name} ({split})", first=(first or 0) + 1))
    except table_errors() as error:
        raise DataError(_hub_message(data, error)) from None


def _hub_message(data: DataSource, error: BaseException) -> str:
    text = one_line(error)
    cure = (
        "On a machine without the hub, give `--data-root DIR` with "
        "DIR/<name>/<split>.jsonl.gz, or copy the data and name them in `data.files`."
    )
    if "scripts are no longer supported" in text:
        cure = (
            "Only data are loaded, never a dataset's own code: try `revision: "
            "refs/convert/parquet`, where the hub keeps most such sets as parquet."
        )
    elif "BuilderConfig" in text or "Config name is missing" in text:
        cure = "Put one of those into `data.config`."
    elif "gated" in text or "authenticated" in text:
        cure += " For a gated set, log in with `hf auth login` and accept its terms."
    if hindered := hub_hindered():
        cure = f"{hindered} {cure}"
    return f"The dataset {data.hub!r} cannot be loaded ({text}). {cure}"


@contextmanager
def _cache_only_without_hub(name: str) -> Iterator[None]:
    """Ask only the cache while the hub's address is unknown: the hub's client tries for minutes."""
    from datasets import config
    from huggingface_hub import constants

    if Path(name).exists() or constants.HF_HUB_OFFLINE or _hub_is_known(constants.ENDPOINT):
        yield
        return
    places: tuple[Any, ...] = (config, constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _hub_is_known(endpoint: str) -> bool:
    if urllib.request.getproxies():
        return True  # a proxy knows names that this machine does not
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(endpoint).hostname, None)
    except OSError:
        return False
    return True
