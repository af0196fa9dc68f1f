"""The layer that every adapter between a weight's own columns and rows is built on."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, cast
from warnings import warn

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.pytorch_utils import Conv1D

from curlora.adapters.cur_factors import CurFactors, LayerSettings
from curlora.cur.fingerprint import (
    QUANTISED_ROUNDING,
    SKETCH,
    deviation,
    fingerprint,
    rounding_of,
    tolerances,
)
from curlora.cur.selection import Selection
from curlora.cur.weight_facts import kept_facts
from curlora.peft_bridge import (
    BaseTunerLayer,
    check_adapters_to_merge,
    gather_params_ctx,
    in_out_features,
    keep_as_quantised,
    resolve_quantization_backend,
)


class CurLayer(nn.Module, BaseTunerLayer):
    """A linear layer, or GPT-2's Conv1D, whose adapters lie between its own columns and rows.

    What every such method needs of its base: reading `C` and `R` from it, recognising it when an
    adapter is loaded, merging into it. While adapters are merged the layer keeps the untouched
    weight beside the merged one: unmerging gives back the very bits, and a further adapter still
    reads the original columns.

    A subclass has "Linear" in its name: by that PEFT knows which adapted layers "all-linear" means.
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
                "no weight has such numbers. Save the adapter again."
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


def _adopt_what_was_loaded(layer: nn.Module, _incompatible_keys: Any) -> None:
    cast(CurLayer, layer).adopt_loaded()
