"""Model folders of several kinds on the tiny base, as they travel, and a server over them."""

import itertools
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

PROMPT = "text : {text} label :"
MOOD = {
    "name": "mood", "kind": "classification", "data": {"files": "."}, "prompt": PROMPT,
    "labels": {"negative": " negative", "positive": " positive"},
}  # fmt: skip
QUIZ = {
    "name": "quiz", "kind": "multiple_choice", "data": {"files": "."}, "prompt": "the {what} is",
    "metric": "accuracy_norm",
}  # fmt: skip
ECHO = {
    "name": "echo", "kind": "generation", "data": {"files": "."}, "prompt": PROMPT,
    "target": " {target}", "max_new_tokens": 9, "stop": ["dog", "red"],
}  # fmt: skip
HEADED = {**MOOD, "name": "headed", "head": "linear"}
KINDS = {
    "cur": ("curlora", {"r": 8, "alpha": 2.0, "target_modules": "all-linear"}, [MOOD, QUIZ, ECHO]),
    "cur2": ("curlora", {"r": 4, "selection_seed": 1, "target_modules": ["q_proj", "up_proj"]},
             [MOOD, ECHO]),
    "low": ("lora", {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"]},
            [MOOD, QUIZ, ECHO, HEADED]),
    "magnitude": ("dora", {"r": 2, "target_modules": ["q_proj", "o_proj"]}, [MOOD, ECHO]),
}  # fmt: skip


@pytest.fixture(scope="session")
def folders(write_model, tmp_path_factory):
    """By name, a model folder of each of `KINDS`."""
    root = tmp_path_factory.mktemp("models")
    return {
        name: write_model(root / name, *made, seed=seed)
        for seed, (name, made) in enumerate(KINDS.items())
    }


@pytest.fixture(scope="session")
def served(folders, tmp_path_factory):
    """The tiny base with all of them."""
    from orchestrator.serving.server.served import load_served

    places = [str(folder) for folder in folders.values()]
    return load_served(places, tmp_path_factory.mktemp("none"), None, note=lambda text: None)


@pytest.fixture
def client(served):
    """Makes a client of a server in this process, with limits of one's own."""
    from starlette.testclient import TestClient

    from orchestrator.serving.server.endpoints import Endpoints
    from orchestrator.serving.server.engine import Engine
    from orchestrator.serving.server.limits import Limits
    from orchestrator.serving.server.metrics import Metrics
    from orchestrator.serving.server.orders import Orders

    @contextmanager
    def make(base=None, **limits):
        found = Limits(**{"length": 64, **limits})
        metrics = Metrics()
        engine = Engine(base or served, found, metrics)
        endpoints = Endpoints(engine, Orders(base or served, found, itertools.count()), metrics)
        app = endpoints.application(["localhost"])
        with TestClient(app, base_url="http://localhost") as one:
            yield SimpleNamespace(get=one.get, post=one.post, stream=one.stream, engine=engine)

    return make


@pytest.fixture
def process(tmp_path):
    """Starts `orchestrate serve` in a process of its own; gives it and its address."""
    running = []

    def start(*words):
        command = [sys.executable, "-m", "orchestrator", "serve", *map(str, words), "--port", "0"]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": ""}
        server = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        running.append(server)
        said = []
        for line in server.stdout:
            said.append(line)
            if line.startswith("Answering at "):
                return server, line.split()[2].removesuffix("/v1"), said
        raise AssertionError(said + server.stderr.readlines())

    yield start
    for server in running:
        if server.poll() is None:
            server.send_signal(signal.SIGKILL)
        server.communicate(timeout=30)
