"""What of CURLoRA and SECURA PEFT's tests are run with, and which of them cannot apply."""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from typing import Any, NamedTuple

import torch

from curlora import CurloraConfig, SecuraConfig
from curlora.adapters.curlora_layer import CurloraLinear
from curlora.adapters.secura_layer import SecuraLinear


@dataclass
class Cur(CurloraConfig):
    """CURLoRA's config with the argument that PEFT's tests give every method."""

    init_weights: InitVar[bool] = True

    def __post_init__(self, init_weights: bool) -> None:
        """Keep whether the adapter starts as no change; it is no setting and is not saved."""
        super().__post_init__()
        self.starts_changed = not init_weights


@dataclass
class Sec(SecuraConfig):
    """SECURA's config with the argument that PEFT's tests give every method."""

    init_weights: InitVar[bool] = True

    def __post_init__(self, init_weights: bool) -> None:
        """Keep whether the adapter starts as no change; it is no setting and is not saved."""
        super().__post_init__()
        self.starts_changed = not init_weights


def let_start_changed() -> None:
    """Make layers heed `starts_changed`: `U` (SECURA: `B`) is then drawn from a normal law."""
    for layer_class, trained in ((CurloraLinear, "cur_U"), (SecuraLinear, "sec_B")):
        _fill_after_update(layer_class, trained)


def _fill_after_update(layer_class: type[Any], trained: str) -> None:
    update_layer = layer_class.update_layer

    def update_and_fill(layer: Any, adapter_name: str, config: Any, **settings: Any) -> None:
        update_layer(layer, adapter_name, config, **settings)
        parameter = getattr(layer, trained)[adapter_name]
        if getattr(config, "starts_changed", False) and not parameter.is_meta:
            with torch.no_grad():
                parameter.normal_()

    layer_class.update_layer = update_and_fill


_FIRST_LAYER = r".*(h|layers|block|layer)\.0\..*"
_OF_TRANSFORMERS: tuple[tuple[type[Any], dict[str, Any]], ...] = (
    (Cur, {"r": 4, "target_modules": None}),
    (Cur, {"r": 8, "alpha": 2.0, "target_modules": "all-linear"}),
    (Cur, {"r": 4, "preset": "author", "target_modules": None}),
    (Cur, {"r": 4, "form": "explicit", "temperature": 0.5, "target_modules": None}),
    (Cur, {"r": 4, "rank_pattern": {_FIRST_LAYER: 6}, "target_modules": None}),
    (Sec, {"r": 4, "norm": "bounded", "target_modules": None}),
    (Sec, {"r": 4, "norm": "none", "init": "released", "target_modules": "all-linear"}),
    (Sec, {"r": 4, "norm": "released", "target_modules": None}),
)

_BOTH = ["lin0", "lin1"]
_OF_CUSTOM = [  # lin0 is (20, 10), lin1 (2, 20), the Conv1D has 5 inputs and 1 output
    ("CURLoRA lin0", "MLP", Cur, {"r": 8, "target_modules": ["lin0"]}),
    ("CURLoRA both", "MLP", Cur, {"r": 2, "target_modules": _BOTH}),
    ("CURLoRA ranks", "MLP", Cur, {"r": 2, "rank_pattern": {"lin0": 8}, "target_modules": _BOTH}),
    ("CURLoRA head", "MLP", Cur,
     {"r": 8, "target_modules": ["lin0"], "modules_to_save": ["lin1"]}),
    ("CURLoRA Conv1D", "EmbConv1D", Cur, {"r": 1, "target_modules": ["conv1d"]}),
    ("SECURA bounded", "MLP", Sec, {"r": 2, "norm": "bounded", "target_modules": _BOTH}),
    ("SECURA none", "MLP", Sec, {"r": 2, "norm": "none", "target_modules": _BOTH}),
    ("SECURA released", "MLP", Sec, {"r": 2, "norm": "released", "target_modules": _BOTH}),
]  # fmt: skip
_FILLED = {"r": 2, "init_weights": False, "target_modules": ["lin0"]}
_PAIRS = [
    ("CURLoRA Same", "curlora", Cur, _FILLED, _FILLED | {"selection_seed": 1}),
    ("CURLoRA Different", "curlora", Cur, _FILLED, _FILLED | {"target_modules": ["lin1"]}),
]


def _for_task(task: str) -> list[Any]:
    return [(config, {"task_type": task, **settings}) for config, settings in _OF_TRANSFORMERS]


CASES: dict[str, dict[str, list[Any]]] = {
    "test_decoder_models": {"ALL_CONFIGS": _for_task("CAUSAL_LM")},
    "test_encoder_decoder_models": {"ALL_CONFIGS": _for_task("SEQ_2_SEQ_LM")},
    "test_feature_extraction_models": {"ALL_CONFIGS": _for_task("FEATURE_EXTRACTION")},
    "test_seq_classifier": {"ALL_CONFIGS": _for_task("SEQ_CLS")},
    "test_token_classification_qa": {
        "TOKEN_CLS_CONFIGS": _for_task("TOKEN_CLS"), "QA_CONFIGS": _for_task("QUESTION_ANS"),
    },
    "test_custom_models": {
        "TEST_CASES": _OF_CUSTOM,
        "MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES": _PAIRS,
        "ALL_PEFT_CONFIG_CLASSES": [Cur, Sec],
    },
}  # fmt: skip
"""By file of PEFT's tests: what its lists hold instead of PEFT's own methods."""

SKIPS_LIFTED = (
    # Lists the methods that adapt a Conv1D, which ours do.
    ("testing_common", "_skip_if_conv1d_not_supported"),
    # Meant for BEFT alone, but asks `isinstance` of a class, which holds for none.
    ("test_decoder_models", "check_beft_config"),
)
"""Functions of PEFT's tests that would skip, or change, tests that apply to ours: file and name."""


class Reason(NamedTuple):
    """Why a test of PEFT's cannot apply to a method of ours."""

    tests: str
    """A pattern that the test's name matches."""
    error: str
    """A pattern that its error matches."""
    why: str


CANNOT_APPLY = (
    Reason(
        ".*merge|test_forward_(b?float16)|test_disable_adapters_with_merging",
        "`norm: released` of .* acts on outputs",
        "SECURA's `norm: released` acts on outputs, and merging is refused",
    ),
    Reason(
        "test_adding_multiple_adapters_with_bias_raises",
        "`bias` must be 'none'",
        "`bias='all'` is refused when the config is made",
    ),
    Reason(
        "test_training(_.*)?_layer_indexing",
        "`layers_to_transform` is .*all-linear",
        "`layers_to_transform` beside 'all-linear' is refused, as by LoRA",
    ),
    Reason(
        r"test_lora_conversion\[Cur-config_kwargs1-.*qwen2",
        "LoRA conversion MSE too high",
        "asks for a LoRA of rank 4, half that of the adapter",
    ),
    Reason(
        r"test_training(_gradient_checkpointing)?\[.*config_kwargs[16]-.*(Bert|Roberta)Model",
        "(?i)assert",
        "'all-linear' includes the pooler, which the output that is tested does not pass",
    ),
    Reason(
        r"test_add_adapter_no_autocast.*config_kwargs[16]-.*ForSequenceClassification",
        r"`r` must be at most min\(d_in, d_out\) = 2",
        "'all-linear' includes a head of two outputs",
    ),
    Reason(
        "test_save_load_roundtrip_fsdp_wrapped_learnable_bias",
        "(?i)assert",
        "`bias` is written into the config past its refusal; no bias is trained",
    ),
    Reason(
        "test_loading_model_(with_modules_to_save_)?requires_grad_set_correctly",
        "differs from the one it was made on",
        "loads an adapter on a base of new random weights",
    ),
    Reason(
        r"test_disable_adapters.*CURLoRA Conv1D",
        "allclose",
        "an update between one column and one row is below the tolerance",
    ),
)
"""Only these tests may fail, with these errors."""
