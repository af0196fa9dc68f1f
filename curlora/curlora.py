"""CURLoRA as a PEFT method: config, layer and tuner.

A layer's frozen weight `W` (d_out, d_in) gets the update alpha C U R, where `C` (d_out, r) and `R`
(r, d_in) are columns and rows of `W` itself and only `U` (r, r), zero at the start, is trained.

    model = get_peft_model(model, CurloraConfig(r=16, target_modules=["q_proj", "v_proj"]))

An adapter is saved as `U`, the indices of the columns and rows, and a fingerprint of the weight.
`C` and `R` are not saved: they are read again from the base the adapter is loaded on, after the
fingerprint has shown that it is the same base.

References:
    Fawi (2024), "CURLoRA: Stable LLM Continual Fine-Tuning and Catastrophic Forgetting Mitigation",
    Eq. 3-8. https://arxiv.org/abs/2408.14572

Deviations from the paper:
    - How columns and rows are drawn: see `curlora.cur`.
    - The update is applied in factored form, never as a dense matrix: see `curlora.cur_forward`.
    - Eq. 11 adds ||U||_F to the loss. The author's code has no such term and neither has this one.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast, get_args
from warnings import warn

import torch
from peft import PeftConfig
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.pytorch_utils import Conv1D

from curlora import cur_forward
from curlora.cur import Law, Selection, SelectionRule
from curlora.fingerprint import (
    QUANTISED_ROUNDING,
    SKETCH,
    deviation,
    fingerprint,
    rounding_of,
    tolerances,
)
from curlora.peft_bridge import (
    BaseTuner,
    BaseTunerLayer,
    check_adapters_to_merge,
    gather_params_ctx,
    get_pattern_key,
    get_quantization_kwargs,
    in_out_features,
    keep_as_quantised,
    peft_type,
    register_method,
    resolve_quantization_backend,
)
from curlora.targets import known_targets
from curlora.weight_facts import kept_facts

FormChoice = Literal["auto", "explicit", "output_reuse", "input_side", "fused"]

TARGETS_BY_FAMILY: dict[str, Any] = {
    family: names if isinstance(names, str) else list(names)
    for family, names in known_targets().items()
}
_AUTHOR_EPS = 1e-3


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
    """Only these layers, by number."""
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
        self._apply_preset()
        for rank in (self.r, *self.rank_pattern.values()):
            _check_rank(rank)
        for alpha in (self.alpha, *self.alpha_pattern.values()):
            _check_alpha(alpha)
        if self.bias != "none":
            raise ValueError(
                f"`bias` must be 'none', got {self.bias!r}: CURLoRA trains `U` and nothing of the "
                "base. To train a whole module beside it, name it in `modules_to_save`."
            )
        if self.form not in get_args(FormChoice):
            raise ValueError(
                f"`form` must be one of {', '.join(get_args(FormChoice))}, got {self.form!r}."
            )
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError(
                f"`layers_pattern` is {self.layers_pattern!r} but `layers_to_transform` is not "
                "set. Name the layers, or drop the pattern."
            )
        self.selection_rule()

    def _apply_preset(self) -> None:
        if self.preset is None:
            return
        if self.preset != "author":
            raise ValueError(f"`preset` must be 'author' or None, got {self.preset!r}.")
        if self.eps not in {0.0, _AUTHOR_EPS}:
            raise ValueError(
                f"`preset: author` means `eps` {_AUTHOR_EPS}, got {self.eps!r}. Drop one of the "
                "two."
            )
        self.eps = _AUTHOR_EPS
        self.with_replacement = True

    def selection_rule(self) -> SelectionRule:
        """Give the rule by which this adapter's columns and rows are drawn."""
        return SelectionRule(
            law=self.selection,
            temperature=self.temperature,
            eps=self.eps,
            with_replacement=self.with_replacement,
            seed=self.selection_seed,
        )

    def to_dict(self) -> dict[str, Any]:
        """Give the settings that are saved: all but the leave to load on another base."""
        return super().to_dict() | {"allow_base_mismatch": False}


def _check_rank(rank: Any) -> None:
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(
            f"`r` must be a whole number of at least 1, got {rank!r}. "
            "To leave a layer alone, drop it from `target_modules`."
        )


def _check_alpha(alpha: Any) -> None:
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise TypeError(f"`alpha` must be a number, got {alpha!r}.")
    if not math.isfinite(alpha) or alpha == 0:
        raise ValueError(f"`alpha` must be finite and not 0, got {alpha!r}: it scales the update.")


@dataclass(frozen=True)
class LayerSettings:
    """What one adapter means on one layer, beside its tensors."""

    alpha: float
    form: FormChoice
    allow_base_mismatch: bool
    base_name: str
    perplexities: tuple[float, float]
    """Of the laws over columns and over rows; NaN for a weight without values."""


class CurFactors(nn.Module):
    """The frozen side of one adapter on one layer: indices, factors and fingerprint.

    Buffers, so that they follow the model to its device. Saved are the indices and the fingerprint,
    as the bits of its float32 values: a cast of the model to 16 bits must not touch them.
    """

    columns: Tensor
    rows: Tensor
    fingerprint_bits: Tensor
    C: Tensor
    R: Tensor
    bias_at_rows: Tensor | None

    def __init__(self, columns: Tensor, rows: Tensor, fingerprint_bits: Tensor) -> None:
        super().__init__()
        self.register_buffer("columns", columns)
        self.register_buffer("rows", rows)
        self.register_buffer("fingerprint_bits", fingerprint_bits)
        self.register_buffer("C", None, persistent=False)
        self.register_buffer("R", None, persistent=False)
        self.register_buffer("bias_at_rows", None, persistent=False)
        self.relative_bias = 0.0
        self._read_for: tuple[Tensor | int, ...] = ()

    @property
    def is_stale(self) -> bool:
        """Whether the indices changed since `C` and `R` were read."""
        now = self._stamps()
        return len(now) != len(self._read_for) or any(
            old is not new if isinstance(new, Tensor) else old != new
            for old, new in zip(self._read_for, now, strict=True)
        )

    def read(self, W: Tensor, bias: Tensor | None) -> None:
        """Read `C`, `R` and the bias at the rows, as copies that outlive a merge.

        Args:
            W: The unmerged weight (d_out, d_in).
            bias: The base's bias (d_out,), or None.
        """
        rows = self.rows.to(W.device)
        self.C = W.index_select(1, self.columns.to(W.device))
        self.R = W.index_select(0, rows)
        self.bias_at_rows = None if bias is None else bias.detach().index_select(0, rows)
        self.relative_bias = self._compare_bias()
        self._read_for = self._stamps()

    def _compare_bias(self) -> float:
        """Give the largest bias at the rows over the size of x R' for x of unit variance."""
        if self.bias_at_rows is None or self.R.is_meta:
            return 0.0
        largest = float(self.bias_at_rows.abs().max())
        typical = float(self.R.float().norm(dim=1).square().mean().sqrt())
        if largest == 0:
            return 0.0
        return largest / typical if typical > 0 else math.inf

    def _stamps(self) -> tuple[Tensor | int, ...]:
        # The tensors themselves, not their ids, which are reused.
        return (
            self.columns,
            self.rows,
            *(0 if t.is_inference() else t._version for t in (self.columns, self.rows)),
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_read_for": self.is_stale}

    def __setstate__(self, state: dict[str, Any]) -> None:
        stale = state["_read_for"]
        super().__setstate__(state)
        self._read_for = () if stale else self._stamps()

    def _apply(self, fn: Any, recurse: bool = True) -> "CurFactors":
        # A move or cast replaces the buffers; it does not make them stale.
        stale = self.is_stale
        super()._apply(fn, recurse)
        if not stale:
            self._read_for = self._stamps()
        return self


class CurLayer(nn.Module, BaseTunerLayer):
    """A linear layer, or GPT-2's Conv1D, whose adapters lie between its own columns and rows.

    What every such method needs of its base: reading `C` and `R` from it, recognising it when an
    adapter is loaded, merging into it. While adapters are merged the layer keeps the untouched
    weight beside the merged one: unmerging gives back the very bits, and a further adapter still
    reads the original columns.
    """

    method: ClassVar[str]
    """Its name in messages."""
    factors_name: ClassVar[str]
    """The attribute that holds the `CurFactors` of every adapter."""
    settings_name: ClassVar[str]
    """The attribute that holds the `LayerSettings` of every adapter."""

    def __init__(self, base_layer: nn.Module, *, module_name: str, **quantisation: Any) -> None:
        """Wrap a layer, without an adapter yet.

        Args:
            base_layer: A linear layer, quantised or not, or one wrapped by another PEFT method.
            module_name: Its name in the base model; draws and messages depend on it.
            **quantisation: What PEFT needs to write a quantised weight back.

        Raises:
            TypeError: The layer is not linear.
        """
        super().__init__()
        self.base_layer = base_layer
        setattr(self, self.factors_name, nn.ModuleDict({}))
        setattr(self, self.settings_name, {})
        self.module_name = module_name
        self.merged_adapters = []
        self._disable_adapters = False
        self._unmerged_weight: Tensor | None = None
        self._shared_weight: nn.Parameter | None = None
        self.shares_weight = False
        """Whether another module of the model holds the same parameter: a tied output layer."""
        self._just_loaded: tuple[list[str], bool] = ([], False)
        layer = self.get_base_layer()
        keep_as_quantised(layer)
        self.in_features, self.out_features = in_out_features(layer)
        self.quantization_backend = resolve_quantization_backend(layer, **quantisation)
        self.is_transposed = isinstance(layer, Conv1D)
        linear = isinstance(layer, nn.Linear | Conv1D) or (
            self.quantization_backend is not None
            and self.quantization_backend.layer_type == "linear"
        )
        if not linear:
            raise TypeError(
                f"{self.method} adapts linear layers and Conv1D, but `{module_name}` is a "
                f"{type(layer).__name__}. Drop it from `target_modules`."
            )
        self.register_load_state_dict_post_hook(_adopt_what_was_loaded)

    def factors(self, adapter_name: str) -> CurFactors:
        """Give the frozen factors of one adapter."""
        return cast(CurFactors, self._all_factors()[adapter_name])

    def _all_factors(self) -> nn.ModuleDict:
        return getattr(self, self.factors_name)

    def _settings(self, adapter_name: str) -> "LayerSettings":
        return getattr(self, self.settings_name)[adapter_name]

    def _dense_delta(self, adapter_name: str) -> Tensor:
        """Give an adapter's update as a dense matrix in the layout of the base's weight."""
        raise NotImplementedError

    def _new_factors(
        self, W: Tensor, r: int, select: Callable[[Tensor], Selection]
    ) -> tuple[CurFactors, tuple[float, float]]:
        limit = min(W.shape)
        if r > limit:
            raise ValueError(
                f"`r` must be at most min(d_in, d_out) = {limit} in `{self.module_name}`, got {r}. "
                "Lower `r`, give the layer its own in `rank_pattern`, or drop it from "
                "`target_modules`."
            )
        if W.is_meta:  # shapes only: the indices come with the weights
            columns, rows = torch.arange(r), torch.arange(r)
            bits = torch.zeros(2 + SKETCH + 2 * r, dtype=torch.int32)
            perplexities = (math.nan, math.nan)
        else:
            try:
                chosen = select(W)
            except ValueError as error:
                raise ValueError(f"In `{self.module_name}`: {error}") from error
            columns, rows = chosen.columns, chosen.rows
            known = kept_facts(self.get_base_layer())
            bits = self._fingerprint(W, columns, rows, known and known.sketch).view(torch.int32)
            perplexities = (chosen.column_perplexity, chosen.row_perplexity)
        factors = CurFactors(columns.int(), rows.int(), bits).to(W.device)
        factors.read(W, self._base_bias())
        return factors, perplexities

    def _fingerprint(
        self, W: Tensor, columns: Tensor, rows: Tensor, known: Tensor | None = None
    ) -> Tensor:
        rounding = rounding_of(W, quantised=self.quantization_backend is not None)
        return fingerprint(W, columns.cpu(), rows.cpu(), rounding=rounding, known=known)

    @contextmanager
    def _readable_weight(self) -> Iterator[Tensor]:
        """Give the unmerged weight (d_out, d_in), gathered where DeepSpeed partitioned it."""
        weight = getattr(self.get_base_layer(), "weight", None)
        if isinstance(weight, DTensor):
            raise TypeError(
                f"The weight of `{self.module_name}` is split over devices (DTensor), so its "
                "columns and rows lie on several of them. Attach the adapter before sharding the "
                "model."
            )
        if self._unmerged_weight is not None:
            yield self._oriented(self._unmerged_weight)
            return
        with gather_params_ctx([weight] if isinstance(weight, nn.Parameter) else []):
            try:
                stored = self.get_base_weight().detach()
            except (TypeError, NotImplementedError) as error:
                raise ValueError(
                    f"The quantised weight of `{self.module_name}` cannot be read: {error} Use a "
                    "float base, or one quantised by bitsandbytes, HQQ or torchao."
                ) from error
            if stored.numel() == 0:
                raise ValueError(
                    f"The weight of `{self.module_name}` is empty here: ZeRO-3 has partitioned it. "
                    "Attach or load the adapter before `deepspeed.initialize`, or inside "
                    "`deepspeed.zero.GatheredParameters`."
                )
            yield self._oriented(stored)

    def _base_bias(self) -> Tensor | None:
        return getattr(self.get_base_layer(), "bias", None)

    def _oriented(self, weight: Tensor) -> Tensor:
        return weight.t() if self.is_transposed else weight

    def _base_is_exact(self) -> bool:
        """Whether the base layer gives x W' + bias and nothing else."""
        layer = self.base_layer
        hooks = (*layer._forward_hooks.values(), *layer._forward_pre_hooks.values())
        # A quantised layer may quantise its input as well, and then y[rows] is not R x.
        plain = type(layer) in {nn.Linear, Conv1D} and self.quantization_backend is None
        return plain and all(
            # ZeRO-3's hooks gather and release parameters; the values pass through.
            getattr(hook, "__module__", "").startswith("deepspeed.")
            for hook in hooks
        )

    def _base_is_at_hand(self) -> bool:
        """Whether the base's weight may be used without calling the base."""
        # Not where a call moves or gathers it (offloading, ZeRO-3), or where it is trained as well.
        layer = self.base_layer
        watched = (
            layer._forward_hooks,
            layer._forward_pre_hooks,
            layer._backward_hooks,
            layer._backward_pre_hooks,
        )
        tensors = (layer.weight, layer.bias)
        return (
            not any(watched)
            and "forward" not in layer.__dict__
            and not hasattr(layer.weight, "ds_id")
            and not any(isinstance(t, Tensor) and t.requires_grad for t in tensors)
            and not isinstance(layer.weight, DTensor)
        )

    # ------------------------------------------------------------------ loading

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: Any, prefix: str, *args: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        adapters = [
            name
            for name in self._all_factors()
            if f"{prefix}{self.factors_name}.{name}.rows" in state_dict
        ]
        self._just_loaded = (adapters, f"{prefix}base_layer.weight" in state_dict)

    def adopt_loaded(self) -> None:
        """Read `C` and `R` again after indices or base were loaded, if the base is the right one.

        Raises:
            ValueError: An adapter was made on another base.
        """
        (adapters, base_changed), self._just_loaded = self._just_loaded, ([], False)
        for name in self._all_factors() if base_changed else adapters:
            with self._readable_weight() as W:
                if W.is_meta:
                    continue
                if name in adapters:
                    self._check_base(name, W)
                else:  # the adapter stays, on a new base
                    self._stamp(name, W)
                self.factors(name).read(W, self._base_bias())

    def _refresh_if_stale(self, adapter_name: str) -> None:
        """Take in indices that came by another way than `load_state_dict`."""
        # A trace would fix the answer, and cannot ask for a tensor's version anyway.
        if torch.compiler.is_compiling():
            return
        if self.factors(adapter_name).is_stale:
            self._just_loaded = ([adapter_name], False)
            self.adopt_loaded()

    def _check_base(self, adapter_name: str, W: Tensor) -> None:
        """Compare the loaded fingerprint with that of the weight at hand."""
        factors, settings = self.factors(adapter_name), self._settings(adapter_name)
        for name, indices, size in (
            ("rows", factors.rows, W.shape[0]), ("columns", factors.columns, W.shape[1])
        ):  # fmt: skip
            wrong = indices[(indices < 0) | (indices >= size)]
            if len(wrong):
                raise ValueError(
                    f"Adapter {adapter_name!r} selects {name} {wrong[:3].tolist()} of "
                    f"`{self.module_name}`, of shape {tuple(W.shape)}, which has only 0 to "
                    f"{size - 1}: its file is damaged, or it was made on another base "
                    f"({settings.base_name}). Load it on that base, or save it again."
                )
        saved = factors.fingerprint_bits.cpu().view(torch.float32)
        if not saved.isfinite().all() or not 0 < float(saved[0]) <= QUANTISED_ROUNDING:
            raise ValueError(
                f"The fingerprint of `{self.module_name}` in adapter {adapter_name!r} is damaged: "
                "its numbers are none that a weight has. Save the adapter again."
            )
        current = self._fingerprint(W, factors.columns, factors.rows)
        gap = deviation(saved, current)
        rounding, limit = tolerances(saved, current)
        if gap <= rounding:
            return
        finding = (
            f"Adapter {adapter_name!r} was made on {settings.base_name}, and the weight of "
            f"`{self.module_name}` differs from the one it was made on by {gap:.2%}"
        )
        if gap <= limit:
            warn(f"{finding}. That is more than rounding, but it will be used.", stacklevel=2)
        elif settings.allow_base_mismatch:
            warn(f"{finding}. It is used because `allow_base_mismatch` is set.", stacklevel=2)
            self._stamp(adapter_name, W)
        else:
            raise ValueError(
                f"{finding} (allowed: {limit:.0%}). Load it on that base, or set "
                "`allow_base_mismatch=True` on its config to apply it to this one."
            )

    def _stamp(self, adapter_name: str, W: Tensor) -> None:
        factors = self.factors(adapter_name)
        bits = self._fingerprint(W, factors.columns, factors.rows).view(torch.int32)
        factors.fingerprint_bits = bits.to(factors.rows.device)

    # ------------------------------------------------------------------ merging

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add adapters to the base's weight, and keep the untouched weight for `unmerge`.

        All deltas are summed in float32 and rounded once. A quantised weight is quantised again, so
        its merged output differs from the unmerged one by that rounding.

        Args:
            safe_merge: Check that the merged weight is finite before using it.
            adapter_names: Which adapters; by default the active ones.

        Raises:
            ValueError: The merged weight is not finite, or the base's weight cannot be written.
        """
        names = [
            n for n in check_adapters_to_merge(self, adapter_names) if n in self._all_factors()
        ]
        if not names:
            return
        backend = self.quantization_backend
        if backend is not None and not backend.supports_merge:
            raise ValueError(
                f"`{self.module_name}` is quantised by {backend.backend_name}, which cannot be "
                "written to. Serve the adapter unmerged, or export it with `export_lora`."
            )
        original = (
            self.get_base_weight() if self._unmerged_weight is None else self._unmerged_weight
        )
        if original.numel() == 0:
            raise ValueError(
                f"The weight of `{self.module_name}` is partitioned by ZeRO-3 and cannot be merged "
                "into. Save the adapter, load it in a plain process and merge there."
            )
        deltas = [self._dense_delta(name) for name in (*self.merged_adapters, *names)]
        merged = (original.to(deltas[0].dtype) + sum(deltas)).to(original.dtype)
        if safe_merge and not torch.isfinite(merged).all():
            held = zip((*self.merged_adapters, *names), deltas, strict=True)
            broken = [name for name, delta in held if not torch.isfinite(delta).all()] or names
            raise ValueError(  # begins with PEFT's own sentence
                f"NaNs detected in the merged weights. The adapter {', '.join(broken)} seems to be "
                f"broken: with it `{self.module_name}` would not be finite. It has diverged, or "
                "its update exceeds the range of the base's dtype."
            )
        self._write(merged)
        self._unmerged_weight = original
        self.merged_adapters.extend(names)

    def unmerge(self) -> None:
        """Give the base its own weight back, bit for bit unless it is quantised."""
        if self._unmerged_weight is None:
            warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        if self._shared_weight is not None:
            self.get_base_layer().weight = self._shared_weight
            self._shared_weight = None
        else:
            now = self.get_base_weight()
            self.set_base_weight(self._unmerged_weight.to(device=now.device, dtype=now.dtype))
        self._unmerged_weight = None
        self.merged_adapters.clear()

    def _write(self, weight: Tensor) -> None:
        """Give the base another weight; where others hold the same parameter, one of its own."""
        if not self.shares_weight or self._shared_weight is not None:
            self.set_base_weight(weight)
            return
        layer = cast(nn.Linear, self.get_base_layer())
        self._shared_weight = cast(nn.Parameter, layer.weight)
        layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)


class CurloraLayer(CurLayer):
    """A linear layer, or GPT-2's Conv1D, with any number of CURLoRA adapters; `cur_U` trains."""

    adapter_layer_names = ("cur_U",)
    other_param_names = ("cur_factors", "cur_settings")
    method = "CURLoRA"
    factors_name = "cur_factors"
    settings_name = "cur_settings"
    cur_settings: dict[str, "LayerSettings"]

    def __init__(self, base_layer: nn.Module, *, module_name: str, **quantisation: Any) -> None:
        """Wrap a layer, without an adapter yet.

        Args:
            base_layer: A linear layer, quantised or not, or one wrapped by another PEFT method.
            module_name: Its name in the base model; draws and messages depend on it.
            **quantisation: What PEFT needs to write a quantised weight back.
        """
        super().__init__(base_layer, module_name=module_name, **quantisation)
        self.cur_U = nn.ParameterDict({})

    def update_layer(
        self, adapter_name: str, config: CurloraConfig, *, r: int, alpha: float
    ) -> None:
        """Add an adapter: choose columns and rows from the unmerged weight, start `U` at zero.

        Args:
            adapter_name: Its name.
            config: Its settings.
            r: Its rank on this layer.
            alpha: Its scale on this layer.

        Raises:
            ValueError: The rank does not fit the layer, a form other than `explicit` is demanded of
                a layer that cannot give it, or the weight cannot be read.
        """
        if config.form not in {"auto", "explicit"} and not self._base_is_exact():
            raise ValueError(
                f"`form` {config.form!r} needs a plain linear layer, but `{self.module_name}` is a "
                f"{type(self.base_layer).__name__} or has hooks. Set `form: auto`."
            )
        known = kept_facts(self.get_base_layer())

        def select(W: Tensor) -> Selection:
            rule = config.selection_rule()
            return rule.select(W, r, name=self.module_name, shares=known and known.shares)

        with self._readable_weight() as W:
            factors, perplexities = self._new_factors(W, r, select)
        self.cur_U[adapter_name] = nn.Parameter(torch.zeros(r, r))
        self._all_factors()[adapter_name] = factors
        self.cur_settings[adapter_name] = LayerSettings(
            alpha=float(alpha),
            form=config.form,
            allow_base_mismatch=config.allow_base_mismatch,
            base_name=config.base_model_name_or_path or "an unnamed base",
            perplexities=perplexities,
        )
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Give alpha C U R as a dense matrix, in the layout and dtype of the base's weight.

        Args:
            adapter_name: Which adapter.

        Returns:
            (d_out, d_in), or (d_in, d_out) for a Conv1D.
        """
        delta = self._dense_delta(adapter_name)
        return delta.to(self.factors(adapter_name).C.dtype)

    def _dense_delta(self, adapter_name: str) -> Tensor:
        self._refresh_if_stale(adapter_name)
        factors, U = self.factors(adapter_name), self.cur_U[adapter_name].detach()
        dtype = torch.promote_types(factors.C.dtype, torch.float32)
        core = self.cur_settings[adapter_name].alpha * U.to(dtype)
        return self._oriented(factors.C.to(dtype) @ (core @ factors.R.to(dtype)))

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:  # noqa: ARG002
        """Say that the update is additive, so that PEFT can convert it."""
        return True

    # ------------------------------------------------------------------ forward

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run the base layer with the active adapters.

        Args:
            x: Input (..., d_in).
            *args: For the base layer.
            **kwargs: For the base layer.

        Returns:
            x (W + sum of alpha C U R)' + bias (..., d_out).
        """
        if self.disable_adapters and self.merged:
            self.unmerge()
        active = [name for name in self.active_adapters if name in self.cur_U]
        if self.disable_adapters or self.merged or not active:
            return self.base_layer(x, *args, **kwargs)
        for name in active:
            self._refresh_if_stale(name)
        form = self._form(active, x)
        if form == "explicit":
            return self._explicit(x, active, *args, **kwargs)
        factors, U = self.factors(active[0]), self.cur_U[active[0]]
        alpha = self.cur_settings[active[0]].alpha
        if form == "input_side":
            return cur_forward.input_side(self.base_layer, x, U, factors.R, factors.columns, alpha)
        if form == "fused":
            return self._fused(x, factors, U, alpha)
        y = self.base_layer(x)
        return cur_forward.output_reuse(y, factors.C, U, factors.rows, factors.bias_at_rows, alpha)

    def _fused(self, x: Tensor, factors: CurFactors, U: Tensor, alpha: float) -> Tensor:
        base = cast(nn.Linear, self.base_layer)
        W = self._oriented(base.weight)
        reads_output = cur_forward.bias_cancels(factors.relative_bias, W.dtype.itemsize < 4)
        return cur_forward.fused(
            x,
            W,
            base.bias,
            factors.C,
            U,
            factors.R,
            factors.columns,
            factors.rows,
            factors.bias_at_rows,
            alpha,
            reads_output,
        )

    def _explicit(self, x: Tensor, active: list[str], *args: Any, **kwargs: Any) -> Tensor:
        y = self.base_layer(x, *args, **kwargs)
        if self.quantization_backend is not None:
            y = self.quantization_backend.maybe_clone_base_result(y)
        for name in active:
            factors, alpha = self.factors(name), self.cur_settings[name].alpha
            y = cur_forward.explicit(y, x, factors.C, self.cur_U[name], factors.R, alpha)
        return y

    def _form(self, active: list[str], x: Tensor) -> cur_forward.Form:
        asked = self.cur_settings[active[0]].form
        exact = self._base_is_exact()
        factors = self.factors(active[0])
        autocast = torch.is_autocast_enabled(x.device.type)
        fusable = exact and not autocast and self._base_is_at_hand()
        possible = asked == "explicit" or (fusable if asked == "fused" else exact)
        if asked != "auto" and len(active) == 1 and possible:
            return asked
        return cur_forward.choose_form(
            d_in=factors.R.shape[1],
            d_out=factors.C.shape[0],
            exact_base=exact,
            fusable=fusable,
            adapters=len(active),
            relative_bias=factors.relative_bias,
            low_precision=autocast or factors.C.dtype.itemsize < 4,
        )


def _adopt_what_was_loaded(layer: nn.Module, _incompatible_keys: Any) -> None:
    cast(CurloraLayer, layer).adopt_loaded()


class CurloraModel(BaseTuner):
    """PEFT's tuner for CURLoRA: puts a `CurloraLayer` in the place of every targeted layer."""

    prefix = "cur_"
    tuner_layer_cls = CurloraLayer
    target_module_mapping = TARGETS_BY_FAMILY

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        """Give one layer an adapter, wrapping it unless an earlier adapter already has.

        Raises:
            ValueError: A bare parameter is targeted.
        """
        if parameter_name is not None:
            raise ValueError(
                f"CURLoRA adapts layers, but `target_parameters` names the parameter "
                f"{parameter_name!r} of `{current_key}`. Use `target_modules`."
            )
        config = cast(CurloraConfig, peft_config)
        settings = {
            "r": _by_pattern(config.rank_pattern, current_key, config.r),
            "alpha": _by_pattern(config.alpha_pattern, current_key, config.alpha),
        }
        if isinstance(target, CurloraLayer):
            target.update_layer(adapter_name, config, **settings)
            return
        layer = CurloraLayer(target, module_name=current_key, **get_quantization_kwargs(self))
        layer.shares_weight = holds_shared_weight(self.model, layer.get_base_layer())
        layer.update_layer(adapter_name, config, **settings)
        self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        """Nothing to warn of: a layer whose weight is tied gets one of its own when it merges."""

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:  # noqa: ARG002
        """Refuse what PEFT would otherwise drop in silence.

        Raises:
            ValueError: Different adapters are asked for within one batch.
        """
        if kwargs.get("adapter_names") is not None:
            raise ValueError(
                "CURLoRA cannot give each row of a batch its own adapter, got `adapter_names`. "
                "Call `set_adapter` and run the rows of each adapter apart."
            )
        yield


def holds_shared_weight(model: nn.Module, layer: nn.Module) -> bool:
    """Say whether another module holds a layer's weight too, as an embedding does a tied head's.

    Args:
        model: The whole model.
        layer: One of its layers.

    Returns:
        Whether writing into the weight would change another module.
    """
    weight = getattr(layer, "weight", None)
    return isinstance(weight, nn.Parameter) and any(
        parameter is weight
        for module in model.modules()
        if module is not layer
        for parameter in module._parameters.values()
    )


def _by_pattern(patterns: dict[str, Any], module_name: str, default: Any) -> Any:
    return patterns.get(get_pattern_key(list(patterns), module_name), default)


def curlora_layers(model: nn.Module, adapter_name: str) -> dict[str, CurloraLayer]:
    """Give the layers on which an adapter sits, by their name in the base model.

    Args:
        model: A model with CURLoRA adapters.
        adapter_name: Which of them.

    Returns:
        Layers by name, in the model's order; empty if there is no such adapter.
    """
    return {
        layer.module_name: layer
        for layer in model.modules()
        if isinstance(layer, CurloraLayer) and adapter_name in layer.cur_U
    }


def sampling_perplexity(
    model: nn.Module, adapter_name: str = "default"
) -> dict[str, tuple[float, float]]:
    """Give, for every adapted layer, over how many columns and rows its sampling law spreads.

    A perplexity near the width of the layer means that the law was close to uniform.

    Args:
        model: A model with CURLoRA adapters.
        adapter_name: Which of them.

    Returns:
        (perplexity over columns, perplexity over rows) by module name.
    """
    layers = curlora_layers(model, adapter_name)
    return {name: layer.cur_settings[adapter_name].perplexities for name, layer in layers.items()}


@contextmanager
def forward_form(model: nn.Module, form: FormChoice) -> Iterator[None]:
    """Apply every adapter in one form for a while, `explicit` for functorch or double backward.

    Args:
        model: A model with CURLoRA adapters.
        form: `auto`, `explicit`, `output_reuse`, `input_side` or `fused`; the last three only
            where exact.

    Yields:
        Nothing; the former forms are restored on leaving.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, CurloraLayer)]
    before = [layer.cur_settings for layer in layers]
    for layer in layers:
        layer.cur_settings = {
            name: dataclasses.replace(settings, form=form)
            for name, settings in layer.cur_settings.items()
        }
    try:
        yield
    finally:
        for layer, settings in zip(layers, before, strict=True):
            layer.cur_settings = settings


register_method("curlora", config_class=CurloraConfig, tuner_class=CurloraModel)
