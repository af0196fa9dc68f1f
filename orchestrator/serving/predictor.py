"""Using a trained adapter: a model folder in, labels and probabilities out.

A model folder holds `adapter/` (what PEFT's `save_pretrained` writes, and `heads.safetensors` for
tasks with a linear head) and `model.json` (the base it belongs to, its tasks and settings). Nothing
in it is executed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curlora import AdapterError, load_adapter
from orchestrator.base.errors import ModelError
from orchestrator.base.identity import found_base
from orchestrator.base.loading import load_base, load_tokenizer
from orchestrator.data.encoding import encode_question
from orchestrator.data.items import token_ids
from orchestrator.data.prompt_tokens import encode_prompt, refuse_unknown_ids
from orchestrator.engines.linear_heads import HEADS_FILE, LinearHeads
from orchestrator.engines.plain import PlainEngine
from orchestrator.engines.scored_model import hidden_size
from orchestrator.loop.scoring import answer_scores, best, question_log_likelihoods, rows_of
from orchestrator.records.model_folder import base_of, read_model_document, tasks_of
from orchestrator.spec.sections import TrainingSpec
from orchestrator.spec.task_kinds import ChoiceTask, GenerationTask, PromptedTask, TaskSpec
from orchestrator.system.seals import UNSEALED, flaw
from orchestrator.system.strict_json import half_character
from orchestrator.system.user_error import UserError
from orchestrator.system.wording import suggestion


class PredictionError(UserError, ValueError):
    """A prediction that cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Prediction:
    """What the model says about one row."""

    label: str
    """The label value or choice that the task's metric takes for the answer, or the text that was
    written."""
    probabilities: dict[str, float]
    """Of each label value or choice, largest for `label`; they sum to 1 where all read differently.
    Empty for written text."""
    by_position: tuple[float, ...] = ()
    """The same in the order of the labels or choices; choices that read alike stand here apart."""

    @property
    def probability(self) -> float | None:
        """That of the answer; None for written text."""
        return max(self.by_position, default=None)


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
        embedding = model.get_input_embeddings() if model is not None else None
        self._vocabulary: int | None = getattr(embedding, "num_embeddings", None)
        self._engine = PlainEngine(model, TrainingSpec(), heads=heads, tokenizer=tokenizer)

    @classmethod
    def from_folder(
        cls, folder: Path, *, adapter: bool = True, base: Path | None = None
    ) -> Predictor:
        """Load a model folder.

        Args:
            folder: The model folder.
            adapter: False gives the untouched base, for comparison.
            base: Where the base is now, if it was moved since.

        Returns:
            The predictor.

        Raises:
            ModelError: If the adapter or its heads cannot be used; a damaged model.json is a
                `ModelFolderError`, and a base that cannot be loaded, or is another, a `ModelError`.
        """
        document = read_model_document(folder)
        wrong = flaw(folder)
        if wrong not in {None, UNSEALED}:  # earlier versions sealed nothing
            raise ModelError(
                f"The model folder {folder} is not as it was written: {wrong}. It is not used; "
                "restore it from a copy, or export it again."
            )
        tasks = tasks_of(document, folder)
        spec = found_base(
            base_of(document, folder), document["base"], f"the model in {folder}", base
        )
        model: Any = load_base(spec, document["precision"])
        heads = None
        if adapter:
            kept = folder / "adapter" / HEADS_FILE
            try:
                heads = LinearHeads.from_file(kept) if kept.is_file() else None
                model = load_adapter(model, folder / "adapter").eval()
            except (AdapterError, FileNotFoundError) as error:
                raise ModelError(str(error)) from error
            if heads is not None:
                _check_heads(heads, tasks, hidden_size(model), kept)
        return cls(model, load_tokenizer(spec), tasks, document["max_length"], heads)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that can be asked."""
        return [n for n, s in self._specs.items() if isinstance(s, PromptedTask)]

    def predict(self, task: str, rows: Sequence[Mapping[str, Any]]) -> list[Prediction]:
        """Answer a task's question about some rows, by the metric that the task is scored by.

        With `accuracy_norm` the answer is the choice of the largest log-likelihood per byte, and
        probabilities are those that follow from it, see `answer_scores`.

        Args:
            task: One of `tasks`.
            rows: The columns that the task's prompt names; a label is not needed.

        Returns:
            One prediction per row.

        Raises:
            PredictionError: If the task is not known, needs a head that is not there, is asked
                with a text that no encoding can write, or gets answers that are no numbers.
        """
        spec = self._specs.get(task)
        if not isinstance(spec, PromptedTask):
            raise PredictionError(
                f"This model has no task {task!r} to be asked.{suggestion(task, self.tasks)} "
                f"Its tasks: {', '.join(self.tasks)}."
            )
        for number, row in enumerate(rows, start=1):
            if (place := half_character(row)) is not None:
                raise PredictionError(
                    f"Row {number}: `{place}` holds half of a character (one of two surrogates), "
                    "as when a text is cut within an emoji. Cut texts between characters."
                )
        if isinstance(spec, GenerationTask):
            prompts = [encode_prompt(spec, row, self.tokenizer, self._max_length) for row in rows]
            self._refuse_unknown_ids(task, (i for prompt in prompts for i in prompt))
            written = self._engine.write(prompts, spec)
            texts = [text for text in written if text is not None]
            if len(texts) < len(written):
                raise PredictionError(
                    f"What this model computes for task {task!r} is not finite, so nothing can be "
                    "written. Its weights are damaged, or its training had diverged."
                )
            return [Prediction(text, {}) for text in texts]
        assert isinstance(spec, ChoiceTask), spec.kind
        if spec.has_head and not self._heads:
            raise PredictionError(
                f"The task {task!r} is answered by a linear head, and the untouched base has none."
            )
        questions = [
            encode_question(spec, spec.with_any_answer(row), self.tokenizer, self._max_length)
            for row in rows
        ]
        self._refuse_unknown_ids(task, (i for asked in questions for i in token_ids(asked)))
        values = self._engine.log_probabilities(rows_of(questions))
        likelihoods = question_log_likelihoods(questions, values)
        if not all(math.isfinite(value) for values in likelihoods for value in values):
            raise PredictionError(
                f"What this model computes for the task {task!r} is not finite, so it answers "
                "nothing. Its weights are damaged or have diverged."
            )
        return [
            _prediction(spec, row, answer_scores(question, values, spec.metric))
            for row, question, values in zip(rows, questions, likelihoods, strict=True)
        ]

    def _refuse_unknown_ids(self, task: str, ids: Iterable[int]) -> None:
        refuse_unknown_ids(task, ids, self.tokenizer, self._vocabulary)


def _check_heads(
    heads: LinearHeads, tasks: Mapping[str, TaskSpec], hidden: int, file: Path
) -> None:
    """Refuse heads that are not those of a model's tasks."""
    for name, task in tasks.items():
        if not task.has_head:
            continue
        layer: Any = dict(zip(heads.tasks, heads.layers, strict=True)).get(name)
        wanted = (len(task.words), hidden)
        found = None if layer is None else tuple(layer.weight.shape)
        if found != wanted:
            raise ModelError(
                f"{file}: the head of task {name!r} should be {wanted[0]} labels x {wanted[1]} "
                f"numbers, got {found or 'none'}. Export or copy the model folder again."
            )


def _prediction(spec: ChoiceTask, row: Mapping[str, Any], scores: Sequence[float]) -> Prediction:
    names = spec.names_of(row)
    largest = max(scores)
    weights = [math.exp(score - largest) for score in scores]
    by_position = tuple(weight / sum(weights) for weight in weights)
    probabilities = dict.fromkeys(names, 0.0)
    for name, probability in zip(names, by_position, strict=True):
        probabilities[name] = max(probabilities[name], probability)
    return Prediction(names[best(scores)], probabilities, by_position)
