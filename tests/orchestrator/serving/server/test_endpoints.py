"""What the server answers is what `predict` says, whoever else asks at the same time."""

import json
import re
import signal
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from orchestrator.data.prompts import rendered_prompt
from orchestrator.engines.generation import write_batch
from orchestrator.loop.scoring import rows_of
from orchestrator.serving.predictor import Predictor
from orchestrator.spec.task_files import parse_task
from tests.orchestrator.serving.server.conftest import ECHO, KINDS, MOOD

TEXTS = ["good the film good", "bad it is bad", "the dog and the very red cat it was this that",
         "lovely", "awful book awful and poor"]  # fmt: skip
ROWS = [{"text": text} for text in TEXTS]
QUIZZES = [{"what": "dog", "choices": ["animal", "thing"]},
           {"what": "very red book", "choices": ["animal", "thing two", "red"]}]  # fmt: skip


@pytest.fixture(scope="module")
def predictors(folders):
    made = {name: Predictor.from_folder(folder) for name, folder in folders.items()}
    return made | {"": Predictor.from_folder(folders["low"], adapter=False)}


def rows_for(task):
    return QUIZZES if task == "quiz" else ROWS


def events(answer):
    lines = [line for line in answer.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines[:-1]]


def test_labels_and_texts_are_those_of_predict_while_all_ask_at_once(
    client, served, predictors, tiny_base
):
    asked = [
        (name, task["name"])
        for name, (_, _, tasks) in KINDS.items()
        for task in tasks
    ] + [(tiny_base.name, "mood"), (tiny_base.name, "echo")]  # fmt: skip
    with client(pass_tokens=200) as server:

        def ask(name, task):
            body = {"model": name, "task": task, "rows": rows_for(task)}
            return server.post("/v1/classify", json=body)

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda one: ask(*one), asked))
    labels = set()
    for (name, task), answer in zip(asked, answers, strict=True):
        assert answer.status_code == 200, answer.text
        document = answer.json()
        wanted = predictors["" if name == tiny_base.name else name].predict(task, rows_for(task))
        for found, one in zip(document["data"], wanted, strict=True):
            assert found["label"] == one.label, (name, task)
            assert found["by_position"] == pytest.approx(list(one.by_position), abs=1e-5)
            assert found["probabilities"] == pytest.approx(one.probabilities, abs=1e-5)
        labels.add(str([found["label"] for found in document["data"]]))
        assert document["usage"]["prompt_tokens"] > 0
    assert len(labels) > 6, "adapters differ"


def test_completions_streamed_or_not_are_greedy_texts_of_their_adapter(client, served, predictors):
    task = parse_task(ECHO, "echo.yaml")
    prompts = [rendered_prompt(task, row, served.tokenizer) for row in ROWS]
    cases = [(name, prompt, stop) for stop in (None, "the") for prompt in prompts for name in KINDS]

    def alone(name, prompt, stop):
        wanted = SimpleNamespace(max_new_tokens=12, stop=[stop] if stop else [])
        model = predictors[name].model
        ids = served.tokenizer(prompt)["input_ids"]
        return write_batch(model, served.tokenizer, [ids], wanted, torch.device("cpu"))[0]

    with client(rows=5) as server:  # fewer places than texts: they join as others leave

        def ask(case):
            name, prompt, stop = case
            body = {"model": name, "prompt": prompt, "max_tokens": 12, "temperature": 0,
                    "stop": stop}  # fmt: skip
            whole = server.post("/v1/completions", json=body).json()
            with server.stream(
                "POST", "/v1/completions",
                json=body | {"stream": True, "stream_options": {"include_usage": True}},
            ) as answer:  # fmt: skip
                parts = events(answer)
            return whole, parts

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(ask, cases))
        shared = server.get("/metrics").text
    for case, (whole, parts) in zip(cases, answers, strict=True):
        [choice] = whole["choices"]
        assert choice["text"].strip() == alone(*case), case
        assert "".join(p["choices"][0]["text"] for p in parts[:-1]) == choice["text"]
        assert parts[-2]["choices"][0]["finish_reason"] == choice["finish_reason"]
        assert parts[-1]["usage"] == whole["usage"]
        assert len({p["id"] for p in parts}) == 1
    numbers = {
        m[1]: float(m[2])
        for m in re.finditer(r'^(\S+kind="write"\S*) (\S+)$', shared, re.MULTILINE)
    }
    assert (
        numbers['orchestrate_pass_adapters_total{kind="write"}']
        > 1.2 * (numbers['orchestrate_passes_total{kind="write"}'])
    ), "adapters share passes"


def test_log_probabilities_of_a_prompt_are_those_that_answers_are_made_of(
    client, served, predictors
):
    task = parse_task(MOOD, "mood.yaml")
    asking = predictors["cur"]._asking
    [question] = asking.questions(task, ROWS[:1])
    [values] = predictors["cur"]._engine.log_probabilities(rows_of([question]))
    prompts = [list(question.prompt + tail) for tail in question.continuations]
    body = {"model": "cur", "prompt": prompts, "max_tokens": 0, "echo": True, "logprobs": 2,
            "temperature": 0}  # fmt: skip
    with client() as server:
        choices = server.post("/v1/completions", json=body).json()["choices"]
        written = server.post(
            "/v1/completions", json=body | {"max_tokens": 3, "prompt": prompts[0]}
        ).json()["choices"][0]
    for choice, value, prompt in zip(choices, values, prompts, strict=True):
        found = choice["logprobs"]
        assert found["token_logprobs"][-1] == pytest.approx(value, abs=1e-5)
        assert found["token_logprobs"][0] is None
        assert len(found["tokens"]) == len(prompt)
        assert all(len(top) == 2 for top in found["top_logprobs"][1:])
        assert choice["text"] == served.tokenizer.decode(prompt)
    found = written["logprobs"]
    assert len(found["tokens"]) == len(prompts[0]) + 3
    for token, value, top in list(zip(*(found[k] for k in (
        "tokens", "token_logprobs", "top_logprobs")), strict=True))[-3:]:  # fmt: skip
        assert max(top, key=top.get) == token  # greedy
        assert top[token] == pytest.approx(value)
    assert list(found["text_offset"]) == sorted(found["text_offset"])


def test_drawn_texts_are_those_of_their_seed(client):
    body = {"model": "low", "prompt": "the film", "max_tokens": 12, "temperature": 1.5}

    def texts(server, **more):
        choices = server.post("/v1/completions", json=body | more).json()["choices"]
        return [choice["text"] for choice in choices]

    with client() as server:
        one = texts(server, seed=4)
        assert texts(server, seed=4) == one
        assert len({texts(server, seed=seed)[0] for seed in range(6)}) > 3
        assert texts(server, prompt=["the film"] * 2, seed=4)[0] == one[0]
        greedy = texts(server, temperature=0)
        assert texts(server, top_p=1e-9, seed=9) == greedy


def test_a_chat_is_rendered_by_the_bases_template(client, served):
    ask = {"model": "cur", "messages": [{"role": "user", "content": "the film"}], "max_tokens": 4,
           "temperature": 0, "logprobs": True, "top_logprobs": 1}  # fmt: skip
    with client() as server:
        refused = server.post("/v1/chat/completions", json=ask)
        assert refused.status_code == 400
        assert "no chat template" in refused.json()["error"]["message"]
        served.tokenizer.chat_template = (
            "{% for m in messages %}text : {{ m.content }} {% endfor %}label :"
        )
        try:
            chat = server.post("/v1/chat/completions", json=ask).json()
            content = [{"type": "text", "text": "the film"}]
            parts = ask | {"messages": [{"role": "user", "content": content}], "stream": True}
            with server.stream("POST", "/v1/chat/completions", json=parts) as answer:
                deltas = [e["choices"][0]["delta"] for e in events(answer)]
        finally:
            served.tokenizer.chat_template = None
        plain = server.post("/v1/completions", json={
            "model": "cur", "prompt": "text : the film label :", "max_tokens": 4, "temperature": 0,
        }).json()  # fmt: skip
    message = chat["choices"][0]["message"]
    assert message == {"role": "assistant", "content": plain["choices"][0]["text"]}
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == message["content"]
    content = chat["choices"][0]["logprobs"]["content"]
    assert len(content) == 4
    assert all(one["top_logprobs"][0]["token"] == one["token"] for one in content)


REFUSED = {
    "no such model": ("completions", {"model": "curr"}, 404, "model_not_found", "cur"),
    "no such field": ("completions", {"temprature": 1}, 400, "unknown_field", "temperature"),
    "another type": ("completions", {"temperature": "hot"}, 400, "invalid_value", "'hot'"),
    "too many tokens": ("completions", {"max_tokens": 99}, 400, "context_length_exceeded", "64"),
    "two answers": ("completions", {"n": 2}, 400, "invalid_value", "`n`"),
    "foreign token": ("completions", {"prompt": [5, 999]}, 400, "invalid_value", "999"),
    "nothing before": ("completions", {"prompt": ""}, 400, "invalid_value", "no tokens"),
    "empty stop": ("completions", {"stop": [""]}, 400, "invalid_value", "`stop`"),
    "many likeliest": ("completions", {"logprobs": 21}, 400, "invalid_value", "at most 20"),
    "nothing asked": ("completions", {"max_tokens": 0}, 400, "invalid_value", "echo"),
    "no such task": ("classify", {"task": "moot"}, 400, "invalid_value", "mood"),
    "task left out": ("classify", {"task": None}, 400, "invalid_value", "mood, quiz, echo"),
    "no column": ("classify", {"rows": [{"txt": "a"}]}, 400, "invalid_value", "lacks 'text'"),
    "no rows": ("classify", {"rows": []}, 400, "invalid_value", "`rows`"),
    "half a character": ("classify", {"rows": [{"text": "\ud83d"}]}, 400, "invalid_value", "half"),
    "heads of the base": ("classify", {"model": "BASE", "task": "headed"}, 400, "invalid_value",
                          "untouched base"),
}  # fmt: skip


def test_what_cannot_be_done_says_why_and_harms_nobody(client, served):
    bodies = {
        "completions": {"model": "cur", "prompt": "the film"},
        "classify": {"model": "cur", "task": "mood", "rows": [{"text": "the film"}]},
    }
    with client(body=5000) as server:
        for name, (where, changed, status, code, part) in REFUSED.items():
            body = bodies[where] | changed
            body["model"] = body["model"].replace("BASE", served.name)
            answer = server.post(
                f"/v1/{where}", content=json.dumps(body),
                headers={"Content-Type": "application/json"},
            )  # fmt: skip
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (status, code), (name, error)
            assert part in error["message"], (name, error)
            assert set(error) == {"message", "type", "param", "code"}
        headers = {"Content-Type": "application/json"}
        for content, more, status in (
            (b"{", headers, 400), (b"[1]", headers, 400), (b"[" * 4000, headers, 400),
            (b"{}", {"Content-Type": "text/plain"}, 415), (b" " * 6000, headers, 413),
            (b"{}", headers | {"Host": "evil.example"}, 403),
        ):  # fmt: skip
            answer = server.post("/v1/completions", content=content, headers=more)
            assert answer.status_code == status, (content[:9], more, answer.text)
            assert answer.json()["error"]["message"]
        assert server.get("/v1/nothing").status_code == 404
        assert server.get("/v1/completions").status_code == 405
        assert server.get("/health").json()["status"] == "ok"
        shown = server.get("/v1/models").json()["data"]
        assert [one["id"] for one in shown] == [served.name, *KINDS]
        assert server.get("/v1/models/cur").json()["parent"] == served.name
        assert server.post("/v1/classify", json=bodies["classify"]).status_code == 200


def until(holds, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_full_queue_a_lost_client_and_too_long_a_wait_are_told(client, served, monkeypatch):
    from orchestrator.serving.server.running_batch import RunningBatch

    step, slow = RunningBatch.step, threading.Event()

    def waiting(self, tokens):
        if slow.is_set():
            time.sleep(0.05)
        return step(self, tokens)

    monkeypatch.setattr(RunningBatch, "step", waiting)
    body = {"model": "cur", "prompt": "the film", "max_tokens": 40, "temperature": 0}
    slow.set()
    with client(rows=1, queue=2, seconds=1.0) as server, ThreadPoolExecutor(5) as threads:
        asked = [threads.submit(server.post, "/v1/completions", json=body) for _ in range(5)]
        answers = [one.result() for one in asked]
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses.count(429) in {2, 3}
        assert 408 in statuses
        full = next(answer for answer in answers if answer.status_code == 429)
        assert int(full.headers["Retry-After"]) >= 1
        assert "queue holds 2" in full.json()["error"]["message"]
        slow.clear()
        assert server.post("/v1/completions", json=body).status_code == 200
        # A failing pass fails who is in it, and nobody after them.
        monkeypatch.setattr(RunningBatch, "step", lambda *_: 1 / 0)
        failed = server.post("/v1/completions", json=body)
        assert failed.status_code == 500
        assert "ZeroDivisionError" in failed.json()["error"]["message"]
        monkeypatch.setattr(RunningBatch, "step", waiting)
        assert server.post("/v1/completions", json=body).status_code == 200
        until(lambda: not server.engine._rows)
        # At the end those in work are told.
        slow.set()
        left = threads.submit(server.post, "/v1/completions", json=body)
        time.sleep(0.2)
        server.engine.drain()
        assert left.result().status_code in {408, 200}
        assert server.post("/v1/completions", json=body).status_code == 503
        assert server.get("/health").status_code == 503


def test_a_process_answers_a_real_client_and_ends_in_order(process, folders, predictors):
    secret = "lovely lovely lovely cat"
    server, address, said = process(folders["cur"], folders["low"], "--grace", "20")
    assert any("cur" in line and "mood" in line for line in said)

    def ask(path, body):
        request = urllib.request.Request(
            address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        return urllib.request.urlopen(request, timeout=60)

    body = {"model": "low", "task": "mood", "rows": [{"text": secret}]}
    found = json.load(ask("/v1/classify", body))["data"][0]
    [wanted] = predictors["low"].predict("mood", [{"text": secret}])
    assert found["probabilities"] == pytest.approx(wanted.probabilities, abs=1e-5)
    metrics = urllib.request.urlopen(f"{address}/metrics", timeout=60).read().decode()
    assert 'orchestrate_requests_total{endpoint="/v1/classify",model="low",status="200"} 1.0' in (
        metrics
    )
    assert secret not in metrics
    stream = ask("/v1/completions", {"model": "cur", "prompt": secret, "max_tokens": 50,
                                     "temperature": 0, "stream": True})  # fmt: skip
    assert stream.readline().startswith(b"data: {")
    server.send_signal(signal.SIGTERM)
    rest = stream.read().decode()
    assert rest.endswith("data: [DONE]\n\n"), rest[-300:]  # who was in work has been answered
    out, err = server.communicate(timeout=60)
    assert server.returncode == 0, err
    assert out.endswith("Ended.\n")
    assert "Traceback" not in err
    assert secret not in "".join(said) + out + err
