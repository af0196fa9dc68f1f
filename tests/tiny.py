"""A tiny base model with a tokenizer, and tiny tasks."""

import json
import random
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
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<unk>", "<pad>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
            tie_word_embeddings=False,
        )
    ).save_pretrained(folder)  # fmt: skip
    return folder


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
