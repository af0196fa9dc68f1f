"""Retentions over `transformers.Trainer` and TRL's `SFTTrainer`, across calls of `train`.

    training = ContinualTraining(model, "ewc", tasks=len(data_sets))
    for rows in data_sets:
        training.trainer(SFTTrainer, args=args, train_dataset=rows).train()

`model` has its adapter attached. What was learnt before is protected while the next data set is
learnt, as the retention does it: a penalty joins the gradient, rows of earlier data sets join every
batch, each data set gets an adapter of its own. Losses are those of the orchestrator's own engines
on the same batches (`tests/curlora/retention/test_trainer.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from peft import LoraConfig, PeftModel
from torch import nn

from curlora.adapters.attached import ATTACHED
from curlora.adapters.curlora_config import CurloraConfig
from curlora.adapters.renewal import save_combined
from curlora.adapters.saving import save_adapter
from curlora.adapters.secura_config import SecuraConfig
from curlora.retention.learner import Learner
from curlora.retention.task_phases import Rows
from curlora.retention.trainer_mixin import RetentionMixin
from curlora_kinds.retentions.table import RETENTIONS
from curlora_kinds.settings import nearest

Trainer = TypeVar("Trainer")


class ContinualTraining:
    """Data sets that a model learns one after the other, each with a trainer.

    Attributes:
        learner: The model, its retention and how many tasks are finished.
    """

    def __init__(
        self,
        model: nn.Module,
        kind: str,
        settings: Mapping[str, Any] | None = None,
        *,
        tasks: int,
        seed: int = 0,
        sources: Sequence[Rows[Any]] = (),
    ) -> None:
        """Start before the first data set.

        Args:
            model: A causal language model of transformers with the adapter attached.
            kind: A key of `RETENTIONS`.
            settings: Some of its settings (docs/methods.md lists them).
            tasks: How many data sets will be learnt, at least 1.
            seed: Chooses the rows that are looked at and replayed, and fresh adapters.
            sources: Data sets, as the trainer's collator takes their rows, whose curvature is
                measured before the first task: for `laplace` with `source` `texts`.

        Raises:
            ValueError: The kind or a setting is wrong, or does not go with the adapter.
        """
        if kind not in RETENTIONS:
            raise ValueError(f"Unknown retention {kind!r}.{nearest(kind, RETENTIONS)}")
        known = RETENTIONS[kind]
        given = {"seed": seed} if "seed" in known.settings else {}
        values = known.complete({**given, **(settings or {})})
        adapter, rank = _adapter_of(model)
        reason = known.refuses(adapter, {**values, "r": rank}) if adapter else None
        retention = known.build(values)
        if retention.renews_adapter and reason is None:
            reason = _not_renewed(model, adapter)
        if reason:
            raise ValueError(f"Retention {kind!r} does not go with this model: {reason}")
        self.learner = Learner(model, retention, tasks=tasks, seed=seed, sources=sources)

    def trainer(self, base: type[Trainer], **arguments: Any) -> Trainer:
        """Make a trainer whose `train` learns the next data set.

        Args:
            base: `transformers.Trainer`, or a subclass of it such as TRL's `SFTTrainer`.
            arguments: What it takes, the model excepted.

        Returns:
            The trainer.

        Raises:
            ValueError: What it is asked for does not go with the retention.
        """
        kind: Any = type(f"Retaining{base.__name__}", (RetentionMixin, base), {})
        return kind(learner=self.learner, model=self.learner.model, **arguments)

    def save_adapter(self, folder: str | Path) -> Path:
        """Write what was learnt as one adapter, those of earlier tasks included.

        Args:
            folder: Where to write; made if missing.

        Returns:
            The folder, as `curlora.load_adapter` reads it.
        """
        write = save_combined if self.learner.retention.renews_adapter else save_adapter
        return write(self.learner.model, folder)


def _adapter_of(model: nn.Module) -> tuple[str | None, int | None]:
    """The kind of a model's adapter and its rank; None where they are not known."""
    record = getattr(model, ATTACHED, None)
    if record is not None:
        return record.kind, record.settings.get("r")
    if not isinstance(model, PeftModel):
        return "full", None
    config: Any = model.peft_config[model.active_adapters[0]]
    return _kind_of(config), getattr(config, "r", None)


def _kind_of(config: Any) -> str | None:
    """The kind of an adapter that `curlora.attach` has not made; None where there is no such."""
    match config:
        case CurloraConfig():
            return "curlora"
        case SecuraConfig():
            return "secura"
        case LoraConfig(use_dora=True):
            return "dora"
        case LoraConfig():
            start = str(config.init_lora_weights).partition("_")[0].lower()
            return start if start in {"pissa", "corda"} else "lora"
        case _:
            return None


def _not_renewed(model: nn.Module, adapter: str | None) -> str | None:
    """Why a fresh adapter cannot be made for each task."""
    if adapter is None:
        return "a fresh adapter for each task is made of `lora`, `rslora` and `curlora` only."
    if not isinstance(model, PeftModel) or list(model.peft_config) != ["default"]:
        return "each task gets a fresh adapter, and the model must have one, named `default`."
    factors = (".lora_A.", ".lora_B.", ".cur_U.")
    other = [
        name for name, parameter in model.named_parameters()
        if parameter.requires_grad and not any(part in name for part in factors)
    ]  # fmt: skip
    if other:
        return f"each task gets a fresh adapter, and {other[:3]} of the model are trained as well."
    return None
