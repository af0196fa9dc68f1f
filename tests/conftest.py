"""What the tests share: a tiny base model with a tokenizer, tiny tasks, one Ray cluster."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from orchestrator.communication_op import keep_in_environment

keep_in_environment()  # for the processes that tests start

# One thread each: the tests share two cores with the processes that they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

WORDS = [
    *("good", "fine", "great", "happy", "lovely", "bad", "poor", "awful", "sad", "nasty"),
    *("the", "a", "film", "book", "dog", "cat", "was", "is", "very", "and", "it", "this", "that"),
    *("red", "blue", "green", "one", "two", "three", ":", "positive", "negative", "animal"),
    *("thing", "text", "label"),
]


@pytest.fixture(autouse=True)
def fixed_seeds():
    """Every test begins with the same random numbers."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    random.seed(0)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """A folder with a tiny random Llama and a word tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-base")
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


@pytest.fixture(scope="session")
def tiny_tasks(tmp_path_factory) -> Path:
    """A folder of task files (`mood`, `being`, probe `prose`) with their data."""
    root = tmp_path_factory.mktemp("experiments")
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


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """A database with MLflow's tables, to be copied: making them takes seconds."""
    from orchestrator.tracking import Projection

    folder = tmp_path_factory.mktemp("database")
    Projection(f"sqlite:///{folder / 'mlflow.db'}", folder / "none").check()
    return folder / "mlflow.db"


@pytest.fixture
def records(empty_database, tmp_path) -> Path:
    """`tmp_path/runs` with the database that a sweep there would have to make."""
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copyfile(empty_database, folder / "mlflow.db")
    return folder


@pytest.fixture
def experiment_file(tiny_base, tiny_tasks, tmp_path):
    """Writes an experiment over the tiny base and tasks; keyword arguments replace fields."""
    import yaml

    def write(name: str = "tiny", **fields) -> Path:
        document = {
            "name": name,
            "model": {"name": str(tiny_base)},
            "tasks": ["mood", "being"],
            "probes": ["prose"],
            "method": {
                "adapter": {
                    "kind": "curlora", "r": 4, "alpha": 2.0, "target_modules": ["q_proj", "v_proj"],
                }
            },
            "training": {
                "learning_rate": 0.02, "batch_size": 8, "max_length": 48, "precision": "fp32",
            },
            "data": {"probe_tokens": 200, "probe_context": 32, "rung_examples": 8},
            "storage": str(tmp_path / "runs"),
            **fields,
        }  # fmt: skip
        path = tiny_tasks / f"{name}-{tmp_path.name}.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return path

    return write


SEARCH = {
    "space": {
        "method.adapter.kind": {"choice": ["curlora", "lora"]},
        "method.adapter.r": {"choice": [2, 4]},
        "method.adapter.temperature": {
            "log_uniform": [0.05, 4.0], "when": {"method.adapter.kind": "curlora"},
        },
        "training.learning_rate": {"log_uniform": [0.001, 0.03]},
    },
    "searcher": "tpe",
    "trials": 3,
}  # fmt: skip


@pytest.fixture
def search() -> dict:
    """A search over kind, rank, temperature and learning rate."""
    return json.loads(json.dumps(SEARCH))


class Recorder:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.notes, self.lines, self.steps = [], [], []

    def note(self, text):
        self.notes.append(text)

    def line(self, line):
        self.lines.append(line)

    def progress(self, trial, progress):
        self.steps.append((trial, progress))

    def events(self, name):
        return [line for line in self.lines if line["event"] == name]


@pytest.fixture
def recorder() -> Recorder:
    """An observer that remembers."""
    return Recorder()


@pytest.fixture(scope="session")
def ray_cluster():
    """One local Ray for the whole session, left clean."""
    from orchestrator.cluster import connected

    with connected(None) as resources:
        yield resources
