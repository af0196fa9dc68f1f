"""Sending to the hub, against a stand-in of what its client talks to."""

import base64
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from orchestrator.serving.hub.push import PushError, check_repository, without_secrets

TOKEN = "hf_" + "secretsecret" * 3


class StandIn(BaseHTTPRequestHandler):
    """As much of the hub as `create_repo` and `upload_folder` ask for."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Nothing is printed."""

    def _answer(self, document, status=200):
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Authorization"), None))
        self._answer({"sha": "0" * 40, "siblings": [], "id": "me/it", "name": "me"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.path, self.headers.get("Authorization"), body))
        address = f"http://127.0.0.1:{self.server.server_port}"
        if self.server.refuses:
            self._answer({"error": f"no right with {TOKEN}"}, 403)
        elif self.path == "/api/validate-yaml":
            assert json.loads(body)["content"].startswith("---\ntags")
            self._answer({"warnings": [], "errors": []})
        elif self.path == "/api/repos/create":
            self._answer({"url": f"{address}/me/it", "name": "me/it", "id": "1"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self._answer({"files": [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in files
            ]})  # fmt: skip
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    self.server.got[value["path"]] = base64.b64decode(value["content"])
            self._answer({"success": True, "commitOid": "1" * 40,
                          "commitUrl": f"{address}/me/it/commit/1"})  # fmt: skip
        else:
            self._answer({"error": "not here"}, 404)


@contextmanager
def hub(*, refuses=False):
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    server.asked, server.got, server.refuses = [], {}, refuses
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


SEND = """
import sys
from pathlib import Path
from orchestrator.serving.hub.push import PushError, push
try:
    print(push(Path(sys.argv[1]), "me/it", public=False))
except PushError as error:
    sys.exit(f"refused: {error}")
"""


def send(server, folder, tmp_path, **environment):
    # The client reads its settings when it is imported.
    own = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    return subprocess.run(
        [sys.executable, "-c", SEND, str(folder)],
        env={**own, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
             "HF_HOME": str(tmp_path / "home"), **environment},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "exported"
    made.mkdir()
    (made / "README.md").write_text("---\ntags: [lora]\n---\n# it\n")
    (made / "adapter_model.safetensors").write_bytes(bytes(range(200)))
    return made


def test_a_folder_arrives_as_it_is_in_a_private_repository(folder, tmp_path):
    with hub() as server:
        done = send(server, folder, tmp_path, HF_TOKEN=TOKEN)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip().endswith("/me/it")
        assert server.got == {f.name: f.read_bytes() for f in folder.iterdir()}
        [created] = [json.loads(b) for path, _, b in server.asked if path == "/api/repos/create"]
        assert created.get("private") or created["visibility"] == "private"
        assert all(auth == f"Bearer {TOKEN}" for _, auth, body in server.asked if body)
        assert TOKEN not in done.stdout + done.stderr


def test_refusals_say_what_to_do_and_hold_no_token(folder, tmp_path):
    with hub(refuses=True) as server:
        done = send(server, folder, tmp_path, HF_TOKEN=TOKEN)
        assert done.returncode == 1
        assert "may not write there" in done.stderr
        assert str(folder) in done.stderr
        assert TOKEN not in done.stderr
    with hub() as server:
        done = send(server, folder, tmp_path)
        assert "There is no token" in done.stderr
        assert not server.got
    assert without_secrets(f"a {TOKEN} b") == "a *** b"


@pytest.mark.parametrize("name", ["it", "a/b/c", "../x", "me/", "me/..", "https://x/y", "me/a b"])
def test_what_is_no_repository_is_refused_first(name, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(PushError, match="OWNER/NAME"):
        check_repository(name)
