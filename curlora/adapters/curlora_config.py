"""Settings of a CURLoRA adapter as a PEFT config."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from peft import PeftConfig

from curlora.adapters.cur_factors import FormChoice
from curlora.cur.selection import Law, SelectionRule
from curlora.peft_bridge import peft_type
from curlora_kinds.adapters.curlora import AUTHOR_EPS, KIND


@dataclass
class CurloraConfig(PeftConfig):
    """Settings of a CURLoRA adapter.

    References:
        Fawi (2024). https://arxiv.org/abs/2408.14572
    """

    r: int = 16
    """Columns and rows kept of each weight; `U` is (r, r). From 1 to min(d_in, d_out)."""
    alpha: float = 1.0
    """Scale of the update. Finite and not 0; unlike LoRA's it is not divided by r."""
    temperature: float = 1.0
    """Of the sampling law, positive: towards 0 only the least energetic, high is uniform."""
    selection: Law = "inverted"
    """`inverted` is the paper's law; `uniform` and `energy` (its opposite) are controls."""
    selection_seed: int = 0
    """Where the indices come from, with each module's name. Independent of any other seed."""
    eps: float = 0.0
    """Added to each column's share of energy. At 0 a column without energy is never drawn."""
    with_replacement: bool = False
    """Draw columns with replacement. Needs a temperature of at least 0.05."""
    preset: Literal["author"] | None = None
    """`author`: eps 1e-3 with replacement, as in the author's code."""
    target_modules: list[str] | str | None = None
    """Names (by suffix), a regular expression, or "all-linear". Default: q, k and v where known."""
    exclude_modules: list[str] | str | None = None
    """Modules left out although `target_modules` names them."""
    modules_to_save: list[str] | None = None
    """Modules trained in full and saved with the adapter, such as a classification head."""
    layers_to_transform: list[int] | int | None = None
    """Only these layers, by number; with `target_modules` as a list of names, or by default."""
    layers_pattern: list[str] | str | None = None
    """The name of the list of layers, if it is not the usual one."""
    rank_pattern: dict[str, int] = field(default_factory=dict)
    """Another `r` for the modules whose name ends with, or matches, a key."""
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    """Another `alpha` for the modules whose name ends with, or matches, a key."""
    bias: Literal["none"] = "none"
    """Only "none": the biases of the base stay frozen."""
    form: FormChoice = "auto"
    """How to apply the update: `auto` is the cheapest exact form, `explicit` plain autograd."""
    allow_base_mismatch: bool = False
    """Load the adapter even where the base is not the one it was made on. Not saved."""

    def __post_init__(self) -> None:
        """Complete the presets and refuse what cannot work.

        Raises:
            ValueError: A setting is outside its range, or contradicts another.
        """
        super().__post_init__()
        self.peft_type = peft_type("CURLORA")
        for name in ("target_modules", "exclude_modules"):
            if isinstance(
                getattr(self, name), list | tuple
            ):  # a set, as PEFT matches by membership
                setattr(self, name, set(getattr(self, name)))
        KIND.complete({name: getattr(self, name) for name in KIND.settings})
        if self.preset == "author":
            self.eps = AUTHOR_EPS
            self.with_replacement = True
        for rank in self.rank_pattern.values():
            KIND.settings["r"].check("r", rank)
        for alpha in self.alpha_pattern.values():
            KIND.settings["alpha"].check("alpha", alpha)
        if self.bias != "none":
            raise ValueError(
                f"`bias` must be 'none', got {self.bias!r}: CURLoRA trains `U` and nothing of the "
                "base. To train a whole module beside it, name it in `modules_to_save`."
            )
        if self.form not in get_args(FormChoice):
            raise ValueError(
                f"`form` must be one of {', '.join(get_args(FormChoice))}, got {self.form!r}."
            )
        self._check_layers()

    def selection_rule(self) -> SelectionRule:
        """Give the rule by which this adapter's columns and rows are drawn."""
        return SelectionRule(
            law=self.selection,
            temperature=self.temperature,
            eps=self.eps,
            with_replacement=self.with_replacement,
            seed=self.selection_seed,
        )

    def _check_layers(self) -> None:
        if self.layers_to_transform is None:
            if self.layers_pattern:
                raise ValueError(
                    f"`layers_pattern` is {self.layers_pattern!r} but `layers_to_transform` is not "
                    "set. Name the layers, or drop the pattern."
                )
        elif isinstance(self.target_modules, str):  # PEFT would adapt all layers in silence
            raise ValueError(
                f"`layers_to_transform` is {self.layers_to_transform!r}, but `target_modules` is "
                f"the one string {self.target_modules!r}, which says by itself what is adapted. "
                'Give a list of names, such as ["q_proj", "v_proj"], or put the layers into the '
                "pattern."
            )

    def to_dict(self) -> dict[str, Any]:
        """Give the settings that are saved: all but the leave to load on another base."""
        return super().to_dict() | {"allow_base_mismatch": False}
