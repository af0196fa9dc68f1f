"""Task files: a dataset with its prompt, its labels and its metric. YAML, no Python.

Most tasks are *scored by log-likelihood*: classification and multiple choice pick the
continuation that the model finds likeliest after the prompt; language modelling reads the
probability of the text itself. Classification may instead have a *linear head* of its own, as in
the CURLoRA paper (Fawi 2024), and generation is scored on the text that the model writes.
"""

from __future__ import annotations

import datetime
import functools
import re
import string
from collections.abc import Collection, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

if TYPE_CHECKING:
    import yaml

TaskMetric = Literal["accuracy", "accuracy_norm"]
GenerationMetric = Literal["exact_match", "bleu", "rouge_l"]
Head = Literal["label_words", "linear"]


class Spec(BaseModel):
    """A part of a user's file: frozen, and every unknown key is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
_ADAPTER: TypeAdapter[TaskSpec] = TypeAdapter(TaskSpec)


class TaskFileError(ValueError):
    """A task file that is missing or wrong; the message says what, where and how to mend it."""


def computed_fields(task: TaskSpec) -> dict[str, Any]:
    """What of a task enters the computation, its rows left out.

    Args:
        task: The task.

    Returns:
        Its fields without where its rows come from (what they are, tokens tell) and what is there
        for people to read.
    """
    return task.model_dump(mode="json", exclude={"data", "description", "source"})


def parse_task(document: object, origin: str) -> TaskSpec:
    """Check a task document and return the task.

    Args:
        document: What the YAML file holds.
        origin: The file's name, for messages.

    Returns:
        The task.

    Raises:
        TaskFileError: If the document is not a task.
    """
    try:
        task = _ADAPTER.validate_python(document)
    except ValidationError as error:
        raise TaskFileError(render_validation_error(error, origin, task_field_names())) from None
    if not isinstance(task, LanguageModellingTask):
        _check_format(task.prompt, "prompt", origin)
    if isinstance(task, MultipleChoiceTask):
        _check_format(task.continuation, "continuation", origin, only="choice")
    if isinstance(task, GenerationTask):
        _check_format(task.target, "target", origin, only="target")
    return task


def _check_format(template: str, field: str, origin: str, only: str | None = None) -> None:
    try:
        fields = [field for field in string.Formatter().parse(template) if field[1] is not None]
    except ValueError as error:
        raise TaskFileError(
            f"{origin}: {field}: not a format string ({error}); got {template!r}. "
            "Write a literal brace as {{ or }}."
        ) from None
    names = [str(name) for _, name, _, _ in fields]
    if not names:
        raise TaskFileError(
            f"{origin}: {field}: names no column, so every example would look the same; "
            f"got {template!r}. Put {only or 'a column name'} in braces, for example "
            f"{{{only or 'text'}}}."
        )
    wrong = [name for name in names if (name != only if only else not name or name[0].isdigit())]
    if wrong:
        cure = f"Only {{{only}}} is known here" if only else "Columns are named, as in {text}"
        raise TaskFileError(
            f"{origin}: {field}: cannot fill in {{{wrong[0]}}}; got {template!r}. {cure}; write a "
            "literal brace as {{ or }}."
        )
    for _, name, form, conversion in fields:
        _check_plain(str(name), form or "", conversion or "", f"{origin}: {field}")


def _check_plain(name: str, form: str, conversion: str, where: str) -> None:
    """Refuse all but a name."""
    # A task may come from anybody, with a model or a journal: a width allocates without bound, and
    # attributes lead anywhere.
    if form or conversion:
        shown = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
        raise TaskFileError(
            f"{where}: {{{shown[:60]}}} asks for a format, and values are filled in as they are: "
            f"write {{{name[:60]}}}. What should look otherwise is written so in the data."
        )
    if "." in name or "[" in name:
        parts = [part.strip("'\"") for part in re.split(r"[.\[\]]+", name) if part]
        raise TaskFileError(
            f"{where}: {{{name[:60]}}} reaches into a column. Name the part in `data.columns`, for "
            f"example columns: {{{parts[-1][:40]}: {'.'.join(parts)[:60]}}}, and write "
            f"{{{parts[-1][:40]}}}."
        )


_SUFFIXES = (".yaml", ".yml")


def find_task_file(name: str, folders: list[Path]) -> Path:
    """The file of a task that is named, or given as a path.

    Args:
        name: A task's name, or a path ending in `.yaml` or `.yml`.
        folders: Where to look for `<name>.yaml`, or else `<name>.yml`; first hit wins.

    Returns:
        The path of an existing file.

    Raises:
        TaskFileError: If there is none; names the nearest task that exists.
    """
    if name.endswith((".yaml", ".yml")):
        candidates = [Path(name), *(folder / name for folder in folders)]
    else:
        candidates = [folder / f"{name}{suffix}" for folder in folders for suffix in _SUFFIXES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    others = [path.with_suffix(suffix) for path in candidates for suffix in _SUFFIXES]
    beside = next((path for path in others if path.is_file()), None)
    known = sorted({path.stem for folder in folders for path in task_files(folder)})
    places = ", ".join(str(folder) for folder in folders)
    hint = suggestion(name, known) if beside is None else f" There is {beside}; did you mean it?"
    raise TaskFileError(
        f"No task file for {name!r} in {places}.{hint} Known tasks: {', '.join(known) or 'none'}."
    )


def task_files(folder: Path) -> list[Path]:
    """The YAML files of a folder, in the order of their names."""
    return sorted(path for path in folder.glob("*") if path.suffix in _SUFFIXES)


def load_task(path: Path) -> TaskSpec:
    """Read and check one task file; a relative `data.files` becomes absolute.

    Args:
        path: The YAML file.

    Returns:
        The task.

    Raises:
        TaskFileError: If the file cannot be read or is not a task.
    """
    task = parse_task(read_yaml(path, TaskFileError), str(path))
    if task.data.files is None:
        return task
    folder = (path.parent / task.data.files).resolve()
    data = task.data.model_copy(update={"files": str(folder)})
    return task.model_copy(update={"data": data})


def read_yaml(path: Path, error_type: type[ValueError]) -> object:
    """The document of a YAML file.

    Args:
        path: The file.
        error_type: What to raise when it cannot be read.

    Returns:
        The parsed document.

    Raises:
        error_type: If the file is missing, is not UTF-8, is not YAML, has a key twice in one
            mapping, or half of a character in a text.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise error_type(f"{path}: no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise error_type(f"{path}: cannot be read ({error}).") from None
    try:
        # A SafeLoader, which makes plain values only.
        return yaml.load(text, Loader=_strict_loader())
    except (_RepeatedKeyError, _HalfCharacterError) as error:
        raise error_type(f"{path}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # A date of month 13 is a ValueError, and brackets may be nested without end.
        raise error_type(f"{path}: not valid YAML ({' '.join(str(error).split())}).") from None


class _RepeatedKeyError(ValueError):
    """A key stands twice in one mapping."""


class _HalfCharacterError(ValueError):
    """A text holds one of two surrogates, which no encoding can write."""


_SURROGATES = re.compile("[\ud800-\udfff]")


def _whole_characters(text: str, line: int) -> str:
    """A text with the pairs of surrogates of JSON's escapes as the characters they stand for."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise _HalfCharacterError(
            f"line {line}: a text holds half of a character (one of two surrogates such as "
            "\\ud83d). Write the character itself, or both halves."
        ) from None


@functools.cache
def _strict_loader() -> type[yaml.SafeLoader]:
    """PyYAML's safe loader, refusing equal keys (it would keep the last) and half characters."""
    import yaml

    class StrictLoader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            lines: dict[Any, int] = {}
            for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if key_node.tag == "tag:yaml.org,2002:merge":
                    continue
                key: Any = self.construct_object(key_node, deep=True)
                if not isinstance(key, Hashable):
                    continue  # refused below, with its place
                line = key_node.start_mark.line + 1
                if key in lines:
                    raise _RepeatedKeyError(_repeated(key, lines[key], line))
                lines[key] = line
            return super().construct_mapping(node, deep=deep)

        def construct_scalar(self, node: Any) -> Any:
            value = super().construct_scalar(node)
            if isinstance(value, str) and _SURROGATES.search(value):
                return _whole_characters(value, node.start_mark.line + 1)
            return value

    return StrictLoader


def _repeated(key: object, first: int, second: int) -> str:
    where = f"in line {first}" if first == second else f"in lines {first} and {second}"
    cure = (
        " Several domains of one field are a list under it, each with a `when` of its own."
        if "." in str(key)
        else ""
    )
    return (
        f"the key {key!r} stands twice in one mapping, {where}, and one of the values would be "
        f"lost. Keep one, or write both under it.{cure}"
    )


def suggestion(name: str, known: list[str]) -> str:
    """A sentence that names the nearest known word, or nothing."""
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


_TASK_KINDS = frozenset({"classification", "multiple_choice", "generation", "language_modelling"})


def task_field_names() -> list[str]:
    """Every field name that a task file may hold, for suggestions."""
    names: set[str] = set()
    for model in (ClassificationTask, MultipleChoiceTask, GenerationTask, LanguageModellingTask):
        names |= set(model.model_fields)
    return sorted(names | set(DataSource.model_fields) | set(SplitOrigins.model_fields))


def _quotes(value: object) -> str:
    """How a value that YAML took for something else becomes a text."""
    if isinstance(value, bool):
        return (
            f" (YAML reads an unquoted yes, no, on, off, true or false as {value}; write it in "
            "quotes)"
        )
    return " (write it in quotes)" if isinstance(value, int | float | datetime.date) else ""


def render_validation_error(
    error: ValidationError, origin: str, known: list[str], kinds: Collection[str] = _TASK_KINDS
) -> str:
    """Each problem on its own line: file, field, problem, value and the nearest valid name.

    Args:
        error: What pydantic found.
        origin: The file, for the message.
        known: Field names, to suggest the nearest.
        kinds: Every value of a `kind`.

    Returns:
        The message.
    """
    lines: list[str] = []
    for problem in error.errors():
        # A discriminated union puts the chosen kind into the location; people do not write it.
        place = ".".join(str(part) for part in problem["loc"] if str(part) not in kinds)
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            last = str(problem["loc"][-1])
            text = f"unknown field.{suggestion(last, [k for k in known if k != last])}".rstrip(".")
        if problem["type"] == "union_tag_invalid":
            found = problem.get("ctx", {})
            tag, tags = str(found.get("tag")), str(found.get("expected_tags"))
            listed = [one.strip(" '") for one in tags.split(",")]
            text = f"unknown kind {tag!r}.{suggestion(tag, listed)} Kinds: {', '.join(listed)}"
        if problem["type"] == "string_type":
            text += _quotes(problem["input"])
        got = "" if problem["type"] == "missing" else f"; got {problem['input']!r}"
        if len(got) > 120:
            got = got[:117] + "..."
        lines.append(f"{origin}: {place or 'the file'}: {text}{got}")
    return "\n".join(lines)
