"""The archive: a zip of stored files, the same bytes for the same content, and read with distrust.

Files are sorted, of one date and mode, and not compressed: adapters hardly are, and what is not
compressed cannot become larger than it is. Nothing is ever unpacked: members are read from the file
where they lie.
"""

from __future__ import annotations

import hashlib
import json
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from orchestrator.system import durable
from orchestrator.system.strict_json import plain
from orchestrator.system.user_error import UserError
from orchestrator.system.wording import cut

MANIFEST = "manifest.json"
SCHEMA = "orchestrator/bundle/1"
MOST_FILES = 1000
LARGEST_DOCUMENT = 64 << 20
"""Bytes of a JSON document that is read whole."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The first date that a zip can name."""
_BLOCK = 1 << 20


class BundleError(UserError, ValueError):
    """A bundle that cannot be made, or is none; the message says why."""


def write_archive(target: Path, files: Mapping[str, Path | bytes], facts: Mapping[str, Any]) -> str:
    """Write an archive.

    Args:
        target: The file; written whole or not at all.
        files: By name in the archive, a file or what it holds.
        facts: What the manifest says beside the files' hashes.

    Returns:
        The sha256 of the manifest, which vouches for all of it.

    Raises:
        OSError: It cannot be written.
    """
    entries = {name: _measured(source) for name, source in sorted(files.items())}
    manifest = {"schema": SCHEMA, **facts, "files": entries}
    text = (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()
    target.parent.mkdir(parents=True, exist_ok=True)
    with durable.half(target) as fresh:
        with zipfile.ZipFile(fresh, "w", zipfile.ZIP_STORED) as archive:
            for name, source in [(MANIFEST, text), *sorted(files.items())]:
                entry = zipfile.ZipInfo(name, _EPOCH)
                entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
                with archive.open(entry, "w", force_zip64=True) as out:
                    for block in _blocks(source):
                        out.write(block)
        durable.put(fresh, target)
    return hashlib.sha256(text).hexdigest()


def _blocks(source: Path | bytes) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _measured(source: Path | bytes) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    for block in _blocks(source):
        digest.update(block)
        size += len(block)
    return {"sha256": digest.hexdigest(), "size": size}


class Archive:
    """An archive that was opened and looks like one of ours."""

    def __init__(self, archive: zipfile.ZipFile, manifest: Mapping[str, Any], sha256: str) -> None:
        self._archive = archive
        self.manifest = manifest
        self.manifest_sha256 = sha256
        self.names = sorted(i.filename for i in archive.infolist() if i.filename != MANIFEST)

    def flaws(self) -> list[str]:
        """What of it is not as the manifest says; empty if all is."""
        listed: Mapping[str, Any] = self.manifest["files"]
        found = [f"{name} is missing" for name in sorted(listed.keys() - set(self.names))]
        found += [f"{n} is not in the manifest" for n in sorted(set(self.names) - listed.keys())]
        for name in sorted(listed.keys() & set(self.names)):
            if self.sha256(name) != listed[name].get("sha256"):
                found.append(f"{name} is not as the manifest says: its sha256 differs")
        return found

    def sha256(self, name: str) -> str:
        """The sha256 of a member."""
        digest = hashlib.sha256()
        with self.open(name) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        return digest.hexdigest()

    def open(self, name: str) -> IO[bytes]:
        """A member's content."""
        return self._archive.open(name)

    def text(self, name: str) -> str:
        """A member that is text, whole.

        Args:
            name: Which.

        Returns:
            The text.

        Raises:
            BundleError: It is missing, too large, or no text.
        """
        try:
            if self._archive.getinfo(name).file_size > LARGEST_DOCUMENT:
                raise BundleError(f"{name} is larger than {LARGEST_DOCUMENT >> 20} MiB.")
            return self._archive.read(name).decode()
        except KeyError:
            raise BundleError(f"{name} is missing.") from None
        except UnicodeDecodeError:
            raise BundleError(f"{name} is no text.") from None

    def document(self, name: str) -> dict[str, Any]:
        """A member that is a JSON object.

        Args:
            name: Which.

        Returns:
            The object.

        Raises:
            BundleError: It is missing or is none.
        """
        return _object(self.text(name), name)


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open an archive that anybody may have made; nothing of it is unpacked.

    Args:
        path: The file.

    Yields:
        The archive.

    Raises:
        BundleError: It is no bundle, or is made to do harm: names that lead out of a folder, links,
            compressed or overlapping members, more of them than any bundle has.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check(archive, path.stat().st_size)
            manifest = archive.read(MANIFEST)
            document = _object(manifest.decode(), MANIFEST)
            _check_manifest(document)
            yield Archive(archive, document, hashlib.sha256(manifest).hexdigest())
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, RuntimeError) as error:
        raise BundleError(
            f"{path} is no whole bundle: {error}. Copy it again, or make it again with "
            "`orchestrate bundle`."
        ) from None


def _check(archive: zipfile.ZipFile, size: int) -> None:
    members = archive.infolist()
    if len(members) > MOST_FILES:
        raise BundleError(f"It has {len(members)} members; no bundle has more than {MOST_FILES}.")
    names = [member.filename for member in members]
    if twice := {name for name in names if names.count(name) > 1}:
        raise BundleError(f"The name {cut(min(twice))!r} is in it more than once.")
    for member in members:
        _check_member(member)
    # Of stored members this is what they take; more would be the same bytes read again and again.
    if sum(member.file_size for member in members) > size:
        raise BundleError("Its members overlap: they say that they hold more than the file does.")
    if MANIFEST not in names:
        raise BundleError(f"There is no {MANIFEST} in it: it is no bundle.")
    if archive.getinfo(MANIFEST).file_size > LARGEST_DOCUMENT:
        raise BundleError(f"{MANIFEST} is larger than {LARGEST_DOCUMENT >> 20} MiB.")


def _check_member(member: zipfile.ZipInfo) -> None:
    name = member.filename
    parts = PurePosixPath(name).parts
    odd = "\\" in name or "\0" in name or ":" in name or not name.isprintable()
    if (
        not parts
        or odd
        or name.startswith("/")
        or ".." in parts
        or str(PurePosixPath(name)) != name
    ):
        raise BundleError(
            f"The name {cut(name)!r} in it leads elsewhere, or is none of a bundle's."
        )
    kind = member.external_attr >> 16
    if member.is_dir() or (kind and not stat.S_ISREG(kind)):
        raise BundleError(f"{cut(name)!r} in it is no plain file.")
    if member.flag_bits & 0x1 or member.compress_type != zipfile.ZIP_STORED:
        raise BundleError(f"{cut(name)!r} in it is compressed or encrypted; no bundle's file is.")
    if member.compress_size != member.file_size:
        raise BundleError(f"{cut(name)!r} in it says two different sizes.")


def _object(text: str, name: str) -> dict[str, Any]:
    try:
        found = plain(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise BundleError(f"{name} is no JSON object.")
    return found


def _check_manifest(document: Mapping[str, Any]) -> None:
    if document.get("schema") != SCHEMA:
        raise BundleError(
            f"{MANIFEST} is of the form {cut(repr(document.get('schema')))}, and this version "
            f"knows {SCHEMA}. A newer version may have made it."
        )
    files = document.get("files")
    if not isinstance(files, dict) or not all(isinstance(entry, dict) for entry in files.values()):
        raise BundleError(f"{MANIFEST}: `files` should be an object of objects.")
