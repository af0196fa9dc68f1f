"""Tiny random models under the names that PEFT's tests load from the Hugging Face hub.

A folder called as a model of the hub is called is taken by `from_pretrained` before the hub is
asked. The architectures are those of the names; sizes and weights are ours, so no number here can
be compared with one of PEFT's own runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig

VOCABULARY = 128
_TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 3, "eos_token_id": 4}
# Near 1 / sqrt(32), what the weights of a trained layer of this width have. At the usual 0.02 a
# change of a weight by its own columns and rows is too small for the tolerances of the tests.
_SPREAD = 0.2

_LLAMA: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": _SPREAD,
}  # fmt: skip
_BERT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "type_vocab_size": 2, "initializer_range": _SPREAD,
}  # fmt: skip
_GPT: dict[str, Any] = {
    "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": _SPREAD,
}  # fmt: skip

MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "peft-internal-testing/tiny-random-OPTForCausalLM": (
        "opt", "AutoModelForCausalLM",
        {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_hidden_layers": 2,
         "num_attention_heads": 4, "max_position_embeddings": 64, "init_std": _SPREAD},
    ),
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": ("gpt2", "AutoModelForCausalLM", _GPT),
    "peft-internal-testing/tiny-random-GPTJForCausalLM": (
        "gptj", "AutoModelForCausalLM", {**_GPT, "rotary_dim": 4},
    ),
    "trl-internal-testing/tiny-random-LlamaForCausalLM": ("llama", "AutoModelForCausalLM", _LLAMA),
    "peft-internal-testing/tiny-dummy-qwen2": ("qwen2", "AutoModelForCausalLM", _LLAMA),
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": (
        "gemma3_text", "AutoModelForCausalLM", {**_LLAMA, "head_dim": 8},
    ),
    "peft-internal-testing/tiny-random-T5ForConditionalGeneration-calibrated": (
        "t5", "AutoModelForSeq2SeqLM",
        {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4,
         "decoder_start_token_id": 0},
    ),
    "peft-internal-testing/tiny-random-BartForConditionalGeneration": (
        "bart", "AutoModelForSeq2SeqLM",
        {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
         "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
         "max_position_embeddings": 64, "init_std": _SPREAD, "decoder_start_token_id": 3,
         "forced_eos_token_id": None},
    ),
    "peft-internal-testing/tiny-random-BertModel": ("bert", "AutoModel", _BERT),
    "peft-internal-testing/tiny-random-RobertaModel": ("roberta", "AutoModel", _BERT),
    "peft-internal-testing/tiny-random-DebertaModel": ("deberta", "AutoModel", _BERT),
    "peft-internal-testing/tiny-random-DebertaV2Model": ("deberta-v2", "AutoModel", _BERT),
    "peft-internal-testing/tiny-random-BertForSequenceClassification": (
        "bert", "AutoModelForSequenceClassification", _BERT,
    ),
    "peft-internal-testing/tiny-random-RobertaForSequenceClassification": (
        "roberta", "AutoModelForSequenceClassification", _BERT,
    ),
    "trl-internal-testing/tiny-LlamaForSequenceClassification-3.2": (
        "llama", "AutoModelForSequenceClassification", {**_LLAMA, "num_labels": 1},
    ),
}  # fmt: skip
"""By the hub's name: the architecture, the class that loads it, and its sizes."""


def write_models(folder: Path) -> None:
    """Write all models, the same every time.

    Args:
        folder: Where each becomes a folder with the hub's name.
    """
    for name, (architecture, loader, sizes) in MODELS.items():
        torch.manual_seed(0)
        config = AutoConfig.for_model(architecture, **_TOKENS, **sizes)
        model = getattr(transformers, loader).from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:  # biases start at 0 and norms at 1, and hide faults so
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
        model.save_pretrained(folder / name)
