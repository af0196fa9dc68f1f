"""The check of `training.deepspeed`, as far as it can be made without importing DeepSpeed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from orchestrator.spec.experiment import Experiment
from orchestrator.spec.space.domains import Choice, simple_domains
from orchestrator.spec.validation import ExperimentError
from orchestrator.system.yaml_file import NUMBER_AS_TEXT

_MAY_BE_AUTO = frozenset({"keep_in_fp32_modules", "replace_method"})
"""Keys of DeepSpeed's own for which `auto` means something to it."""


def check_deepspeed(experiment: Experiment) -> None:
    """Refuse values of `training.deepspeed` that only other programs, or JSON, give a meaning.

    DeepSpeed itself is asked before a trial starts; importing it takes seconds.

    Args:
        experiment: An experiment that was read already.

    Raises:
        ExperimentError: If a value is `auto`, or a number written as text.
    """
    _check_section("training.deepspeed", experiment.training.deepspeed)
    search = experiment.search
    for path, domain in simple_domains(search.space) if search is not None else ():
        if path.startswith("training.deepspeed.") and isinstance(domain, Choice):
            for value in domain.choice:
                _check_section(path, value)
    for entry in search.first if search is not None else ():
        for path, value in entry.items():
            if path.startswith("training.deepspeed."):
                _check_section(path, value)


def _check_section(place: str, value: Any) -> None:
    if isinstance(value, Mapping):
        for key, below in cast("Mapping[str, Any]", value).items():
            _check_section(f"{place}.{key}", below)
    elif isinstance(value, list | tuple):
        for below in cast("list[Any]", value):
            _check_section(place, below)
    elif value == "auto" and place.rsplit(".", 1)[-1] not in _MAY_BE_AUTO:
        raise ExperimentError(
            f"{place}: `auto` is for the trainer of transformers, which fills it in; here nothing "
            "does. Leave the key out for DeepSpeed's own default, or give a value. Batch sizes, "
            "clipping and precision follow from the fields of `training`"
        )
    elif isinstance(value, str) and NUMBER_AS_TEXT.fullmatch(value):
        number = float(value)
        digits, _, exponent = repr(number).partition("e")
        # With a point and a sign, which YAML wants to see in a number.
        real = digits if not exponent else f"{digits}{'' if '.' in digits else '.0'}e{exponent}"
        raise ExperimentError(
            f"{place}: {value!r} is a text to YAML, and DeepSpeed wants a number; write "
            f"{int(number) if number.is_integer() else real}"
        )
