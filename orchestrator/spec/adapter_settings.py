"""Settings of each kind of adapter, as an experiment file has them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import model_validator

from curlora_kinds.adapters.kind import AdapterKind
from curlora_kinds.adapters.table import ADAPTERS
from orchestrator.spec.kind_models import KindModels, OneOf, library_options
from orchestrator.spec.validation import Spec


class AdapterSpec(Spec):
    """`method.adapter`: the kind and its settings."""

    kind: str

    @model_validator(mode="after")
    def _agree(self) -> AdapterSpec:
        self._check_file()
        ADAPTERS[self.kind].complete(adapter_options(self))
        return self

    def _check_file(self) -> None:
        """Refuse what is wrong of the fields that are a file's alone."""


class AdapterWithText(AdapterSpec):
    """Of an adapter that starts from a text."""

    source: str | None = None
    """The probe whose training text stands for the knowledge to keep."""

    def _check_file(self) -> None:
        if self.source is None:
            raise ValueError(
                "`source` is missing: name the probe whose text stands for the knowledge to keep"
            )


def adapter_options(adapter: AdapterSpec) -> dict[str, Any]:
    """An adapter's settings as `curlora.ADAPTERS` takes them.

    Args:
        adapter: `method.adapter` of an experiment.

    Returns:
        Plain settings by name, without the kind and without what names data.
    """
    return library_options(adapter, ADAPTERS[adapter.kind].settings)


def _base_of(kind: AdapterKind) -> type[AdapterSpec]:
    return AdapterWithText if kind.reads_text else AdapterSpec


ADAPTER_SETTINGS = KindModels(ADAPTERS, _base_of, "Settings")
"""The settings of each kind of adapter."""

AdapterSettings = Annotated[AdapterSpec, OneOf(ADAPTER_SETTINGS)]
