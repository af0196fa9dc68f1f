"""Finding a trained model by name, and loading it.

A model is named `NAME@champion` or `NAME/VERSION` (the model registry), `SWEEP/TRIAL` or, after a
task before the last, `SWEEP/TRIAL@TASK` (a sweep's folder), or by the path of a model folder.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.records.cards.pruned import pruned_words
from orchestrator.records.errors import RegistryError
from orchestrator.records.mlflow.address import DATABASE_NAME, recorded_uri
from orchestrator.records.mlflow.registry import resolve
from orchestrator.records.mlflow.tags import CHAMPION_ALIAS
from orchestrator.records.model_folder import (
    MODEL_FILE,
    adapter_flaw,
    read_model_document,
    tasks_of,
    write_model_folder,
)
from orchestrator.records.opening import read_opening
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.registry.champions.adapters import FoundAdapter, find_adapter
from orchestrator.registry.champions.champion import champion, champion_names
from orchestrator.registry.index.index import open_index
from orchestrator.registry.part import adapter_part
from orchestrator.spec.plugins import load_installed_plugins
from orchestrator.spec.task_kinds import PromptedTask, TaskSpec
from orchestrator.system.seals import UNSEALED, flaw
from orchestrator.system.stores.opening import bring, opened
from orchestrator.system.user_error import UsageError, UserError
from orchestrator.system.wording import suggestion

if TYPE_CHECKING:
    from orchestrator.serving.predictor import Predictor


_log = logging.getLogger(__name__)


class ModelUseError(UserError, ValueError):
    """A model or file that cannot be used as it was asked; the message says why."""


def load(
    reference: str,
    storage: Path | str = "runs",
    *,
    tracking_uri: str | None = None,
    base: Path | str | None = None,
) -> Predictor:
    """Load a trained model by name.

    Args:
        reference: `NAME@champion`, `NAME/VERSION`, `SWEEP/TRIAL`, `SWEEP/TRIAL@TASK`, or the path
            of a model folder.
        storage: The folder that sweeps are kept in.
        tracking_uri: Where MLflow records; null: as the sweep says, else SQLite in `storage`.
        base: Where the base is now, if it was moved since.

    Returns:
        A predictor: `tasks` names what can be asked, `predict(task, rows)` answers.
    """
    with model_folder(reference, opened(storage), tracking_uri) as folder:
        return load_folder(folder, Path(base) if base is not None else None)


def load_folder(folder: Path, base: Path | None = None) -> Predictor:
    """Load base and adapter without the progress bars and warnings that are not for the user."""
    from orchestrator.base.loading import quiet_loading
    from orchestrator.serving.predictor import Predictor

    load_installed_plugins()
    with quiet_loading():
        return Predictor.from_folder(folder, base=base)


@contextmanager
def model_folder(
    reference: str,
    storage: Path,
    tracking_uri: str | None,
    *,
    note: Callable[[str], None] = _log.warning,
) -> Iterator[Path]:
    """The folder of a model, `adapter/` and `model.json`, for as long as the context lasts.

    Args:
        reference: `NAME@champion`, `NAME/VERSION`, `SWEEP/TRIAL`, `SWEEP/TRIAL@TASK`, or the path
            of a model folder.
        storage: The folder that sweeps are kept in.
        tracking_uri: Where MLflow records; null: see `registry_uri`.
        note: Told when nothing vouches for the model, as it was made by an earlier version.

    Yields:
        The folder, found to be as it was written; not to be changed.

    Raises:
        ModelUseError: If the reference names no model, or the model was damaged.
    """
    with _found_folder(reference, storage, tracking_uri) as folder:
        wrong = flaw(folder)
        if wrong not in {None, UNSEALED}:
            raise ModelUseError(
                f"The model {reference} in {folder} is not as it was written: {wrong}. It is not "
                "used; restore it from a copy, or name the trial that made it as SWEEP/TRIAL."
            )
        document = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
        if wrong == UNSEALED or document.get("adapter_sha256") is None:
            note(f"{reference} was made before checksums; it is not verified")
        yield folder


@contextmanager
def _found_folder(reference: str, storage: Path, tracking_uri: str | None) -> Iterator[Path]:
    if (Path(reference) / MODEL_FILE).is_file():
        yield Path(reference)
        return
    owner, slash, rest = reference.partition("/")
    version = slash and rest.isdigit()  # no trial is named by a number alone
    own = slash and not version and "@" not in owner
    with tempfile.TemporaryDirectory(prefix="orchestrate-") as scratch:
        target = Path(scratch) / "model"
        if own and SweepFolder(storage / owner).journal.is_file():
            yield _kept_folder(find_adapter(storage, reference), target)
            return
        if "@" not in owner and not version:
            raise ModelUseError(
                f"{reference!r} names no model. Write NAME@{CHAMPION_ALIAS} for a champion, "
                f"SWEEP/TRIAL or SWEEP/TRIAL@TASK for a trial in {storage}, or the path of a model "
                "folder."
            )
        name, _, alias = owner.partition("@")
        found = _champion(storage, name, tracking_uri) if alias == CHAMPION_ALIAS else None
        if found is not None:
            yield _kept_folder(found, target)
            return
    yield resolve(reference, registry_uri(name, storage, tracking_uri), storage)


def _champion(storage: Path, name: str, tracking_uri: str | None) -> FoundAdapter | None:
    """The champion that the storage folder itself holds.

    Args:
        storage: The storage folder.
        name: Whose champion.
        tracking_uri: What the user gave.

    Returns:
        The champion; None where MLflow's client is to be asked: its sweep or its adapter is not
        there, or a server keeps the registry, which did not say at once who has the alias.
    """
    try:
        known = champion(storage, name, tracking_uri=tracking_uri)
    except (RegistryError, UsageError):
        return None
    if known.unasked is not None:
        return None
    found = known.found
    place, key = found.place, found.key
    if place is None:
        return None
    bring(place)
    if not place.is_dir():
        return None
    # A damaged one may be whole in MLflow, which has a copy.
    return found if adapter_flaw(place, key.adapter_sha256, key.trial) is None else None


def _kept_folder(found: FoundAdapter, target: Path) -> Path:
    """The model folder of an adapter that is kept in its sweep's folder."""
    place, key = found.place, found.key
    if place is None:
        raise ModelUseError(
            f"No adapter was kept of {key.reference}: one as large as its base is kept after the "
            "last task alone."
        )
    bring(place)
    if not place.is_dir():
        why = pruned_words(place) or f"there is no {place}"
        raise ModelUseError(f"The adapter of '{key.reference}' is gone: {why}.")
    folder = found.folder.path
    with open_index(folder.parent) as index:
        _, state = adapter_part(index, folder.name, [key.trial])
    return write_model_folder(
        target, adapter_folder=place, state=state, trial=key.trial, learnt=key.learnt
    )


def registry_uri(name: str, storage: Path, tracking_uri: str | None) -> str:
    """Where the model registry is: as given, as the sweep of that name says, or in storage.

    Args:
        name: The model's name, which is its sweep's.
        storage: The folder that sweeps are kept in.
        tracking_uri: What the user gave.

    Returns:
        MLflow's address.

    Raises:
        ModelUseError: If there is no registry.
    """
    opening = read_opening(storage / name) if "/" not in name else None
    experiment = {} if opening is None else opening.experiment
    own = tracking_uri or (experiment.get("tracking") or {}).get("uri")
    if not own and not (storage / DATABASE_NAME).is_file():
        others = [known for known in champion_names(storage) if known != name]
        again = f" (`orchestrate report {name}` rebuilds it from the journal)" if opening else ""
        raise ModelUseError(
            f"No model registry in {storage}{again}.{suggestion(name, others)} Give the folder of "
            "the sweep with `--storage`, or MLflow's address with `--tracking-uri`."
        )
    return recorded_uri(experiment, storage, tracking_uri)


def asked_tasks(folder: Path) -> dict[str, TaskSpec]:
    """The tasks of a model folder that can be asked, by name."""
    parsed = tasks_of(read_model_document(folder), folder)
    return {n: t for n, t in parsed.items() if isinstance(t, PromptedTask)}
