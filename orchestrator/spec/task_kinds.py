"""Kinds of tasks: a dataset with its prompt, its labels and its metric.

Most tasks are *scored by log-likelihood*: classification and multiple choice pick the
continuation that the model finds likeliest after the prompt; language modelling reads the
probability of the text itself. Classification may instead have a *linear head* of its own, as in
the CURLoRA paper (Fawi 2024), and generation is scored on the text that the model writes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from orchestrator.spec.validation import Spec

TaskMetric = Literal["accuracy", "accuracy_norm"]
GenerationMetric = Literal["exact_match", "bleu", "rouge_l"]
Head = Literal["label_words", "linear"]


class DataSource(Spec):
    """Where the rows come from: a Hugging Face dataset, or files."""

    hub: str | None = None
    """Name of a script-free dataset on the Hugging Face hub."""
    config: str | None = None
    """Configuration of the hub dataset."""
    revision: str | None = None
    """Branch, tag or commit of the hub dataset."""
    files: str | None = None
    """A file, or a folder of `<split>` files: csv, tsv, jsonl (each also gzipped) or parquet.

    Relative to the task file. A single file is the split `train`.
    """
    local_name: str | None = None
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


class _TaskBase(Spec):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    description: str = ""
    data: DataSource
    splits: SplitOrigins = SplitOrigins()
    source: str = ""
    """Where the data come from and their licence, for people."""


class _PromptedTask(_TaskBase):
    prompt: str
    """Python format string over the row's columns."""
    template: Literal["raw", "chat"] = "raw"
    """`raw`: the prompt as it is. `chat`: the prompt is what the user says in the tokenizer's own
    chat template, and the answer is what the assistant says."""
    system: str | None = None
    """What the system says before the user does; for `template: chat` only."""

    @model_validator(mode="after")
    def _system_in_chat(self) -> _PromptedTask:
        if self.system is not None and self.template != "chat":
            raise ValueError("`system` has no place in `template: raw`; write it into the prompt")
        return self


class ClassificationTask(_PromptedTask):
    """One label out of a fixed set: of a text, or of a pair of texts named in one prompt."""

    kind: Literal["classification"]
    head: Head = "label_words"
    """`label_words`: the label word that is likeliest after the prompt. `linear`: a linear layer of
    the task's own on the last hidden state, trained with the adapter and kept beside it."""
    label_column: str = "label"
    labels: dict[str, str | None] = Field(min_length=2)
    """Value in the data (as a string) to the continuation that stands for it.

    Values with the same continuation are one label; rows whose value maps to null are left out
    and counted.
    """
    metric: TaskMetric = "accuracy"

    @field_validator("labels", mode="before")
    @classmethod
    def _values_as_text(cls, labels: object) -> object:
        """YAML reads 0 as a number and no as false; a value in the data is compared as text."""
        if not isinstance(labels, dict):
            return labels
        booleans = [value for value in labels if isinstance(value, bool)]
        if booleans:
            raise ValueError(
                f"YAML reads an unquoted yes, no, on, off, true or false as {booleans[0]}; write "
                "the value in the data in quotes"
            )
        return {str(v) if isinstance(v, int | float) else v: word for v, word in labels.items()}

    @model_validator(mode="after")
    def _two_words(self) -> ClassificationTask:
        if len(self.words) < 2:
            raise ValueError(f"`labels` needs at least two different label words, got {self.words}")
        return self

    @property
    def words(self) -> list[str]:
        """The different label words, in the order of the file."""
        return list(dict.fromkeys(word for word in self.labels.values() if word is not None))

    @property
    def label_values(self) -> list[str]:
        """For each label word, the first value in the data that it stands for."""
        return [next(v for v, w in self.labels.items() if w == word) for word in self.words]


class MultipleChoiceTask(_PromptedTask):
    """One of a row's own choices, by the likelihood of the choice."""

    kind: Literal["multiple_choice"]
    choices_column: str = "choices"
    answer_column: str = "answer"
    """Index of the right choice, counted from 0, or (with `answer_labels` in `columns`) a label."""
    continuation: str = " {choice}"
    metric: TaskMetric = "accuracy"
    """`accuracy` compares log-likelihoods, `accuracy_norm` divides them by the choice's bytes."""


class GenerationTask(_PromptedTask):
    """A text that the model writes after the prompt, greedily, compared with a reference."""

    kind: Literal["generation"]
    target_column: str = "target"
    """The reference, learnt from and compared with."""
    target: str = " {target}"
    """What follows the prompt in training; `{target}` stands for the reference."""
    metric: GenerationMetric = "exact_match"
    answer: Literal["text", "final_number"] = "text"
    """What `exact_match` compares: the whole text, or its last number (as for GSM8K)."""
    max_new_tokens: int = Field(default=64, ge=1, le=65536)
    """Tokens written at most; the bound is there for tasks that come from others with a model."""
    stop: tuple[str, ...] = ("\n",)
    """Texts that end the writing, besides the model's own end of text."""

    @model_validator(mode="after")
    def _target_named(self) -> GenerationTask:
        if "{target}" not in self.target:
            raise ValueError(f"`target` must hold {{target}}, the reference; got {self.target!r}")
        if self.answer == "final_number" and self.metric != "exact_match":
            raise ValueError("`answer: final_number` belongs to `metric: exact_match`")
        if "" in self.stop:
            raise ValueError("`stop` holds an empty text, which ends all writing before it begins")
        return self


class LanguageModellingTask(_TaskBase):
    """Running text: perplexity and bits per byte."""

    kind: Literal["language_modelling"]
    text_column: str = "text"
    joiner: str = "\n"
    """What stands between two rows when they are joined to one text."""
    metric: Literal["perplexity"] = "perplexity"


TaskSpec = Annotated[
    ClassificationTask | MultipleChoiceTask | GenerationTask | LanguageModellingTask,
    Field(discriminator="kind"),
]


def computed_fields(task: TaskSpec) -> dict[str, Any]:
    """What of a task enters the computation, its rows left out.

    Args:
        task: The task.

    Returns:
        Its fields without where its rows come from (what they are, tokens tell) and what is there
        for people to read.
    """
    return task.model_dump(mode="json", exclude={"data", "description", "source"})


def task_field_names() -> list[str]:
    """Every field name that a task file may hold, for suggestions."""
    names: set[str] = set()
    for model in (ClassificationTask, MultipleChoiceTask, GenerationTask, LanguageModellingTask):
        names |= set(model.model_fields)
    return sorted(names | set(DataSource.model_fields) | set(SplitOrigins.model_fields))
