"""The processor and the GPUs of a machine, and whether they multiply bf16 natively."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CPU_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
"""Flags of /proc/cpuinfo that stand for products of bf16; the last is Arm's."""
AMPERE = 8
"""Least major CUDA compute capability with products of bf16."""
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Variables that hold oneDNN back, which computes PyTorch's products of bf16 on x86."""
UNHINDERED = ("BF16", "FP16", "AMX", "AVX10", "ALL", "DEFAULT")
"""Parts of their values that leave it AVX512-BF16, or more."""
PRODUCT_SECONDS = 0.3
"""How long the products of one format are timed at most, once they are warm."""


@dataclass(frozen=True)
class Device:
    """A processor or GPU."""

    name: str
    bf16: bool
    """Whether it multiplies bf16 natively."""
    because: str
    """How that is known, in words."""


def devices_here(*, on_gpu: bool) -> list[Device]:
    """What trials on this machine compute with.

    Args:
        on_gpu: Whether they use GPUs.

    Returns:
        The processor, or every GPU that this process sees; empty where there is none.
    """
    return gpus() if on_gpu else [processor()]


def processor(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> Device:
    """This machine's processor.

    Args:
        root: Where `proc` is.
        environment: Whose variables may hold PyTorch back.

    Returns:
        The processor. Where its flags cannot be read (not Linux), it counts as one without bf16.
    """
    try:
        lines = (root / "proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        kind = platform.processor() or platform.machine()
        return Device(kind, bf16=False, because="its instructions cannot be read on this system")
    parts = (line.partition(":") for line in lines)
    fields = {key.strip().lower(): value.strip() for key, _, value in parts}
    name = fields.get("model name") or platform.processor() or platform.machine()
    flags = f"{fields.get('flags', '')} {fields.get('features', '')}".split()
    found = next((flag for flag in CPU_FLAGS if flag in flags), None)
    if found is None:
        return Device(name, bf16=False, because="it has no instruction for products of bf16")
    for variable in LIMITS:
        value = environment.get(variable, "")
        if value and not any(part in value.upper() for part in UNHINDERED):
            return Device(name, bf16=False, because=f"{variable} is {value!r}")
    return Device(name, bf16=True, because=f"it has {found}")


def gpus() -> list[Device]:
    """The GPUs that this process sees."""
    import torch

    found: list[Device] = []
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        name = torch.cuda.get_device_name(index)
        found.append(
            Device(name, bf16=major >= AMPERE, because=f"its compute capability is {major}.{minor}")
        )
    return found


def product_speed(precision: str, *, threads: int) -> float:
    """Floating-point operations a second of matrix products on the CPU.

    Args:
        precision: "fp32" or "bf16".
        threads: Threads that compute one.

    Returns:
        The speed over some 0.3 s (one product, where that takes longer).
    """
    import torch

    from orchestrator.base.number_formats import DTYPES

    rows, columns = 256, 1024
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        left = torch.ones(rows, columns, dtype=DTYPES[precision])
        right = torch.ones(columns, columns, dtype=DTYPES[precision])
        _ = left @ right  # the first product chooses kernels
        count, begun = 0, time.perf_counter()
        while (spent := time.perf_counter() - begun) < PRODUCT_SECONDS:
            _ = left @ right
            count += 1
    finally:
        torch.set_num_threads(before)
    return 2.0 * rows * columns * columns * count / spent


def bf16_slowness(*, threads: int) -> float:
    """How many times as long as in fp32 a product takes in bf16 on this processor, measured."""
    return product_speed("fp32", threads=threads) / product_speed("bf16", threads=threads)


def named(devices: Sequence[Device]) -> str:
    """The names of some devices, each once, for people."""
    return ", ".join(dict.fromkeys(device.name for device in devices))
