"""Who is answered: loopback's names only, and changes from forms of ours alone."""

import http.client
import json
import urllib.parse
from contextlib import closing

import pytest

from orchestrator.web import guard


def ask(pages, method, path, *, headers=None, body=None):
    host = pages.address.removeprefix("http://")
    with closing(http.client.HTTPConnection(host, timeout=30)) as connection:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer, answer.read().decode()


def form(pages, **fields):
    return urllib.parse.urlencode({"token": pages.changes.token, "action": "rollback"} | fields)


def headers(pages, **changed):
    """Those that a browser sends with a form of ours."""
    usual = {
        "Origin": pages.address,
        "Sec-Fetch-Site": "same-origin",
        "Cookie": f"{pages.changes.cookie}={pages.changes.key}",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    return {name: value for name, value in (usual | changed).items() if value is not None}


@pytest.mark.parametrize(
    ("host", "known"),
    [("127.0.0.1", True), ("127.0.0.1:5000", True), ("LocalHost:1", True), ("[::1]:80", True),
     ("", False), ("evil.example", False), ("127.0.0.1.evil.example:5000", False),
     ("localhost.evil", False), ("0.0.0.0:5000", False)],
)  # fmt: skip
def test_only_loopback_names_are_answered(pages, host, known):
    assert guard.names_loopback(host) is known
    answer, text = ask(pages, "GET", "/data/sweeps/six/state", headers={"Host": host})
    if known:
        assert json.loads(text)["revision"]
    else:
        assert answer.status in {400, 421}
        assert "trials" not in text


def test_every_answer_says_what_it_may_do(pages):
    for path in ("/", "/nowhere", "/sweeps/six", "/data/sweeps/six/state"):
        answer, _ = ask(pages, "GET", path)
        policy = answer.getheader("content-security-policy")
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.getheader("x-content-type-options") == "nosniff"
        assert answer.getheader("access-control-allow-origin") is None


@pytest.mark.parametrize(
    "changed",
    [{"Origin": None}, {"Origin": "http://evil.example"}, {"Origin": "null"},
     {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Cookie": None},
     {"Cookie": "orchestrate=guess"}, {"Content-Type": "text/plain"}],
    ids=str,
)  # fmt: skip
def test_a_change_needs_origin_cookie_and_form(pages, changed):
    before = sorted(path.name for path in pages.storage.iterdir())
    body = form(pages, reason="because")
    sent = headers(pages, **changed)
    answer, text = ask(pages, "POST", "/champions/six", headers=sent, body=body)
    assert answer.status == 403
    assert "Not allowed" in text
    assert sorted(path.name for path in pages.storage.iterdir()) == before


@pytest.mark.parametrize("token", ["", "x" * 64])
def test_a_change_needs_the_token(pages, token):
    body = form(pages, token=token, reason="because")
    answer, text = ask(pages, "POST", "/champions/six", headers=headers(pages), body=body)
    assert answer.status == 403
    assert "token" in text


def test_a_form_of_any_length_is_not_read(pages):
    body = form(pages, reason="x" * (guard.MOST_BYTES + 1))
    answer, _ = ask(pages, "POST", "/champions/six", headers=headers(pages), body=body)
    assert answer.status == 403


def test_forms_stand_only_on_pages_of_a_browser_that_was_let_in(pages):
    _, text = ask(pages, "GET", "/champions/six")
    assert pages.changes.token not in text
    assert "Promote" not in text
    how = "Changes: open the address that the terminal printed"
    assert how in text
    assert "read-only" not in text
    cookie = {"Cookie": headers(pages)["Cookie"]}
    _, text = ask(pages, "GET", "/champions/six", headers=cookie)
    assert pages.changes.token in text
    assert pages.changes.key not in text
    assert how not in text


def test_the_key_lets_in_and_a_guess_does_not(pages):
    answer, _ = ask(pages, "GET", f"/enter/{pages.changes.key}")
    assert (answer.status, answer.getheader("location")) == (303, "/")
    cookie = answer.getheader("set-cookie").lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert ask(pages, "GET", "/enter/guess")[0].status == 403


def test_a_server_that_only_reads_knows_no_key():
    changes = guard.Changes(allowed=False)
    assert not changes.is_key(changes.key)


@pytest.mark.parametrize(
    "path",
    ["/sweeps/..%2f..%2fetc", "/sweeps/nowhere", "/sweeps/six/trials/t999", "/sweeps/%00",
     f"/sweeps/{'x' * 5000}", "/sweeps/six/trials/t001/files/../../../journal.jsonl",
     "/sweeps/six/trials/t001/files/..%2f..%2f..%2fjournal.jsonl", "/static/x/..%2fguard.py",
     "/static/x/nowhere.js", "/mlflow", "/sweeps/six/trials/t001/cards/9"],
)  # fmt: skip
def test_what_is_not_there_is_not_found(pages, path):
    answer, text = ask(pages, "GET", path)
    assert answer.status == 404
    assert "sweep_opened" not in text
