"""The base model and its tokenizer: loading, and telling one base from another."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.base_facts import UNKNOWN
from orchestrator.content_cache import ContentCache, user_cache
from orchestrator.experiment import ModelSpec
from orchestrator.foreign_settings import hub_hindered

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

_SETUP_FILES = re.compile(
    r"config\.json|chat_template\.\w+|.*token.*\.(json|model)|vocab\.\w+|merges\.txt|spiece\.model"
)
"""What beside a base's weights says what it computes: its config and its tokenizer."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NOTES = {"_name_or_path", "transformers_version", "torch_dtype", "dtype"}
"""Fields of a config that say who wrote it, or are set anew when it is loaded."""


class ModelError(ValueError):
    """A base model that cannot be used; the message says why and what to do."""


def load_tokenizer(spec: ModelSpec) -> Any:
    """The tokenizer of a base model.

    Args:
        spec: The model.

    Returns:
        A Hugging Face tokenizer.

    Raises:
        ModelError: If it cannot be loaded.
    """
    from transformers import AutoTokenizer

    place, options = _source(spec)
    with _loading(spec):
        tokenizer: Any = AutoTokenizer.from_pretrained(place, **options)
        tokenizer("a")  # a damaged one may load, and fail at the first text
    return tokenizer


def load_base(spec: ModelSpec, precision: str, device: torch.device | str = "cpu") -> nn.Module:
    """The frozen base model; a collective call within `partitioned`.

    Args:
        spec: The model; `quantization` is done while its weights are read.
        precision: "fp32" or "bf16"; of a quantised base, what its layers compute in.
        device: Where its weights go.

    Returns:
        A causal language model in evaluation mode, no parameter of which is trained.

    Raises:
        ModelError: If it cannot be loaded, has no weights, or cannot be quantised here.
    """
    from transformers import AutoModelForCausalLM
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    from curlora.peft_bridge import keep_as_quantised

    if is_deepspeed_zero3_enabled() and spec.quantization is not None:
        raise ModelError(
            f"`model.quantization: {spec.quantization}` cannot be combined with ZeRO stage 3, "
            "which parts weights of floating-point numbers only. Use stage 0, 1 or 2."
        )
    place, options = _source(spec)
    options |= _quantisation(spec, precision, device)
    # On CPU in bf16 the fused attention's backward is several times slower than the plain one.
    attention = "eager" if torch.device(device).type == "cpu" else "sdpa"
    with _loading(spec):
        found: Any = AutoModelForCausalLM.from_pretrained(
            place, dtype=DTYPES[precision], attn_implementation=attention,
            output_loading_info=True, **options,
        )  # fmt: skip
    model, told = found
    if spec.quantization is None and spec.gguf is None and not is_deepspeed_zero3_enabled():
        _refuse_lacking(spec, told)
    model.requires_grad_(False)
    model.config.use_cache = False
    if spec.quantization is None:
        model.to(device)
    for module in model.modules():
        keep_as_quantised(module)
    return model.eval()


def _refuse_lacking(spec: ModelSpec, told: Mapping[str, Any]) -> None:
    """Refuse a base that transformers would complete with random weights and a warning."""
    lacking = sorted(map(str, told.get("missing_keys") or ()))
    if lacking:
        raise ModelError(
            f"The model {spec.name!r} lacks {len(lacking)} weights, first {lacking[0]!r}; they "
            "would be random. Its files are not whole, or are not those of a causal language "
            "model: fetch or save it again."
        )


@contextmanager
def partitioned(zero3: Mapping[str, Any] | None) -> Iterator[None]:
    """Within it a base is loaded in parts and read by adapters one layer at a time.

    Each worker keeps its own part of every weight from the first on; the first worker reads the
    files. An adapter that reads weights, such as CURLoRA, must be attached within it too.

    Args:
        zero3: A DeepSpeed configuration of ZeRO stage 3; None: nothing is parted.
    """
    if zero3 is None:
        yield
        return
    from transformers.integrations.deepspeed import (
        HfDeepSpeedConfig,
        unset_hf_deepspeed_config,
    )

    # transformers finds the configuration through a weak reference, so it must stay alive.
    config = HfDeepSpeedConfig(dict(zero3))
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del config


# --- quantised bases -----------------------------------------------------------------------------


def _quantisation(spec: ModelSpec, precision: str, device: torch.device | str) -> dict[str, Any]:
    """What `from_pretrained` needs for the form of quantisation that is asked for."""
    if spec.quantization is None:
        return {}
    package = "torchao" if spec.quantization == "torchao_int8" else "bitsandbytes"
    if importlib.util.find_spec(package) is None:
        raise ModelError(
            f"`model.quantization: {spec.quantization}` needs the package {package}, which is not "
            "installed. Install the extra `quantised`: pip install -e '.[quantised]'."
        )
    from transformers import BitsAndBytesConfig, TorchAoConfig

    config: Any
    if spec.quantization == "nf4":
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=DTYPES[precision],
        )
    elif spec.quantization == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
        # It says at every product that it casts to float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    else:
        from torchao.quantization import Int8WeightOnlyConfig

        config = TorchAoConfig(Int8WeightOnlyConfig())
    return {"quantization_config": config, "device_map": {"": torch.device(device)}}


def memory_footprint(model: nn.Module) -> dict[str, int]:
    """The bytes that a model's tensors take on this worker, by dtype.

    Args:
        model: Any model, quantised or partitioned by ZeRO stage 3 or neither. What quantisation
            keeps beside its weights (scales and tables) counts; a tensor that is shared counts
            once.

    Returns:
        From the dtype's name ("float32", "uint8") to bytes.
    """
    found: dict[str, int] = {}
    seen: set[int] = set()
    for tensor in _stored(model):
        if tensor.numel() == 0 or tensor.is_meta or tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        name = str(tensor.dtype).removeprefix("torch.")
        found[name] = found.get(name, 0) + tensor.numel() * tensor.element_size()
    return found


def _stored(model: nn.Module) -> Iterator[Tensor]:
    """The plain tensors behind a model's parameters, buffers and quantisation."""
    tensor: Any
    for tensor in (*model.parameters(), *model.buffers()):
        part = getattr(tensor, "ds_tensor", tensor)  # this worker's part under ZeRO stage 3
        inner = part.__tensor_flatten__()[0] if hasattr(part, "__tensor_flatten__") else None
        yield from (part,) if inner is None else (getattr(part, name) for name in inner)
        yield from _scales(getattr(tensor, "quant_state", None), ("absmax", "code", "offset"))
        yield from _scales(tensor, ("SCB",))
    for module in model.modules():
        yield from _scales(getattr(module, "state", None), ("SCB",))


def _scales(holder: Any, names: tuple[str, ...]) -> Iterator[Tensor]:
    for name in names:
        value = getattr(holder, name, None)
        if isinstance(value, Tensor):
            yield value


def _source(spec: ModelSpec) -> tuple[str, dict[str, Any]]:
    if spec.gguf is not None:
        path = Path(spec.gguf)
        return str(path.parent), {"gguf_file": path.name}
    return str(spec.name), {"revision": spec.revision} if spec.revision else {}


@contextmanager
def _loading(spec: ModelSpec) -> Iterator[None]:
    name = spec.gguf or spec.name
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # Whatever is wrong with a file: transformers and tokenizers raise all kinds of errors, the
        # bare `Exception` among them.
        text = (" ".join(str(error).split())[:300] or type(error).__name__).rstrip(".")
        of_hub = spec.gguf is None and not Path(str(spec.name)).exists()
        cause = f"{hub_hindered()} " if of_hub and hub_hindered() else ""
        raise ModelError(
            f"The model {name!r} cannot be loaded: {text}. {cause}`model.name` is a Hugging "
            "Face name or a folder with config.json, safetensors weights and a tokenizer; `make "
            "demo` fetches the demo's."
        ) from error


def base_sha256(spec: ModelSpec) -> str:
    """A hash of the base's weights: of the files of a folder, or the commit of a hub model.

    Args:
        spec: The model.

    Returns:
        A hexadecimal sha256 (folder, GGUF), or the hub's commit hash.

    Raises:
        ModelError: If a folder holds no weights.
    """
    place = Path(spec.gguf or str(spec.name))
    if place.is_file():
        files = [place]
    elif place.is_dir():
        files = sorted(place.glob("*.safetensors")) or sorted(place.glob("*.bin"))
        if not files:
            raise ModelError(
                f"The model folder {place} has no weights (*.safetensors). "
                "Save the model there with save_pretrained, or fix `model.name`."
            )
    else:
        from transformers import AutoConfig

        with _loading(spec):
            config: Any = AutoConfig.from_pretrained(str(spec.name), revision=spec.revision)
        return str(getattr(config, "_commit_hash", None) or UNKNOWN)
    return _files_sha256(files)


REMEMBERED_BYTES = 1 << 26
"""From this size on the hash of weights is remembered: reading them takes seconds."""


def _files_sha256(files: Sequence[Path]) -> str:
    """A hash of the content of some files, remembered while they are not touched."""
    stats = [(str(file.resolve()), file.stat()) for file in files]
    key = [[name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns] for name, s in stats]
    large = sum(s.st_size for _, s in stats) >= REMEMBERED_BYTES
    cache = ContentCache(user_cache()) if large else None
    known = cache.read("base-sha256", key) if cache is not None else None
    if known is not None:
        return str(known)
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    if cache is not None:
        cache.write("base-sha256", key, digest.hexdigest())
    return digest.hexdigest()


def found_base(
    spec: ModelSpec, hashes: Mapping[str, Any], what: str, place: Path | None = None
) -> ModelSpec:
    """The base that something was trained on, wherever it is now.

    Args:
        spec: As it was recorded.
        hashes: Its `sha256` and `setup_sha256`, as far as they were recorded.
        what: What was trained on it, for messages.
        place: Where it is now, a folder or GGUF file; None: where it was.

    Returns:
        The model to load, its weights found to be the recorded ones.

    Raises:
        ModelError: If it is not there, or other weights are.
    """
    expected, setup = hashes.get("sha256"), hashes.get("setup_sha256")
    if place is not None:
        spec = _moved(spec, place)
    was = Path(spec.gguf or str(spec.name))
    told = expected not in {None, UNKNOWN}
    named = not was.is_absolute() and (not told or _COMMIT.fullmatch(str(expected)))
    if not was.exists() and not named:
        raise ModelError(
            f"The base model of {what} is not at {was} any more. Give its new place with "
            "`--base DIR` (in Python `base=`); by its hash it is known again."
        )
    if not told:
        return spec
    if not was.exists():  # on the hub, where names move on and commits stay
        return spec.model_copy(update={"revision": expected})
    found = base_sha256(spec)
    if found != expected:
        raise ModelError(
            f"{was} holds other weights than {what} was trained on: their sha256 is "
            f"{found[:12]}..., expected {str(expected)[:12]}.... Give the right folder with "
            "`--base DIR` (in Python `base=`)."
        )
    if setup is not None and setup_sha256(spec) not in {None, setup}:
        raise ModelError(
            f"{was} holds the weights that {what} was trained on with another config or tokenizer. "
            "Give a whole copy of the base with `--base DIR` (in Python `base=`)."
        )
    return spec


def _moved(spec: ModelSpec, place: Path) -> ModelSpec:
    place = place.expanduser().resolve()
    if spec.gguf is None:
        return spec.model_copy(update={"name": str(place), "revision": None})
    file = place / Path(spec.gguf).name if place.is_dir() else place
    return spec.model_copy(update={"gguf": str(file)})


def setup_sha256(spec: ModelSpec) -> str | None:
    """A hash of a base's config and tokenizer files.

    Args:
        spec: The model.

    Returns:
        A hexadecimal sha256; None for a hub model, whose commit says it all, and for GGUF.
    """
    folder = Path(str(spec.name))
    if spec.gguf is not None or not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.iterdir() if p.is_file()):
        if _SETUP_FILES.fullmatch(file.name):
            content = file.read_bytes()
            if file.name == "config.json":
                content = _without_notes(content)
            digest.update(f"{file.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _without_notes(config: bytes) -> bytes:
    """A config's bytes, the same for all that mean the same."""
    try:
        fields = json.loads(config)
        kept = {key: value for key, value in fields.items() if key not in _NOTES}
    except (ValueError, AttributeError):  # whoever loads it says what is wrong with it
        return config
    return json.dumps(kept, sort_keys=True).encode()


def tokenizer_sha256(spec: ModelSpec, base_hash: str) -> str | None:
    """What tells a base's tokenizer from others.

    Args:
        spec: The model.
        base_hash: What `base_sha256` gave.

    Returns:
        A hexadecimal sha256 of the tokenizer's files in a folder, else the base's own hash; None
        when that is unknown.
    """
    folder = Path(str(spec.name))
    if spec.gguf is not None or not folder.is_dir():
        return base_hash if base_hash != UNKNOWN else None
    digest = hashlib.sha256()
    weights = {".safetensors", ".bin", ".gguf"}
    for file in sorted(p for p in folder.iterdir() if p.is_file() and p.suffix not in weights):
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def token_batches(rows: Iterable[Sequence[int]]) -> list[torch.Tensor]:
    """Texts as batches of one.

    Args:
        rows: The token ids of each.

    Returns:
        Token ids (1, L) of each.
    """
    return [torch.tensor(row, dtype=torch.long)[None] for row in rows]
