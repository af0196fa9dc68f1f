"""Many adapters trained at once on one frozen base, each row of a batch through its own.

    pack = PackedModel(base, ["q_proj", "v_proj"], capacity=8)
    pack.join(0, "curlora", {"r": 16}, seed=0)
    pack.join(1, "lora", {"r": 4, "alpha": 8.0}, seed=1)
    with pack.rows([0, 0, 1, 1]):
        hidden = base.model(tokens).last_hidden_state
        ...                                   # a loss for every slot
    sum(losses).backward()
    pack.step({0: 1.0e-2, 1: 1.0e-3})

A *slot* is a place for one trial's adapter; its number stays until it leaves. Slots may differ in
method (`curlora`, `lora`, `rslora`, `dora`), rank, scale, selection, seed, learning rate, weight
decay and clipping, and come and go between steps. What a slot computes is what
`curlora.attach` and `torch.optim.AdamW` would compute for it alone, up to rounding: an adapter
starts from the same numbers, and neither values nor failures of one slot reach another.

The loss of a batch must be a *sum* over slots of losses that each read only the slot's own rows.

Trained numbers are in float32, or the base's dtype if that is wider; products are in the base's
dtype. (PEFT runs a LoRA on a 16-bit base in float32 instead; the two differ by rounding.)

A base may be parted by ZeRO stage 3, before it is packed: then `join` and `solo` gather its layers
one at a time, and are collectives, as are passes.

What is not built is refused: dropout, other kinds, quantised or hooked layers, autocast, another
set of layers than the pack's.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from curlora.adapters.attach import attach, targeted_layers
from curlora.adapters.saving import load_adapter
from curlora.cur.weight_facts import keep_facts, kept_facts
from curlora.packing.blocks import Blocks, blocks_of
from curlora.packing.core_segment import CurSegment
from curlora.packing.invariant_passes import InvariantPasses, frozen_matrix
from curlora.packing.lean_passes import LeanPasses
from curlora.packing.loaded import CurTensors, read_loaded
from curlora.packing.low_rank_segment import LowRankSegment
from curlora.packing.one_slot import OneCurSegment, OneLowRankSegment, OneSlot
from curlora.packing.packed_layer import PackedLayer, Segment, Tick, ticking
from curlora.packing.parameters import (
    FIRST_MOMENTS,
    GRADIENTS,
    SECOND_MOMENTS,
    VALUES,
    SeatedParameters,
    Shapes,
)
from curlora.packing.seats import pick_seats
from curlora.packing.selections import CurSelections
from curlora.packing.solo import (
    check_layer,
    copy_around_tensors,
    default_factors,
    rank_and_scale,
    trained_tensors,
    tuned_layers,
)
from curlora.peft_bridge import LoraLayer, gather_params_ctx
from curlora.targets import default_targets
from curlora.transfers import read_together
from curlora_kinds.adapters.table import (
    ADAPTERS,
    adapter_config,
    adapter_kind,
    packed_adapters,
)

BARE = -1
"""The slot of a row that goes through the bare base."""

_TICKS_KEPT = 16
_KIND_OF_FAMILY = {"core": "curlora", "low_rank": "lora", "dora": "dora"}


def _family_of(kind: str) -> str:
    return str(ADAPTERS[kind].packs_as)


@dataclass(frozen=True)
class _Member:
    """Who is in a slot."""

    kind: str
    settings: dict[str, Any]
    seed: int
    rank: int
    names: dict[str, tuple[str, str]]
    """From the solo model's parameter names to layer and part."""
    selection: bytes | None
    loaded: bool = False
    """Whether it came from files, to be used alone."""

    @property
    def family(self) -> str:
        return _family_of(self.kind)


@dataclass(frozen=True)
class Moments:
    """A slot's optimiser state, as `torch.optim.AdamW` would keep it for the slot alone."""

    steps: int
    """Steps taken since the slot's task began."""
    first: dict[str, Tensor]
    """Means of the gradients, under the names and in the shapes of `PackedModel.state`."""
    second: dict[str, Tensor]
    """Means of their squares."""


class PackedModel:
    """One base, and the adapters of up to `capacity` slots on it."""

    def __init__(
        self,
        base: nn.Module,
        target_modules: list[str] | str | None,
        *,
        capacity: int,
        share_selections: bool = True,
        invariant: bool = False,
    ) -> None:
        """Freeze a base and hook its layers; until `unhook` they also know the way of a pack.

        Args:
            base: A model of transformers with its weights loaded, without an adapter. Its tensors
                are shared, never copied, and must not be replaced while it is packed.
            target_modules: The layers of all adapters: name endings, a regular expression,
                "all-linear", or None for the family's default.
            capacity: How many slots there are, at least 1.
            share_selections: Multiply rows of slots with the same columns and rows together.
            invariant: Compute each row, and each slot, to the same bits whatever else a batch
                holds; see `curlora.packing.invariant_passes`.

        Raises:
            ValueError: `capacity` is not positive, no layer is targeted, the base already has
                adapters, or it cannot be computed row by row.
            TypeError: A targeted layer is not a plain linear layer.
        """
        if capacity < 1:
            raise ValueError(f"`capacity` must be at least 1, got {capacity}.")
        if isinstance(base, PeftModel) or any(isinstance(m, LoraLayer) for m in base.modules()):
            raise ValueError("The base already has an adapter. Load it again and pack that.")
        if target_modules is None:
            target_modules = default_targets(str(getattr(base.config, "model_type", None)))
        self.base, self.capacity = base, capacity
        self._targets = target_modules
        self._share = share_selections
        base.requires_grad_(False)
        config = adapter_config("lora", {"target_modules": target_modules})
        targeted = targeted_layers(base, config)
        for name, module in targeted.items():
            check_layer(name, module)
        # A copy of the modules around the same tensors, on which solo adapters are built.
        self._skeleton = copy_around_tensors(base)
        self._passes: LeanPasses | InvariantPasses
        if invariant:
            self._passes = InvariantPasses(base, list(targeted.values()))
        else:
            self._passes = LeanPasses(base)
        self.layers = {name: PackedLayer(name, module) for name, module in targeted.items()}
        if invariant:
            for layer in self.layers.values():
                layer.matrix = frozen_matrix(layer.module)
        self.invariant = invariant
        """Whether a row's bits do not depend on the others."""
        weight = next(iter(self.layers.values())).weight()
        self._device = weight.device
        self._dtype = torch.promote_types(weight.dtype, torch.float32)
        self._members: dict[int, _Member] = {}
        self._selections: list[bytes] = []
        self._families = {
            family: SeatedParameters(
                functools.partial(_shapes, family, self.layers),
                capacity=capacity,
                dtype=self._dtype,
                device=self._device,
                apart=invariant,
            )
            for family in dict.fromkeys(map(_family_of, packed_adapters()))
        }
        self._ticks: dict[tuple[tuple[int, ...], tuple[int, ...]], list[Segment]] = {}

    @property
    def step_of_lengths(self) -> int:
        """Batches are a multiple of so many tokens long."""
        return self._passes.step

    # ------------------------------------------------------------------------------ who is in

    @property
    def slots(self) -> list[int]:
        """The slots that are taken, in order."""
        return sorted(self._members)

    def join(self, slot: int, kind: str, settings: Mapping[str, Any], *, seed: int) -> None:
        """Put a new adapter into a free slot, as `curlora.attach` would start it.

        Args:
            slot: From 0 to `capacity` - 1.
            kind: One of `packed_adapters()`.
            settings: Some of the kind's settings; `target_modules` is the pack's.
            seed: For what starts at random.

        Raises:
            ValueError: The slot is taken or does not exist, the kind or a setting cannot be packed,
                or a setting is wrong. The pack is as before.
            RuntimeError: A batch is running: `rows` is open.
        """
        self._check_free(slot)
        self._ticks.clear()  # first, as they hold on to what is about to be replaced
        member, scale, tensors = self._twin(kind, settings, seed) or self._new(kind, settings, seed)
        self._families[member.family].sit(slot, rank=member.rank, scale=scale)
        self._members[slot] = member
        if tensors:
            self.load_state(slot, tensors)

    def put(self, slot: int, folder: str | Path) -> None:
        """Put a saved adapter into a free slot, with exactly its numbers, to be used.

        It may be of any kind that is CURLoRA, LoRA or DoRA as it was saved, with fewer layers than
        the pack; its settings need not be those of a kind that can be trained in a pack.

        Args:
            slot: From 0 to `capacity` - 1.
            folder: What `curlora.save_adapter` or PEFT's `save_pretrained` wrote.

        Raises:
            ValueError: The slot is taken or does not exist, or the adapter is of another form, or
                adapts other layers. An `AdapterError` if it does not load. The pack is as before.
            RuntimeError: A batch is running: `rows` is open.
        """
        self._check_free(slot)
        model = load_adapter(copy_around_tensors(self._skeleton), folder)
        try:
            found = read_loaded(model, self.layers)
        except ValueError as error:
            raise ValueError(
                f"The adapter in `{folder}` cannot share passes with others: {error}"
            ) from None
        self._ticks.clear()
        if found.selection is not None and found.selection not in self._selections:
            self._select(found.selection, found.factors)
        kind = _KIND_OF_FAMILY[found.family]
        self._members[slot] = _Member(
            kind, {}, 0, found.rank, found.names, found.selection, loaded=True
        )
        family = self._families[found.family]
        family.sit(slot, rank=found.rank, scale=found.scale)
        self.load_state(slot, found.tensors)
        if found.family == "dora":
            seat = family.slots.index(slot)
            for name in found.lacking:  # W + 0 has the norms of W
                norms = self.layers[name].row_norms(self._dtype).sqrt()
                family.stack(name, "M", VALUES)[seat].copy_(norms)

    def _check_free(self, slot: int) -> None:
        self._check_idle()
        if not 0 <= slot < self.capacity:
            raise ValueError(
                f"`slot` must be from 0 to {self.capacity - 1}, got {slot}. Make the pack with a "
                "larger `capacity`."
            )
        if slot in self._members:
            raise ValueError(f"Slot {slot} is taken. Call `leave({slot})` first.")

    def _twin(
        self, kind: str, settings: Mapping[str, Any], seed: int
    ) -> tuple[_Member, float, dict[str, Tensor]] | None:
        """Spare choosing columns and rows where a member has them: all of U starts at zero."""
        if _family_of(kind) != "core":
            return None
        complete = self._complete(kind, settings)
        alpha = complete["alpha"]
        for other in self._members.values():
            if other.kind == kind and other.settings | {"alpha": alpha} == complete:
                return replace(other, settings=complete, seed=seed), float(alpha), {}
        return None

    def _new(
        self, kind: str, settings: Mapping[str, Any], seed: int
    ) -> tuple[_Member, float, dict[str, Tensor]]:
        """Build the solo model, and take from it what the pack has not yet."""
        solo, complete = self._solo(kind, settings, seed)
        names, tensors = trained_tensors(solo)
        tuned = tuned_layers(solo)
        rank, scale = rank_and_scale(next(iter(tuned.values())))
        selection = None
        if _family_of(kind) == "core":
            selection = b"".join(
                indices.cpu().numpy().tobytes()
                for layer in tuned.values()
                for indices in (default_factors(layer).rows, default_factors(layer).columns)
            )
            if selection not in self._selections:
                factors = {name: default_factors(layer) for name, layer in tuned.items()}
                self._select(
                    selection, {n: (f.C, f.R, f.rows, f.columns) for n, f in factors.items()}
                )
        return _Member(kind, complete, seed, rank, names, selection), scale, tensors

    def _select(self, selection: bytes, factors: Mapping[str, CurTensors]) -> None:
        """Add a selection to all layers, or, where memory does not suffice, to none."""
        grown: list[CurSelections] = []
        try:
            for name, (C, R, rows, columns) in factors.items():
                self.layers[name].selections.append(C, R, rows, columns)
                grown.append(self.layers[name].selections)
        except BaseException:
            for selections in grown:
                selections.pop()
            raise
        self._selections.append(selection)

    def bytes_of(self, kind: str, settings: Mapping[str, Any]) -> int:
        """Give how many bytes more the pack will hold once an adapter has joined.

        Args:
            kind: One of `packed_adapters()`.
            settings: As `join` takes them.

        Returns:
            Of its numbers, gradients and moments, of `C` and `R` where the selection is not here
            yet, and of the padding of other slots where it is the widest.

        Raises:
            ValueError: The kind or a setting cannot be packed.
        """
        rank = int(self._complete(kind, settings)["r"])
        size = self._families[_family_of(kind)].bytes_of(rank)
        if _family_of(kind) == "core" and self._twin(kind, settings, 0) is None:
            size += sum(
                layer.selections.bytes_of(layer.d_in + layer.d_out, layer.weight().itemsize, rank)
                for layer in self.layers.values()
            )
        return size

    def leave(self, slot: int) -> None:
        """Empty a slot.

        Args:
            slot: A taken slot.

        Raises:
            ValueError: It is not taken.
            RuntimeError: A batch is running: `rows` is open.
        """
        self._check_idle()
        member = self._member(slot)
        self._ticks.clear()
        self._families[member.family].leave(slot)
        del self._members[slot]
        used = {other.selection for other in self._members.values()}
        positions = [i for i, selection in enumerate(self._selections) if selection in used]
        if len(positions) < len(self._selections):
            self._selections = [self._selections[position] for position in positions]
            for layer in self.layers.values():
                layer.selections.keep(positions)

    def _check_idle(self) -> None:
        if any(layer.tick is not None for layer in self.layers.values()):
            raise RuntimeError(
                "A batch is running: a slot can be joined or left, and another batch begun, only "
                "outside of `with pack.rows(...)`."
            )

    def unhook(self) -> None:
        """Give every layer its own `forward` back; the pack cannot be used afterwards."""
        for layer in self.layers.values():
            layer.unhook()
        self._passes.undo()

    # --------------------------------------------------------------------------- their numbers

    def state(self, slot: int) -> dict[str, Tensor]:
        """Give a slot's trained numbers.

        Args:
            slot: A taken slot.

        Returns:
            Copies, under the names that `curlora.trainable_parameters` gives for the solo model.
        """
        return {name: tensor.clone() for name, tensor in self._tensors(slot, VALUES).items()}

    def gradients(self, slot: int) -> dict[str, Tensor]:
        """Give a slot's gradients, summed since its last step, under the names of `state`."""
        return {name: tensor.clone() for name, tensor in self._tensors(slot, GRADIENTS).items()}

    def load_state(self, slot: int, state: Mapping[str, Tensor]) -> None:
        """Set a slot's trained numbers; the state of its optimiser stays.

        Args:
            slot: A taken slot.
            state: As `state` gave it, from this pack or from the solo model.

        Raises:
            ValueError: Names or shapes are not those of the slot's adapter.
        """
        self._copy_into(slot, VALUES, state)
        self._families[self._member(slot).family].version += 1

    def moments(self, slot: int) -> Moments:
        """Give a slot's optimiser state, to go on with in another pack or in torch's own AdamW.

        Args:
            slot: A taken slot.

        Returns:
            Copies.
        """
        family = self._families[self._member(slot).family]
        first, second = (
            {name: tensor.clone() for name, tensor in self._tensors(slot, matrix).items()}
            for matrix in (FIRST_MOMENTS, SECOND_MOMENTS)
        )
        return Moments(family.steps[family.slots.index(slot)], first, second)

    def load_moments(self, slot: int, moments: Moments) -> None:
        """Set a slot's optimiser state; its numbers stay, its gradients are forgotten.

        Args:
            slot: A taken slot.
            moments: As `moments` gave them.

        Raises:
            ValueError: Names or shapes are not those of the slot's adapter.
        """
        family = self._families[self._member(slot).family]
        family.forget_moments(slot)
        self._copy_into(slot, FIRST_MOMENTS, moments.first)
        self._copy_into(slot, SECOND_MOMENTS, moments.second)
        family.steps[family.slots.index(slot)] = moments.steps

    def _copy_into(self, slot: int, matrix: str, state: Mapping[str, Tensor]) -> None:
        own = self._tensors(slot, matrix)
        if own.keys() != state.keys():
            odd = sorted(own.keys() ^ state.keys())
            raise ValueError(
                f"The state does not fit slot {slot}: {odd[:3]} are on one side only. Join the "
                "slot with the kind and settings that the state was made with."
            )
        for name, tensor in own.items():
            if tensor.shape != state[name].shape:
                raise ValueError(
                    f"The state does not fit slot {slot}: {name!r} must have the shape "
                    f"{tuple(tensor.shape)}, got {tuple(state[name].shape)}. Join the slot with "
                    "the settings that the state was made with."
                )
        for name, tensor in own.items():
            tensor.copy_(state[name].detach())

    def solo(self, slot: int) -> nn.Module:
        """Give a slot's adapter as a model of its own, to evaluate or to save.

        Args:
            slot: A taken slot.

        Returns:
            What `curlora.attach` gives, on the same base tensors, with a copy of the slot's
            numbers.

        Raises:
            ValueError: The slot holds an adapter from files.
        """
        member = self._member(slot)
        if member.loaded:
            raise ValueError(
                f"Slot {slot} holds an adapter from files. Load them with `curlora.load_adapter`."
            )
        model, _ = self._solo(member.kind, member.settings, member.seed)
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, tensor in self._tensors(slot, VALUES).items():
                parameters[name].copy_(tensor)
        return model

    def _complete(self, kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        if kind not in packed_adapters():
            raise ValueError(
                f"Adapter {kind!r} cannot be packed. Train it alone, or use one of: "
                f"{', '.join(packed_adapters())}."
            )
        if settings.get("target_modules") is None:
            settings = {**settings, "target_modules": self._targets}
        complete = adapter_kind(kind).complete(settings)
        if complete.get("dropout", 0.0) != 0.0:
            raise ValueError(
                f"`dropout` must be 0 in a pack, got {complete['dropout']!r}: random masks would "
                "depend on the other adapters. Train this adapter alone."
            )
        return complete

    def _solo(
        self, kind: str, settings: Mapping[str, Any], seed: int
    ) -> tuple[nn.Module, dict[str, Any]]:
        complete = self._complete(kind, settings)
        if _family_of(kind) == "core":
            self._keep_facts()
        devices = [self._device] if self._device.type != "cpu" else []
        with torch.random.fork_rng(devices):
            model = attach(copy_around_tensors(self._skeleton), kind, complete, seed=seed)
        adapted = tuned_layers(model).keys()
        if adapted != self.layers.keys():
            odd = sorted(adapted ^ self.layers.keys())
            raise ValueError(
                f"`target_modules` must name the layers of the pack, {self._targets!r}, got "
                f"{complete['target_modules']!r}: they differ in {odd[:3]}. Pack trials with the "
                "same layers."
            )
        return model, complete

    def _keep_facts(self) -> None:
        """Read every weight once for all selections, when the first is made."""
        for name, layer in self.layers.items():
            own = self._skeleton.get_submodule(name)
            if kept_facts(own) is None:
                with gather_params_ctx([layer.module.weight]):
                    keep_facts(own, layer.weight())

    def _member(self, slot: int) -> _Member:
        if slot not in self._members:
            raise ValueError(f"Slot {slot} is empty. Taken are: {self.slots}.")
        return self._members[slot]

    def _tensors(self, slot: int, matrix: str) -> dict[str, Tensor]:
        """Give views of a slot's tensors, without padding, as the solo model lays them out."""
        member = self._member(slot)
        family = self._families[member.family]
        seat, r = family.slots.index(slot), member.rank
        tensors: dict[str, Tensor] = {}
        for name, (layer, part) in member.names.items():
            tensor = family.stack(layer, part, matrix)[seat]
            if part == "U":
                tensors[name] = tensor[:r, :r]
            elif part == "M":
                tensors[name] = tensor[0]
            else:
                tensors[name] = tensor[:r].t() if part == "B" else tensor[:r]
        return tensors

    # -------------------------------------------------------------------------------- training

    @contextmanager
    def rows(
        self, slot_of_row: Sequence[int] | Tensor, lengths: Sequence[int] = ()
    ) -> Iterator[None]:
        """Send each row of the next batches through the adapter of its slot.

        Backward passes add to the slots' gradients; they may come later, but before the next
        change of the pack. Fastest if the rows of a slot are neighbours, as many for each slot,
        and slots of one kind follow each other.

        Args:
            slot_of_row: A taken slot, or `BARE`, for every row of the batch (B,).
            lengths: Of an invariant pack the tokens of every row without padding, which is on the
                right; none of rows that are written on, token by token, and cannot be learnt.

        Yields:
            Nothing; outside, the base is bare.

        Raises:
            ValueError: A slot is empty, or there are no rows.
            RuntimeError: Another batch is running: `rows` is open already.
        """
        self._check_idle()
        numbers = slot_of_row.tolist() if isinstance(slot_of_row, Tensor) else list(slot_of_row)
        slots = tuple(int(number) for number in numbers)
        key = slots, tuple(lengths)
        if not slots:
            raise ValueError("`slot_of_row` is empty: name a slot, or -1, for every row.")
        if key not in self._ticks:
            if len(self._ticks) == _TICKS_KEPT:
                del self._ticks[next(iter(self._ticks))]
            self._ticks[key] = self._apart(*key) if self.invariant else self._segments(slots)
        layers = list(self.layers.values())
        tick = Tick(len(slots), self._ticks[key], _anchor(self._device))
        with ticking(layers, tick), self._passes.attention(key[1]):
            yield

    def step(
        self,
        rates: Mapping[int, float],
        *,
        weight_decay: float | Mapping[int, float] = 0.0,
        max_norm: float | Mapping[int, float] = float("inf"),
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> dict[int, float]:
        """Take one step of AdamW in some slots, each with its own moments, and clear gradients.

        Args:
            rates: The learning rate of every slot that takes a step.
            weight_decay: Of all slots, or by slot.
            max_norm: The norm a slot's gradient is clipped to, of all slots or by slot.
            betas: Decay of the two moments.
            eps: Added to the denominator.

        Returns:
            By slot, the norm of its gradient before clipping. One that is not finite has made the
            slot's numbers unusable, and no other's.

        Raises:
            ValueError: A slot of `rates` is empty, or a value for it is missing.
        """
        for slot in rates:
            self._member(slot)
        decays = _by_slot("weight_decay", weight_decay, rates)
        limits = _by_slot("max_norm", max_norm, rates)
        slots: list[int] = []
        norms: list[Tensor] = []
        for family in self._families.values():
            stepped, found = family.step(
                rates, weight_decays=decays, max_norms=limits, betas=betas, eps=eps
            )
            slots += stepped
            norms.append(found)
        by_slot = dict(zip(slots, read_together(norms), strict=True))
        return {slot: by_slot[slot] for slot in rates}

    def begin(self, slot: int) -> None:
        """Begin a task in a slot: its numbers stay, its optimiser and gradients start afresh."""
        self._families[self._member(slot).family].forget_moments(slot)

    def add_gradients(self, slot: int, gradients: Mapping[str, Tensor]) -> None:
        """Add to a slot's gradients, as the backward pass of a penalty would.

        Args:
            slot: A taken slot.
            gradients: Under the names of `state`, and in its shapes.

        Raises:
            ValueError: A name is not one of the slot's.
        """
        own = self._tensors(slot, GRADIENTS)
        unknown = sorted(gradients.keys() - own.keys())
        if unknown:
            raise ValueError(f"Slot {slot} has no tensor {unknown[0]!r}. It has: {list(own)[:3]}.")
        for name, gradient in gradients.items():
            own[name].add_(gradient)

    def gradient_matrices(self) -> list[Tensor]:
        """Give the gradients of all slots, to be summed over workers that split a batch's rows.

        Returns:
            Views (seats, numbers), in an order that depends on nothing but who has joined and left.
        """
        taken = [family for family in self._families.values() if family.slots]
        return [family.taken(GRADIENTS) for family in taken]

    def zero_gradients(self, slot: int) -> None:
        """Forget a slot's gradients, as after a batch that shall not count."""
        self._families[self._member(slot).family].zero_gradients(slot)

    def _segments(self, slot_of_row: tuple[int, ...]) -> list[Segment]:
        rows_of: dict[tuple[str, int | None], list[int]] = {}
        selection_of: dict[int, int] = {}
        for row, slot in enumerate(slot_of_row):
            if slot == BARE:
                continue
            member = self._member(slot)
            if member.selection is not None:
                selection_of[slot] = self._selections.index(member.selection)
            rows_of.setdefault((member.family, selection_of.get(slot)), []).append(row)
        segments: list[Segment] = []
        lone: list[int] = []
        for (family, selection), rows in rows_of.items():
            seated = self._families[family]
            if selection is None:
                blocks = self._blocks(family, rows, slot_of_row)
                segments.append(LowRankSegment(seated, blocks, magnitude=family == "dora"))
            elif self._share and len({slot_of_row[row] for row in rows}) > 1:
                blocks = self._blocks(family, rows, slot_of_row)
                segments.append(
                    CurSegment(seated, blocks, shared=selection, selections=slice(0, 0))
                )
            else:
                lone += rows
        if lone:
            lone.sort()
            blocks = self._blocks("core", lone, slot_of_row)
            size = len(lone) // blocks.count
            chosen = [selection_of[slot_of_row[row]] for row in lone[::size]]
            selections = pick_seats(chosen, self._device)
            segments.append(
                CurSegment(self._families["core"], blocks, shared=None, selections=selections)
            )
        return segments

    def _apart(self, slot_of_row: tuple[int, ...], lengths: tuple[int, ...]) -> list[Segment]:
        """Segments of one slot each."""
        rows_of: dict[int, list[int]] = {}
        for row, slot in enumerate(slot_of_row):
            if slot != BARE:
                rows_of.setdefault(slot, []).append(row)
        segments: list[Segment] = []
        for slot, rows in rows_of.items():
            member = self._member(slot)
            seated = self._families[member.family]
            own = tuple(lengths[row] for row in rows) if lengths else ()
            one = OneSlot(
                seated, seated.slots.index(slot), member.rank, pick_seats(rows, self._device), own
            )
            if member.selection is None:
                segments.append(OneLowRankSegment(one, magnitude=member.family == "dora"))
            else:
                segments.append(OneCurSegment(one, self._selections.index(member.selection)))
        return segments

    def _blocks(self, family: str, rows: list[int], slot_of_row: tuple[int, ...]) -> Blocks:
        seat_of = {slot: seat for seat, slot in enumerate(self._families[family].slots)}
        return blocks_of(rows, [seat_of[slot_of_row[row]] for row in rows], self._device)


def _anchor(device: torch.device) -> Tensor:
    return torch.zeros((), device=device, requires_grad=True)


def _by_slot(
    name: str, value: float | Mapping[int, float], slots: Mapping[int, float]
) -> Mapping[int, float]:
    if not isinstance(value, Mapping):
        return dict.fromkeys(slots, float(value))
    missing = [slot for slot in slots if slot not in value]
    if missing:
        raise ValueError(f"`{name}` has no value for the slots {missing}, which take a step.")
    return value


def _shapes(family: str, layers: Mapping[str, PackedLayer], rank: int) -> Shapes:
    shapes: dict[tuple[str, str], tuple[int, int]] = {}
    for name, layer in layers.items():
        if family == "core":
            shapes[name, "U"] = (rank, rank)
            continue
        shapes[name, "A"] = (rank, layer.d_in)
        shapes[name, "B"] = (rank, layer.d_out)
        if family == "dora":
            shapes[name, "M"] = (1, layer.d_out)
    return shapes
