"""Writing a trained model for use elsewhere: its folder, a plain LoRA adapter, or a whole model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from orchestrator.records.model_folder import ADAPTER_FOLDER, ADAPTER_MARKER
from orchestrator.serving.find import ModelUseError, asked_tasks, load_folder
from orchestrator.serving.hub.card import Form, write_card
from orchestrator.serving.hub.card_facts import CardFacts
from orchestrator.system import durable
from orchestrator.system.seals import SEAL_FILE, seal
from orchestrator.system.strict_json import read_object

HEADS_FILE = "heads.safetensors"
"""Linear heads next to an adapter: `<task>.weight` (labels, hidden) and `<task>.bias` (labels,)."""
HEAD_LABELS_FILE = "heads.json"
"""What the rows of exported heads stand for."""


def export(
    folder: Path,
    form: Form,
    to: Path,
    facts: CardFacts,
    *,
    base: Path | None = None,
    repository: str | None = None,
) -> list[str]:
    """Write a model for use elsewhere, with its card.

    Args:
        folder: The model folder.
        form: `adapter` (the model folder itself), `lora` (a plain LoRA adapter, loadable without
            this package) or `merged` (a whole model, base included).
        to: A folder that is empty.
        facts: What its card says.
        base: Where the base is now, if it was moved since.
        repository: Where it is to lie on the hub, if it is.

    Returns:
        Names of tasks whose linear heads were written next to it.
    """
    heads = folder / ADAPTER_FOLDER / HEADS_FILE
    labels = head_labels(folder) if heads.is_file() else {}
    if form == "adapter":
        shutil.copytree(folder, to, dirs_exist_ok=True)
        write_card(to, facts, form, repository)
        if (to / SEAL_FILE).is_file():
            seal(to, None)
        return list(labels)
    if form == "lora":
        _export_lora(folder, to, base)
    else:
        from curlora.permissions import open_to_others

        predictor = load_folder(folder, base)
        model = predictor.model
        whole = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
        whole.save_pretrained(to)
        open_to_others(to)
        predictor.tokenizer.save_pretrained(to)
    if labels:
        shutil.copyfile(heads, to / HEADS_FILE)
        text = json.dumps({name: {"labels": values} for name, values in labels.items()}, indent=2)
        (to / HEAD_LABELS_FILE).write_text(text + "\n", encoding="utf-8")
    write_card(to, facts, form, repository)
    durable.sync(to)
    return list(labels)


def _export_lora(folder: Path, to: Path, base: Path | None) -> None:
    adapter = folder / ADAPTER_FOLDER
    if _is_plain_lora(adapter / "adapter_config.json"):
        for file in adapter.iterdir():
            if file.name not in {HEADS_FILE, ADAPTER_MARKER, SEAL_FILE}:
                shutil.copy2(file, to / file.name)
        return
    from curlora import export_lora

    try:
        export_lora(load_folder(folder, base).model, to)
    except (TypeError, ValueError) as error:
        raise ModelUseError(
            f"This model cannot be exported as a LoRA adapter: {error} `--as merged` writes "
            "the whole model."
        ) from None


def _is_plain_lora(config_file: Path) -> bool:
    """Whether an adapter is a LoRA that needs nothing but its own two factors to be loaded."""
    if not config_file.is_file():
        return False
    config = read_object(config_file, ModelUseError, "Save or copy the adapter again.")
    starts = config.get("init_lora_weights", True)
    plain = isinstance(starts, bool) or starts == "gaussian"
    # Servers that read `lora_alpha` alone, such as llama.cpp, take rsLoRA's scale for LoRA's.
    odd = config.get("use_dora") or config.get("use_rslora")
    return config.get("peft_type") == "LORA" and plain and not odd


def head_labels(folder: Path) -> dict[str, list[str]]:
    """For each task with a linear head, the label that each row of its weight stands for."""
    return {name: task.label_values for name, task in asked_tasks(folder).items() if task.has_head}
