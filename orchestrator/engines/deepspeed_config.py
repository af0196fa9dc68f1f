"""The DeepSpeed configuration of a training spec, and what DeepSpeed refuses or ignores of it."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from types import ModuleType
from typing import Any, cast

from pydantic import ValidationError

from orchestrator.spec.sections import TrainingSpec
from orchestrator.spec.validation import render_validation_error
from orchestrator.system.wording import suggestion


def deepspeed_config(spec: TrainingSpec, world: int) -> dict[str, Any]:
    """The DeepSpeed configuration of a training spec; what the user wrote is passed through."""
    config: dict[str, Any] = {
        "train_batch_size": spec.batch_size,
        "train_micro_batch_size_per_gpu": spec.batch_size // (world * spec.accumulation),
        "gradient_accumulation_steps": spec.accumulation,
        "gradient_clipping": spec.max_grad_norm or 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
        **spec.deepspeed,
    }
    config["zero_optimization"] = {"stage": 0, **spec.deepspeed.get("zero_optimization", {})}
    if spec.precision == "bf16":
        config["bf16"] = {"enabled": True}
    return config


@contextmanager
def lean_imports() -> Iterator[None]:
    """Within it DeepSpeed is imported without mlflow: 1.5 s, for its autotuner alone."""
    absent = "mlflow" not in sys.modules
    if absent:
        sys.modules["mlflow"] = cast("ModuleType", None)
    try:
        yield
    finally:
        if absent:
            del sys.modules["mlflow"]


class _Reads(dict[str, Any]):
    """A configuration that remembers which of its keys were asked for."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self.asked: set[Any] = set()

    def get(self, key: Any, default: Any = None, /) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key: Any) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.asked.add(key)
        return super().__contains__(key)

    def keys(self) -> Any:
        return self  # `key in config.keys()` is a question as well

    def __copy__(self) -> _Reads:
        return self


def deepspeed_refuses(spec: TrainingSpec) -> str | None:
    """What DeepSpeed would not take, or would ignore, of a training spec's own section.

    Args:
        spec: How to train.

    Returns:
        A message with every place that DeepSpeed's configuration names; None when all is well.
    """
    with redirect_stdout(io.StringIO()), lean_imports():  # where DeepSpeed logs
        from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError
        from deepspeed.runtime.lr_schedules import VALID_LR_SCHEDULES
        from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

        config = _Reads(deepspeed_config(spec, 1))
        try:
            DeepSpeedConfig(config)
        except ValidationError as error:
            zero = error.title == DeepSpeedZeroConfig.__name__
            section = "training.deepspeed" + (".zero_optimization" if zero else "")
            known = list(DeepSpeedZeroConfig.model_fields) if zero else []
            shown = render_validation_error(error, section, known)
            return shown if zero else f"{shown} ({error.title})"
        except (DeepSpeedConfigError, AssertionError, ValueError, TypeError, KeyError) as error:
            return f"training.deepspeed: DeepSpeed refuses it: {str(error) or repr(error)}"
    return _ignored(spec, config) or _unnamed(spec, list(VALID_LR_SCHEDULES))


def _ignored(spec: TrainingSpec, config: _Reads) -> str | None:
    """The first of a user's sections that DeepSpeed never asked for."""
    ignored = sorted(set(spec.deepspeed) - config.asked)
    if not ignored:
        return None
    near = suggestion(ignored[0], sorted(map(str, config.asked)))
    return (
        f"training.deepspeed.{ignored[0]}: DeepSpeed knows no such section and would ignore "
        f"it.{near}"
    )


def _unnamed(spec: TrainingSpec, schedules: list[str]) -> str | None:
    """A scheduler or optimiser that is asked for without saying which."""
    for section, kinds in (("scheduler", schedules), ("optimizer", [])):
        own = spec.deepspeed.get(section)
        if own is None:
            continue
        kind = own.get("type") if isinstance(own, dict) else None
        if not isinstance(kind, str) or (kinds and kind not in kinds):
            near = suggestion(str(kind), kinds)
            listed = f" Schedulers: {', '.join(kinds)}." if kinds else ""
            return f"training.deepspeed.{section}: `type` names none; got {kind!r}.{near}{listed}"
    return None
