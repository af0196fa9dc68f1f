"""Lines that are only ever added to, in a store that cannot append: numbered objects, made once.

The n-th addition is the object n, and no object can be made twice: of two writers that both add
what they take for the n-th, one is told that it has lost. That alone keeps the order, whatever the
clocks say; the objects stay for that reason, also once 256 of them have been packed into one, which
is only there to be read faster. A writer that begins first takes a number of its own (a *fence*),
so that nothing of a writer before it, which may only have been slow, can be added after that.
"""

from __future__ import annotations

from orchestrator.system.stores.errors import StoreError
from orchestrator.system.stores.store import Store

SPAN = 256
"""Additions in one pack, and in one folder of the store."""
_FENCE = b"#"
_PACK = ".pack"


class SegmentedLines:
    """The lines below a name of a store, and how far they have been read here."""

    def __init__(self, store: Store, name: str, *, read: int = 0) -> None:
        """Begin to read.

        Args:
            store: The store.
            name: The folder of the lines.
            read: How many additions are known already: whole packs.
        """
        self._store, self._name = store, name
        self.count = read - read % SPAN
        """How many additions have been read or made."""
        self._block: list[bytes] = []

    @property
    def open_size(self) -> int:
        """Bytes of the lines that are in no pack yet."""
        return sum(map(len, self._block)) if self.count % SPAN else 0

    def read_on(self) -> bytes:
        """The lines that were added since.

        Returns:
            Their bytes.

        Raises:
            StoreError: If the store does not answer, or one of them is missing.
        """
        found: list[bytes] = []
        there = self._store.children(self._name)
        packs = {int(n.removesuffix(_PACK)) for n in there if n.endswith(_PACK)}
        blocks = packs | {int(n[:-1]) for n in there if n.endswith("/")}
        last = max(blocks, default=-1)
        while (block := self.count // SPAN) <= last:
            inside = self.count % SPAN
            packed = None
            if block in packs and not inside:
                packed = self._store.get(f"{self._name}/{block:06d}{_PACK}")
            if packed is None:
                found += self._read_block(block, inside)
            else:
                found.append(packed)
                self.count += SPAN
            if self.count < (block + 1) * SPAN:
                break
        if self.count < last * SPAN:
            raise StoreError(
                f"{self._store.address}/{self._name}: addition {self.count} is missing, and later "
                "ones are there: lines are missing. Nothing was changed. Restore it, or start "
                "another sweep with --new."
            )
        return b"".join(found)

    def _read_block(self, block: int, inside: int) -> list[bytes]:
        """What a folder holds from a number on, without a gap."""
        folder = f"{self._name}/{block:06d}"
        numbers = sorted(int(name) for name in self._store.children(folder) if name.isdigit())
        later = [number for number in numbers if number >= inside]
        if later != list(range(inside, inside + len(later))):
            raise StoreError(
                f"{self._store.address}/{folder}: {later} are there, and not all from {inside} on: "
                "lines are missing. Nothing was changed. Restore them, or start another sweep with "
                "--new."
            )
        contents = self._store.get_many(f"{folder}/{number:03d}" for number in later)
        if None in contents:
            raise StoreError(f"{self._store.address}/{folder}: lines that were listed are gone.")
        lines = [b"" if (c or b"").startswith(_FENCE) else (c or b"") for c in contents]
        self._block = [*self._block, *lines] if inside else list(lines)
        self.count += len(lines)
        return lines

    def add(self, lines: bytes) -> bool:
        """Add some lines; once this returns true, every reader sees them.

        Args:
            lines: Whole lines, which begin with no `#`.

        Returns:
            Whether they are there; False where another writer has added something first.

        Raises:
            StoreError: If it cannot be known.
        """
        if not self._store.create(self._place(), lines):
            return False
        self._made(lines)
        return True

    def fence(self, mark: str) -> bytes:
        """Let nothing be added any more by who has read less than is there now.

        Args:
            mark: What no other writer has.

        Returns:
            Lines that were added meanwhile.
        """
        found: list[bytes] = []
        while not self._store.create(self._place(), _FENCE + mark.encode()):
            found.append(self.read_on())
        self._made(b"")
        return b"".join(found)

    def _place(self) -> str:
        return f"{self._name}/{self.count // SPAN:06d}/{self.count % SPAN:03d}"

    def _made(self, lines: bytes) -> None:
        if self.count % SPAN == 0:
            self._block = []
        self._block.append(lines)
        self.count += 1
        if self.count % SPAN == 0 and len(self._block) == SPAN:
            block = self.count // SPAN - 1
            self._store.put(f"{self._name}/{block:06d}{_PACK}", b"".join(self._block))
