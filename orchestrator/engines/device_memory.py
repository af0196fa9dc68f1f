"""How much memory a process can still take, measured, and what its work was seen to need."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from orchestrator.system.machine import memory

MARGIN = 1.25
"""What a pass was seen to need is kept free this many times: lengths differ."""
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class DeviceMemory:
    """The memory of a device, as this process sees it."""

    def __init__(self, device: Any) -> None:
        """Look at a device.

        Args:
            device: A `torch.device`, or its name.
        """
        import torch

        self._device = torch.device(device)
        self._on_gpu = self._device.type == "cuda"
        self.peak = 0
        """Most bytes that a watched piece of work took beyond what was held before it."""
        self.seen = False
        """Whether any has been watched."""
        self.tokens = 0
        """The largest pass of watched work, in padded tokens; 0: not known."""

    def free(self) -> int:
        """Measure what can still be taken.

        Returns:
            Bytes of the device, where what the allocator holds unused counts as free; or of this
            machine and its control group.
        """
        if self._on_gpu:
            import torch

            free, _ = torch.cuda.mem_get_info(self._device)
            held = torch.cuda.memory_reserved(self._device)
            return int(free + held - torch.cuda.memory_allocated(self._device))
        found = memory()
        return found[1] if found is not None else int(psutil.virtual_memory().available)

    def holds(self, size: int, tokens: int = 0) -> bool:
        """Say whether so many bytes fit beside what a pass needs.

        Args:
            size: Bytes that will stay.
            tokens: Padded tokens that passes may have then. What larger ones than were seen need
                is taken to grow with their tokens.

        Returns:
            Whether they fit.
        """
        growth = max(1.0, tokens / self.tokens) if self.tokens else 1.0
        return size + MARGIN * self.peak * growth <= self.free()

    def forget(self) -> None:
        """Forget what work took: what is done from now on is smaller."""
        self.peak, self.seen, self.tokens = 0, False, 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Meanwhile, see how much is taken at most; `peak` remembers the largest.

        Yields:
            Nothing. Where the system cannot tell, `peak` stays.
        """
        before = self._begin()
        yield
        self.seen = True
        if before is not None:
            self.peak = max(self.peak, self._most() - before)

    def _begin(self) -> int | None:
        if self._on_gpu:
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)
            return torch.cuda.memory_allocated(self._device)
        with suppress(OSError):  # not Linux, or not allowed
            _CLEAR.write_text("5", encoding="ascii")
            return _resident("VmRSS")
        return None

    def _most(self) -> int:
        if self._on_gpu:
            import torch

            return torch.cuda.max_memory_allocated(self._device)
        return _resident("VmHWM")


def _resident(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
