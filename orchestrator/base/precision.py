"""`training.precision: auto`: in which numbers a sweep computes, decided once from its devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.base.devices import Device, named
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import LoadedExperiment

Format = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class PrecisionChoice:
    """What `auto` stands for in a sweep."""

    used: Format
    reason: str
    """One clause, such as "AMD EPYC: it has avx512_bf16"."""

    @property
    def words(self) -> str:
        """The choice as a sentence without a full stop."""
        return f"precision {self.used} (`training.precision: auto`; {self.reason})"


def choose_precision(devices: Sequence[Device]) -> PrecisionChoice:
    """The precision for devices that will compute one sweep together.

    Its trials are compared with one another, so that all of them compute in the same numbers.

    Args:
        devices: All that may compute.

    Returns:
        bf16 where each of them multiplies natively in it, else fp32, in which every device does.
    """
    if not devices:
        return PrecisionChoice("fp32", "no device is there yet that could be asked for bf16")
    without = [device for device in devices if not device.bf16]
    if without:
        because = without[0].because
        return PrecisionChoice("fp32", f"{named(without)} does not multiply bf16: {because}")
    return PrecisionChoice("bf16", f"{named(devices)} multiplies bf16: {devices[0].because}")


def with_precision(loaded: LoadedExperiment, precision: Format) -> LoadedExperiment:
    """An experiment that says `auto`, with what that stands for.

    Args:
        loaded: The experiment; one that names a precision is given back as it is.
        precision: The choice.

    Returns:
        The experiment to compute with.
    """
    if loaded.experiment.training.precision != "auto":
        return loaded
    return loaded.model_copy(update={"experiment": decided(loaded.experiment, precision)})


def decided(experiment: Experiment, precision: Format) -> Experiment:
    """The same for an experiment without its tasks."""
    training = experiment.training
    if training.precision != "auto":
        return experiment
    return experiment.model_copy(
        update={"training": training.model_copy(update={"precision": precision})}
    )
