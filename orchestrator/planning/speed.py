"""How fast this machine learns and scores with a base: packed passes, timed once and kept."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from curlora_kinds.adapters.table import packed_adapters
from orchestrator.base.devices import devices_here
from orchestrator.base.errors import BaseFilesError, ModelError
from orchestrator.base.facts import BaseFacts
from orchestrator.data.model_inputs import Scored
from orchestrator.spec.adapter_settings import adapter_options
from orchestrator.spec.experiment import Experiment
from orchestrator.system.content_cache import ContentCache, user_cache

LARGEST_BASE = 2 * 2**30
"""Bytes of weights that are loaded for a measurement; of a larger base a few layers are made."""
LAYER_BYTES = 2**29
"""Bytes of the layers that are made then, at least one."""
PASS_SECONDS = 1.0
"""About how long a pass that is timed takes."""
TIMED = 2
"""Passes of each kind that are timed; their mean counts."""
SLOTS = 4
"""Adapters in a pass."""
PYTHON_LINES = 4000
"""Of the module that is compiled to see how fast Python is here."""


@dataclass(frozen=True)
class Speed:
    """What a worker of this machine takes for a base."""

    learn: float
    """Seconds of a token in a learning pass: forward, backward, its part of the optimiser step."""
    score: float
    """Seconds of a token in a scoring pass."""
    python: float
    """Seconds of a fixed piece of work for Python, by which start-up is scaled."""


def measured_speed(experiment: Experiment, base: BaseFacts, length: int) -> Speed | None:
    """Time a few packed passes, unless that was done on this machine with this base before.

    Args:
        experiment: An experiment whose precision is decided.
        base: Its base's sizes.
        length: Tokens of a row.

    Returns:
        The speed of one worker; None where it cannot be measured: the file wants a GPU that is not
        here, or the base cannot be loaded, or it is large and quantised (a few layers of such a
        base cannot be made).
    """
    devices = devices_here(on_gpu=experiment.resources.gpus_per_worker > 0)
    is_large = _weight_bytes(experiment, base) > LARGEST_BASE
    if not devices or (is_large and _is_quantised(experiment)):
        return None
    key = {
        "machine": platform.node(),
        "device": [asdict(device) for device in devices],
        "base": [base.model_type, base.parameters, base.layers, experiment.model.quantization],
        "precision": experiment.training.precision,
        "threads": experiment.resources.cpus_per_worker,
        "adapter": _packable(experiment)[0],
        "length": 1 << max(3, length - 1).bit_length(),
    }
    cache = ContentCache(user_cache())
    kept = cache.read("speed", key)
    if kept is not None:
        return Speed(**kept)
    try:
        found = _measure(experiment, base, length)
    except (BaseFilesError, ModelError):
        return None  # `plan` says elsewhere what is wrong with it
    cache.write("speed", key, asdict(found))
    return found


def _measure(experiment: Experiment, base: BaseFacts, length: int) -> Speed:
    import torch

    from orchestrator.base.loading import quiet_loading

    resources = experiment.resources
    device = torch.device("cuda" if resources.gpus_per_worker else "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(resources.cpus_per_worker)
    try:
        with quiet_loading():
            model, share = _model(experiment, base, device)
            learn, score = _passes(experiment, model, device, length)
    finally:
        torch.set_num_threads(threads)
    return Speed(learn / share, score / share, python_seconds())


def _model(experiment: Experiment, base: BaseFacts, device: Any) -> tuple[Any, float]:
    """The base, or as many of its layers as are quickly made; and their share of its work."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from orchestrator.base.loading import load_base
    from orchestrator.base.number_formats import DTYPES

    precision = experiment.training.precision
    dtype = DTYPES[precision]
    width = torch.finfo(dtype).bits // 8
    if _weight_bytes(experiment, base) <= LARGEST_BASE:
        return load_base(experiment.model, precision, device), 1.0
    layer = base.body * width / base.layers
    layers = max(1, min(base.layers, int(LAYER_BYTES // layer)))
    config: Any = AutoConfig.from_pretrained(str(experiment.model.name))
    text = config.get_text_config()
    text.num_hidden_layers, text.use_cache = layers, False
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    made: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")
    return made.to(device).requires_grad_(False).eval(), layers / base.layers


def _is_quantised(experiment: Experiment) -> bool:
    return experiment.model.quantization is not None or experiment.model.gguf is not None


def _weight_bytes(experiment: Experiment, base: BaseFacts) -> float:
    width = 2 if experiment.training.precision == "bf16" else 4
    return base.weight_bytes(width, experiment.model.quantization)


def _packable(experiment: Experiment) -> tuple[str, dict[str, Any]]:
    """The adapter whose passes are timed: the file's own where it can be packed, else LoRA."""
    adapter = experiment.method.adapter
    if adapter.kind in packed_adapters():
        return adapter.kind, adapter_options(adapter)
    return "lora", {"r": 8, "target_modules": getattr(adapter, "target_modules", None)}


def _passes(experiment: Experiment, model: Any, device: Any, length: int) -> tuple[float, float]:
    """Seconds of a token in learning and in scoring passes."""
    from orchestrator.executors.pool.shared_passes import SharedPasses

    words = model.get_input_embeddings().weight.shape[0]
    kind, options = _packable(experiment)
    targets = options.get("target_modules")
    passes = SharedPasses(
        model, list(targets) if isinstance(targets, tuple) else targets, capacity=SLOTS
    )
    for slot in range(SLOTS):
        passes.pack.join(slot, kind, options, seed=slot)
    row = Scored(tuple(place % words for place in range(length)), ((length - 1, 0),))
    every = range(SLOTS)

    def learn(rows: int) -> None:
        work = [(slot, row) for slot in every for _ in range(rows)]
        passes.learn(work, dict.fromkeys(every, rows), counts=True)
        passes.pack.step(
            dict.fromkeys(every, 0.0), weight_decay=dict.fromkeys(every, 0.0),
            max_norm=dict.fromkeys(every, 1.0),
        )  # fmt: skip

    def score(rows: int) -> None:
        passes.score([row] * rows * SLOTS, [slot for slot in every for _ in range(rows)])

    return _seconds_of_token(learn, device, length), _seconds_of_token(score, device, length)


def _seconds_of_token(work: Callable[[int], None], device: Any, length: int) -> float:
    _timed(lambda: work(1), device)  # the first chooses kernels
    first = _timed(lambda: work(1), device)
    # A GPU is full only with many rows; a CPU has a plateau from a few hundred tokens on.
    most = max(1, (16384 if device.type == "cuda" else 1024) // (length * SLOTS))
    rows = max(1, min(most, int(PASS_SECONDS / first)))
    times = [first] if rows == 1 else []
    times += [_timed(lambda: work(rows), device) for _ in range(TIMED - len(times))]
    return sum(times) / len(times) / (rows * SLOTS * length)


def _timed(work: Callable[[], None], device: Any) -> float:
    import torch

    if device.type != "cuda":
        # What else runs on the machine now may be gone later: the process's own time counts.
        began = time.process_time()
        work()
        return (time.process_time() - began) / torch.get_num_threads()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def python_seconds() -> float:
    """How long Python takes here to compile a module of some thousand lines."""
    source = "\n".join(f"def f{n}(a, b={n}):\n    return [a, b, (a, {n}), a + b]"
                       for n in range(PYTHON_LINES // 2))  # fmt: skip
    began = time.process_time()
    compile(source, "speed", "exec")
    return time.process_time() - began
