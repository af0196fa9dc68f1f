"""A pack against the solo models it stands for: the same losses, gradients and numbers.

Exactness is tested in float64 throughout: transformers would compute norms in float32, so they are
replaced.
"""

import math
import random
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

import curlora
from curlora.packing.pack import BARE, PackedModel
from curlora.packing.parameters import GRADIENTS, VALUES, SeatedParameters
from curlora_kinds.adapters.table import packed_adapters

VOCABULARY = 64
TARGETS = {
    "llama": ["q_proj", "k_proj", "o_proj", "up_proj", "down_proj"],
    "qwen2": ["q_proj", "v_proj", "gate_proj"],  # biases on q and v
    "gpt2": ["c_attn", "c_fc"],  # Conv1D
}
MIXED: list[tuple[str, dict[str, Any]]] = [
    ("curlora", {"r": 4, "alpha": 1.5}),
    ("curlora", {"r": 4, "alpha": 0.7}),  # the selection of the first
    ("curlora", {"r": 3, "temperature": 2.0}),
    ("curlora", {"r": 5, "selection_seed": 3, "alpha": -1.0}),
    ("lora", {"r": 3, "alpha": 6.0}),
    ("rslora", {"r": 5, "alpha": 4.0}),
    ("dora", {"r": 2, "alpha": 5.0}),
    ("dora", {"r": 4, "alpha": 2.0}),
]


class _Norm(nn.Module):
    """RMSNorm in the dtype of its input."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(weight.clone()), eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


@pytest.fixture(scope="session")
def exact_base(build_base: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Give a function that builds a tiny model which computes in float64 and nothing else."""

    def build(family: str = "llama") -> nn.Module:
        model = build_base(family, dtype=torch.float64)
        for name, module in list(model.named_modules()):
            if type(module).__name__.endswith("RMSNorm"):
                norm: Any = module
                model.set_submodule(name, _Norm(norm.weight.detach(), norm.variance_epsilon))
        return model

    return build


@dataclass
class Alone:
    """A solo model with torch's own optimiser."""

    model: nn.Module
    rate: float
    weight_decay: float = 0.0
    max_norm: float = math.inf
    optimizer: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(
            self.parameters().values(), lr=self.rate, weight_decay=self.weight_decay
        )

    def parameters(self) -> dict[str, nn.Parameter]:
        return curlora.trainable_parameters(self.model)

    def backward(self, tokens: Tensor) -> Tensor:
        loss = _loss(_logits(self.model, tokens), tokens)
        loss.backward()
        return loss.detach()

    def step(self) -> Tensor:
        norm = nn.utils.clip_grad_norm_(self.parameters().values(), self.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm


def _logits(model: Any, tokens: Tensor) -> Tensor:
    return model(input_ids=tokens, use_cache=False).logits


def _loss(logits: Tensor, tokens: Tensor) -> Tensor:
    return cross_entropy(logits[:, :-1].reshape(-1, VOCABULARY), tokens[:, 1:].reshape(-1))


def _backward(pack: PackedModel, slots: list[int], tokens: Tensor) -> dict[int, Tensor]:
    """Run a batch through the pack and back; give each slot's loss."""
    with pack.rows(slots):
        logits = _logits(pack.base, tokens)
    of_row = torch.tensor(slots)
    losses = {
        slot: _loss(logits[of_row == slot], tokens[of_row == slot])
        for slot in dict.fromkeys(slots)
        if slot != BARE
    }
    torch.stack(list(losses.values())).sum().backward()
    return {slot: loss.detach() for slot, loss in losses.items()}


def _tokens(rows: int, seed: int, length: int = 6) -> Tensor:
    return torch.randint(
        0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed)
    )


def _assert_close(found: dict[str, Tensor], wanted: dict[str, Any], limit: float) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name].detach(), rtol=limit, atol=limit, msg=name)


def _assert_same_bits(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, wanted[name]), name


def _pack(base: nn.Module, family: str = "llama", **options: Any) -> PackedModel:
    pack = PackedModel(base, TARGETS[family], capacity=len(MIXED), **options)
    for slot, (kind, settings) in enumerate(MIXED):
        pack.join(slot, kind, settings, seed=slot)
    return pack


# --------------------------------------------------------------------------- packed equals solo


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_a_mixed_pack_trains_every_slot_as_if_it_were_alone(exact_base, family):
    pack = _pack(exact_base(family), family)
    alone = [
        Alone(
            curlora.attach(
                exact_base(family), kind, settings | {"target_modules": TARGETS[family]}, seed=slot
            ),
            rate=3e-3 * (slot + 1),
            weight_decay=0.05 * slot,
            max_norm=0.5 if slot % 2 else math.inf,
        )
        for slot, (kind, settings) in enumerate(MIXED)
    ]
    for slot, twin in enumerate(alone):
        _assert_same_bits(pack.state(slot), {n: p.detach() for n, p in twin.parameters().items()})
    slots = [slot for slot in range(len(alone)) for _ in range(2)]
    for step in range(10):
        tokens = _tokens(len(slots), step)
        losses = _backward(pack, slots, tokens)
        for slot, twin in enumerate(alone):
            wanted = twin.backward(tokens[2 * slot : 2 * slot + 2])
            torch.testing.assert_close(losses[slot], wanted, rtol=1e-8, atol=1e-8)
            gradients = {name: p.grad for name, p in twin.parameters().items()}
            _assert_close(pack.gradients(slot), gradients, 1e-8)
        norms = pack.step(
            {slot: twin.rate for slot, twin in enumerate(alone)},
            weight_decay={slot: twin.weight_decay for slot, twin in enumerate(alone)},
            max_norm={slot: twin.max_norm for slot, twin in enumerate(alone)},
        )
        for slot, twin in enumerate(alone):
            assert norms[slot] == pytest.approx(float(twin.step()), rel=1e-8)
            _assert_close(pack.state(slot), twin.parameters(), 1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_slots_come_and_go_and_each_trains_as_if_it_were_alone(exact_base, seed):
    chance = random.Random(seed)
    pack = PackedModel(exact_base(), TARGETS["llama"], capacity=5)
    alone: dict[int, Alone] = {}
    steps_of: list[int] = []
    taken = dict.fromkeys(range(5), 0)
    for tick in range(22):
        for slot in list(alone):
            if taken[slot] >= 10 and chance.random() < 0.4:
                steps_of.append(taken[slot])
                del alone[slot]
                pack.leave(slot)
        for slot in range(5):
            if slot not in alone and chance.random() < 0.5:
                kind, settings = chance.choice(MIXED)
                start = chance.randrange(1000)
                pack.join(slot, kind, settings, seed=start)
                model = curlora.attach(
                    exact_base(), kind, settings | {"target_modules": TARGETS["llama"]}, seed=start
                )
                alone[slot] = Alone(model, 10 ** chance.uniform(-4, -2), chance.uniform(0, 0.1))
                taken[slot] = 0
        if not alone:
            continue
        # Any number of rows in any order, some of them bare; some slots pause.
        here = [slot for slot in alone if chance.random() < 0.9] or list(alone)
        rows = [slot for slot in here for _ in range(chance.randint(1, 3))]
        rows += [BARE] * chance.randint(0, 1)
        if chance.random() < 0.5:
            chance.shuffle(rows)
        tokens = _tokens(len(rows), 100 * seed + tick)
        losses = _backward(pack, rows, tokens)
        pack.step(
            {slot: alone[slot].rate for slot in here},
            weight_decay={slot: alone[slot].weight_decay for slot in here},
        )
        for slot in here:
            wanted = alone[slot].backward(tokens[torch.tensor(rows) == slot])
            torch.testing.assert_close(losses[slot], wanted, rtol=1e-8, atol=1e-8)
            alone[slot].step()
            taken[slot] += 1
        for slot, twin in alone.items():
            _assert_close(pack.state(slot), twin.parameters(), 1e-8)
    assert len(steps_of) > 2  # several whole runs


def test_in_float32_a_pack_stays_with_the_solo_models_over_ten_steps(build_base):
    pack = _pack(build_base())
    alone = [
        Alone(
            curlora.attach(
                build_base(), kind, settings | {"target_modules": TARGETS["llama"]}, seed=slot
            ),
            rate=1e-3,
        )
        for slot, (kind, settings) in enumerate(MIXED)
    ]
    tokens = _tokens(len(alone), 0)
    for _ in range(10):
        losses = _backward(pack, list(range(len(alone))), tokens)
        pack.step(dict.fromkeys(range(len(alone)), 1e-3))
        for slot, twin in enumerate(alone):
            wanted = twin.backward(tokens[slot : slot + 1])
            torch.testing.assert_close(losses[slot], wanted, rtol=1e-5, atol=1e-5)
            twin.step()
    for slot, twin in enumerate(alone):
        _assert_close(pack.state(slot), twin.parameters(), 1e-5)


def test_in_bfloat16_losses_stay_near_those_of_the_solo_models(build_base):
    pack = _pack(build_base(dtype=torch.bfloat16))
    assert {tensor.dtype for tensor in pack.state(0).values()} == {torch.float32}
    tokens, slots = _tokens(len(MIXED), 0), list(range(len(MIXED)))
    first = _backward(pack, slots, tokens)
    for slot in slots:
        wanted = _loss(_logits(pack.solo(slot), tokens[slot : slot + 1]), tokens[slot : slot + 1])
        torch.testing.assert_close(first[slot], wanted, rtol=0.02, atol=0.02, check_dtype=False)
    for _ in range(5):
        pack.step(dict.fromkeys(slots, 3e-3))
        last = _backward(pack, slots, tokens)
    assert all(last[slot] < first[slot] for slot in slots)


def test_sharing_a_selection_changes_nothing_but_rounding(exact_base):
    packs = [_pack(exact_base(), share_selections=share) for share in (True, False)]
    slots = [slot for slot in range(len(MIXED)) for _ in range(2)]
    for step in range(3):
        tokens = _tokens(len(slots), step)
        for pack in packs:
            _backward(pack, slots, tokens)
        for slot in range(len(MIXED)):
            _assert_close(packs[0].gradients(slot), packs[1].gradients(slot), 1e-10)
        for pack in packs:
            pack.step(dict.fromkeys(range(len(MIXED)), 1e-2))
    for slot in range(len(MIXED)):
        _assert_close(packs[0].state(slot), packs[1].state(slot), 1e-10)


@contextmanager
def _full_device(monkeypatch):
    """Meanwhile no memory can be had; gives how often it was asked for."""
    asked = []

    def refusing(make):
        def full(*size, **options):
            if not math.prod(size):
                return make(*size, **options)
            asked.append(size)
            raise torch.OutOfMemoryError("full")

        return full

    with monkeypatch.context() as patched:
        for name in ("empty", "zeros"):
            patched.setattr(torch, name, refusing(getattr(torch, name)))
        yield asked


def test_memory_that_cannot_be_had_for_giving_back_memory_harms_nobody(exact_base, monkeypatch):
    """A slot that leaves makes room by copying the others, and may do so on a full device."""
    pack, twin = (_pack(exact_base()) for _ in range(2))
    leaving = {3: 0, 5: 4, 7: 6}  # the widest of each family, and whose settings come next
    with _full_device(monkeypatch) as asked:
        for slot in leaving:
            pack.leave(slot)
    assert len(asked) == len(leaving)
    for slot in leaving:
        twin.leave(slot)
    slots = list(range(len(MIXED)))
    for each in (pack, twin):
        for slot, like in leaving.items():
            each.join(slot, *MIXED[like], seed=slot)
        for step in range(2):
            _backward(each, slots, _tokens(len(slots), step))
            each.step(dict.fromkeys(slots, 1e-2))
    for slot in slots:
        _assert_close(pack.state(slot), twin.state(slot), 1e-12)


def test_gradients_of_several_batches_add_up(exact_base):
    pack = _pack(exact_base())
    tokens = _tokens(2, 0)
    _backward(pack, [0, 4], tokens)
    once = {slot: pack.gradients(slot) for slot in (0, 4)}
    _backward(pack, [4, 0], tokens.flip(0))
    for slot, gradients in once.items():
        _assert_close(pack.gradients(slot), {n: 2 * g for n, g in gradients.items()}, 1e-12)
    pack.zero_gradients(0)
    assert all(not g.any() for g in pack.gradients(0).values())
    assert any(g.any() for g in pack.gradients(4).values())


# --------------------------------------------------------------------- slots leave others alone


@pytest.mark.parametrize("broken", [0, 2, 4, 6])
def test_a_slot_of_nan_leaves_every_bit_of_the_others(exact_base, broken):
    whole, hurt = _pack(exact_base()), _pack(exact_base())
    hurt.load_state(broken, {n: t * math.nan for n, t in hurt.state(broken).items()})
    slots = [slot for slot in range(len(MIXED)) for _ in range(2)]
    for step in range(3):
        tokens = _tokens(len(slots), step)
        kept = _backward(whole, slots, tokens)
        losses = _backward(hurt, slots, tokens)
        assert losses[broken].isnan()
        rates = dict.fromkeys(range(len(MIXED)), 1e-2)
        norms = hurt.step(rates, max_norm=1.0)
        assert math.isnan(norms.pop(broken))
        assert norms.items() <= whole.step(rates, max_norm=1.0).items()
        for slot in set(range(len(MIXED))) - {broken}:
            assert torch.equal(losses[slot], kept[slot])
            _assert_same_bits(hurt.state(slot), whole.state(slot))
    hurt.leave(broken)
    hurt.join(broken, "curlora", {"r": 2}, seed=0)
    losses = _backward(hurt, slots, _tokens(len(slots), 0))
    assert all(loss.isfinite() for loss in losses.values())


def test_coming_and_going_moves_no_bit_of_the_others(exact_base):
    pack = _pack(exact_base())
    slots = list(range(len(MIXED)))
    _backward(pack, slots, _tokens(len(slots), 0))
    pack.step(dict.fromkeys(slots, 1e-2))
    _backward(pack, slots, _tokens(len(slots), 1))
    before = {slot: (pack.state(slot), pack.gradients(slot)) for slot in slots}
    for slot in (0, 4, 6):
        pack.leave(slot)
    assert pack.slots == [1, 2, 3, 5, 7]
    pack.join(4, "lora", {"r": 9}, seed=1)  # wider than any before
    pack.join(0, "curlora", {"r": 8}, seed=1)
    for slot in (1, 2, 3, 5, 7):
        for found, wanted in zip(
            (pack.state(slot), pack.gradients(slot)), before[slot], strict=True
        ):
            _assert_same_bits(found, wanted)
    assert all(not g.any() for g in pack.gradients(4).values())


def test_joining_leaves_the_random_numbers_of_others_alone(exact_base):
    pack = PackedModel(exact_base(), TARGETS["llama"], capacity=1)
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    pack.join(0, "lora", {"r": 2}, seed=1)
    assert torch.equal(torch.rand(3), wanted)


# -------------------------------------------------------------------------- bare rows, solo models


def test_bare_rows_and_an_unhooked_base_are_the_base(exact_base):
    untouched, tokens = exact_base(), _tokens(3, 0)
    with torch.no_grad():
        wanted = _logits(untouched, tokens)
        pack = _pack(exact_base())
        assert torch.equal(_logits(pack.base, tokens), wanted)
        with pack.rows([BARE, BARE, BARE]):
            assert torch.equal(_logits(pack.base, tokens), wanted)
        pack.load_state(4, {n: torch.ones_like(t) for n, t in pack.state(4).items()})
        with pack.rows([BARE, 4, BARE]):
            found = _logits(pack.base, tokens)
        torch.testing.assert_close(found[[0, 2]], wanted[[0, 2]], rtol=1e-12, atol=1e-12)
        assert not torch.allclose(found[1], wanted[1])
        pack.unhook()
        assert torch.equal(_logits(pack.base, tokens), wanted)
    assert not any("forward" in vars(module) for module in pack.base.modules())


def test_a_slot_is_saved_and_loaded_as_the_solo_adapter(exact_base, tmp_path):
    pack = _pack(exact_base())
    slots, tokens = list(range(len(MIXED))), _tokens(len(MIXED), 0)
    for _ in range(2):
        _backward(pack, slots, tokens)
        pack.step(dict.fromkeys(slots, 1e-2))
    with torch.no_grad():
        with pack.rows(slots):
            packed = _logits(pack.base, tokens)
        for slot in (0, 5, 7):
            folder = curlora.save_adapter(pack.solo(slot), tmp_path / str(slot))
            loaded = curlora.load_adapter(exact_base(), folder)
            found = _logits(loaded, tokens[slot : slot + 1])
            torch.testing.assert_close(found[0], packed[slot], rtol=1e-7, atol=1e-7)
    other = _pack(exact_base())
    for slot in slots:
        other.load_state(slot, curlora.trainable_parameters(pack.solo(slot)))
        _assert_same_bits(other.state(slot), pack.state(slot))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_solo_model_is_what_attach_gives_to_the_last_buffer(build_base, dtype):
    # What the pack reads of a weight once for all slots must not show.
    pack = PackedModel(build_base(dtype=dtype), TARGETS["llama"], capacity=len(MIXED))
    for slot, (kind, settings) in enumerate(MIXED):
        pack.join(slot, kind, settings, seed=slot)
        wanted = curlora.attach(
            build_base(dtype=dtype),
            kind,
            settings | {"target_modules": TARGETS["llama"]},
            seed=slot,
        )
        _assert_same_bits(dict(pack.solo(slot).state_dict()), dict(wanted.state_dict()))


# ----------------------------------------------------------------------------------- the optimiser


def test_a_step_is_that_of_torch_in_each_slot_alone():
    shapes = {("layer", "A"): (2, 300), ("layer", "B"): (2, 40_000)}  # longer than one piece
    seated = SeatedParameters(
        lambda _: shapes, capacity=4, dtype=torch.float64, device=torch.device("cpu")
    )
    torch.manual_seed(0)
    twins: dict[int, list[nn.Parameter]] = {}
    optimizers: dict[int, torch.optim.AdamW] = {}
    rates, decays = {7: 1e-2, 3: 1e-3, 9: 0.5}, {7: 0.0, 3: 0.1, 9: 0.3}
    limits = {7: math.inf, 3: 0.5, 9: 1e6}
    for slot, rate in rates.items():
        seated.sit(slot, rank=2, scale=1.0)
        twins[slot] = [nn.Parameter(torch.randn(*shape).double()) for shape in shapes.values()]
        for key, tensor in zip(shapes, twins[slot], strict=True):
            seated.stack(*key)[len(twins) - 1].copy_(tensor.detach())
        optimizers[slot] = torch.optim.AdamW(
            twins[slot], lr=rate, weight_decay=decays[slot], betas=(0.8, 0.99), eps=1e-6
        )
    for step in range(6):
        chosen = [7, 9] if step % 3 == 1 else [7, 3, 9]  # not neighbours, and all
        for slot in chosen:
            for key, tensor in zip(shapes, twins[slot], strict=True):
                tensor.grad = torch.randn_like(tensor)
                seat = seated.slots.index(slot)
                seated.stack(*key, matrix=GRADIENTS)[seat].copy_(tensor.grad)
        stepped, found = seated.step(
            {slot: rates[slot] for slot in chosen},
            weight_decays=decays,
            max_norms=limits,
            betas=(0.8, 0.99),
            eps=1e-6,
        )
        norms = dict(zip(stepped, found.tolist(), strict=True))
        for slot in chosen:
            norm = nn.utils.clip_grad_norm_(twins[slot], limits[slot])
            assert norms[slot] == pytest.approx(float(norm), rel=1e-12)
            optimizers[slot].step()
        for seat, slot in enumerate(seated.slots):
            for key, tensor in zip(shapes, twins[slot], strict=True):
                torch.testing.assert_close(
                    seated.stack(*key, matrix=VALUES)[seat],
                    tensor.detach(),
                    rtol=1e-12,
                    atol=1e-12,
                )
                assert not seated.stack(*key, matrix=GRADIENTS)[seat].any()


# ------------------------------------------------------------------------------------ what it costs


class _Operations(TorchDispatchMode):
    """Counts the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        self.names[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("count", [2, 6])
@pytest.mark.parametrize("same", [True, False])
def test_slots_with_one_selection_multiply_by_its_factors_at_once(exact_base, count, same):
    pack = PackedModel(exact_base(), TARGETS["llama"], capacity=count)
    for slot in range(count):
        settings = {"r": 4, "alpha": 1.0 + slot, "selection_seed": 0 if same else slot}
        pack.join(slot, "curlora", settings, seed=slot)
    with _Operations() as operations:
        _backward(pack, [slot for slot in range(count) for _ in range(3)], _tokens(3 * count, 0))
    # One forward and one backward, however many slots there are; but nothing asks for the gradient
    # of what enters q and k of the first layer.
    each = 2 * len(pack.layers) - 2
    shared, batched = operations.names["addmm_"], operations.names["baddbmm_"]
    assert (shared, batched) == ((each, 0) if same else (0, each))


@pytest.mark.parametrize("kind", packed_adapters())
def test_more_slots_take_no_more_operations(build_base, kind):
    # A loop over adapters would show here.
    counts = []
    for size in (2, 6):
        pack = PackedModel(build_base(), TARGETS["llama"], capacity=size)
        for slot in range(size):
            own = {"selection_seed": slot} if kind == "curlora" else {}
            pack.join(slot, kind, {"r": 2 + slot % 2} | own, seed=slot)
        with pack.rows(list(range(size))):
            hidden = pack.base.model(input_ids=_tokens(size, 0), use_cache=False)
        with _Operations() as backward:
            hidden.last_hidden_state.backward(torch.ones_like(hidden.last_hidden_state))
        with pack.rows(list(range(size))), _Operations() as forward:
            pack.base.model(input_ids=_tokens(size, 0), use_cache=False)
        with _Operations() as step:
            pack.step(dict.fromkeys(range(size), 1e-3))
        counts.append((backward.count, forward.count, step.count))
    assert counts[0] == counts[1]


@pytest.fixture
def one_layer() -> Callable[..., Any]:
    """Give a function that runs one layer of a pack: its input, output and what it kept."""

    def run(pack: PackedModel, slots: list[int]) -> tuple[Tensor, Tensor, list[Tensor]]:
        layer: Any = pack.base.get_submodule("model.layers.0.mlp.up_proj")
        x = torch.randn(len(slots), 9, 32, dtype=torch.float64, requires_grad=True)
        kept: list[Tensor] = []

        def keep(tensor: Tensor) -> Tensor:
            kept.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), pack.rows(slots):
            y = layer(x)
        return x, y, kept

    return run


def test_the_gradient_that_comes_in_is_only_read(exact_base, one_layer):
    pack = _pack(exact_base())
    _, y, _ = one_layer(pack, list(range(len(MIXED))))
    G = torch.randn_like(y)
    before = G.clone()
    y.backward(G)
    assert torch.equal(G, before)


def test_curlora_keeps_neither_input_nor_output(exact_base, one_layer):
    pack = _pack(exact_base())
    x, _, kept = one_layer(pack, [0, 0, 1, 1, 2, 2])
    assert max(tensor.numel() for tensor in kept) < x.numel() / 2


# --------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("slot", "kind", "settings", "message"),
    [
        (0, "lora", {}, "Slot 0 is taken"),
        (8, "lora", {}, "`slot` must be from 0 to 7, got 8"),
        (1, "pissa", {}, "'pissa' cannot be packed"),
        (1, "lora", {"dropout": 0.1}, "`dropout` must be 0 in a pack, got 0.1"),
        (1, "lora", {"rank": 2}, "no setting 'rank'"),
        (1, "curlora", {"r": 400}, "`r` must be at most"),
        (1, "lora", {"target_modules": ["q_proj"]}, "must name the layers of the pack"),
    ],
)
def test_what_cannot_join_is_refused_and_the_pack_stays(build_base, slot, kind, settings, message):
    pack = PackedModel(build_base(), TARGETS["llama"], capacity=8)
    pack.join(0, "curlora", {"r": 2}, seed=0)
    with pytest.raises(ValueError, match=message):
        pack.join(slot, kind, settings, seed=0)
    assert pack.slots == [0]
    _backward(pack, [0], _tokens(1, 0))
    assert pack.step({0: 1e-3})[0] > 0


def test_wrong_calls_are_refused(build_base):
    pack = PackedModel(build_base(), TARGETS["llama"], capacity=2)
    pack.join(0, "lora", {"r": 2}, seed=0)
    tokens = _tokens(2, 0)
    with pytest.raises(ValueError, match="Slot 1 is empty"), pack.rows([0, 1]):
        pass
    with pytest.raises(ValueError, match="is empty: name a slot"), pack.rows([]):
        pass
    with pytest.raises(ValueError, match="slots of 3 rows were named"), pack.rows([0, 0, 0]):
        _logits(pack.base, tokens)
    with (
        pytest.raises(RuntimeError, match="under autocast"),
        pack.rows([0, 0]),
        torch.autocast("cpu", torch.bfloat16),
    ):
        _logits(pack.base, tokens)
    with pack.rows([0]):
        with pytest.raises(RuntimeError, match="A batch is running"):
            pack.join(1, "lora", {}, seed=0)
        with pytest.raises(RuntimeError, match="A batch is running"):
            pack.leave(0)
    with pytest.raises(ValueError, match="Slot 1 is empty"):
        pack.step({1: 1e-3})
    with pytest.raises(ValueError, match=r"`weight_decay` has no value for the slots \[0\]"):
        pack.step({0: 1e-3}, weight_decay={})
    with pytest.raises(ValueError, match="on one side only"):
        pack.load_state(0, {})
    with pytest.raises(ValueError, match="must have the shape"):
        pack.load_state(0, {n: t[:1] for n, t in pack.state(0).items()})


def test_a_pack_changed_before_the_backward_pass_is_refused(build_base):
    pack = PackedModel(build_base(), TARGETS["llama"], capacity=2)
    pack.join(0, "lora", {"r": 2}, seed=0)
    with pack.rows([0]):
        logits = _logits(pack.base, _tokens(1, 0))
    pack.step({0: 1e-3})
    with pytest.raises(RuntimeError, match="between the forward and the backward pass"):
        logits.sum().backward()


def test_a_base_that_cannot_be_packed_is_refused(build_base):
    with pytest.raises(ValueError, match="`capacity` must be at least 1, got 0"):
        PackedModel(build_base(), None, capacity=0)
    base = build_base()
    PackedModel(base, None, capacity=1)
    with pytest.raises(TypeError, match="is in another pack"):
        PackedModel(base, None, capacity=1)
    adapted = curlora.attach(build_base(), "lora", {"target_modules": ["q_proj"]}, seed=0)
    with pytest.raises(ValueError, match="already has an adapter"):
        PackedModel(adapted, None, capacity=1)
    with pytest.raises(TypeError, match="is a Embedding"):
        PackedModel(build_base(), ["embed_tokens"], capacity=1)
