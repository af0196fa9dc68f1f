"""Examples, tokens and steps of the tasks of a file, counted or estimated."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.base.errors import ModelError
from orchestrator.base.facts import vocabulary
from orchestrator.base.files import local_folder
from orchestrator.data.items import Writing
from orchestrator.data.model_inputs import scored_rows
from orchestrator.data.preparation import prepare
from orchestrator.planning.plan import TaskFacts
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import LoadedExperiment
from orchestrator.spec.sections import ModelSpec
from orchestrator.spec.space.domains import possible_values
from orchestrator.spec.task_kinds import GenerationTask

if TYPE_CHECKING:
    from orchestrator.data.prepared import PreparedData, PreparedTask


class ByteTokenizer:
    """Stands in for a tokenizer that is not here: pieces of words of at most six characters.

    A token id tells the piece from others, and its number of bytes.
    """

    bos_token_id = None
    eos_token_id = None
    chat_template = "a message on each line"
    is_estimate = True

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """Cut a text into pieces; `add_special_tokens` is there because tokenizers take it."""
        del add_special_tokens
        pieces = [piece.encode() for piece in re.findall(r"\s?\S{1,6}|\s", text)]
        return {"input_ids": [len(piece) + 32 * zlib.crc32(piece) for piece in pieces]}

    def decode(self, tokens: Sequence[int]) -> str:
        """A text of as many bytes as the tokens stand for."""
        return "x" * sum(token % 32 for token in tokens)

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        """The messages with about as many marks as chat templates have."""
        del tokenize
        said = "".join(f"<{m['role']}>\n{m['content']}\n" for m in messages)
        return said + "<assistant>\n" * add_generation_prompt


def planning_tokenizer(model: ModelSpec) -> tuple[Any, str]:
    """The model's tokenizer or a stand-in, and where token counts come from."""
    from orchestrator.base.loading import load_tokenizer

    missing = "an estimate from bytes, as the model's tokenizer is not on this machine"
    if model.gguf is None:
        folder = local_folder(model)
        if folder is None:
            return ByteTokenizer(), missing
        model = ModelSpec(name=str(folder))
    try:
        return load_tokenizer(model), "tokenizer"
    except ModelError:
        return ByteTokenizer(), missing


def planned_data(loaded: LoadedExperiment, tokenizer: Any) -> PreparedData:
    """The data of a file, tokenised by `planning_tokenizer`."""
    return prepare(loaded, tokenizer, vocabulary=vocabulary(loaded.experiment.model))


def prepared_facts(experiment: Experiment, data: PreparedData) -> tuple[list[TaskFacts], int]:
    """Facts of each task and probe of tokenised data, and the epochs."""
    epochs = int(largest_value(experiment, "training.epochs", experiment.training.epochs))
    names = (*experiment.tasks, *experiment.probes)
    return [_facts_of(name, data.tasks[name], experiment, epochs) for name in names], epochs


def _facts_of(name: str, task: PreparedTask, experiment: Experiment, epochs: int) -> TaskFacts:
    written = [item for item in task.validation if isinstance(item, Writing)]
    others = [item for item in task.validation if not isinstance(item, Writing)]
    rows = [row for item in others for row in scored_rows(item)]
    # Writing may end sooner than it must; this is the most that it takes.
    longest = task.spec.max_new_tokens if isinstance(task.spec, GenerationTask) else 0
    examples = len(task.validation)
    whole = experiment.screen is None or task.is_language_modelling
    screen = examples if whole else min(examples, experiment.screen or examples)
    rung = min(experiment.data.rung_examples or examples, screen)
    steps = epochs * math.ceil(len(task.train) / experiment.training.batch_size)
    return TaskFacts(
        name=name,
        probe=name in experiment.probes,
        train_examples=len(task.train),
        train_tokens=sum(len(example.tokens) for example in task.train),
        train_scored=sum(len(e.tokens) - e.scored_from for e in task.train),
        validation_examples=examples,
        validation_tokens=sum(len(row.tokens) for row in rows)
        + sum(len(item.prompt) + longest for item in written),
        validation_scored=sum(len({place for place, _ in row.picks}) for row in rows)
        + longest * len(written),
        rung_share=min(1.0, rung / max(1, examples)),
        screen_share=screen / max(1, examples),
        steps=steps,
    )


def mean_length(tasks: Sequence[TaskFacts]) -> float:
    """Tokens of a training example, on the mean over all tasks."""
    examples = sum(task.train_examples for task in tasks)
    return sum(task.train_tokens for task in tasks) / max(1, examples)


def largest_value(experiment: Experiment, path: str, own: float) -> float:
    """The largest value that a setting may take in the search, else the file's own."""
    if experiment.search is None:
        return own
    return max(float(value) for value in possible_values(experiment.search.space, path, own))
