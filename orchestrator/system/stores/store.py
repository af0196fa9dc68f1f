"""A store of objects at an fsspec address: put whole, read whole, and created only once.

`create` is what everything that must happen once rests on: of any number of writers of one name
exactly one is told that it has written (`If-None-Match: *` of S3, `ifGenerationMatch=0` of Google
Cloud Storage). Every call is repeated for a minute where the store does not answer.
"""

from __future__ import annotations

import errno
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.system.stores.errors import UNANSWERED, StoreError

T = TypeVar("T")

ANSWER_SECONDS = 60.0
"""How long a store may be away before what needs it stops."""
AT_ONCE = 16
"""Requests under way at a time, where there are many."""
_FINAL = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    NotADirectoryError,
    IsADirectoryError,
)
_NEEDS = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "az": "adlfs",
}


class Store:
    """The objects below an address; names are relative to it, with `/` between their parts."""

    def __init__(self, address: str, *, patience_s: float = ANSWER_SECONDS) -> None:
        """Name it; nothing is asked of it yet.

        Args:
            address: Such as s3://bucket/prefix.
            patience_s: How long one call may go unanswered.
        """
        self.address, self._patience = address, patience_s

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        scheme = self.address.partition("://")[0]
        # Listings are asked anew each time: others write here, too. And fsspec would keep a client
        # for another endpoint or key, which the environment names and its cache does not ask for.
        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if scheme in {"s3", "s3a"}:
            options["config_kwargs"] = {"connect_timeout": 10, "read_timeout": 60}
        try:
            files, root = url_to_fs(self.address, **options)
        except ImportError as error:
            package = _NEEDS.get(scheme)
            extra = "pip install 'curlora-orchestrator[s3]'" if package == "s3fs" else None
            cure = extra or (f"pip install {package}" if package else "see fsspec's documentation")
            raise StoreError(
                f"{self.address} needs a package that is missing: {error}; {cure}."
            ) from None
        except ValueError as error:
            raise StoreError(f"{self.address} is no address that fsspec knows: {error}.") from None
        return files, root.rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self._opened[1]}/{name}" if name else self._opened[1]

    def _asked(self, what: str, call: Callable[[Any], T]) -> T:
        """What a call comes to, repeated while the store does not answer."""
        files, began, pause = self._opened[0], time.monotonic(), 0.2
        while True:
            try:
                return call(files)
            except FileNotFoundError as error:
                if "bucket" in str(error).lower():
                    raise StoreError(f"{self.address}: {error}. Make the bucket first.") from None
                raise
            except _FINAL as error:
                if isinstance(error, PermissionError):
                    raise self._refused(what, error) from None
                raise
            except Exception as error:  # noqa: BLE001  every library has errors of its own
                if time.monotonic() - began > self._patience or _is_final(error):
                    raise self._refused(what, error) from None
            time.sleep(pause)
            pause = min(5.0, pause * 2)

    def _refused(self, what: str, error: BaseException) -> StoreError:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        return StoreError(
            f"The store {self.address} did not {what}: {said}. Everything that it was said to hold "
            f"is kept. {UNANSWERED}"
        )

    # ------------------------------------------------------------------------------- objects

    def create(self, name: str, content: bytes) -> bool:
        """Write an object of which there may be only one.

        Args:
            name: Its name.
            content: What no other writer would write there.

        Returns:
            Whether it is ours now; False where another has written it.

        Raises:
            StoreError: If it cannot be known.
        """
        until = time.monotonic() + self._patience
        while True:
            trouble: BaseException | None = None
            try:
                self._opened[0].pipe_file(self._path(name), content, mode="create")
            except PermissionError as error:
                raise self._refused(f"write {name}", error) from None
            except Exception as error:  # noqa: BLE001  also of a write that was done unheard
                trouble = error
            if trouble is None:
                return True
            # Whoever is told no, or nothing, looks who was first: it may have been this writer.
            found = self.get(name)
            if found is not None:
                return found == content
            if time.monotonic() > until:
                raise self._refused(f"write {name}", trouble)
            time.sleep(0.5)

    def put(self, name: str, content: bytes) -> None:
        """Write an object, over the one that is there."""
        self._asked(f"write {name}", lambda files: files.pipe_file(self._path(name), content))

    def get(self, name: str) -> bytes | None:
        """What an object holds; None where there is none."""
        try:
            return self._asked(f"read {name}", lambda files: files.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def get_many(self, names: Iterable[str]) -> list[bytes | None]:
        """What some objects hold, in their order."""
        wanted = list(names)
        if len(wanted) < 2:
            return [self.get(name) for name in wanted]
        self._opened  # noqa: B018  once, not in every thread
        with ThreadPoolExecutor(AT_ONCE) as threads:
            return list(threads.map(self.get, wanted))

    def version(self, name: str) -> str | None:
        """What tells an object from another one of its name; None where there is none."""
        try:
            about = self._asked(f"say what {name} is", lambda files: files.info(self._path(name)))
        except FileNotFoundError:
            return None
        return version_in(about) if about.get("type") == "file" else None

    def children(self, folder: str) -> list[str]:
        """The names in a folder, without it, sorted; folders end with a slash."""
        try:
            found = self._asked(
                f"list {folder}", lambda files: files.ls(self._path(folder), detail=True)
            )
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = [
            entry["name"].rstrip("/").rpartition("/")[2] + "/" * (entry["type"] == "directory")
            for entry in found
        ]
        return sorted(name for name in names if name.strip("/"))

    def below(self, folder: str) -> dict[str, str]:
        """Everything in and below a folder: name (from the address on) to version."""
        try:
            found = self._asked(
                f"list {folder}", lambda files: files.find(self._path(folder), detail=True)
            )
        except (FileNotFoundError, NotADirectoryError):
            return {}
        begin, inside = self._path("").lstrip("/") + "/", f"{folder}/" if folder else ""
        named = {path.lstrip("/").removeprefix(begin): about for path, about in found.items()}
        # Where a folder is not there, some libraries give the object of its name.
        return {n: version_in(about) for n, about in named.items() if n.startswith(inside)}

    def remove(self, names: Iterable[str]) -> None:
        """Remove some objects; those that are not there are none."""
        for name in names:
            try:
                self._asked(f"remove {name}", lambda files, n=name: files.rm_file(self._path(n)))
            except FileNotFoundError:
                continue

    def copy(self, name: str, to: str) -> None:
        """Copy an object within the store."""
        self._asked(f"copy {name}", lambda files: files.cp_file(self._path(name), self._path(to)))

    # ------------------------------------------------------------------------ files and folders

    def upload(self, source: Path, name: str) -> None:
        """Write a file as an object."""
        self._asked(f"take {name}", lambda files: files.put_file(str(source), self._path(name)))

    def download(self, name: str, target: Path) -> None:
        """Write an object as a file.

        Raises:
            FileNotFoundError: If there is no such object.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        self._asked(f"give {name}", lambda files: files.get_file(self._path(name), str(target)))

    def upload_folder(self, source: Path, name: str) -> None:
        """Write a folder as one object, a tar: it is there as a whole or not at all."""
        with tempfile.TemporaryDirectory(prefix="orchestrate-") as scratch:
            packed = Path(scratch) / "folder.tar"
            with tarfile.open(packed, "w") as archive:
                for path in sorted(source.rglob("*")):
                    archive.add(path, path.relative_to(source).as_posix(), recursive=False)
            self.upload(packed, name)

    def download_folder(self, name: str, target: Path) -> None:
        """Unpack such an object into a folder, made when missing.

        Raises:
            FileNotFoundError: If there is no such object.
            StoreError: If it is damaged, or leads out of the folder.
        """
        with tempfile.TemporaryDirectory(prefix="orchestrate-") as scratch:
            packed = Path(scratch) / "folder.tar"
            self.download(name, packed)
            target.mkdir(parents=True, exist_ok=True)
            try:
                with tarfile.open(packed) as archive:
                    # Only plain files and folders inside it; what leads out of it is an error.
                    archive.extractall(target, filter="data")
            except tarfile.TarError as error:
                raise StoreError(f"{self.address}/{name} is damaged: {error}.") from None

    # ---------------------------------------------------------------------------------- promises

    def probe(self) -> None:
        """Refuse a store that does not keep what a journal needs of it.

        Raises:
            StoreError: If an object that is there can be created again, several writers at once
                are each told to be the first, or what was written is not seen at once.
        """
        place, first, second = f".probe/{uuid.uuid4().hex}", b"the first", b"the second"
        names = [f"{place}/once", f"{place}/at-once"]
        try:
            if not self.create(names[0], first):
                raise self._unfit("an object that was not there could not be created")
            if self.create(names[0], second) or self.get(names[0]) != first:
                raise self._unfit("an object that was there was created again")
            with ThreadPoolExecutor(4) as threads:
                told = list(threads.map(lambda n: self.create(names[1], b"%d" % n), range(4)))
            if sum(told) != 1:
                raise self._unfit(f"of 4 writers at once {sum(told)} were told to be the first")
            seen = set(self.below(place))
            if seen != set(names):
                raise self._unfit("what was written a moment ago is not listed")
        finally:
            self.remove(names)

    def _unfit(self, found: str) -> StoreError:
        return StoreError(
            f"{self.address} cannot hold a journal, of which there may be one writer: it has no "
            f"conditional writes ({found}). Set `storage` to a store that has them (Amazon S3, "
            "Google Cloud Storage, Ceph and MinIO of 2025 and later), or to a folder."
        )


def version_in(about: dict[str, Any]) -> str:
    """What a listing says of an object that another of its name would not have."""
    for key in ("ETag", "etag", "generation", "md5Hash"):
        if about.get(key):
            return str(about[key]).strip('"')
    when = about.get("LastModified") or about.get("mtime") or about.get("created")
    seconds = when.timestamp() if isinstance(when, datetime) else when
    return f"{about.get('size')}@{seconds}"


def _is_final(error: BaseException) -> bool:
    """Whether asking again cannot help: no credentials, a name that is none."""
    if type(error).__name__ in {"NoCredentialsError", "ParamValidationError", "ProfileNotFound"}:
        return True
    return isinstance(error, OSError) and error.errno in {errno.EINVAL, errno.ENOSYS, errno.EPERM}
