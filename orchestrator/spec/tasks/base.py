"""What every kind of task says of itself, and the forms that tasks have to a model.

A kind of task has one of three forms, which engines and scores know:

- `ChoiceTask`: one of several continuations of a prompt, by log-likelihood;
- `GenerationTask` (orchestrator.spec.tasks.generation): a text that the model writes;
- `LanguageModellingTask` (orchestrator.spec.tasks.language_modelling): running text.

A new kind is a subclass of a form, with its `kind` and its fields: it says which columns it reads,
what may follow its prompt, and which of that is right. Everything else asks these methods.
"""

from __future__ import annotations

import string
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from curlora_kinds.plugins import LOADED, load_plugin
from orchestrator.spec.validation import PathText, Spec

TaskMetric = Literal["accuracy", "accuracy_norm"]
Head = Literal["label_words", "linear"]
Row = Mapping[str, Any]
"""A row of a task's data, with the task's column names."""

NO_ANSWERS = (-1, "-1", "")
"""What public test sets carry in place of answers."""


class DataSource(Spec):
    """Where the rows come from: a Hugging Face dataset, or files."""

    hub: str | None = None
    """Name of a script-free dataset on the Hugging Face hub."""
    config: str | None = None
    """Configuration of the hub dataset."""
    revision: str | None = None
    """Branch, tag or commit of the hub dataset."""
    files: PathText | None = None
    """A file, or a folder of `<split>` files: csv, tsv, jsonl (each also gzipped) or parquet.

    Relative to the task file. A single file is the split `train`.
    """
    local_name: PathText | None = None
    """Folder name under `--data-root`; the task's name when null."""
    columns: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    """The task's column name to the source's (dots reach into nested columns).

    Several names make one column of their values in a list, for sets whose choices are columns.
    """
    constants: dict[str, Any] = Field(default_factory=dict)
    """Columns that have the same value in every row of the source."""
    split_names: dict[str, str] = Field(default_factory=dict)
    """The task's split name to the source's, where they differ."""

    @model_validator(mode="after")
    def _one_source(self) -> DataSource:
        if (self.hub is None) == (self.files is None):
            raise ValueError("`data` needs exactly one of `hub` and `files`")
        return self


class SplitOrigins(Spec):
    """Which split of the source each of ours comes from; null stands for "derived".

    A missing validation split is a tenth of train chosen by hash (at most 1,000 rows). A missing
    test split means that the source's validation split becomes test and validation is derived, or,
    where train is all there is, that test is such a tenth as well. `name[a:b]` takes those rows.
    """

    train: str | None = "train"
    validation: str | None = "validation"
    test: str | None = "test"


class TaskBase(Spec):
    """What all kinds of tasks have."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=200)
    description: str = ""
    data: DataSource
    splits: SplitOrigins = SplitOrigins()
    source: str = ""
    """Where the data come from and their licence, for people."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle a task of a plugin so that the plugin is loaded where it arrives."""
        plugin = LOADED.get(type(self).__module__)
        if plugin is None:
            return super().__reduce_ex__(protocol)
        return _revived, (plugin.pinned, plugin.name, type(self).__name__, self.model_dump())

    if TYPE_CHECKING:
        kind: Any
        """What a task file calls the kind: a field `kind: Literal["..."]` of each kind."""
        metric: Any
        """What the score is: a field of each kind."""

    @property
    def asked_columns(self) -> list[str]:
        """The columns that a row needs as text before it can be asked, each once."""
        raise NotImplementedError

    @property
    def choice_columns(self) -> list[str]:
        """The columns that hold a list of at least two choices."""
        return []

    @property
    def answer_from(self) -> str | None:
        """The column that holds what a row should be answered with; None for running text."""
        return None

    @property
    def answer_option(self) -> str | None:
        """The field of a task file that names that column; None where no field does."""
        return None

    def lacks_answer(self, value: Any, row: Row) -> str | None:  # noqa: ARG002
        """Say why a value is no answer, where something stands there.

        Args:
            value: What `answer_from` holds, not None.
            row: The row.

        Returns:
            Such as "is -1"; None where it may be one.
        """
        return f"is {value!r}" if value in NO_ANSWERS else None

    @property
    def words(self) -> list[str]:
        """The label words, where all rows have the same; else none."""
        return []

    @property
    def label_values(self) -> list[str]:
        """For each label word, the first value in the data that it stands for."""
        return []

    @property
    def values_of_words(self) -> dict[str, list[str]]:
        """For each label word, all values in the data that it stands for."""
        return {}

    @property
    def has_head(self) -> bool:
        """Whether a linear layer of the task's own answers, on the last hidden state."""
        return False


def _revived(reference: str, module: str, name: str, document: Mapping[str, Any]) -> TaskBase:
    """The task that another process of this sweep has pickled."""
    load_plugin(reference)
    return getattr(sys.modules[module], name).model_validate(document)


class PromptedTask(TaskBase):
    """A task with a prompt."""

    prompt: str
    """Python format string over the row's columns."""
    template: Literal["raw", "chat"] = "raw"
    """`raw`: the prompt as it is. `chat`: the prompt is what the user says in the tokenizer's own
    chat template, and the answer is what the assistant says."""
    system: str | None = None
    """What the system says before the user does; for `template: chat` only."""

    @model_validator(mode="after")
    def _system_in_chat(self) -> PromptedTask:
        if self.system is not None and self.template != "chat":
            raise ValueError("`system` has no place in `template: raw`; write it into the prompt")
        return self

    @property
    def format_fields(self) -> dict[str, str | None]:
        """The fields that are format strings, by name, with the one name that each may hold.

        None stands for the row's columns.
        """
        return {"prompt": None}

    @property
    def asked_columns(self) -> list[str]:
        """The columns that a row needs as text: those of the prompt, each once."""
        return self.prompt_columns

    @property
    def prompt_columns(self) -> list[str]:
        """The columns that the prompt fills in, each once."""
        names = [name for _, name, _, _ in string.Formatter().parse(self.prompt) if name]
        return list(dict.fromkeys(names))

    def continuations(self, row: Row) -> list[str]:
        """Give what may follow a row's prompt: every label word or choice, or the one reference.

        Args:
            row: The row.

        Returns:
            The texts, each with the space that it begins with. A ValueError refuses the row, and
            a KeyError says which column it lacks.
        """
        raise NotImplementedError


class ChoiceTask(PromptedTask):
    """One of several continuations of a prompt, by log-likelihood."""

    def right(self, row: Row, count: int) -> int:
        """Give the index of a row's right continuation.

        Args:
            row: The row.
            count: How many continuations it has.

        Returns:
            The index, counted from 0. A ValueError says why the row has none.
        """
        raise NotImplementedError

    def with_any_answer(self, row: Row) -> dict[str, Any]:
        """Give a row some valid answer: a question that is only asked has none of its own.

        Args:
            row: The row.

        Returns:
            A row that `right` takes.
        """
        raise NotImplementedError

    def names_of(self, row: Row) -> list[str]:
        """Give what a prediction calls each continuation of a row.

        Args:
            row: The row.

        Returns:
            The label values, or the texts of the continuations.
        """
        return self.label_values or [text.strip() for text in self.continuations(row)]
