"""What is fetched of a sweep: its journal, its report and the champion's adapter.

On the cluster this module is a program, `python -m orchestrator.cluster.jobs.parcel STORAGE SWEEP`,
which writes them to its output in lines of base64, as a job has no other way to give files. Here
they are unpacked, and the journal says whether they are whole.
"""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from orchestrator.cluster.jobs.errors import JobError
from orchestrator.records.journal_lines import JOURNAL_NAME, read_journal
from orchestrator.records.model_folder import adapter_flaw
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.system.byte_units import MIB
from orchestrator.system.durable import put
from orchestrator.system.stores.errors import StoreError
from orchestrator.system.stores.opening import bring, opened

BEGIN, END = "-----begin sweep-----", "-----end sweep-----"
LARGEST = 64 * MIB
"""Bytes, packed. What is larger is taken from the storage itself."""
_LARGEST_UNPACKED = 1024 * MIB
FETCHED = "fetched.json"
"""Beside a fetched journal: it is a copy, which may be replaced by a later one."""
_PARCEL = re.compile(rf"^{BEGIN}\n([A-Za-z0-9+/=\n]*)^{END}$", re.MULTILINE)


def packed(sweep: Path) -> bytes:
    """A gzipped tar of what is fetched.

    Args:
        sweep: The sweep's folder.

    Returns:
        The archive.

    Raises:
        JobError: If there is no sweep, or it would be larger than `LARGEST`.
    """
    folder = SweepFolder(sweep)
    if not folder.journal.is_file():
        others = sorted(path.parent.name for path in sweep.parent.glob(f"*/{JOURNAL_NAME}"))
        raise JobError(
            f"There is no sweep {sweep.name!r} in {sweep.parent} on the cluster. "
            f"Sweeps there: {', '.join(others) or 'none'}."
        )
    state = SweepState.of(read_journal(sweep), whole=False)
    places = [folder.journal, folder.report]
    if state.champion is not None and state.trial(state.champion).adapter:
        adapter = folder.within(str(state.trial(state.champion).adapter))
        bring(adapter)
        places.append(adapter)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for place in places:
            if place.exists():
                archive.add(place, place.relative_to(sweep))
    if out.tell() > LARGEST:
        raise JobError(
            f"What is to be fetched of {sweep} is {out.tell() / MIB:,.0f} MiB packed, and at most "
            f"{LARGEST // MIB} MiB come this way. Copy the folder from the storage itself."
        )
    return out.getvalue()


def as_lines(archive: bytes) -> str:
    """An archive as lines of text between two marks."""
    return f"{BEGIN}\n{base64.encodebytes(archive).decode()}{END}\n"


def from_lines(text: str) -> bytes | None:
    """The archive in what a job has written; None where it has written none."""
    found = _PARCEL.search(text)
    return None if found is None else base64.b64decode(found[1])


def refuse_own_sweep(target: Path) -> None:
    """Refuse to put a copy where something else is.

    Raises:
        JobError: If the folder is there and was not fetched.
    """
    if target.exists() and not (target / FETCHED).is_file():
        raise JobError(
            f"{target} is there already and was not fetched from a cluster, so it is left as it "
            "is. Name another folder with `--storage DIR`."
        )


def unpacked(archive: bytes, target: Path, origin: Mapping[str, str]) -> None:
    """Write a fetched sweep, whole or not at all.

    Args:
        archive: What `packed` gave.
        target: The sweep's folder here; it is new, or was fetched before.
        origin: Where it comes from, which is written beside it.

    Raises:
        JobError: If the archive, the journal in it or the adapter is damaged, or something else
            has the folder.
    """
    refuse_own_sweep(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as packs:
            if sum(member.size for member in packs) > _LARGEST_UNPACKED:
                raise JobError(f"What the cluster sent is too large to be {target}'s copy.")
            packs.extractall(scratch, filter="data")  # no devices, nothing outside
        (scratch / FETCHED).write_text(json.dumps(dict(origin), indent=1) + "\n", encoding="utf-8")
        _check(scratch)
        if target.exists():
            shutil.rmtree(target)
        put(scratch, target)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise JobError(
            f"What the cluster sent cannot be kept in {target}: {error}. Give the same command "
            "again."
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check(folder: Path) -> None:
    state = SweepState.of(read_journal(folder), whole=False)  # a damaged one is refused
    if state.champion is None:
        return
    champion = state.trial(state.champion)
    if champion.adapter is None:
        return
    wrong = adapter_flaw(
        SweepFolder(folder).within(champion.adapter), champion.adapter_sha256, champion.name
    )
    if wrong is not None:
        raise JobError(f"The adapter that was fetched is not the champion's: {wrong}.")


def main() -> None:
    """Write a sweep to the output."""
    storage, sweep = sys.argv[1:]
    try:
        sys.stdout.write(as_lines(packed(opened(storage) / sweep)))
    except (JobError, StoreError) as error:
        sys.exit(f"orchestrate: {error}")


if __name__ == "__main__":
    main()
