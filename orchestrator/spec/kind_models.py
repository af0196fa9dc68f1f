"""Models of the kinds of adapters and retentions, made of what the adapter library declares.

A kind's settings, their ranges and their defaults are declared once, in `curlora_kinds` or in a
plugin; what a file may say of it follows from there. Plugins come when a file names them, so the
models are made when they are asked for, and fields take whatever kinds there are by then.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar

from pydantic import AfterValidator, Field, GetCoreSchemaHandler, TypeAdapter, create_model
from pydantic_core import CoreSchema, core_schema

from curlora_kinds.settings import Number, Setting, Settings
from curlora_kinds.table import Table
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


SomeKind = TypeVar("SomeKind", bound=Kind)


class KindModels(Mapping[str, type[Any]], Generic[SomeKind]):
    """The model of each kind of a table, by its name."""

    def __init__(
        self, table: Table[SomeKind], base_of: Callable[[SomeKind], type[Spec]], suffix: str
    ) -> None:
        """Make the models of the kinds that there are.

        Args:
            table: The kinds.
            base_of: Gives what a kind's model inherits: fields that are a file's alone, and checks.
            suffix: The end of the models' names.
        """
        self._table, self._base_of, self._suffix = table, base_of, suffix
        self._made: dict[str, tuple[SomeKind, type[Any]]] = {}
        for name in table:
            self[name]

    def __getitem__(self, name: str) -> type[Any]:
        kind = self._table[name]
        made = self._made.get(name)
        if made is None or made[0] is not kind:
            made = kind, model_of(kind, self._base_of(kind), self._suffix)
            self._made[name] = made
        return made[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


class OneOf:
    """Annotates a field that holds one of some models, told apart by their `kind`."""

    def __init__(self, models: Mapping[str, type[Any]]) -> None:
        """Take whatever models there are when a value is read.

        Args:
            models: By the value of `kind`.
        """
        self.models = models
        self._reader: tuple[tuple[type[Any], ...], TypeAdapter[Any]] | None = None

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Let pydantic read a value by `read`, and write it by its own model."""
        return core_schema.no_info_plain_validator_function(self.read)

    def read(self, value: Any) -> Any:
        """Give the model that a value stands for.

        Args:
            value: A mapping with a `kind`, or such a model.

        Returns:
            The model. What is wrong is a ValidationError, as of a union of the models.
        """
        models = tuple(self.models.values())
        if self._reader is None or self._reader[0] != models:
            self._reader = models, TypeAdapter(union_of(models))
        return self._reader[1].validate_python(value)


def union_of(models: Iterable[type[Any]]) -> Any:
    """Make the type of a value that is one of some models, told apart by their `kind`.

    Args:
        models: At least one.

    Returns:
        An annotation.
    """
    joined: Any = None
    for model in models:
        joined = model if joined is None else joined | model
    return Annotated[joined, Field(discriminator="kind")]


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
    # Pickle looks for a class by its name in its module.
    setattr(sys.modules[base.__module__], model.__name__, model)
    return model


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
