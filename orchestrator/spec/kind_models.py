"""Models of the kinds of adapters and retentions, made of what the adapter library declares.

A kind's settings, their ranges and their defaults are declared once, in `curlora_kinds`; what a
file may say of it follows from there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, Field, create_model

from curlora_kinds.settings import Number, Setting, Settings
from orchestrator.spec.validation import Spec


class Kind(Protocol):
    """What adapters and retentions have in common."""

    @property
    def name(self) -> str:
        """The value of `kind` in a file."""
        ...

    @property
    def summary(self) -> str:
        """One line."""
        ...

    @property
    def settings(self) -> Settings:
        """Its settings by name."""
        ...


def model_of(kind: Kind, base: type[Spec], suffix: str) -> type[Any]:
    """Make the model of a kind.

    Args:
        kind: The kind.
        base: What the model inherits: fields that are a file's alone, and checks.
        suffix: The end of the model's name.

    Returns:
        A model with `kind` and the settings that a file may name.
    """
    fields: dict[str, Any] = {"kind": (Literal[kind.name], ...)}
    fields |= {
        name: (
            _annotation(name, setting),
            Field(default=setting.default, description=setting.meaning),
        )
        for name, setting in kind.settings.items()
        if setting.in_file
    }
    model: type[Any] = create_model(
        kind.name.title().replace("_", "") + suffix,
        __base__=base,
        __doc__=kind.summary,
        __module__=base.__module__,
        **fields,
    )
    # Experiments travel to workers, and pickle looks for a class by its name in its module.
    setattr(sys.modules[base.__module__], model.__name__, model)
    return model


def union_of(models: Iterable[type[Any]]) -> Any:
    """Make the type of a field that holds one of some models, told apart by their `kind`.

    Args:
        models: As `model_of` makes them.

    Returns:
        An annotation.
    """
    joined: Any = None
    for model in models:
        joined = model if joined is None else joined | model
    return Annotated[joined, Field(discriminator="kind")]


def library_options(spec: Spec, settings: Mapping[str, Setting]) -> dict[str, Any]:
    """What the library takes of what a file says.

    Args:
        spec: A model that `model_of` made.
        settings: The settings of its kind.

    Returns:
        Plain values by name, without the kind and what names data.
    """
    written = spec.model_dump(mode="json")
    return {name: value for name, value in written.items() if name in settings}


def _annotation(name: str, setting: Setting) -> Any:
    """A setting's type with its range, for pydantic's own messages, and the library's check."""
    allowed: Any = setting.annotation
    if isinstance(setting, Number):
        allowed = Annotated[
            allowed,
            Field(ge=setting.least, gt=setting.above, le=setting.most, lt=setting.below),
        ]
        if setting.words:
            allowed = Literal[setting.words] | allowed
        if setting.optional:
            allowed = allowed | None
    return Annotated[allowed, AfterValidator(_checked(name, setting))]


def _checked(name: str, setting: Setting) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        setting.check(name, value)
        return value

    return check
