"""The model card of an exported folder: README.md with the metadata that the hub reads.

References:
    Mitchell et al. (2019), Model Cards for Model Reporting. arXiv 1810.03993
    The hub's metadata: https://huggingface.co/docs/hub/model-cards#model-card-metadata
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from orchestrator.serving.hub.card_facts import CardFacts
from orchestrator.spec.task_kinds import ChoiceTask, GenerationTask, PromptedTask, TaskSpec
from orchestrator.system import durable
from orchestrator.system.formatting import show, show_interval

CARD = "README.md"
Form = Literal["lora", "merged", "adapter"]

_LOADING = {
    "lora": """\
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "{here}")
tokenizer = AutoTokenizer.from_pretrained("{base}")
```
""",
    "merged": """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{here}")
tokenizer = AutoTokenizer.from_pretrained("{here}")
```
""",
    "adapter": """\
```python
import orchestrator  # of the package curlora-orchestrator

model = orchestrator.load("{here}")
model.predict("{task}", [{row}])
```
""",
}
_METRICS = {"accuracy": "accuracy", "accuracy_norm": "accuracy", "exact_match": "exact_match"}
"""Ours by the names that the hub's leaderboards know."""


def write_card(folder: Path, facts: CardFacts, form: Form, repository: str | None = None) -> Path:
    """Write the card of an exported folder.

    Args:
        folder: The folder.
        facts: What is known of the model.
        form: In which form it was exported.
        repository: Where on the hub it is to lie, for the lines that load it.

    Returns:
        The file.
    """
    durable.write(folder / CARD, card_text(facts, form, repository or f"./{folder.name}"))
    return folder / CARD


def card_text(facts: CardFacts, form: Form, here: str) -> str:
    """A model card.

    Args:
        facts: What is known of the model.
        form: In which form it was exported.
        here: Where it lies, for the lines that load it.

    Returns:
        Markdown, with the hub's metadata before it.
    """
    return f"---\n{metadata(facts, form)}---\n\n{_body(facts, form, here)}"


# -------------------------------------------------------------------------------- metadata


def metadata(facts: CardFacts, form: Form) -> str:
    """The card's YAML, made by the hub's own library.

    Args:
        facts: What is known of the model.
        form: In which form it was exported.

    Returns:
        YAML, with a line break at its end. A licence is not in it: it is the user's to choose.
    """
    from huggingface_hub import EvalResult, ModelCardData

    results = [EvalResult(**result) for result in _results(facts)]
    hub_sets = [t.data.hub for t in facts.tasks.values() if t.data.hub is not None]
    data = ModelCardData(
        base_model=facts.base_name,
        library_name="transformers" if form == "merged" else "peft",
        pipeline_tag="text-generation",
        datasets=list(dict.fromkeys(hub_sets)) or None,
        tags=list(dict.fromkeys([facts.kind, "continual-learning", *_PLACE.get(form, ())])),
        model_name=facts.name if results else None,
        eval_results=results or None,
        base_model_relation=None
        if facts.base_name is None
        else ("finetune" if form == "merged" else "adapter"),
    )
    return data.to_yaml(line_break="\n").rstrip("\n") + "\n"


_PLACE = {"lora": ("lora",), "merged": ("merged",), "adapter": ("curlora-orchestrator",)}


def _results(facts: CardFacts) -> list[dict[str, Any]]:
    """What was measured, as the hub's `model-index` has it: on test data where they were read."""
    split, scores = "test", dict[str, float]()
    if facts.test is not None:
        scores = dict(zip(facts.test_tasks, facts.test.row, strict=True))
    elif facts.matrix is not None and facts.matrix.complete:
        split, scores = (
            "validation",
            dict(zip(facts.matrix.tasks, facts.matrix.rows[-1], strict=True)),
        )
    found: list[dict[str, Any]] = []
    for name, value in scores.items():
        task = facts.tasks.get(name)
        if task is None or math.isnan(value):
            continue
        found.append(
            {
                "task_type": _task_type(task),
                "task_name": name,
                # Results of one data set are taken together, so that each needs a name of its own.
                "dataset_type": task.data.hub or name,
                "dataset_name": task.data.hub or name,
                "dataset_config": task.data.config,
                "dataset_revision": task.data.revision,
                "dataset_split": split,
                "metric_type": _METRICS.get(str(task.metric), str(task.metric)),
                "metric_name": f"{task.metric} of {name} ({split})",
                "metric_value": round(value, 6),
            }
        )
    return found


def _task_type(task: TaskSpec) -> str:
    if isinstance(task, ChoiceTask):
        return "multiple-choice" if task.choice_columns else "text-classification"
    return "text-generation"


# ------------------------------------------------------------------------------------ text


def _body(facts: CardFacts, form: Form, here: str) -> str:
    parts = [
        f"# {facts.name}\n\n{_what_it_is(facts, form)}",
        "**License:** not stated here. The licences of the base and of the data bind what is made "
        "of them; put `license:` into the metadata above before this is published.",
        f"## How to use it\n\n{_how_to_load(facts, form, here)}\n{_prompts(facts)}",
        f"## What it knows, and what it has forgotten\n\n{_knowledge(facts)}",
        f"## Test data\n\n{_test(facts)}",
        f"## What it was made from\n\n{_origin(facts)}",
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _what_it_is(facts: CardFacts, form: Form) -> str:
    words = {
        "lora": "A plain LoRA adapter for", "merged": "A whole model, merged from an adapter and",
        "adapter": "An adapter for",
    }[form]  # fmt: skip
    learnt = ", ".join(facts.tasks) or "nothing"
    quantised = facts.document["base"].get("quantization")
    extra = f" The base was quantised (`{quantised}`) while it was trained." if quantised else ""
    method = f"trained with `{facts.kind}`{_retention(facts)}"
    return (
        f"{words} {facts.shown_base}, {method} through a sequence of tasks: {learnt}.{extra} It "
        f"computes in {facts.document['precision']} and was trained on texts of at most "
        f"{facts.document['max_length']} tokens; it is meant for these tasks and prompts, and "
        "nothing else was measured."
    )


def _retention(facts: CardFacts) -> str:
    method = (facts.document.get("experiment") or {}).get("method") or {}
    kind = (method.get("retention") or {}).get("kind", "none")
    return "" if kind == "none" else f" and `{kind}` against forgetting"


def _how_to_load(facts: CardFacts, form: Form, here: str) -> str:
    asked = [task for task in facts.tasks.values() if isinstance(task, PromptedTask)]
    first = asked[0] if asked else None
    columns = first.asked_columns if first is not None else ["text"]
    row = ", ".join(f'"{column}": "..."' for column in columns)
    base = facts.base_name or "the base, see above"
    values = {"base": base, "here": here, "row": f"{{{row}}}", "task": getattr(first, "name", "")}
    text = _LOADING[form]
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    headed = [name for name, task in facts.tasks.items() if task.has_head]
    if headed and form != "adapter":
        text += (
            f"\n{', '.join(headed)}: answered by linear heads on the last hidden state of the "
            "prompt's last token, `heads.safetensors`; `heads.json` names the label of each row.\n"
        )
    return text


def _prompts(facts: CardFacts) -> str:
    lines = ["", "| task | prompt | what follows |", "|---|---|---|"]
    for name, task in facts.tasks.items():
        if not isinstance(task, PromptedTask):
            continue
        follows = f"a text of at most {task.max_new_tokens} tokens" if isinstance(
            task, GenerationTask
        ) else "one of the row's choices" if task.choice_columns else ", ".join(
            f"`{word}`" for word in getattr(task, "words", ())
        )  # fmt: skip
        template = "" if task.template == "raw" else f" (in the {task.template} template)"
        lines.append(f"| {name} | `{_cell(task.prompt)}`{template} | {_cell(follows)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("\n", "⏎").replace("|", "\\|")


def _knowledge(facts: CardFacts) -> str:
    matrix = facts.matrix
    if matrix is None:
        return "Not stated: the journal of its sweep was not at hand when this was written."
    counts = [str(facts.examples.get(task, "all")) for task in matrix.tasks]
    rows = [
        ["before", *map(show, matrix.rows[0])],
        *(
            [f"after {task}", *map(show, row)]
            for task, row in zip(matrix.tasks, matrix.rows[1:], strict=False)
        ),
        ["examples", *counts],
    ]
    text = _table(["score on", *matrix.tasks], rows) + (
        "\n\nScores in [0, 1] on validation examples, by which it was chosen: they flatter. A row "
        "for each task that was learnt, in this order.\n"
    )
    if facts.lost:
        lost = [
            [task, show(best), show(last), show(last - best, signed=True)]
            for task, (best, last) in facts.lost.items()
        ]
        text += "\n" + _table(["task", "at best after it was learnt", "at the end", "change"], lost)
    if facts.gain_interval is not None:
        text += (
            f"\n\nMean score over that of the untouched base, 95 % interval: "
            f"{show_interval(facts.gain_interval)}."
        )
    return text


def _test(facts: CardFacts) -> str:
    if facts.test is None:
        return "Not read: no number here is on data that nothing was chosen by."
    base = facts.base_test.row if facts.base_test is not None else ()
    rows = [
        [task, show(score), show(base[place]) if base else "-",
         str(facts.test_examples.get(task, "-"))]
        for place, (task, score) in enumerate(zip(facts.test_tasks, facts.test.row, strict=True))
    ]  # fmt: skip
    number = facts.reading or 1
    again = (
        "" if number == 1 else f" This is reading {number}: the test data were looked at before."
    )
    return _table(["task", "score", "untouched base", "examples"], rows) + (
        f"\n\nNothing was chosen by them.{again}"
    )


def _origin(facts: CardFacts) -> str:
    document = facts.document
    rows = [
        [name, f"`{task.data.hub}`" if task.data.hub else "local files",
         f"`{facts.data_hashes.get(name, 'not stated')}`"]
        for name, task in facts.tasks.items()
    ]  # fmt: skip
    made = [
        f"- Sweep `{document.get('sweep', 'not stated')}`, trial "
        f"`{document.get('trial', 'not stated')}`.",
        f"- SHA-256 of the adapter: `{document.get('adapter_sha256') or 'not stated'}`.",
        f"- Base: {facts.shown_base}.",
    ]
    if facts.versions:
        kept = {k: v for k, v in facts.versions.items() if k in _SHOWN_VERSIONS}
        made.append(f"- Made with {', '.join(f'{k} {v}' for k, v in kept.items())}.")
    return _table(["task", "data", "hash of its rows"], rows) + "\n\n" + "\n".join(made)


_SHOWN_VERSIONS = ("python", "torch", "transformers", "peft", "curlora-orchestrator")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
