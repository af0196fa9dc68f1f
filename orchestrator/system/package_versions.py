"""The versions of packages that numbers depend on."""

from __future__ import annotations

import platform
from importlib import metadata

OF_WORKERS = (
    "torch", "transformers", "tokenizers", "safetensors", "peft", "ray", "deepspeed",
)  # fmt: skip
"""The packages that a worker computes with."""


def package_version(name: str) -> str | None:
    """The version of a package; None where it is not installed; `python` is Python itself."""
    if name == "python":
        return platform.python_version()
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def versions_here() -> dict[str, str | None]:
    """What a worker of this machine would compute with, by name."""
    return {name: package_version(name) for name in ("python", *OF_WORKERS)}
