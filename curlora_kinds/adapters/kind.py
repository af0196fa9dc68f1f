"""A kind of adapter: all that is known of it before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from curlora_kinds.adapters.counts import Shapes, nothing
from curlora_kinds.settings import Setting, complete, maker

if TYPE_CHECKING:
    from peft import PeftConfig

Values = dict[str, Any]
"""A value for every setting of a kind."""


def _all_agree(_: Values) -> None:
    """Let any values stand together."""


def _fits_every_layer(_: Values, __: int) -> None:
    """Let every layer be adapted."""


@dataclass(frozen=True, kw_only=True)
class AdapterKind:
    """What is known of an adapter before a model is loaded."""

    name: str
    """Its key in `ADAPTERS`."""
    summary: str
    """One line: the paper and what is trained."""
    settings: Mapping[str, Setting] = field(default_factory=dict[str, Setting])
    """The settings it takes."""
    check: Callable[[Values], None] = _all_agree
    """Refuses, with a ValueError, values that are in their ranges and contradict each other."""
    made_by: str | Callable[..., PeftConfig] | None = None
    """What makes PEFT's config: a class as "module:name", or a function, which imports PEFT itself;
    None where nothing is added to the base."""
    arguments: Callable[[Values], Values] = dict
    """From complete settings to what `made_by` is called with."""
    count_trained: Callable[[Values, Shapes], int]
    """From complete settings and shapes to the number of trained parameters."""
    count_frozen: Callable[[Values, Shapes], int] = nothing
    """The floating-point numbers kept beside the base and the trained parameters."""
    changes_base: Literal["never", "init", "train", "merge"] = "never"
    """When the weights of the base are written: when attached, by each step, or when merged."""
    saved_whole: bool = False
    """Whether what is saved of it is about as large as the weights that it adapts."""
    linear_factors: Literal["lora", "core"] | None = None
    """Which trained matrices act as z = P h: `lora_A` and `lora_B`, or a core (r, r) alone."""
    additive: bool = False
    """Whether a layer's update is added to its output, so that earlier ones can be frozen and
    summed."""
    conv1d: bool = True
    """Whether GPT-2's Conv1D layers can be adapted."""
    reads_weight: bool = False
    """Whether it needs the base's weights as floating-point numbers, so none that is quantised."""
    reads_text: bool = False
    """Whether it starts from a text: the knowledge to keep."""
    quantised: str | None = "has not been built for a base of whole numbers"
    """Why it is not trained on a quantised base; None where it is."""
    partitioned: str | None = None
    """Why it is not trained by DeepSpeed on a base that ZeRO stage 3 has partitioned."""
    packs_as: Literal["core", "low_rank", "dora"] | None = None
    """How many of it train on one base (`curlora.packing`); None where they cannot."""
    misfit: Callable[[Values, int], str | None] = _fits_every_layer
    """From complete settings and the smaller side of a layer's weight to why the layer cannot be
    adapted, as a sentence without its end."""
    as_lora: str | Callable[[Any, str], Any] | None = None
    """Gives the factors B (d_out, k) and A (k, d_in) of an adapted layer's update, from the layer
    and the adapter's name: a function, or one as "module:name". None: as `curlora.adapters.export`
    knows the layers of PEFT and ours."""

    @property
    def defaults(self) -> Values:
        """The settings where nothing is said."""
        return {name: setting.default for name, setting in self.settings.items()}

    @property
    def trains_base(self) -> bool:
        """Whether the base's own parameters are trained, so that it is saved as a whole model."""
        return self.changes_base == "train"

    @property
    def small(self) -> bool:
        """Whether it is saved in much less than the base, so that one can be kept a task."""
        return not (self.trains_base or self.saved_whole)

    @property
    def trains_nothing(self) -> bool:
        """Whether no parameter of the model is trained."""
        return self.count_trained is nothing

    def complete(self, settings: Mapping[str, Any]) -> Values:
        """Check settings and fill in the defaults.

        Args:
            settings: Some of the names of `settings`.

        Returns:
            A value for every name of `settings`.

        Raises:
            ValueError: A name is unknown, a value is outside its range, or two contradict each
                other.
        """
        values = complete(f"Adapter {self.name!r}", self.settings, settings)
        self.check(values)
        return values

    def build(self, settings: Mapping[str, Any]) -> PeftConfig | None:
        """Build the PEFT config.

        Args:
            settings: Some of the names of `settings`.

        Returns:
            A config for `peft.get_peft_model`, or None where nothing is added to the base.

        Raises:
            ValueError: A setting is unknown or wrong.
        """
        values = self.complete(settings)
        return None if self.made_by is None else maker(self.made_by)(**self.arguments(values))

    def trained(self, settings: Mapping[str, Any], shapes: Shapes) -> int:
        """Give how many parameters will be trained.

        Args:
            settings: Some of the names of `settings`.
            shapes: (d_out, d_in) of the targeted linear layers, by name; for `full`, the shape of
                every parameter of the base.

        Returns:
            A number of parameters.
        """
        return self.count_trained(self.complete(settings), shapes)

    def frozen(self, settings: Mapping[str, Any], shapes: Shapes) -> int:
        """Give how many floating-point numbers are kept beside the base and what is trained.

        Args:
            settings: Some of the names of `settings`.
            shapes: As for `trained`.

        Returns:
            A number of numbers: factors, projections, bases. Indices, and a few numbers a layer to
            recognise the base by, are not counted.
        """
        return self.count_frozen(self.complete(settings), shapes)
