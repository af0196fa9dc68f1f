"""A tiny base model with a tokenizer, and tiny tasks."""

import json
import random
import shutil
from pathlib import Path

WORDS = [
    *("good", "fine", "great", "happy", "lovely", "bad", "poor", "awful", "sad", "nasty"),
    *("the", "a", "film", "book", "dog", "cat", "was", "is", "very", "and", "it", "this", "that"),
    *("red", "blue", "green", "one", "two", "three", ":", "positive", "negative", "animal"),
    *("thing", "text", "label"),
]


def write_base(folder: Path) -> Path:
    """Make a folder with a tiny random Llama and a word tokenizer."""
    import torch
    from transformers import LlamaForCausalLM

    _write_tokenizer(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(_config()).save_pretrained(folder)
    return folder


def write_exact_base(folder: Path, dtype: str = "float64", **sizes: int) -> Path:
    """Make such a folder with numbers that every machine draws alike; `sizes` are of the config.

    torch's normal numbers differ in their last bits between processors. Python's uniform ones are
    made by exact arithmetic, and as multiples of 2^-20 they are the same in fp32 and float64.
    """
    import numpy as np
    import torch
    from safetensors.numpy import save_file
    from transformers import LlamaForCausalLM

    _write_tokenizer(folder)
    config = _config(**sizes)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {n: tuple(t.shape) for n, t in LlamaForCausalLM(config).state_dict().items()}
    tensors = {}
    for name, shape in shapes.items():
        tensor, draw = np.ones(shape), random.Random(name)
        if tensor.ndim > 1:  # the others are the norms' weights
            drawn = [round(draw.uniform(-0.1, 0.1) * 2**20) for _ in range(tensor.size)]
            tensor = np.array(drawn).reshape(shape) / 2**20
        tensors[name] = tensor.astype(dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(_vocabulary(), unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>"
    ).save_pretrained(folder)


def _config(**sizes: int):
    from transformers import LlamaConfig

    usual = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    return LlamaConfig(vocab_size=len(_vocabulary()), tie_word_embeddings=False, **usual | sizes)


def _vocabulary() -> dict[str, int]:
    return {word: index for index, word in enumerate(["<unk>", "<pad>", *WORDS])}


def _rows(kind: str, count: int, seed: int) -> list[dict[str, str]]:
    generator = random.Random(f"{kind}{seed}")
    good, bad = WORDS[:5], WORDS[5:10]
    rows = []
    for _ in range(count):
        filler = " ".join(generator.choices(WORDS[10:24], k=generator.randrange(3, 9)))
        if kind == "mood":
            label = generator.choice(["positive", "negative"])
            word = generator.choice(good if label == "positive" else bad)
        else:
            label = generator.choice(["animal", "thing"])
            word = generator.choice(["dog", "cat"] if label == "animal" else ["film", "book"])
        rows.append({"text": f"{word} {filler} {word}", "label": label})
    return rows


def write_tasks(root: Path) -> Path:
    """Make a folder of task files (`mood`, `being`, probe `prose`) with their data."""
    (root / "tasks").mkdir()
    for name, words in (("mood", ("negative", "positive")), ("being", ("animal", "thing"))):
        folder = root / "data" / name
        folder.mkdir(parents=True)
        for split, count in (("train", 48), ("validation", 24), ("test", 16)):
            lines = [json.dumps(row) for row in _rows(name, count, len(split))]
            (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
        labels = "\n".join(f"  {word}: ' {word}'" for word in words)
        (root / "tasks" / f"{name}.yaml").write_text(
            f"name: {name}\nkind: classification\ndata: {{files: ../data/{name}}}\n"
            f"prompt: 'text : {{text}} label :'\nlabels:\n{labels}\n"
        )
    prose = root / "data" / "prose"
    prose.mkdir()
    generator = random.Random(5)
    lines = [json.dumps({"text": " ".join(generator.choices(WORDS, k=20))}) for _ in range(20)]
    (prose / "validation.jsonl").write_text("\n".join(lines) + "\n")
    (root / "tasks" / "prose.yaml").write_text(
        "name: prose\nkind: language_modelling\ndata: {files: ../data/prose}\n"
        "splits: {train: null, test: null}\njoiner: ' '\n"
    )
    return root


def write_training_text(root: Path) -> str:
    """Add a probe that has training rows, `lore`, as `corda` and `sources` need one."""
    folder = root / "data" / "lore"
    if not folder.is_dir():
        folder.mkdir()
        for split in ("train", "validation"):
            shutil.copyfile(root / "data/prose/validation.jsonl", folder / f"{split}.jsonl")
        (root / "tasks" / "lore.yaml").write_text(
            "name: lore\nkind: language_modelling\ndata: {files: ../data/lore}\n"
            "splits: {test: null}\njoiner: ' '\n"
        )
    return "lore"
