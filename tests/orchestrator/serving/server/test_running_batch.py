"""Rows that join and leave at any time are written as each would be alone."""

import pytest
import torch
import transformers

from curlora.packing.pack import BARE, PackedModel
from orchestrator.engines.scored_model import ScoredModel
from orchestrator.serving.server.running_batch import RunningBatch, why_not_written

SMALL = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
FAMILIES = {
    "llama": ("Llama", {}),
    "mistral with a short window": ("Mistral", {"sliding_window": 4}),
    "gemma with both kinds of layers": (
        "Gemma3Text", {"sliding_window": 4, "head_dim": 8,
                       "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "gpt2 with absolute positions": ("GPT2", {"n_positions": 64, "n_embd": 32, "n_layer": 2,
                                              "n_head": 4}),
    "qwen2": ("Qwen2", {}),
    "opt": ("OPT", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
}  # fmt: skip


def built(family):
    name, settings = FAMILIES[family]
    causal = {"Gemma3Text": "Gemma3ForCausalLM", "GPT2": "GPT2LMHeadModel"}
    config = getattr(transformers, f"{name}Config")(**SMALL | settings)
    torch.manual_seed(0)
    model = getattr(transformers, causal.get(name, f"{name}ForCausalLM"))._from_config(
        config, attn_implementation="eager"
    )
    with torch.no_grad():  # so that positions and windows make a difference
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_written_as_each_would_be_alone(family):
    base = built(family)
    scored = ScoredModel(base).eval()
    layers = "all-linear" if family.startswith("gpt2") else ["q_proj", "v_proj"]
    pack = PackedModel(base, layers, capacity=2)
    for slot in (0, 1):
        pack.join(slot, "lora", {"r": 2}, seed=slot)
        state = {n: torch.randn_like(t) * 0.2 for n, t in pack.state(slot).items()}
        pack.load_state(slot, state)
    assert why_not_written(scored, pack) is None
    texts = {
        "a": (1, list(range(3, 12))), "b": (BARE, [7, 9]), "c": (0, list(range(20, 37))),
        "d": (1, [11, 40, 13, 8, 5]),
    }  # fmt: skip

    def alone(name, written):
        slot, prompt = texts[name]
        ids = torch.tensor([prompt + written])
        with torch.no_grad(), pack.rows([slot]):
            return scored.logits(scored.backbone(input_ids=ids, use_cache=False).last_hidden_state)

    batch, running, written = RunningBatch(scored, pack), [], {name: [] for name in texts}

    def note(names, scores):
        for name, row in zip(names, scores, strict=True):
            wanted = alone(name, written[name])[0, -1]
            assert torch.allclose(row, wanted, atol=1e-4), name
            written[name].append(int(row.argmax()))

    def join(names):
        nonlocal running
        scores, order = batch.join(
            [tuple(texts[n][1]) for n in names], [texts[n][0] for n in names]
        )
        running = [[*running, *names][i] for i in order]
        assert batch.slots == [texts[name][0] for name in running]
        note(names, scores)

    def steps(count):
        for _ in range(count):
            note(running, batch.step([written[name][-1] for name in running]))

    def leave(name):
        nonlocal running
        kept = [i for i, other in enumerate(running) if other != name]
        batch.keep(kept)
        running = [running[i] for i in kept]

    join(["a", "b"])
    steps(3)
    join(["c"])
    steps(2)
    leave("a")
    steps(2)
    join(["d"])
    leave("c")  # the longest: the others have padding that is cut away
    steps(6)
    assert batch.width == max(len(texts[n][1]) + len(written[n]) - 1 for n in running)
    leave("b")
    leave("d")
    assert len(batch) == 0


def test_a_base_without_positions_is_refused_in_words():
    config = transformers.BloomConfig(
        vocab_size=61, hidden_size=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2
    )
    base = transformers.BloomForCausalLM._from_config(config, attn_implementation="eager").eval()
    pack = PackedModel(base, ["query_key_value"], capacity=1)
    assert "takes no positions" in str(why_not_written(ScoredModel(base).eval(), pack))


def test_layers_that_attend_by_absolute_places_are_refused():
    base = built("llama")
    base.config.layer_types = ["chunked_attention", "full_attention"]
    pack = PackedModel(base, ["q_proj"], capacity=1)
    assert "chunked_attention" in str(why_not_written(ScoredModel(base).eval(), pack))


def test_a_batch_that_computes_something_else_is_found_out(monkeypatch):
    base = built("gpt2 with absolute positions")
    pack = PackedModel(base, "all-linear", capacity=1)
    scored = ScoredModel(base).eval()
    forward = scored.backbone.forward

    def heedless(input_ids=None, attention_mask=None, position_ids=None, past_key_values=None,
                 use_cache=None):  # fmt: skip
        return forward(input_ids=input_ids, attention_mask=attention_mask,
                       past_key_values=past_key_values, use_cache=use_cache)  # fmt: skip

    monkeypatch.setattr(scored.backbone, "forward", heedless)
    assert "something else" in str(why_not_written(scored, pack))
    with pack.rows([BARE]):  # nothing of the pack is left open
        pass
