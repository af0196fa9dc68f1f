"""The documents name what exists, and all of it, in standard words."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from orchestrator.cli import app
from orchestrator.spec.adapter_settings import ADAPTER_SETTINGS
from orchestrator.spec.load import load_experiment
from orchestrator.spec.retention_settings import RETENTION_SETTINGS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
PACKAGES = ("orchestrator", "curlora", "curlora_kinds")

PRIVATE = re.compile(
    r"\b(mend(s|ed|ing)?|dice|dealt|parted|seat(s|ed)?|anew|nobody|somebody|whoever)\b",
    re.IGNORECASE,
)
"""Words for which the field has standard ones: fix, random masks, sharded, row, again, no one."""


def _text(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def _settings_rows() -> list[tuple[str, str]]:
    """First and second cell of each row of the table of settings."""
    text = _text(DOCS / "experiment.md")
    part = text.partition("### Settings of adapters and retentions")[2].partition("\n\nA preset")[0]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")]
    return [(row[0], row[1]) for row in rows if len(row) == 2]


def _blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", _text(document), re.DOTALL)


def _commands() -> dict[str, Any]:
    """Every command by its words: `plan`, `runs list` and so on."""
    found: dict[str, Any] = {}
    waiting: list[tuple[str, Any]] = [("", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop()
        below = getattr(command, "commands", None)
        if below is None:
            found[name.strip()] = command
        else:
            waiting += [(f"{name} {word}", inner) for word, inner in below.items()]
    return found


def _calls(document: Path) -> Iterator[tuple[str, set[str]]]:
    """What a document types after `orchestrate`, and the options with it."""
    text = _text(document)
    spans = re.findall(r"`(orchestrate [^`]+)`", text)
    lines = [line for block in _blocks(document, "bash") for line in block.splitlines()]
    for call in [*spans, *(line.partition("  #")[0] for line in lines)]:
        if call.startswith("orchestrate "):
            yield call.removeprefix("orchestrate "), set(re.findall(r"(?<=\s)--[a-z-]+", call))


def _private_messages() -> Iterator[str]:
    """Messages in the code with a private word: texts of several words that are no docstrings."""
    for path in (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))):
        if PRIVATE.search(text := _text(path)) is None:
            continue
        nodes = list(ast.walk(ast.parse(text)))
        docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.Constant) and node not in docstrings:
                message = node.value if isinstance(node.value, str) else ""
                if " " in message.strip() and PRIVATE.search(message):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}: {message}"


@pytest.mark.parametrize("kind", [*ADAPTER_SETTINGS, *RETENTION_SETTINGS])
def test_every_setting_of_a_kind_stands_in_the_table(kind: str) -> None:
    settings = {**ADAPTER_SETTINGS, **RETENTION_SETTINGS}[kind]
    rows = _settings_rows()
    everywhere = " ".join(cell for first, cell in rows if first.startswith("all adapters"))
    own = " ".join(cell for first, cell in rows if f"`{kind}`" in first + cell)
    for name in settings.model_fields:
        if name != "kind":
            assert f"`{name}`" in own + everywhere, f"{kind}.{name} is not in docs/experiment.md"


def test_every_setting_in_the_table_exists() -> None:
    every = {
        name
        for settings in (*ADAPTER_SETTINGS.values(), *RETENTION_SETTINGS.values())
        for name in settings.model_fields
    }
    kinds = {*ADAPTER_SETTINGS, *RETENTION_SETTINGS, "all-linear"}
    for _, cell in _settings_rows():
        for name in re.findall(r"`([^`]+)`", cell):
            assert name in every | kinds, f"docs/experiment.md names {name}, which nothing has"


def test_the_table_of_commands_is_complete() -> None:
    table = re.findall(
        r"^\| `orchestrate ([a-z ]+?)(?= [^a-z]|`)", _text(DOCS / "commands.md"), re.MULTILINE
    )
    assert sorted(table) == sorted(_commands())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_options_in_the_documents_exist(document: Path) -> None:
    commands = _commands() | {"": typer.main.get_command(app)}
    for call, options in _calls(document):
        named = [c for c in commands if f"{call} ".startswith(f"{c} " if c else "-")]
        name = max(named, key=len, default=None)
        assert name is not None, f"{document.name}: `orchestrate {call}` is no command"
        known = {option for p in commands[name].params for option in p.opts} | {"--help"}
        assert options <= known, f"{document.name}: `orchestrate {call}` has no such option"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_the_documents_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", _text(document)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{document.name} links to {link}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", _text(target), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in anchors, f"{document.name} links to {link}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_in_the_documents_is_python(document: Path) -> None:
    for block in _blocks(document, "python"):
        compile(block, str(document), "exec")


def test_the_smallest_sweep_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = _blocks(ROOT / "README.md", "yaml")
    (tmp_path / "my.yaml").write_text(block, encoding="utf-8")
    monkeypatch.chdir(ROOT)
    loaded = load_experiment(tmp_path / "my.yaml")
    assert loaded.experiment.search is not None
    assert {*loaded.experiment.tasks, *loaded.experiment.probes} == set(loaded.tasks)


def test_make_check_names_what_exists() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "check"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (line,) = [line for line in done.stdout.splitlines() if "pytest" in line]
    paths = [word for word in line.split() if word.startswith("tests/")]
    assert paths, "make check would run every test"
    for path in paths:
        assert (ROOT / path).exists(), f"make check names {path}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_use_standard_words(document: Path) -> None:
    found = [line for line in _text(document).splitlines() if PRIVATE.search(line)]
    assert not found, f"{document.name}: write fix, random mask, sharded, row, again, no one"


def test_help_and_messages_use_standard_words() -> None:
    helps = [f"{name} --help: {command.help}" for name, command in _commands().items()]
    found = [*filter(PRIVATE.search, helps), *_private_messages()]
    assert not found, "write fix, random mask, sharded, row, again, no one"
