"""A kind of adapter: what is known of it before a model is loaded, and after it was attached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from curlora.adapters.settings import Settings, complete

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor


Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class AdapterKind:
    """What is known of an adapter before a model is loaded."""

    name: str
    """Its key in `ADAPTERS`."""
    summary: str
    """One line: the paper and what is trained."""
    settings: Mapping[str, Any]
    """The settings it takes, with their defaults."""
    make_config: Callable[[dict[str, Any]], PeftConfig] | None
    """From complete settings to PEFT's config; None where nothing is added to the base."""
    count_trained: Callable[[dict[str, Any], Shapes], int]
    """From complete settings and shapes to the number of trained parameters."""
    count_frozen: Callable[[dict[str, Any], Shapes], int]
    """The floating-point numbers kept beside the base and the trained parameters."""
    changes_base: Literal["never", "init", "train", "merge"] = "never"
    """When the weights of the base are written: when attached, by each step, or when merged."""
    linear_factors: Literal["lora", "core"] | None = None
    """Which trained matrices act as z = P h: `lora_A` and `lora_B`, or a core (r, r) alone."""
    additive: bool = False
    """Whether a layer's update is added to its output, so that earlier ones can be frozen and
    summed."""
    conv1d: bool = True
    """Whether GPT-2's Conv1D layers can be adapted."""
    reads_weight: bool = False
    """Whether it needs the base's weights as floating-point numbers, so none that is quantised."""

    def complete(self, settings: Settings) -> dict[str, Any]:
        """Check settings and fill in the defaults.

        Args:
            settings: Some of the names of `settings`.

        Returns:
            A value for every name of `settings`.

        Raises:
            ValueError: A name is unknown, or a value is outside its range.
        """
        return complete(self.name, self.settings, settings)

    def build(self, settings: Settings) -> PeftConfig | None:
        """Build the PEFT config.

        Args:
            settings: Some of the names of `settings`.

        Returns:
            A config for `peft.get_peft_model`, or None where nothing is added to the base.

        Raises:
            ValueError: A name is unknown, or a value is outside its range.
        """
        values = self.complete(settings)
        return None if self.make_config is None else self.make_config(values)

    def trained(self, settings: Settings, shapes: Shapes) -> int:
        """Give how many parameters will be trained.

        Args:
            settings: Some of the names of `settings`.
            shapes: (d_out, d_in) of the targeted linear layers, by name; for `full`, the shape of
                every parameter of the base.

        Returns:
            A number of parameters.
        """
        return self.count_trained(self.complete(settings), shapes)

    def frozen(self, settings: Settings, shapes: Shapes) -> int:
        """Give how many floating-point numbers are kept beside the base and what is trained.

        Args:
            settings: Some of the names of `settings`.
            shapes: As for `trained`.

        Returns:
            A number of numbers: factors, projections, bases. Indices, and a few numbers a layer to
            recognise the base by, are not counted.
        """
        return self.count_frozen(self.complete(settings), shapes)


@dataclass
class Attached:
    """What `curlora.attach` remembers on the model it returns."""

    kind: str
    """A key of `ADAPTERS`."""
    settings: dict[str, Any]
    """All settings, as completed."""
    initial: dict[str, tuple[Tensor, Tensor]] | None = None
    """Of a kind that changes the base when attached: (B0 times scale, A0) by module name."""


ATTACHED = "_curlora_attached"
"""The attribute under which `curlora.attach` leaves its `Attached` on a model."""
