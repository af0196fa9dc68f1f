"""A disk of its own that can fail as a real one does: read-only at once, with files open on it."""

from __future__ import annotations

import subprocess
from pathlib import Path

MIB = 256
"""Its size; the file that holds it takes only what is written."""


class NoDiskError(Exception):
    """This machine lets nobody make one: it takes root and loop devices."""


class FailingDisk:
    """An ext4 file system in a file, mounted on a folder."""

    def __init__(self, folder: Path) -> None:
        """Make and mount it.

        Args:
            folder: Where; made when missing. The file lies beside it.

        Raises:
            NoDiskError: If this machine does not let us.
        """
        self._folder, self._image = folder, folder.with_name(f"{folder.name}.ext4")
        folder.mkdir(parents=True, exist_ok=True)
        with self._image.open("wb") as file:
            file.truncate(MIB << 20)
        try:
            _done("mkfs.ext4", "-q", str(self._image))
            self._mount()
        except (OSError, subprocess.CalledProcessError) as error:
            self._image.unlink()
            raise NoDiskError(str(error)) from None

    def _mount(self) -> None:
        _done("mount", "-o", "loop", str(self._image), str(self._folder))

    def fail(self) -> None:
        """Let it refuse every write from now on, as ext4 does after an error of its device."""
        _done("mount", "-o", "remount,abort", str(self._folder))

    def mend(self) -> None:
        """Let it be writable again, with what was on it; nobody may have files open there."""
        _done("umount", str(self._folder))
        # As after any such failure: what its journal holds is brought to its place.
        subprocess.run(["e2fsck", "-fy", str(self._image)], capture_output=True, check=False)
        self._mount()

    def remove(self) -> None:
        """Unmount it and remove its file."""
        subprocess.run(["umount", "-l", str(self._folder)], capture_output=True, check=False)
        self._image.unlink(missing_ok=True)


def _done(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
