"""Telling one base model from another: hashes of its weights, set-up and tokenizer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.base.errors import ModelError
from orchestrator.base.files import UNKNOWN
from orchestrator.base.loading import loading_errors
from orchestrator.spec.sections import ModelSpec
from orchestrator.system.content_cache import ContentCache, user_cache

_SETUP_FILES = re.compile(
    r"config\.json|chat_template\.\w+|.*token.*\.(json|model)|vocab\.\w+|merges\.txt|spiece\.model"
)
"""What beside a base's weights says what it computes: its config and its tokenizer."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NOTES = {"_name_or_path", "transformers_version", "torch_dtype", "dtype"}
"""Fields of a config that say who wrote it, or are set again when it is loaded."""


def base_sha256(spec: ModelSpec) -> str:
    """A hash of the base's weights: of the files of a folder, or the commit of a hub model.

    Args:
        spec: The model.

    Returns:
        A hexadecimal sha256 (folder, GGUF), or the hub's commit hash.

    Raises:
        ModelError: If a folder holds no weights.
    """
    place = Path(spec.gguf or str(spec.name))
    if place.is_file():
        files = [place]
    elif place.is_dir():
        files = sorted(place.glob("*.safetensors")) or sorted(place.glob("*.bin"))
        if not files:
            raise ModelError(
                f"The model folder {place} has no weights (*.safetensors). "
                "Save the model there with save_pretrained, or fix `model.name`."
            )
    else:
        from transformers import AutoConfig

        with loading_errors(spec):
            config: Any = AutoConfig.from_pretrained(str(spec.name), revision=spec.revision)
        return str(getattr(config, "_commit_hash", None) or UNKNOWN)
    return _files_sha256(files)


REMEMBERED_BYTES = 1 << 26
"""From this size on the hash of weights is remembered: reading them takes seconds."""


def _files_sha256(files: Sequence[Path]) -> str:
    """A hash of the content of some files, remembered while they are not touched."""
    stats = [(str(file.resolve()), file.stat()) for file in files]
    key = [[name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns] for name, s in stats]
    large = sum(s.st_size for _, s in stats) >= REMEMBERED_BYTES
    cache = ContentCache(user_cache()) if large else None
    known = cache.read("base-sha256", key) if cache is not None else None
    if known is not None:
        return str(known)
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    if cache is not None:
        cache.write("base-sha256", key, digest.hexdigest())
    return digest.hexdigest()


def found_base(
    spec: ModelSpec, hashes: Mapping[str, Any], what: str, place: Path | None = None
) -> ModelSpec:
    """The base that something was trained on, wherever it is now.

    Args:
        spec: As it was recorded.
        hashes: Its `sha256` and `setup_sha256`, as far as they were recorded.
        what: What was trained on it, for messages.
        place: Where it is now, a folder or GGUF file; None: where it was.

    Returns:
        The model to load, its weights found to be the recorded ones.

    Raises:
        ModelError: If it is not there, or other weights are.
    """
    expected, setup = hashes.get("sha256"), hashes.get("setup_sha256")
    if place is not None:
        spec = _moved(spec, place)
    was = Path(spec.gguf or str(spec.name))
    known = expected not in {None, UNKNOWN}
    named = not was.is_absolute() and (not known or _COMMIT.fullmatch(str(expected)))
    if not was.exists() and not named:
        raise ModelError(
            f"The base model of {what} is not at {was} any more. Give its new place with "
            "`--base DIR` (in Python `base=`); by its hash it is known again."
        )
    if not known:
        return spec
    if not was.exists():  # on the hub, where names move on and commits stay
        return spec.model_copy(update={"revision": expected})
    found = base_sha256(spec)
    if found != expected:
        raise ModelError(
            f"{was} holds other weights than {what} was trained on: their sha256 is "
            f"{found[:12]}..., expected {str(expected)[:12]}.... Give the right folder with "
            "`--base DIR` (in Python `base=`)."
        )
    if setup is not None and setup_sha256(spec) not in {None, setup}:
        raise ModelError(
            f"{was} holds the weights that {what} was trained on with another config or tokenizer. "
            "Give a whole copy of the base with `--base DIR` (in Python `base=`)."
        )
    return spec


def _moved(spec: ModelSpec, place: Path) -> ModelSpec:
    place = place.expanduser().resolve()
    if spec.gguf is None:
        return spec.model_copy(update={"name": str(place), "revision": None})
    file = place / Path(spec.gguf).name if place.is_dir() else place
    return spec.model_copy(update={"gguf": str(file)})


def setup_sha256(spec: ModelSpec) -> str | None:
    """A hash of a base's config and tokenizer files.

    Args:
        spec: The model.

    Returns:
        A hexadecimal sha256; None for a hub model, whose commit says it all, and for GGUF.
    """
    folder = Path(str(spec.name))
    if spec.gguf is not None or not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.iterdir() if p.is_file()):
        if _SETUP_FILES.fullmatch(file.name):
            content = file.read_bytes()
            if file.name == "config.json":
                content = _without_notes(content)
            digest.update(f"{file.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _without_notes(config: bytes) -> bytes:
    """A config's bytes, the same for all that mean the same."""
    try:
        fields = json.loads(config)
        kept = {key: value for key, value in fields.items() if key not in _NOTES}
    except (ValueError, AttributeError):  # whoever loads it says what is wrong with it
        return config
    return json.dumps(kept, sort_keys=True).encode()


def tokenizer_sha256(spec: ModelSpec, base_hash: str) -> str | None:
    """What tells a base's tokenizer from others.

    Args:
        spec: The model.
        base_hash: What `base_sha256` gave.

    Returns:
        A hexadecimal sha256 of the tokenizer's files in a folder, else the base's own hash; None
        when that is unknown.
    """
    folder = Path(str(spec.name))
    if spec.gguf is not None or not folder.is_dir():
        return base_hash if base_hash != UNKNOWN else None
    digest = hashlib.sha256()
    weights = {".safetensors", ".bin", ".gguf"}
    for file in sorted(p for p in folder.iterdir() if p.is_file() and p.suffix not in weights):
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    return digest.hexdigest()
