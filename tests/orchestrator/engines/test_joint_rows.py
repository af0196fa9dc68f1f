"""A prompt that is read once for all its continuations gives what each continuation gives alone."""

import logging
import math
from dataclasses import replace

import pytest
import torch
import transformers as hf

import curlora
from orchestrator.data.items import Question, Window
from orchestrator.data.model_inputs import Scored, apart, scored_rows
from orchestrator.engines import base as engines_base
from orchestrator.engines.joint_rows import RowParts, layout_of
from orchestrator.engines.plain import PlainEngine
from orchestrator.loop.scoring import question_log_likelihoods, rows_of
from orchestrator.spec.sections import TrainingSpec
from tests.questions import VOCABULARY, flat, own_likelihoods, questions

WINDOW = 4
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LAYERS = ["full_attention", "sliding_attention"]
OF_GPT = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
TAKEN = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**OF_GPT)),
    "opt": lambda: hf.OPTForCausalLM(
        hf.OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32, dropout=0.0)
    ),
    "mistral, a window": lambda: hf.MistralForCausalLM(
        hf.MistralConfig(**SIZES, sliding_window=WINDOW)
    ),
    "gemma2, a window in every second layer": lambda: hf.Gemma2ForCausalLM(
        hf.Gemma2Config(**SIZES, sliding_window=WINDOW, layer_types=LAYERS)
    ),
    "gemma3, two rotations": lambda: hf.Gemma3ForCausalLM(
        hf.Gemma3TextConfig(**SIZES, sliding_window=WINDOW, layer_types=LAYERS)
    ),
}  # fmt: skip
LEFT = {
    "bloom, no positions": lambda: hf.BloomForCausalLM(
        hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4)
    ),
    "falcon, biased by distance": lambda: hf.FalconForCausalLM(
        hf.FalconConfig(
            vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            alibi=True, new_decoder_architecture=False,
        )
    ),
    "gpt-neo, a window of places": lambda: hf.GPTNeoForCausalLM(
        hf.GPTNeoConfig(
            **{k: v for k, v in SIZES.items() if k != "intermediate_size"}, num_layers=2,
            attention_types=[[["global", "local"], 1]], window_size=16, num_heads=4,
            attention_dropout=0.0, embed_dropout=0.0, resid_dropout=0.0,
        )
    ),
    "mamba, recurrent": lambda: hf.MambaForCausalLM(
        hf.MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4)
    ),
    "qwen3-next, every second layer recurrent": lambda: hf.Qwen3NextForCausalLM(
        hf.Qwen3NextConfig(
            **SIZES, layer_types=["linear_attention", "full_attention"], num_experts=0,
            linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8,
            linear_value_head_dim=8, mlp_only_layers=[0, 1],
        )
    ),
}  # fmt: skip


def built(make, dtype=torch.float64):
    """A model in float64, or as bases are on a CPU: in fp32, with a softmax of its own."""
    torch.manual_seed(0)
    model = make().to(dtype).eval().requires_grad_(False)
    exact = dtype == torch.float64 and model._supports_sdpa
    model.set_attn_implementation("sdpa" if exact else "eager")
    with torch.no_grad():
        for parameter in model.parameters():  # so large that every place matters to every other
            if parameter.ndim > 1:
                parameter.mul_(8)
    model.config.use_cache = False
    return model


def engine_of(model, batch_tokens=64):
    return PlainEngine(model, TrainingSpec(), batch_tokens=batch_tokens)


class Seen:
    """What a model's backbone is given, pass after pass."""

    def __init__(self, model):
        self.passes = []
        backbone = getattr(model, model.base_model_prefix)
        backbone.register_forward_pre_hook(
            lambda _, args, kwargs: self.passes.append(kwargs), with_kwargs=True
        )

    @property
    def joint(self):
        return [kwargs for kwargs in self.passes if kwargs.get("position_ids") is not None]

    @property
    def tokens(self):
        return sum(kwargs["input_ids"].numel() for kwargs in self.passes)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", TAKEN)
def test_a_prompt_is_read_once_and_each_continuation_is_as_likely_as_alone(shape, dtype):
    model, asked = built(TAKEN[shape], dtype), questions()
    expected = flat(own_likelihoods(model, asked))
    under_test, seen = engine_of(model), Seen(model)
    found = flat(question_log_likelihoods(asked, under_test.log_probabilities(rows_of(asked))))
    # Gemma 2 has no attention but its own, whose softmax is in float32.
    close = 1e-10 if dtype == torch.float64 and model._supports_sdpa else 1e-5
    assert found == pytest.approx(expected, rel=close, abs=close)
    assert len(seen.joint) > 1  # the first is the trial
    longest = max(kwargs["input_ids"].shape[1] for kwargs in seen.joint)
    assert longest > max(len(q.prompt + tail) for q in asked for tail in q.continuations)


def test_an_adapter_reads_joint_rows_beside_plain_ones():
    model = built(TAKEN["llama"])
    adapted = curlora.attach(
        model, "lora", {"r": 4, "target_modules": ["q_proj", "v_proj"]}, seed=0
    )
    with torch.no_grad():
        for parameter in curlora.trainable_parameters(adapted).values():
            parameter.normal_(0, 0.3)
    asked, window = questions(), Window(tuple(range(3, 25)), 1, 50)
    expected = own_likelihoods(adapted, asked)
    under_test, seen = engine_of(adapted), Seen(model)
    under_test.scored.eval()
    with torch.no_grad():
        *found, text = under_test._read([*rows_of(asked), *scored_rows(window)])
    got = flat(question_log_likelihoods(asked, found))
    assert got == pytest.approx(flat(expected), abs=1e-10)
    tail = Question(window.tokens[:1], (window.tokens[1:],), (1,), 0)
    assert sum(text) == pytest.approx(own_likelihoods(adapted, [tail])[0][0], abs=1e-10)
    assert len(seen.joint) == 1


@pytest.mark.parametrize("shape", LEFT)
def test_a_base_that_cannot_take_them_computes_separate_rows_and_says_so_once(
    shape, caplog, monkeypatch
):
    # MLflow's migrations, in a test before this one, disable all loggers that there are.
    monkeypatch.setattr(logging.getLogger("orchestrator.engines.joint_rows"), "disabled", False)
    model, asked = built(LEFT[shape]), questions()
    expected = flat(own_likelihoods(model, asked))
    under_test, seen = engine_of(model), Seen(model)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            values = under_test.log_probabilities(rows_of(asked))
            found = flat(question_log_likelihoods(asked, values))
            assert found == pytest.approx(expected, rel=1e-6)  # some layers compute in float32
    assert len(seen.joint) <= 1
    assert sum("cannot read a prompt once" in r.message for r in caplog.records) == 1


def siblings_seen(layout):
    return replace(layout, branches=layout.branches.clamp(max=0))


def places_as_positions(layout):
    places = torch.arange(layout.positions.shape[1]).expand_as(layout.positions)
    return replace(layout, positions=places)


@pytest.mark.parametrize("wrong", [siblings_seen, places_as_positions])
@pytest.mark.parametrize("shape", TAKEN)
def test_a_base_that_computed_something_else_would_be_found_out(shape, wrong, monkeypatch):
    """Untrained weights, as small as they are made: nothing matters much to anything."""
    torch.manual_seed(0)
    model = TAKEN[shape]().eval().requires_grad_(False)
    monkeypatch.setattr(
        engines_base, "layout_of", lambda rows, device: _changed(layout_of(rows, device), wrong)
    )
    under_test = engine_of(model)
    values = under_test.log_probabilities(rows_of(questions()))
    expected = own_likelihoods(model, questions())
    found = question_log_likelihoods(questions(), values)
    assert flat(found) == pytest.approx(flat(expected), rel=1e-5)
    assert not under_test._joint._taken


def _changed(layout, wrong):
    return None if layout is None else wrong(layout)


def test_rows_of_one_continuation_are_given_to_the_base_as_ever():
    model = built(TAKEN["gemma3, two rotations"])
    under_test, seen = engine_of(model), Seen(model)
    asked = [Question((3, 4, 5), ((6,), (7,)), (1, 1), 0), Question((3, 4), ((6, 7),), (1,), 0)]
    under_test.log_probabilities(rows_of(asked))
    assert [sorted(kwargs) for kwargs in seen.passes] == [
        ["input_ids", "output_hidden_states", "use_cache"]
    ]


def test_masks_are_transformers_own_again_after_a_joint_pass_that_failed():
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    model, before = built(TAKEN["llama"]), dict(ALL_MASK_ATTENTION_FUNCTIONS)
    under_test = engine_of(model)
    wrong = Question((3, 4), ((5, VOCABULARY + 7, 6), (6, 7)), (1, 1), 0)
    with pytest.raises(IndexError):
        under_test.log_probabilities(rows_of([wrong]))
    assert dict(ALL_MASK_ATTENTION_FUNCTIONS) == before
    assert not ALL_MASK_ATTENTION_FUNCTIONS._local_mapping


def test_weights_that_are_no_numbers_say_nothing_of_the_base():
    model, asked = built(TAKEN["llama"]), questions(2)
    under_test, seen = engine_of(model), Seen(model)
    kept = model.lm_head.weight.clone()
    model.lm_head.weight.fill_(math.nan)
    assert all(math.isnan(v) for row in under_test.log_probabilities(rows_of(asked)) for v in row)
    assert len(seen.joint) == 1
    with torch.no_grad():
        model.lm_head.weight.copy_(kept)
    under_test.log_probabilities(rows_of(asked))
    assert len(seen.joint) > 2


def test_a_row_longer_than_a_batch_is_computed_in_parts():
    model, asked = built(TAKEN["llama"]), questions()
    rows = rows_of(asked)
    shorter = min(len(row.tokens) for row in rows if row.branches)
    under_test, seen = engine_of(model, shorter), Seen(model)
    found = flat(question_log_likelihoods(asked, under_test.log_probabilities(rows)))
    assert found == pytest.approx(flat(own_likelihoods(model, asked)), abs=1e-10)
    assert {kwargs["input_ids"].shape for kwargs in seen.joint[1:]} == {(1, shorter)}


def test_a_row_can_be_computed_in_parts_after_all():
    rows = [scored_rows(question)[0] for question in questions(2)]
    parts = RowParts(rows, lambda row: row is rows[1])
    assert parts.rows == [rows[0], *apart(rows[1])]
    again = parts.split(0)
    assert [parts.rows[i] for i in again] == list(apart(rows[0]))
    assert [parts.origins[i] for i in again] == [0] * len(again)
    values = [[float(i)] * len(row.picks) for i, row in enumerate(parts.rows)]
    first, second = parts.values(values)
    assert first == [float(i) for i in again for _ in parts.rows[i].picks]
    assert len(second) == len(rows[1].picks)


def test_plain_rows_are_never_in_parts():
    row = Scored((1, 2), ((1, 3),))
    assert RowParts([row], lambda _: True).rows == [row]
