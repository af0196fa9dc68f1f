"""Why a retention does not go with an adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from curlora_kinds.adapters.kind import AdapterKind
from curlora_kinds.adapters.table import ADAPTERS

Refusal = Callable[[str, Mapping[str, Any]], str | None]
"""From an adapter's kind and a full set of settings, `r` the rank, to the reason, if any."""


def goes_with_all(adapter_kind: str, settings: Mapping[str, Any]) -> None:  # noqa: ARG001
    """Give no reason: the retention goes with every adapter."""
    return


def only_with(fits: Callable[[AdapterKind], bool], *, need: str) -> Refusal:
    """Make the answer of a retention that goes only with the adapters that fit."""

    def why_not(adapter_kind: str, settings: Mapping[str, Any]) -> str | None:  # noqa: ARG001
        fitting = [name for name, kind in ADAPTERS.items() if fits(kind)]
        if adapter_kind in fitting:
            return None
        return f"It needs {need}, and {adapter_kind!r} has none. Adapters: {', '.join(fitting)}."

    return why_not
