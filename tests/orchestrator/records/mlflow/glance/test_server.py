"""A server is asked who has the alias; one that does not answer is said to be silent, soon."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from orchestrator.records.mlflow.glance import server as asking
from orchestrator.records.mlflow.glance.look import look
from orchestrator.records.mlflow.glance.server import NotAskedError, alias_on_server
from orchestrator.records.registry.by_hand import AliasSeen

ALIASED = "orchestrator.alias_version"


class Server(ThreadingHTTPServer):
    """Answers as MLflow's registry does; `alias` is the version that has the alias."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.alias, self.ours, self.asked, self.answer = "1", "1", [], None
        self.threads = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.threads.start()

    @property
    def uri(self):
        return f"http://127.0.0.1:{self.server_address[1]}/base"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        parts = urlsplit(self.path)
        fields = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.server.asked.append((parts.path, fields, self.headers.get("Authorization")))
        if self.server.answer is not None:
            self.server.answer(self)
            return
        model = {"name": "mine", "tags": [{"key": ALIASED, "value": self.server.ours}]}
        what = parts.path.removeprefix("/base/api/2.0/mlflow/")
        if what == "registered-models/search":
            ours = "'storage-id'" in fields["filter"] and "'demo'" in fields["filter"]
            document = {"registered_models": [model]} if ours else {}
        elif what == "registered-models/get":
            alias = self.server.alias
            aliases = [{"alias": "champion", "version": alias}] if alias else []
            document = {"registered_model": model | {"aliases": aliases}}
        else:
            tags = [{"key": "orchestrator.trial", "value": "t002"}]
            document = {"model_version": {"version": fields["version"], "tags": tags}}
        self.say(200, json.dumps(document).encode())

    def say(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(asking, "_silent", {})
    made = Server()
    yield made
    made.shutdown()
    made.server_close()


def test_the_alias_is_where_we_put_it_or_where_somebody_else_did(server):
    assert alias_on_server(server.uri, "storage-id", "demo") == AliasSeen("mine", "1", "1", {})
    assert len(server.asked) == 2
    server.alias = "2"
    seen = alias_on_server(server.uri, "storage-id", "demo")
    assert seen == AliasSeen("mine", "2", "1", {"trial": "t002"})
    server.alias = None
    assert alias_on_server(server.uri, "storage-id", "demo") == AliasSeen("mine", None, "1", {})
    assert alias_on_server(server.uri, "storage-id", "other") is None


def test_credentials_go_to_the_server_that_was_named_and_nowhere_else(server, monkeypatch):
    uri = server.uri.replace("//", "//ada:se%40me@")
    alias_on_server(uri, "storage-id", "demo")
    assert {sent for *_, sent in server.asked} == {"Basic YWRhOnNlQG1l"}
    server.asked.clear()
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "open")
    alias_on_server(server.uri, "storage-id", "demo")
    assert {sent for *_, sent in server.asked} == {"Bearer open"}
    server.asked.clear()
    elsewhere = Server()
    server.answer = lambda request: request.say(302, b"", Location=elsewhere.uri)
    with pytest.raises(NotAskedError, match="it answered 302"):
        alias_on_server(server.uri, "storage-id", "demo")
    assert elsewhere.asked == []
    elsewhere.shutdown()
    elsewhere.server_close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda request: request.say(401, b"who are you"), "it answered 401"),
        (lambda request: request.say(200, b"<html>a page</html>"), "did not answer as"),
        (lambda request: request.say(200, b'{"registered_models": [7]}'), "did not answer as"),
        (lambda request: time.sleep(1.5), "timed out"),
    ],
)
def test_what_answers_otherwise_is_not_asked_again_for_a_while(server, monkeypatch, answer, said):
    monkeypatch.setattr(asking, "_SECONDS", 0.3 if said == "timed out" else 30.0)
    server.answer = answer
    for _ in range(2):
        with pytest.raises(NotAskedError, match=said):
            alias_on_server(server.uri, "storage-id", "demo")
    assert len(server.asked) == 1
    server.answer = None
    monkeypatch.setattr(asking, "_silent", {})
    assert alias_on_server(server.uri, "storage-id", "demo") is not None


def test_a_look_says_why_it_could_not_be_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(asking, "_silent", {})
    monkeypatch.setattr("orchestrator.records.mlflow.glance.look.storage_identity", lambda *_: "i")
    begun = time.monotonic()
    found = look("http://127.0.0.1:1", tmp_path, "demo")
    assert (found.seen, found.unasked) == (None, "connection refused")
    assert time.monotonic() - begun < 2
    assert "SQLite" in look("postgresql://db/mlflow", tmp_path, "demo").unasked
    monkeypatch.setenv("MLFLOW_TRACKING_AWS_SIGV4", "true")
    monkeypatch.setattr(asking, "_silent", {})
    assert "AWS_SIGV4" in look("http://127.0.0.1:1", tmp_path, "demo").unasked
