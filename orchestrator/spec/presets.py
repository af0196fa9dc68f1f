"""Presets: methods under the names that papers, or custom, give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A method under the name that a paper, or custom, gives it."""

    summary: str
    method: Mapping[str, Any] | None = field(repr=False)
    """What stands under `method` in a file; None for a control that every sweep measures itself."""
    source: str = ""
    """Where the settings come from; empty for controls."""
    learning_rate: float | None = None
    """The published learning rate, None where none was found."""


_QKV = ("q_proj", "k_proj", "v_proj")
_LORA = {"kind": "lora", "r": 16, "alpha": 16.0}

PRESETS: dict[str, Preset] = {
    "curlora": Preset(
        "CURLoRA by the paper's formula: inverted sampling without eps, U starts at zero",
        {"adapter": {"kind": "curlora", "r": 16, "alpha": 1.0, "temperature": 1.0}},
        "Fawi 2024, arXiv 2408.14572, Eq. 3-8; settings of Sec. 4",
        2.5e-4,
    ),
    "curlora-author": Preset(
        "CURLoRA as the author's code draws: eps 1e-3, with replacement",
        {
            "adapter": {
                "kind": "curlora", "r": 16, "alpha": 1.0, "eps": 1e-3, "with_replacement": True,
            }
        },
        "code/curlora.py of MNoorFawi/curlora, v4.0.0",
        2.5e-4,
    ),
    "secura": Preset(
        "SECURA without its out-bias: CABR core of widths 150 and 200, merged every step, so that "
        "S-MagNorm never acts",
        {
            "adapter": {
                "kind": "secura", "r": 150, "m": 200, "norm": "released", "s": 6.0, "merge": "M1",
                "init": "released",
                "merge_every": 1, "target_modules": ("q_proj", "v_proj"),
            }
        },
        "ExpStart.py of MeCuping/SECURA (arXiv 2502.18168); the paper's tables were not found",
        1e-3,
    ),
    "lalora": Preset(
        "LaLoRA: LoRA with a diagonal Laplace penalty; as its paper has it, name `sources`",
        {"adapter": _LORA, "retention": {"kind": "laplace", "curvature": "diag"}},
        "Sliwa et al. 2025, arXiv 2512.17720, abstract and reviews; rank and lambda not found",
    ),
    "ewc-lora": Preset(
        "EWC-LoRA: a fresh LoRA a task, Fisher of the weights it is merged into",
        {
            "adapter": {
                "kind": "lora", "r": 10, "alpha": 10.0, "target_modules": ("k_proj", "v_proj"),
            },
            "retention": {"kind": "ewc_weight", "strength": 1e7 / 128, "decay": 1.0},
        },
        "methods/ewclora.py of yaoyz96/low-rank-cl (arXiv 2602.17559), for ViT-B/16",
        5e-4,
    ),
    "er": Preset(
        "Experience replay: LoRA, and as many buffered examples as new ones in every batch",
        {"adapter": _LORA, "retention": {"kind": "replay", "capacity": 1000}},
        "buffer of 1,000 as in which47/LLMCL",
    ),
    "i-lora": Preset(
        "I-LoRA without its dropout of 0.1 and 500 warm-up steps: fast and slow LoRA, hidden "
        "states of replayed examples kept near the slow one's",
        {
            "adapter": {
                "kind": "lora", "r": 8, "alpha": 32.0, "target_modules": (*_QKV, "o_proj"),
            },
            "retention": {"kind": "ilora", "capacity": 500, "ema": 0.25, "strength": 1.0},
        },
        "method/ILORA.py of which47/LLMCL (arXiv 2402.18865)",
        1e-5,
    ),
    "o-lora": Preset(
        "O-LoRA without its dropout of 0.1: a fresh LoRA a task, kept orthogonal to the frozen "
        "ones of earlier tasks",
        {
            "adapter": {
                "kind": "lora", "r": 8, "alpha": 32.0, "target_modules": ("q_proj", "v_proj"),
            },
            "retention": {"kind": "olora", "lambda1": 0.5, "lambda2": 0.0},
        },
        "cmnfriend/O-LoRA (arXiv 2310.14152); T5-large, 1e-3 on the first task",
        1e-3,
    ),
    "seq": Preset(
        "Sequential fine-tuning: the same LoRA learns one task after another, unprotected",
        {"adapter": _LORA},
    ),
    "laplace-curlora": Preset(
        "Ours: CURLoRA's core under its whole empirical Fisher, task by task",
        {
            "adapter": {"kind": "curlora", "r": 16, "alpha": 1.0, "temperature": 1.0},
            "retention": {"kind": "laplace", "curvature": "full"},
        },
    ),
    "zero-shot": Preset("control: the untouched base, row 0 of every accuracy matrix", None),
    "majority": Preset("control: always the commonest label of the training rows", None),
    "head-only": Preset(
        "control: the base frozen, linear heads alone trained",
        {"adapter": {"kind": "head_only"}},
    ),
    "early-stopped-lora": Preset(
        "control: LoRA that stops each task when held-out examples stop getting likelier",
        {"adapter": _LORA, "early_stopping": {}},
    ),
    "joint": Preset(
        "control: LoRA on all tasks at once, what forgetting is measured against",
        {"adapter": _LORA, "sequence": "joint"},
    ),
}  # fmt: skip
"""Methods by the names of their papers, and the controls."""
