"""The files of a base model on this machine: where they are, and whether they are whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.base.errors import COPY_AGAIN, BaseFilesError
from orchestrator.base.gguf_file import gguf_shapes
from orchestrator.base.safetensors_header import read_header
from orchestrator.spec.sections import ModelSpec
from orchestrator.system.strict_json import read_object
from orchestrator.system.wording import cut

UNKNOWN = "unknown"
"""The hash of a hub model whose commit is not known."""


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


def folder_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors in the safetensors files of a folder, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        header = read_header(file)
        shapes |= {name: tuple(t["shape"]) for name, t in header.items() if name != "__metadata__"}
    return shapes


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a model folder, refused where it is missing or no config."""
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
        gguf_shapes(Path(model.gguf))
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
    read_config(folder)
    shards = _shards(folder)
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise BaseFilesError(
            f"The model folder {folder} lacks {len(missing)} of its {len(shards)} weight files: "
            f"{', '.join(missing[:3])}. {COPY_AGAIN}"
        )
    if not [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
        if folder == name:
            raise BaseFilesError(
                f"The model folder {folder} has no weights (*.safetensors). Save the model there "
                "with save_pretrained, or fix `model.name`."
            )
        return  # a part of a hub model; the rest is downloaded
    folder_shapes(folder)


def _shards(folder: Path) -> list[str]:
    """The weight files that an index names; none without an index."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    places = read_object(index, BaseFilesError, COPY_AGAIN).get("weight_map")
    names = set(map(str, places.values())) if isinstance(places, dict) else set()
    if not names or any(Path(name).name != name for name in names):
        raise BaseFilesError(f"{index} does not say which file holds which weight. {COPY_AGAIN}")
    return sorted(names)
