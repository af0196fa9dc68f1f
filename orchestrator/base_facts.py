"""Sizes of a base model and its adapters, from its config and the header of its weights.

No weights are loaded. A file of weights that is missing or cut short is found here too, because its
header says how long it should be.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.experiment import ModelSpec
from orchestrator.strict_json import cut, parse, read_object

UNKNOWN = "unknown"
"""The hash of a hub model whose commit is not known."""
OPTIMISER_BYTES = 16
"""Per trained parameter: parameter, gradient, fp32 master and two moments, rounded up."""
RECORD_BYTES = 2 * 2**20
"""What a trial leaves beside its adapter: journal, log, MLflow's records."""


class BaseFilesError(ValueError):
    """Files of a base model that cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class BaseFacts:
    """Sizes of the base model, read without its weights."""

    parameters: int
    body: int
    """Parameters that every token is multiplied with: embeddings and output layer excluded."""
    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int
    shapes: dict[str, tuple[int, int]] = field(repr=False, default_factory=dict)
    """(d_out, d_in) of each linear layer of the body."""
    model_type: str = ""
    """The family, by the config's `model_type`."""

    def weight_bytes(self, width: int, quantization: str | None) -> float:
        """The memory of the frozen weights.

        Args:
            width: Bytes of a number that is not quantised.
            quantization: A form of `curlora.targets.QUANTISATION_BITS`, or None. Only the linear
                layers of the body are quantised.

        Returns:
            Bytes.
        """
        if quantization is None:
            return float(self.parameters * width)
        from curlora.targets import QUANTISATION_BITS  # which brings torch

        linear = sum(math.prod(shape) for shape in self.shapes.values())
        bits = QUANTISATION_BITS[quantization]
        return (self.parameters - linear) * width + linear * bits / 8


def local_folder(model: ModelSpec) -> Path | None:
    """The folder of a base model that is on this machine; the hub is not asked.

    Args:
        model: A model named by folder or hub name.

    Returns:
        The folder itself or the hub's cache, None when nothing was downloaded.
    """
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    folder = Path(str(model.name))
    if folder.is_dir():
        return folder
    try:
        cached = huggingface_hub.snapshot_download(
            str(model.name), revision=model.revision, local_files_only=True
        )
    except (OSError, HFValidationError):
        return None
    return Path(cached)


def base_facts(model: ModelSpec) -> BaseFacts | None:
    """The sizes of a base model, from its config and the header of its weights.

    Args:
        model: The model.

    Returns:
        The sizes, None when they cannot be read here (a hub model that was not downloaded yet).
    """
    if model.gguf is not None:
        path = Path(model.gguf)
        return _gguf_facts(path) if path.is_file() else None
    folder = local_folder(model)
    return _folder_facts(folder) if folder is not None else None


def vocabulary(model: ModelSpec) -> int | None:
    """The rows of a base's embedding, None when they cannot be read here."""
    try:
        facts = base_facts(model)
    except BaseFilesError:
        return None  # said by whoever needs the files themselves
    return facts.vocabulary if facts is not None else None


def _folder_facts(folder: Path) -> BaseFacts | None:
    shapes = _folder_shapes(folder)
    if not shapes or not (folder / "config.json").is_file():
        return None
    return _from_shapes(_read_config(folder), shapes)


def _folder_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        header = _header(file)
        shapes |= {name: tuple(t["shape"]) for name, t in header.items() if name != "__metadata__"}
    return shapes


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise BaseFilesError(
            f"The model folder {folder} has no config.json. `model.name` is a Hugging Face name "
            "or a folder that save_pretrained wrote."
        )
    config = read_object(path, BaseFilesError, "Save the model again.")
    text = config.get("text_config")
    if text is not None and not isinstance(text, dict):
        raise BaseFilesError(
            f"{path}: `text_config` should be an object, got {cut(repr(text))}. Save the model "
            "again."
        )
    return config


_WIDTHS = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2,
    "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8, "C64": 8,
}  # fmt: skip
"""Bytes of a number in safetensors, of the kinds whose numbers fill whole bytes."""


def _header(file: Path) -> dict[str, Any]:
    """Names, shapes and places in a safetensors file: eight bytes of length, then JSON."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(length) if length <= size else b""
    try:
        header = parse(text.decode("utf-8"))
        ends = [_end(name, entry) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f" ({error})" if isinstance(error, _EntryError) else ""
        raise BaseFilesError(
            f"{file} is no whole safetensors file: its header cannot be read{reason}, and the file "
            f"has {size:,} bytes. {_AGAIN}"
        ) from None
    whole = 8 + length + max(ends, default=0)
    if size < whole:
        raise BaseFilesError(
            f"{file} is cut short: its header promises {whole:,} bytes, and it has {size:,}. "
            f"{_AGAIN}"
        )
    return header


class _EntryError(ValueError):
    pass


def _end(name: str, entry: Any) -> int:
    """Where a tensor of a header ends, its shape and place agreeing."""
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    numbers = [*shape, begin, end]
    if not all(type(number) is int and number >= 0 for number in numbers) or begin > end:
        raise _EntryError(f"the entry of {cut(name)!r} has no shape and place")
    width = _WIDTHS.get(entry["dtype"])
    if width is not None and math.prod(shape) * width != end - begin:
        raise _EntryError(f"{cut(name)!r} has {end - begin:,} bytes for a shape of {shape}")
    return end


_AGAIN = "Copy or download it again."


def check_files(model: ModelSpec) -> None:
    """Refuse a base model on this machine whose files are missing or cut short.

    Args:
        model: The model; of a hub model that was not downloaded nothing is known, or checked.

    Raises:
        BaseFilesError: If its config or weights cannot be used.
    """
    if model.gguf is not None:
        if not Path(model.gguf).is_file():
            raise BaseFilesError(f"There is no GGUF file {model.gguf}. Fix `model.gguf`.")
        _gguf_shapes(Path(model.gguf))
        return
    name = Path(str(model.name))
    folder = local_folder(model)
    if folder is None:
        if name.is_absolute():
            raise BaseFilesError(
                f"There is no model folder {name}. `model.name` is a Hugging Face name or a "
                "folder; `make demo` fetches the demo's."
            )
        return
    _read_config(folder)
    shards = _shards(folder)
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise BaseFilesError(
            f"The model folder {folder} lacks {len(missing)} of its {len(shards)} weight files: "
            f"{', '.join(missing[:3])}. {_AGAIN}"
        )
    if not [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
        if folder == name:
            raise BaseFilesError(
                f"The model folder {folder} has no weights (*.safetensors). Save the model there "
                "with save_pretrained, or fix `model.name`."
            )
        return  # a part of a hub model; the rest is downloaded
    _folder_shapes(folder)


def _shards(folder: Path) -> list[str]:
    """The weight files that an index names; none without an index."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    places = read_object(index, BaseFilesError, _AGAIN).get("weight_map")
    names = set(map(str, places.values())) if isinstance(places, dict) else set()
    if not names or any(Path(name).name != name for name in names):
        raise BaseFilesError(f"{index} does not say which file holds which weight. {_AGAIN}")
    return sorted(names)


def model_type(model: ModelSpec) -> str | None:
    """The family of a base model, by the `model_type` of its config.

    Args:
        model: The model.

    Returns:
        Such as "llama"; None when it is not known on this machine.
    """
    if model.gguf is not None:
        path = Path(model.gguf)
        return _gguf_family(path) if path.is_file() else None
    folder = local_folder(model)
    if folder is None or not (folder / "config.json").is_file():
        return None
    family = _read_config(folder).get("model_type")
    return family if isinstance(family, str) else None


def base_dropout(model: ModelSpec) -> dict[str, float]:
    """What of a base is dropped out while it learns, by its config.

    Args:
        model: The model.

    Returns:
        Such as {"resid_pdrop": 0.1}: the rates above 0 of the config, those of heads that a
        language model does not have left out; empty where the config is not on this machine.
    """
    if model.gguf is not None:
        return {}
    folder = local_folder(model)
    if folder is None or not (folder / "config.json").is_file():
        return {}
    config = _read_config(folder)
    config |= config.get("text_config") or {}
    return {
        name: float(value)
        for name, value in config.items()
        if "drop" in name
        and not name.startswith(("summary", "classifier"))
        and isinstance(value, int | float)
        and value > 0
    }


def _gguf_family(path: Path) -> str:
    from gguf import GGUFReader

    field_ = GGUFReader(str(path)).fields.get("general.architecture")
    return str(field_.contents()) if field_ is not None else ""


def linear_shapes(model: ModelSpec) -> dict[str, tuple[int, int]]:
    """The (d_out, d_in) of each linear layer of the body, by the name of its module.

    Args:
        model: The model.

    Returns:
        The shapes; empty when the header of the weights cannot be read here.
    """
    if model.gguf is not None:
        path = Path(model.gguf)
        return _linear(_gguf_shapes(path)[0], None) if path.is_file() else {}
    folder = local_folder(model)
    return _linear(_folder_shapes(folder), model_type(model)) if folder is not None else {}


def context_length(model: ModelSpec) -> int | None:
    """The most tokens that a base model can read, None when it is unknown or unlimited.

    Args:
        model: The model.

    Returns:
        Number of positions.
    """
    if model.gguf is not None:
        path = Path(model.gguf)
        return _gguf_shapes(path)[1].get("context_length") if path.is_file() else None
    folder = local_folder(model)
    if folder is None or not (folder / "config.json").is_file():
        return None
    config = _read_config(folder)
    text = config.get("text_config") or config
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        if isinstance(text.get(name), int) and text[name] > 0:
            return text[name]
    return None


def _from_shapes(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> BaseFacts | None:
    text = config.get("text_config") or config
    try:
        sizes = {
            ours: _size(text, next(name for name in theirs if name in text))
            for ours, theirs in (
                ("hidden", ("hidden_size", "n_embd")),
                ("layers", ("num_hidden_layers", "n_layer")),
                ("heads", ("num_attention_heads", "n_head")),
                ("vocabulary", ("vocab_size",)),
            )
        }
    except StopIteration:  # another family's words for the same sizes
        return None
    outer = sum(math.prod(shape) for name, shape in shapes.items() if _ENDS.search(name))
    whole = sum(math.prod(shape) for shape in shapes.values())
    return BaseFacts(
        parameters=whole,
        body=whole - outer,
        intermediate=next(
            (_size(text, name) for name in ("intermediate_size", "n_inner") if text.get(name)),
            4 * sizes["hidden"],
        ),
        shapes=_linear(shapes, config.get("model_type")),
        model_type=str(text.get("model_type") or config.get("model_type") or ""),
        **sizes,
    )


def _size(config: Mapping[str, Any], name: str) -> int:
    value = config[name]
    if isinstance(value, list) and value and all(type(number) is int for number in value):
        value = max(value)  # of some families each layer has its own
    if type(value) is not int or not 0 < value < 1 << 40:
        raise BaseFilesError(
            f"config.json of the base: `{name}` should be a whole number above 0, got "
            f"{cut(repr(value))}. Save the model again."
        )
    return value


_ENDS = re.compile(r"(^|\.)(embed_tokens|wte|wpe|lm_head|embed_out|word_embeddings)\.weight$")

# GPT-2 keeps its linear layers as transformers' Conv1D, (d_in, d_out).
_CONV1D = re.compile(r"\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight$")


def _linear(
    shapes: Mapping[str, tuple[int, ...]], family: str | None
) -> dict[str, tuple[int, int]]:
    return {
        name.removesuffix(".weight"): (
            (shape[1], shape[0])
            if family == "gpt2" and _CONV1D.search(name)
            else (shape[0], shape[1])
        )
        for name, shape in shapes.items()
        if len(shape) == 2 and name.endswith(".weight") and not _ENDS.search(name)
    }


_GGUF_NAMES = {
    "attn_q": "q_proj",
    "attn_k": "k_proj",
    "attn_v": "v_proj",
    "attn_output": "o_proj",
    "ffn_gate": "gate_proj",
    "ffn_up": "up_proj",
    "ffn_down": "down_proj",
}


def _gguf_shapes(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shapes under Hugging Face's names, and the counts in the metadata."""
    from gguf import GGUFReader

    try:
        # Reading maps every tensor, so that a file that is cut short is found.
        reader = GGUFReader(str(path))
    except (ValueError, OSError, IndexError, KeyError) as error:
        raise BaseFilesError(f"{path} is no whole GGUF file ({error}). {_AGAIN}") from None
    shapes: dict[str, tuple[int, ...]] = {}
    for tensor in reader.tensors:
        # GGUF writes the fastest dimension first.
        shape = tuple(int(size) for size in reversed(tensor.shape))
        name = str(tensor.name).replace("token_embd.", "embed_tokens.")
        name = re.sub(r"^output\.", "lm_head.", name)
        for theirs, ours in _GGUF_NAMES.items():
            name = name.replace(f".{theirs}.", f".{ours}.")
        shapes[name] = shape
    counts = {
        field_name.rsplit(".", 1)[-1]: int(reader.fields[field_name].contents())
        for field_name in reader.fields
        if field_name.endswith(
            (".block_count", ".attention.head_count", ".feed_forward_length", ".context_length")
        )
    }
    return shapes, counts


def _gguf_facts(path: Path) -> BaseFacts | None:
    shapes, counts = _gguf_shapes(path)
    embedding = shapes.get("embed_tokens.weight")
    if embedding is None:
        return None
    config = {
        "hidden_size": embedding[1],
        "vocab_size": embedding[0],
        "num_hidden_layers": counts.get("block_count", 1),
        "num_attention_heads": counts.get("head_count", 1),
        "intermediate_size": counts.get("feed_forward_length"),
        "model_type": _gguf_family(path),
    }
    return _from_shapes(config, shapes)
