"""The files of a saved adapter, looked at before anything is made of them.

An adapter that is damaged or was edited by hand must not load with a part of it at its start
values, or with a number that makes every answer NaN. So each file is read here first, and after
loading the tensors of the file are compared with those of the adapter. Nothing in a folder is
executed: it is JSON and safetensors.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"

_SETS = ("target_modules", "exclude_modules", "modules_to_save", "target_parameters")
"""Names of layers in a config of PEFT's, whose order means nothing."""

LOADING_ERRORS: tuple[type[Exception], ...] = (
    ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError, OSError,
    SafetensorError,
)  # fmt: skip
"""What PEFT, transformers and torch raise for files that do not fit together."""


class AdapterError(ValueError):
    """A saved adapter that cannot be used; the message names the file and what is wrong with it."""


def sort_names(folder: Path) -> None:
    """Let an adapter's config name its layers in one order, where PEFT writes sets as they come.

    So the same adapter has the same files, whichever process has written it.

    Args:
        folder: Where PEFT has written a config.
    """
    path = folder / CONFIG
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for name in _SETS:
        if isinstance(config.get(name), list):
            config[name] = sorted(config[name])
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of an adapter.

    Args:
        path: The file.

    Returns:
        The object.

    Raises:
        AdapterError: If there is none, it is no JSON object, or it has a key twice.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_repeats)
    except OSError as error:
        raise AdapterError(
            f"`{path}` cannot be read ({error.strerror or error}). {_AGAIN}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"`{path}` is not valid JSON ({error}). {_AGAIN}") from None
    if not isinstance(value, dict):
        raise AdapterError(f"`{path}` should hold a JSON object, got {str(value)[:60]!r}. {_AGAIN}")
    return value


_AGAIN = "Save or copy the adapter again."


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands in one object twice")
    return found


def check_tensors(path: Path) -> dict[str, tuple[int, ...]]:
    """Refuse a file of tensors that is damaged, or in which a number is not finite.

    Args:
        path: A safetensors file.

    Returns:
        The shape of each tensor, by name.

    Raises:
        AdapterError: If it is not whole, or a tensor holds NaN or infinity.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - a handle of safetensors, no mapping
                tensor: torch.Tensor = file.get_tensor(name)
                shapes[name] = tuple(tensor.shape)
                check_finite(tensor, name, path)
    except AdapterError:
        raise
    except FileNotFoundError:
        raise AdapterError(f"There is no `{path}`. {_AGAIN}") from None
    except LOADING_ERRORS as error:
        raise AdapterError(
            f"`{path}` is not a complete safetensors file ({error}). {_AGAIN}"
        ) from None
    return shapes


def check_finite(tensor: torch.Tensor, name: str, path: Path) -> None:
    """Refuse numbers with which every answer would be NaN.

    Args:
        tensor: The tensor; whole numbers are always finite.
        name: Its name.
        path: Where it stands.

    Raises:
        AdapterError: If one is NaN or infinite.
    """
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.isfinite().all():
        return
    wrong = int((~tensor.isfinite()).sum())
    raise AdapterError(
        f"`{path}`: {wrong} of the {tensor.numel()} numbers of `{name}` are NaN or infinite, so "
        "that every answer would be. Take another checkpoint or train it again."
    )


def check_names(path: Path, held: Iterable[str], wanted: Iterable[str]) -> None:
    """Refuse a file that lacks a tensor of the adapter, or holds one that nothing takes.

    Args:
        path: The file, for the message.
        held: The names of its tensors.
        wanted: The names of the adapter's tensors.

    Raises:
        AdapterError: If they differ.
    """
    missing = sorted(set(wanted) - set(held))
    # PEFT writes embeddings along when the tokenizer has grown.
    extra = sorted(name for name in set(held) - set(wanted) if "embed" not in name)
    if missing:
        also = f"; it holds `{extra[0]}`, which the adapter has not" if extra else ""
        raise AdapterError(
            f"`{path}` lacks {len(missing)} of the adapter's tensors, first `{missing[0]}`{also}. "
            f"They would keep their start values. {_AGAIN}"
        )
    if extra:
        raise AdapterError(
            f"`{path}` holds {len(extra)} tensors that the adapter of {CONFIG} does not have, "
            f"first `{extra[0]}`. {_AGAIN}"
        )
