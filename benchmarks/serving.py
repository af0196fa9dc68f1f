"""Four adapters and eight clients: requests in shared passes, against one adapter after another.

    .venv/bin/python benchmarks/serving.py                 # on .demo/SmolLM2-135M-Instruct
    .venv/bin/python benchmarks/serving.py --rounds 1

Adapters of four kinds are made on the demo's base (random numbers: time does not depend on them),
and served by `orchestrate serve` in a process of its own, in fp32. Eight clients ask one request
after the other, two clients for each adapter, over HTTP:

- `shared`: all clients at once;
- `loop`: the same requests one adapter at a time, both clients of that adapter at once;
- `alone`: one adapter and one client, for the latency of an idle server;
- `peft`: PEFT's own model and `generate`, one adapter at a time, batches of two (no HTTP).

The first two alternate within a round; ratios are of a round. Answers are compared with `predict`.
Results are in `serving.json` and `serving.md`.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[1]
BASE = ROOT / ".demo" / "SmolLM2-135M-Instruct"
LAYERS = ["q_proj", "k_proj", "v_proj"]
KINDS = {
    "curlora": {"r": 16, "alpha": 1.0},
    "lora": {"r": 8, "alpha": 16.0},
    "rslora": {"r": 16, "alpha": 16.0},
    "dora": {"r": 4, "alpha": 8.0},
}
CLIENTS = 8


def made(root: Path) -> dict[str, Path]:
    """A model folder of each kind, with the task of film reviews."""
    import torch
    import yaml
    from transformers import AutoModelForCausalLM

    import curlora
    from orchestrator.base.identity import base_sha256, setup_sha256
    from orchestrator.spec.sections import ModelSpec

    task = yaml.safe_load((ROOT / "experiments/tasks/movie_sentiment.yaml").read_text("utf-8"))
    echo = {
        "name": "review", "kind": "generation", "data": {"files": "."},
        "prompt": "Write a short review of a film.\nTitle: {text}\nReview:", "max_new_tokens": 24,
    }  # fmt: skip
    spec = ModelSpec(name=str(BASE))
    hashes = {"sha256": base_sha256(spec), "setup_sha256": setup_sha256(spec)}
    found: dict[str, Path] = {}
    for seed, (kind, settings) in enumerate(KINDS.items()):
        base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
        model = curlora.attach(base, kind, {**settings, "target_modules": LAYERS}, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in curlora.trainable_parameters(model).values():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.01)
        folder = root / kind
        curlora.save_adapter(model, folder / "adapter")
        document = {
            "base": {"name": str(BASE), **hashes}, "precision": "fp32", "max_length": 128,
            "tasks": {"movie_sentiment": task, "review": echo}, "trial": "t001", "sweep": kind,
        }  # fmt: skip
        (folder / "model.json").write_text(json.dumps(document), encoding="utf-8")
        found[kind] = folder
    return found


def texts() -> list[str]:
    """Reviews of films, to be asked about."""
    lines = (ROOT / ".demo/data/movie_sentiment/test.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


class Server:
    """`orchestrate serve` in a process of its own."""

    def __init__(self, folders: dict[str, Path]) -> None:
        command = [sys.executable, "-m", "orchestrator", "serve", *map(str, folders.values())]
        command += ["--port", "0", "--device", "cpu"]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
        began = time.monotonic()
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.address = ""
        for line in self._process.stdout:
            if line.startswith("Answering at "):
                self.address = line.split()[2]
                break
        self.start_s = time.monotonic() - began

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """The answer to a request."""
        request = urllib.request.Request(
            self.address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        return urllib.request.urlopen(request, timeout=600)

    def cpu_s(self) -> float:
        """CPU seconds of the server so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> int:
        """End it; its exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)


def client(server: Server, kind: str, prompts: list[str], tokens: int) -> list[dict[str, Any]]:
    """One client, who asks one request after the other and reads its stream."""
    found: list[dict[str, Any]] = []
    for prompt in prompts:
        began, first, parts = time.monotonic(), 0.0, []
        body = {"model": kind, "prompt": prompt, "max_tokens": tokens, "temperature": 0,
                "stream": True, "stream_options": {"include_usage": True}}  # fmt: skip
        with server.ask("/completions", body) as answer:
            for line in answer:
                if line.startswith(b"data: {"):
                    first = first or time.monotonic() - began
                    parts.append(json.loads(line[6:]))
        text = "".join(p["choices"][0]["text"] for p in parts if p["choices"])
        found.append({
            "kind": kind, "prompt": prompt, "text": text, "seconds": time.monotonic() - began,
            "first": first, "tokens": parts[-1]["usage"]["completion_tokens"],
        })  # fmt: skip
    return found


def timed(server: Server, groups: list[list[tuple[str, list[str]]]], most: int) -> dict[str, Any]:
    """Groups of clients one after the other, the clients of a group at once."""
    began, cpu = time.monotonic(), server.cpu_s()
    answers: list[dict[str, Any]] = []
    for group in groups:
        with ThreadPoolExecutor(len(group)) as threads:
            for part in threads.map(lambda one: client(server, *one, most), group):
                answers += part
    wall, cpu = time.monotonic() - began, server.cpu_s() - cpu
    tokens = sum(one["tokens"] for one in answers)
    return {"wall_s": wall, "cpu_s": cpu, "tokens": tokens, "tokens_per_s": tokens / wall,
            "tokens_per_cpu_s": tokens / cpu, "answers": answers}  # fmt: skip


def peft_loop(
    folders: dict[str, Path], asked: list[tuple[str, list[str]]], most: int
) -> dict[str, Any]:
    """PEFT's own models, one adapter at a time, the requests of its two clients in pairs."""
    import torch

    from orchestrator.engines.generation import write_batch
    from orchestrator.serving.predictor import Predictor

    task = SimpleNamespace(max_new_tokens=most, stop=[])
    tokens, wall, texts_of = 0, 0.0, dict[tuple[str, str], str]()
    for kind, folder in folders.items():
        predictor = Predictor.from_folder(folder)  # loading is not timed
        mine = [prompts for name, prompts in asked if name == kind]
        began = time.monotonic()
        for pair in zip(*mine, strict=True):
            ids = [predictor.tokenizer(prompt)["input_ids"] for prompt in pair]
            written = write_batch(
                predictor.model, predictor.tokenizer, ids, task, torch.device("cpu")
            )
            for prompt, text in zip(pair, written, strict=True):
                texts_of[kind, prompt] = text or ""
                tokens += len(predictor.tokenizer(text)["input_ids"])
        wall += time.monotonic() - began
    return {"wall_s": wall, "tokens": tokens, "tokens_per_s": tokens / wall, "texts": texts_of}


def compared(server: Server, folders: dict[str, Path], rows: list[str]) -> dict[str, Any]:
    """Answers of the server against those of `predict`: labels, probabilities, greedy texts."""
    from orchestrator.serving.predictor import Predictor

    largest, labels, same, count = 0.0, 0, 0, 0
    for kind, folder in folders.items():
        predictor = Predictor.from_folder(folder)
        asked = [{"text": text} for text in rows]
        body = {"model": kind, "task": "movie_sentiment", "rows": asked}
        with server.ask("/classify", body) as answer:
            found = json.load(answer)["data"]
        for one, wanted in zip(found, predictor.predict("movie_sentiment", asked), strict=True):
            labels += one["label"] == wanted.label
            gaps = [abs(one["probabilities"][k] - v) for k, v in wanted.probabilities.items()]
            largest, count = max(largest, *gaps), count + 1
        body |= {"task": "review", "rows": asked[:8]}
        with server.ask("/classify", body) as answer:
            found = json.load(answer)["data"]
        wanted_texts = predictor.predict("review", asked[:8])
        same += sum(a["label"] == b.label for a, b in zip(found, wanted_texts, strict=True))
    return {"rows": count, "same_labels": labels, "largest_difference": largest,
            "texts": 8 * len(folders), "same_texts": same}  # fmt: skip


def quantile(values: list[float], share: float) -> float:
    """The smallest value that so large a share does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def latencies(answers: list[dict[str, Any]]) -> dict[str, float]:
    """p50 and p99 of whole requests and of their first texts, in seconds."""
    return {
        f"{name}_p{round(share * 100)}": quantile([one[key] for one in answers], share)
        for name, key in (("request", "seconds"), ("first_text", "first"))
        for share in (0.5, 0.99)
    }


def main() -> None:
    """Measure, print and write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--requests", type=int, default=3, help="of each client in a round")
    options.add_argument("--tokens", type=int, default=48, help="of each answer at most")
    options.add_argument("--rows", type=int, default=40, help="compared with `predict`")
    options.add_argument("--to", type=Path, default=Path(__file__).with_suffix(".json"))
    chosen = options.parse_args()
    each, most = chosen.requests, chosen.tokens
    with tempfile.TemporaryDirectory() as scratch:
        folders = made(Path(scratch))
        reviews = texts()
        prompts = [f"Write a short review of a film.\nTitle: {text}\nReview:" for text in reviews]
        asked = [
            (list(KINDS)[number // 2], prompts[number * each : (number + 1) * each])
            for number in range(CLIENTS)
        ]
        by_adapter = [[one for one in asked if one[0] == kind] for kind in KINDS]
        server = Server(folders)
        try:
            for kind in KINDS:
                client(server, kind, prompts[-1:], 2)  # warm
            rounds: list[dict[str, Any]] = []
            shared_answers: list[dict[str, Any]] = []
            for number in range(chosen.rounds):
                shared, loop = timed(server, [asked], most), timed(server, by_adapter, most)
                shared_answers += shared["answers"]
                texts_differ = differing(shared.pop("answers"), loop.pop("answers"))
                ratios = {
                    f"ratio_{name}": shared[name] / loop[name]
                    for name in ("tokens_per_s", "tokens_per_cpu_s")
                }
                rounds.append({"shared": shared, "loop": loop, **ratios, "differ": texts_differ})
                print(number, json.dumps(rounds[-1]))
            alone = timed(server, [[("curlora", prompts[:4])]], most)
            found = {
                "machine": platform.processor() or platform.machine(),
                "cpus": len(os.sched_getaffinity(0)),
                "python": platform.python_version(),
                "adapters": KINDS, "layers": LAYERS, "clients": CLIENTS, "requests": each,
                "max_tokens": most, "start_s": server.start_s, "rounds": rounds,
                "ratio_tokens_per_s": statistics.median(r["ratio_tokens_per_s"] for r in rounds),
                "ratio_tokens_per_cpu_s": statistics.median(
                    r["ratio_tokens_per_cpu_s"] for r in rounds
                ),
                "latency_8_clients": latencies(shared_answers),
                "latency_1_client": latencies(alone["answers"]),
            }  # fmt: skip
            chosen.to.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            agreement = compared(server, folders, reviews[: chosen.rows])
        finally:
            status = server.end()
        peft = peft_loop(folders, asked, most)
        ours = {(one["kind"], one["prompt"]): one["text"].strip() for one in shared_answers}
        same = sum(ours[key] == text for key, text in peft.pop("texts").items())
        found |= {
            "exit_status": status,
            "peft_loop": peft | {"same_texts_as_server": same, "texts": len(ours)},
            "against_predict": agreement,
        }
    chosen.to.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in found.items() if k != "rounds"}, indent=1))


def differing(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> int:
    """How many requests were answered with different texts."""
    first = {(a["kind"], a["prompt"]): a["text"] for a in one}
    return sum(first[a["kind"], a["prompt"]] != a["text"] for a in other)


if __name__ == "__main__":
    main()
