"""Using a trained adapter: a model folder in, labels and probabilities out.

A model folder holds `adapter/` (what PEFT's `save_pretrained` writes, and `heads.safetensors` for
tasks with a linear head) and `model.json` (the base it belongs to, its tasks and settings). Nothing
in it is executed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.base_model import ModelError, load_base, load_tokenizer
from orchestrator.encoding import encode_prompt, encode_question, with_any_answer
from orchestrator.engine import PlainEngine
from orchestrator.evaluation import question_log_likelihoods
from orchestrator.experiment import ModelSpec, TrainingSpec
from orchestrator.scored_model import HEADS_FILE, LinearHeads
from orchestrator.tasks import (
    ClassificationTask,
    GenerationTask,
    LanguageModellingTask,
    MultipleChoiceTask,
    TaskSpec,
    parse_task,
    suggestion,
)


class PredictionError(ValueError):
    """A prediction that cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Prediction:
    """What the model says about one row."""

    label: str
    """The likeliest label value or choice, or the text that was written."""
    probabilities: dict[str, float]
    """Of each label value or choice; they sum to 1. Empty for written text."""


class Predictor:
    """A base model with an adapter, and the tasks it was made for."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        tasks: Mapping[str, TaskSpec],
        max_length: int,
        heads: LinearHeads | None = None,
    ) -> None:
        """Wrap a loaded model.

        Args:
            model: A `peft.PeftModel`, or a bare base.
            tokenizer: Its tokenizer.
            tasks: The tasks that can be asked.
            max_length: Tokens per question, as in training.
            heads: Linear heads of tasks that have one.
        """
        self.model = model
        self.tokenizer = tokenizer
        self._specs = dict(tasks)
        self._max_length = max_length
        self._heads = heads
        self._engine = PlainEngine(model, TrainingSpec(), heads=heads, tokenizer=tokenizer)

    @classmethod
    def from_folder(cls, folder: Path, *, adapter: bool = True) -> Predictor:
        """Load a model folder.

        Args:
            folder: The model folder.
            adapter: False gives the untouched base, for comparison.

        Returns:
            The predictor.

        Raises:
            ModelError: If the folder is not a model folder, or its base cannot be loaded.
        """
        try:
            document = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise ModelError(
                f"{folder} is not a model folder: its model.json cannot be read ({error})."
            ) from None
        source = document["base"]
        spec = ModelSpec(**{key: source.get(key) for key in ModelSpec.model_fields})
        model: Any = load_base(spec, document["precision"])
        heads = None
        if adapter:
            kept = folder / "adapter" / HEADS_FILE
            heads = LinearHeads.from_file(kept) if kept.is_file() else None
            from curlora import load_adapter

            model = load_adapter(model, folder / "adapter").eval()
        tasks = {
            name: parse_task(task, f"{folder / 'model.json'}: tasks.{name}")
            for name, task in document["tasks"].items()
        }
        return cls(model, load_tokenizer(spec), tasks, int(document["max_length"]), heads)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that can be asked."""
        return [n for n, s in self._specs.items() if not isinstance(s, LanguageModellingTask)]

    def predict(self, task: str, rows: Sequence[Mapping[str, Any]]) -> list[Prediction]:
        """Answer a task's question about some rows.

        Args:
            task: One of `tasks`.
            rows: The columns that the task's prompt names; a label is not needed.

        Returns:
            One prediction per row.

        Raises:
            PredictionError: If the task is not known, or needs a head that is not there.
        """
        spec = self._specs.get(task)
        if spec is None or isinstance(spec, LanguageModellingTask):
            raise PredictionError(
                f"This model has no task {task!r} to be asked.{suggestion(task, self.tasks)} "
                f"Its tasks: {', '.join(self.tasks)}."
            )
        if isinstance(spec, GenerationTask):
            prompts = [encode_prompt(spec, row, self.tokenizer, self._max_length) for row in rows]
            return [Prediction(text, {}) for text in self._engine.write(prompts, spec)]
        if isinstance(spec, ClassificationTask) and spec.head == "linear" and not self._heads:
            raise PredictionError(
                f"The task {task!r} is answered by a linear head, and the untouched base has none."
            )
        questions = [
            encode_question(spec, with_any_answer(spec, row), self.tokenizer, self._max_length)
            for row in rows
        ]
        likelihoods = question_log_likelihoods(questions, self._engine.log_probabilities)
        return [
            _prediction(spec, row, values) for row, values in zip(rows, likelihoods, strict=True)
        ]


def _prediction(
    spec: ClassificationTask | MultipleChoiceTask, row: Mapping[str, Any], values: Sequence[float]
) -> Prediction:
    if isinstance(spec, ClassificationTask):
        names = spec.label_values
    else:
        names = [str(choice) for choice in row[spec.choices_column]]
    largest = max(values)
    weights = [math.exp(value - largest) for value in values]
    total = sum(weights)
    probabilities = {name: w / total for name, w in zip(names, weights, strict=True)}
    return Prediction(names[values.index(largest)], probabilities)
