"""In an invariant pack a slot's bits are those that it has alone."""

import random

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from curlora.packing.pack import BARE, PackedModel

COMMON = {"vocab_size": 101, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
          "num_attention_heads": 4, "max_position_embeddings": 64}  # fmt: skip
GROUPED = {**COMMON, "num_key_value_heads": 2}
FAMILIES = {
    "odd widths": ("Llama", {**GROUPED, "hidden_size": 36, "intermediate_size": 52,
                             "num_attention_heads": 6, "head_dim": 6}),
    "one head": ("Llama", {**COMMON, "hidden_size": 20, "intermediate_size": 28,
                           "num_attention_heads": 1, "num_key_value_heads": 1}),
    "positions that are learnt": ("GPT2", {
        "vocab_size": 101, "n_embd": 36, "n_layer": 2, "n_head": 4, "n_positions": 64,
        "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0, "bos_token_id": 0, "eos_token_id": 0,
    }),
    "windows": ("Mistral", {**GROUPED, "sliding_window": 7}),
    "windows and capped scores": ("Gemma2", {**GROUPED, "head_dim": 8, "sliding_window": 6}),
    "biases": ("Qwen2", GROUPED),
}  # fmt: skip
KINDS = (
    ("curlora", {"r": 4}), ("lora", {"r": 3, "alpha": 8.0}), ("dora", {"r": 5, "alpha": 4.0}),
    ("curlora", {"r": 7, "alpha": 0.5}), ("rslora", {"r": 12, "alpha": 2.0}),
)  # fmt: skip


def base_of(family):
    name, settings = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**settings)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for parameter in base.parameters():
        parameter.data.mul_(2)  # so that adapters and context matter
    return base


def random_rows(generator, most):
    return [
        [generator.randrange(1, 101) for _ in range(generator.randrange(4, 60))]
        for _ in range(generator.randrange(1, most))
    ]


def two_steps(base, mine, company, seed, *, invariant=True):
    """Losses, gradients, norms and numbers of one slot over two steps beside others.

    `mine` and each of `company` are a kind with its settings, and rows; slots and order are random.
    """
    pack = PackedModel(base, "all-linear", capacity=9, invariant=invariant)
    generator = random.Random(seed)
    at = generator.randrange(len(company) + 1)
    everyone = [*company[:at], mine, *company[at:]]
    numbers = generator.sample(range(9), len(everyone))
    me = numbers[at]
    for number, (kind, _) in zip(numbers, everyone, strict=True):
        pack.join(number, *kind, seed=1 if number == me else generator.randrange(99))
    draw = torch.Generator().manual_seed(3)
    begun = {n: t + 0.1 * torch.randn(t.shape, generator=draw) for n, t in pack.state(me).items()}
    pack.load_state(me, begun)
    rows = [(n, row) for n, (_, own) in zip(numbers, everyone, strict=True) for row in own]
    rows += [(BARE, row) for row in random_rows(generator, 3) if company]
    found = []
    for _ in range(2):
        losses = losses_of(base, pack, rows)
        torch.cat(list(losses.values())).sum().backward()
        found += [losses[me].detach(), *pack.gradients(me).values()]
        norms = pack.step(dict.fromkeys(numbers, 1e-2), max_norm=1.0)
        found += [torch.tensor(norms[me], dtype=torch.float64), *pack.state(me).values()]
    pack.unhook()
    return found


def losses_of(base, pack, rows):
    """The losses of each slot's tokens, the second half of each row."""
    step = pack.step_of_lengths
    length = -(-max(len(row) for _, row in rows) // step) * step
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    for index, (_, row) in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row)
    with pack.rows([n for n, _ in rows], [len(row) for _, row in rows]):
        hidden = base.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    picked = [(n, i, j) for i, (n, row) in enumerate(rows) for j in range(len(row) // 2, len(row))]
    logits = base.get_output_embeddings()(torch.stack([hidden[i, j - 1] for _, i, j in picked]))
    targets = torch.tensor([rows[i][1][j] for _, i, j in picked])
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    owners = torch.tensor([n for n, _, _ in picked])
    return {n: losses[owners == n] for n in dict.fromkeys(owners.tolist())}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_slot_learns_the_same_bits_in_any_company(family):
    base, generator = base_of(family), random.Random(family)
    for kind in generator.sample(KINDS, 3):
        mine = (kind, random_rows(generator, 4))
        alone = two_steps(base, mine, [], 0)
        for seed in range(2):
            others = generator.choices(KINDS, k=generator.randrange(1, 6))
            company = [(other, random_rows(generator, 5)) for other in others]
            found = two_steps(base, mine, company, seed)
            assert all(map(torch.equal, alone, found)), (kind, company)


def test_it_computes_what_other_passes_compute():
    base, generator = base_of("windows"), random.Random(0)
    for kind in KINDS:
        mine = (kind, random_rows(generator, 4))
        for one, other in zip(
            two_steps(base, mine, [], 0), two_steps(base, mine, [], 0, invariant=False), strict=True
        ):
            torch.testing.assert_close(one, other, atol=2e-4, rtol=2e-3)


def test_bits_do_not_depend_on_how_rows_are_parted_into_batches():
    base, generator = base_of("odd widths"), random.Random(4)
    rows = [(0, row) for row in random_rows(generator, 12)]
    for kind in KINDS:
        found = []
        for size in (len(rows), 3, 1):
            pack = PackedModel(base, "all-linear", capacity=1, invariant=True)
            pack.join(0, *kind, seed=0)
            for begin in range(0, len(rows), size):
                losses_of(base, pack, rows[begin : begin + size])[0].sum().backward()
            found.append(list(pack.gradients(0).values()))
            pack.unhook()
        for other in found[1:]:
            assert all(map(torch.equal, found[0], other)), kind


def test_a_base_that_does_not_call_its_attention_by_name_is_refused():
    config = transformers.BloomConfig(vocab_size=101, hidden_size=32, n_layer=1, n_head=4)
    with pytest.raises(ValueError, match="does not call its attention by name"):
        PackedModel(
            AutoModelForCausalLM.from_config(config), "all-linear", capacity=1, invariant=True
        )
