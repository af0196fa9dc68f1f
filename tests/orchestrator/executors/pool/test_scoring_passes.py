"""In a pack a prompt is read once for all its continuations, each row through its own adapter."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from curlora.packing.pack import BARE
from orchestrator.executors.pool.scoring_passes import ScoringPasses
from orchestrator.executors.pool.shared_passes import SharedPasses
from orchestrator.loop.scoring import question_log_likelihoods, rows_of
from tests.questions import VOCABULARY, flat, own_likelihoods, questions

SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
BASES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "a window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4)),
}
SLOTS = {0: ("lora", {"r": 2}), 1: ("curlora", {"r": 4}), 2: ("dora", {"r": 2})}


def passes_of(shape, tokens=128):
    """A pack of three adapters that do something, on a base in float64."""
    base = BASES[shape]().double().eval().requires_grad_(False)
    base.config.use_cache = False
    passes = SharedPasses(base, ["q_proj", "v_proj"], capacity=len(SLOTS))
    for slot, (kind, settings) in SLOTS.items():
        passes.pack.join(slot, kind, settings, seed=slot)
        state = {n: t + 0.3 * torch.randn_like(t) for n, t in passes.pack.state(slot).items()}
        passes.pack.load_state(slot, state)
    return ScoringPasses(passes, tokens), passes


def scored(passes, asked, owners):
    rows, whose = [], []
    for question, owner in zip(asked, owners, strict=True):
        made = rows_of([question])
        rows += made
        whose += [owner] * len(made)
    values, failures = passes.log_probabilities(rows, whose)
    assert not failures
    return flat(question_log_likelihoods(asked, values))


def expected_of(shared, asked, owners):
    models = {slot: shared.pack.solo(slot) for slot in SLOTS} | {BARE: shared.scored.model}
    return flat(
        flat(
            own_likelihoods(models[owner], [question])
            for question, owner in zip(asked, owners, strict=True)
        )
    )


def joint_passes(shared):
    """The shapes of passes with joint rows, as they come."""
    seen = []

    def watch(_, args, kwargs):
        if kwargs.get("position_ids") is not None:
            seen.append(tuple(kwargs["input_ids"].shape))

    shared.scored.model.model.register_forward_pre_hook(watch, with_kwargs=True)
    return seen


@pytest.mark.parametrize("shape", BASES)
def test_each_adapter_says_in_joint_rows_what_it_says_of_each_continuation_alone(shape):
    under_test, shared = passes_of(shape)
    asked, owners = questions(9), [BARE, 0, 1, 2, 0, 1, 2, BARE, 0]
    expected = expected_of(shared, asked, owners)
    seen = joint_passes(shared)
    assert scored(under_test, asked, owners) == pytest.approx(expected, rel=1e-10)
    assert len(seen) > 1
    assert max(rows for rows, _ in seen) > 1


def test_a_joint_row_that_does_not_fit_into_memory_is_computed_in_parts():
    under_test, shared = passes_of("llama")
    asked, owners = questions(6), [0, 1, 2, 0, 1, BARE]
    expected = expected_of(shared, asked, owners)
    assert scored(under_test, asked, owners) == pytest.approx(expected, rel=1e-10)
    longest = max(len(q.prompt + tail) for q in asked for tail in q.continuations)
    refused = []

    def allocate(_, args, kwargs):
        rows, length = kwargs["input_ids"].shape
        if rows > 1 or length >= longest:
            refused.append((rows, length))
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    hook = shared.scored.model.model.register_forward_pre_hook(allocate, with_kwargs=True)
    assert scored(under_test, asked, owners) == pytest.approx(expected, rel=1e-10)
    hook.remove()
    assert any(rows == 1 for rows, _ in refused)
