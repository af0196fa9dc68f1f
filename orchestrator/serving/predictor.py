"""Using a trained adapter: a model folder in, labels and probabilities out.

A model folder holds `adapter/` (what PEFT's `save_pretrained` writes, and `heads.safetensors` for
tasks with a linear head) and `model.json` (the base it belongs to, its tasks and settings). Nothing
in it is executed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curlora import AdapterError, load_adapter
from orchestrator.base.errors import ModelError
from orchestrator.base.identity import found_base
from orchestrator.base.loading import load_base, load_tokenizer
from orchestrator.engines.linear_heads import HEADS_FILE, LinearHeads
from orchestrator.engines.plain import PlainEngine
from orchestrator.engines.scored_model import hidden_size
from orchestrator.loop.scoring import rows_of
from orchestrator.records.model_folder import base_of, read_model_document, tasks_of
from orchestrator.serving.asking import Asking, Prediction
from orchestrator.spec.sections import TrainingSpec
from orchestrator.spec.task_kinds import GenerationTask, TaskSpec
from orchestrator.system.seals import UNSEALED, flaw


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
        rows: int | None = getattr(model.get_input_embeddings(), "num_embeddings", None)
        self._asking = Asking(dict(tasks), tokenizer, max_length, rows, has_heads=heads is not None)
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
                check_heads(heads, tasks, hidden_size(model), kept)
        return cls(model, load_tokenizer(spec), tasks, document["max_length"], heads)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that can be asked."""
        return self._asking.tasks

    def predict(self, task: str, rows: Sequence[Mapping[str, Any]]) -> list[Prediction]:
        """Answer a task's question about some rows, by the metric that the task is scored by.

        With `accuracy_norm` the answer is the choice of the largest log-likelihood per byte, and
        probabilities are those that follow from it, see `answer_scores`.

        Args:
            task: One of `tasks`.
            rows: The columns that the task's prompt names; a label is not needed.

        Returns:
            One prediction per row. A `PredictionError` if the task is not known, needs a head that
            is not there, is asked with a text that no encoding can write, or gets answers that are
            no numbers.
        """
        asking = self._asking
        spec = asking.task(task, rows)
        if isinstance(spec, GenerationTask):
            return asking.texts(task, self._engine.write(asking.prompts(spec, rows), spec))
        questions = asking.questions(spec, rows)
        values = self._engine.log_probabilities(rows_of(questions))
        return asking.answers(spec, rows, questions, values)


def check_heads(heads: LinearHeads, tasks: Mapping[str, TaskSpec], hidden: int, file: Path) -> None:
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
