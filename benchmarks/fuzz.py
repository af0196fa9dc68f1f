"""Damaged inputs in their thousands: each must be read, or refused with one message of ours.

    python -m benchmarks.fuzz                      # 300 cases of every format
    python -m benchmarks.fuzz --cases 3000 jsonl parquet
    python -m benchmarks.fuzz --seed 7 --only 41 adapter    # one case again, with its traceback

A sound input of each format is damaged by a seeded mutator (bytes for every format; keys, values,
tensors for those with a structure) and then used as the commands use it: a file of rows is split,
checked and rendered, a base is looked at and loaded, an adapter is put on its base and asked. What
is printed is every *escape*: an exception that is not written for people, a message of several
lines where one is wanted, an adapter that lacks a tensor and loads, over 10 seconds of computing,
more than a gigabyte of memory, or the end of the process. A child process does the work, so that an
escape of the last kind costs one case.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 10.0
"""Computing time of one case."""
WALL_SECONDS = 600.0
"""After which a case hangs, on a machine that may be busy with other things."""
MEMORY = 1 << 30
"""Bytes that one case may add to the largest size of the process."""
REFUSED, READ = "refused", "read"


@dataclass(frozen=True)
class Format:
    """One kind of input."""

    make: Callable[[Path], None]
    """Writes a sound input into an empty folder."""
    damage: Callable[[Path, random.Random], bool]
    """Damages it; True: whoever reads it must refuse it."""
    use: Callable[[Path], object]


# --- damage --------------------------------------------------------------------------------------

TOKENS = [
    b"", b"\0", b"\xff", b"\xef\xbb\xbf", b'"', b"'", b"\n", b"\r", b"\t", b",", b":", b"{", b"}",
    b"[", b"]", b"NaN", b"Infinity", b"null", b"-1", b"1e999", b"\\ud83d", b"\xf0\x9f\x98\x80",
    b"&a", b"*a",
    b"!!python/object:os.system", b"<<: ", b"%", b"\xe2\x80\xa8", b"9" * 5000, b"[" * 3000,
]  # fmt: skip
HOSTILE: list[Any] = [
    None, True, -1, 0, 2**31, 2**70, 1.5, float("nan"), float("inf"), "", "x", "\ud83d", "{",
    "a" * 5000, [], [[]], {}, {"a": None}, [None], "../../etc", "{text.__class__}", "1e400",
]  # fmt: skip


def damage_bytes(path: Path, chance: random.Random) -> None:
    """One to four small changes anywhere in a file, or its end cut off."""
    data = bytearray(path.read_bytes())
    for _ in range(chance.randint(1, 4)):
        at, length = chance.randrange(len(data) + 1), chance.choice([0, 1, 1, 2, 8, 64])
        kind = chance.randrange(6)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del data[at : len(data) if chance.random() < 0.2 else at + length]
        elif kind == 2:
            start = chance.randrange(len(data) + 1)
            data[at:at] = data[start : start + length]
        else:
            data[at : at + chance.choice([0, 0, 1])] = chance.choice(TOKENS)
    path.write_bytes(data)


def damage_document(document: Any, chance: random.Random) -> Any:
    """A JSON document with one node replaced, removed or renamed."""
    places = [(None, None), *_places(document)]
    holder, key = chance.choice(places[1:] or places)
    if holder is None:
        return chance.choice(HOSTILE)
    kind = chance.randrange(5)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[chance.choice(["", "x", key + "s", key[:-1]])] = holder.pop(key)
    elif kind == 2:
        other, where = chance.choice(places[1:])
        holder[key] = json.loads(json.dumps(other[where]))
    else:
        holder[key] = chance.choice(HOSTILE)
    return document


def _places(node: Any) -> Iterable[tuple[Any, Any]]:
    pairs = list(node.items() if isinstance(node, dict) else enumerate(node)) if isinstance(
        node, dict | list) else []  # fmt: skip
    for key, value in pairs:
        yield node, key
        yield from _places(value)


def damage_json(path: Path, chance: random.Random) -> None:
    """Damage a JSON file, as a document or as bytes."""
    if chance.random() < 0.4:
        damage_bytes(path, chance)
        return
    document = damage_document(json.loads(path.read_text()), chance)
    path.write_text(json.dumps(document), encoding="utf-8", errors="surrogatepass")


def damage_yaml(path: Path, chance: random.Random) -> None:
    """Damage a YAML file, as a document or as bytes."""
    import yaml

    if chance.random() < 0.5:
        damage_bytes(path, chance)
        return
    document = damage_document(yaml.safe_load(path.read_text()), chance)
    text = json.dumps(document) if chance.random() < 0.5 else yaml.safe_dump(document)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")


def damage_tensors(path: Path, chance: random.Random, kinds: int = 6) -> bool:
    """Damage a safetensors file; say whether it must be refused whatever else it is."""
    from safetensors.torch import load_file, save_file

    kind = chance.randrange(kinds)
    if kind == 0:
        damage_bytes(path, chance)
        return False
    if kind == 1:
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = damage_document(json.loads(data[8 : 8 + length]), chance)
        text = json.dumps(header).encode("utf-8", "surrogatepass")
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
        return False
    tensors = load_file(path)
    name = chance.choice(sorted(tensors))
    tensor = tensors[name].clone()
    if kind == 2:
        tensors[name + "x"] = tensors.pop(name)
    elif kind == 3:
        del tensors[name]
    elif kind == 4:
        tensors[name] = tensor.reshape(-1)[: max(1, tensor.numel() - 1)].clone()
    elif tensor.is_floating_point():
        wrong = chance.choice([float("nan"), float("inf")])
        tensor.view(-1)[chance.randrange(tensor.numel())] = wrong
        tensors[name] = tensor
    else:
        tensor.view(-1)[chance.randrange(tensor.numel())] = chance.choice([-1, 10**6])
        tensors[name] = tensor
    if tensors:
        save_file(tensors, path)
    return bool(tensors)


def damage_names(path: Path, chance: random.Random) -> bool:
    """As `damage_tensors`, every number left as it is."""
    return damage_tensors(path, chance, kinds=5)


def one_of(*damages: tuple[str, Callable[[Path, random.Random], object]]) -> Callable[..., bool]:
    """Damages one of several files of a folder."""

    def damage(folder: Path, chance: random.Random) -> bool:
        pattern, change = chance.choice(damages)
        return change(chance.choice(sorted(folder.glob(pattern))), chance) is True

    return damage


# --- rows ----------------------------------------------------------------------------------------

TASK = """name: t
kind: classification
data: {files: data, columns: {said: "messages.user.content"}}
prompt: "{text} / {said} is"
labels: {"0": " bad", "1": " good"}
"""


def _rows() -> list[dict[str, Any]]:
    return [
        {
            "text": f'row {n} says "so" and é \U0001f600', "label": n % 2, "number": n / 3,
            "messages": [
                {"role": "user", "content": f"ask {n}"}, {"role": "assistant", "content": "a"}
            ],
        }
        for n in range(30)
    ]  # fmt: skip


def write_rows(folder: Path, name: str) -> None:
    """A task file and its data in one of the formats."""
    (folder / "data").mkdir()
    (folder / "t.yaml").write_text(TASK)
    path = folder / "data" / name
    if name.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet

        pyarrow.parquet.write_table(pa.Table.from_pylist(_rows()), path, row_group_size=10)
        return
    if ".jsonl" in name:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows())
    else:
        mark = "," if ".csv" in name else "\t"
        (folder / "t.yaml").write_text(TASK.replace("messages.user.content", "number"))
        quoted = [
            mark.join(['"' + str(row["text"]).replace('"', '""') + '"', str(row["label"]),
                       f'"{row["number"]}\nmore"' if n == 5 else str(row["number"])])
            for n, row in enumerate(_rows())
        ]  # fmt: skip
        text = "\n".join([mark.join(["text", "label", "number"]), *quoted]) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())


def damage_lines(path: Path, chance: random.Random) -> None:
    """Damage a file of JSON lines as bytes, or one of its rows as a document."""
    if chance.random() < 0.5:
        damage_bytes(path, chance)
        return
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for index in chance.sample(range(len(rows)), chance.randint(1, len(rows))):
        rows[index] = damage_document(rows[index], chance)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def use_task(folder: Path) -> object:
    """What `orchestrate tasks check` does, and the words of every label."""
    from rich.console import Console

    from orchestrator.cli.output.task_check import as_document, render
    from orchestrator.data.inspect_task import check_task
    from orchestrator.data.sources.reading import source_sha256
    from orchestrator.spec.task_files import load_task

    task = load_task(folder / "t.yaml")
    source_sha256(task.data)
    checked = check_task(task)
    with Path(os.devnull).open("w") as nowhere:
        Console(file=nowhere).print(render(checked))
    json.dumps(as_document(checked), default=str).encode()
    return checked


def rows_format(
    name: str, damage: Callable[[Path, random.Random], object] = damage_bytes
) -> Format:
    """The format of a file of rows."""
    return Format(lambda f: write_rows(f, name), one_of((f"data/{name}", damage)), use_task)


# --- models --------------------------------------------------------------------------------------


def write_base(folder: Path) -> None:
    """A tiny Llama with a word tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {w: i for i, w in enumerate(["<unk>", "</s>", "bad", "good", "is", "row", "/"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
            tie_word_embeddings=False,
        )
    ).save_pretrained(folder)  # fmt: skip


QUESTION = {
    "name": "t", "kind": "classification", "data": {"files": "x"}, "prompt": "{text} is",
    "labels": {"0": " bad", "1": " good"},
}  # fmt: skip


def use_base(folder: Path) -> object:
    """What `plan` reads of a base, and what a trial loads and asks."""
    from orchestrator.base import config, facts, files, identity, loading
    from orchestrator.data.encoding import encode_question
    from orchestrator.spec.sections import ModelSpec
    from orchestrator.spec.task_files import parse_task

    spec = ModelSpec(name=str(folder))
    files.check_files(spec)
    for ask in (
        facts.base_facts, facts.linear_shapes, config.context_length,
        config.base_dropout, config.model_type, identity.base_sha256,
    ):  # fmt: skip
        ask(spec)
    tokenizer = loading.load_tokenizer(spec)
    task: Any = parse_task(QUESTION, "t.yaml")
    encode_question(task, {"text": "row / row", "label": "0"}, tokenizer, 32)
    return loading.load_base(spec, "fp32")


def write_model(folder: Path, kind: str, settings: dict[str, Any]) -> None:
    """A model folder: a tiny base, an adapter of some kind on it, and model.json."""
    import torch

    import curlora
    from orchestrator.base.loading import load_base
    from orchestrator.spec.sections import ModelSpec

    base = folder / "base"
    write_base(base)
    model = curlora.attach(load_base(ModelSpec(name=str(base)), "fp32"), kind, settings, seed=0)
    with torch.no_grad():
        for number, parameter in enumerate(curlora.trainable_parameters(model).values()):
            parameter.add_(0.01 * (number + 1))
    curlora.save_adapter(model, folder / "adapter")
    document = {
        "base": {"name": str(base), "revision": None, "gguf": None, "quantization": None},
        "precision": "fp32", "max_length": 32, "tasks": {"t": QUESTION},
    }  # fmt: skip
    (folder / "model.json").write_text(json.dumps(document))


def use_model(folder: Path) -> object:
    """What `orchestrate predict` does with a model folder."""
    from orchestrator.serving.predictor import Predictor

    # The folder was copied, and its base came along.
    text = (folder / "model.json").read_text()
    moved = re.sub(r'(?<="name": ")[^"]*/base(?=")', lambda _: str(folder / "base"), text)
    (folder / "model.json").write_text(moved)
    predictor = Predictor.from_folder(folder)
    return [predictor.predict(task, [{"text": "row / row"}]) for task in predictor.tasks]


def use_model_json(folder: Path) -> object:
    """As `use_model`, with a model.json that need not be JSON."""
    from orchestrator.serving.find import asked_tasks

    asked_tasks(folder)
    return use_model(folder)


def model_format(kind: str, settings: dict[str, Any]) -> Format:
    """The format of a model folder with an adapter."""
    return Format(
        lambda folder: write_model(folder, kind, settings),
        one_of(
            ("adapter/adapter_model.safetensors", damage_tensors),
            ("adapter/adapter_model.safetensors", damage_tensors),
            ("adapter/*.json", damage_json),
        ),
        use_model,
    )


def write_experiment(folder: Path) -> None:
    """An experiment file with its task and base."""
    write_rows(folder, "train.jsonl")
    write_base(folder / "base")
    (folder / "e.yaml").write_text(
        """name: e
model: {name: ./base}
tasks: [t]
method: {adapter: {kind: curlora, r: 4, target_modules: [q_proj]}}
training: {learning_rate: 0.02, batch_size: 8, max_length: 48, precision: fp32}
search:
  space: {training.learning_rate: {log_uniform: [1.0e-4, 0.1]}, method.adapter.r: {choice: [2, 4]}}
  trials: 4
objectives: {gain: max}
champion: {maximize: gain, subject_to: {}}
resources: {executor: local}
storage: ./runs
"""
    )


def use_experiment(folder: Path) -> object:
    """What every command does first."""
    from orchestrator.spec.load import load_experiment

    return load_experiment(folder / "e.yaml")


ADAPTER = {"r": 2, "target_modules": ["q_proj", "v_proj"]}
FORMATS = {
    "jsonl": rows_format("train.jsonl", damage_lines),
    "csv": rows_format("train.csv"),
    "tsv": rows_format("train.tsv"),
    "gzip": rows_format("train.csv.gz"),
    "parquet": rows_format("train.parquet"),
    "task": Format(
        lambda f: write_rows(f, "train.jsonl"), one_of(("t.yaml", damage_yaml)), use_task
    ),
    "experiment": Format(write_experiment, one_of(("e.yaml", damage_yaml)), use_experiment),
    "config": Format(write_base, one_of(("config.json", damage_json)), use_base),
    "tokenizer": Format(write_base, one_of(("tokenizer*.json", damage_json)), use_base),
    "weights": Format(write_base, one_of(("model.safetensors", damage_names)), use_base),
    "curlora": model_format("curlora", ADAPTER),
    "lora": model_format("lora", ADAPTER),
    "pissa": model_format("pissa", ADAPTER),
    "secura": model_format("secura", ADAPTER),
    "full": Format(
        lambda f: write_model(f, "full", {}), one_of(("adapter/model.safetensors", damage_tensors)),
        use_model,
    ),
    "model.json": Format(
        lambda f: write_model(f, "lora", ADAPTER), one_of(("model.json", damage_json)),
        use_model_json,
    ),
}  # fmt: skip


# --- running -------------------------------------------------------------------------------------


def ours() -> tuple[type[Exception], ...]:
    """The errors whose message is written for people."""
    from orchestrator.system.user_error import UserError

    return (UserError,)


def run_case(kind: str, sound: Path, seed: str) -> tuple[str, str]:
    """Damage a copy of a sound input and use it.

    Args:
        kind: A key of `FORMATS`.
        sound: A folder with the sound input.
        seed: Of the damage.

    Returns:
        `READ`, `REFUSED` or what escaped, and the message.
    """
    form = FORMATS[kind]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "input"
        shutil.copytree(sound, folder)
        must_refuse = form.damage(folder, random.Random(seed))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        try:
            form.use(folder)
        except ours() as error:
            message = str(error)
            one_line = message.isprintable() or kind in {
                "task",
                "experiment",
                "model.json",
                "journal",
                "trial",
            }
            outcome = REFUSED if one_line else "not one line"
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            frames = traceback.format_exception(error)
            return f"escaped: {type(error).__name__}", "".join(frames)[-2500:]
        else:
            outcome, message = READ, ""
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    if grown > MEMORY:
        return "memory", f"{grown / 2**20:,.0f} MiB. {message}"
    return ("not refused", "") if must_refuse and outcome == READ else (outcome, message)


def _child(kind: str, sound: Path, seeds: list[str], pipe: Any) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    limit = 16 << 30
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    if not sound.is_dir():
        sound.mkdir()
        FORMATS[kind].make(sound)
    # The sound input must be read, and what is imported for it is nobody's time or memory.
    FORMATS[kind].use(Path(shutil.copytree(sound, sound.parent / f"first-{os.getpid()}")))
    for seed in seeds:
        signal.alarm(int(WALL_SECONDS))
        pipe.send((seed, None, None))
        begun = time.process_time()
        outcome, message = run_case(kind, sound, seed)
        if time.process_time() - begun > SECONDS:
            outcome, message = "slow", f"{time.process_time() - begun:.1f} s. {outcome} {message}"
        pipe.send((seed, outcome, message))


def run(kind: str, seeds: list[str]) -> dict[str, tuple[str, str]]:
    """Every case of a format, in a child process that is begun again when a case ends it.

    Args:
        kind: A key of `FORMATS`.
        seeds: One a case.

    Returns:
        Outcome and message of each case.

    Raises:
        RuntimeError: If the sound input itself is not read.
    """
    results: dict[str, tuple[str, str]] = {}
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as scratch:
        sound = Path(scratch) / "sound"
        while left := [seed for seed in seeds if seed not in results]:
            receiver, sender = context.Pipe(duplex=False)
            child = context.Process(target=_child, args=(kind, sound, left, sender))
            child.start()
            sender.close()
            begun = None
            try:
                while True:
                    begun, outcome, message = receiver.recv()
                    if outcome is not None:
                        results[begun] = (outcome, message)
            except EOFError:
                child.join()
            if begun is None:
                raise RuntimeError(f"The sound input of {kind} was not read ({child.exitcode}).")
            if begun not in results:
                hung = child.exitcode == -signal.SIGALRM
                results[begun] = ("hang" if hung else f"ended: {child.exitcode}", "")
    return results


def _with_records() -> None:
    """Add the records of a sweep, which are damaged in a file of their own."""
    from benchmarks import fuzz_outside as outside
    from benchmarks import fuzz_records as records

    FORMATS["journal"] = Format(records.write_sweep, records.damage_journal, records.use_journal)
    FORMATS["trial"] = Format(
        records.write_sweep, records.damage_journal, records.use_model_of_sweep
    )
    FORMATS["card"] = Format(outside.write_champion, outside.damage_card, outside.use_cards)
    FORMATS["registry"] = Format(
        outside.write_registry, outside.damage_registry, outside.use_registry
    )
    FORMATS["request"] = Format(
        outside.write_requests, outside.damage_request, outside.use_requests
    )
    FORMATS["bundle"] = Format(outside.write_bundle, outside.damage_bundle, outside.use_bundle)
    FORMATS["model-card"] = Format(
        outside.write_model_card, outside.damage_model_card, outside.use_model_card
    )


def main() -> None:
    """Run the formats that are named, print a table and every escape."""
    _with_records()
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("formats", nargs="*", choices=[*FORMATS, []], help="all by default")
    parser.add_argument("--cases", type=int, default=300, help="of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this case alone")
    parser.add_argument("--show", action="store_true", help="print the messages as well")
    chosen = parser.parse_args()
    numbers = range(chosen.cases) if chosen.only is None else [chosen.only]
    escapes = 0
    for kind in chosen.formats or FORMATS:
        begun = time.monotonic()
        results = run(kind, [f"{kind}/{chosen.seed}/{number}" for number in numbers])
        counts = Counter(outcome for outcome, _ in results.values())
        wrong = {s: r for s, r in results.items() if r[0] not in {READ, REFUSED}}
        escapes += len(wrong)
        shown = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
        took = time.monotonic() - begun
        print(f"{kind}: {len(results)} cases, {shown} ({took:.0f} s)", flush=True)
        if chosen.show:
            for message in sorted({message for _, message in results.values() if message}):
                print(f"    {message[:400]!r}")
        for seed, (outcome, message) in wrong.items():
            print(f"  {seed}: {outcome}\n{message}", flush=True)
    sys.exit(1 if escapes else 0)


if __name__ == "__main__":
    main()
