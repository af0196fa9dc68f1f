"""The layout is the architecture: folders are layers, files are short, and nothing goes round."""

import ast
import itertools
import statistics
import tomllib
from functools import cache
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]
PACKAGES = ("curlora", "curlora_kinds", "orchestrator")

HEAVY = {
    "sklearn",
    "torch", "transformers", "peft", "deepspeed", "ray", "mlflow", "optuna", "datasets",
    "matplotlib", "safetensors", "numpy", "pandas", "pyarrow", "sqlalchemy", "alembic", "jinja2",
    "huggingface_hub", "grpc", "moocore", "scipy", "pydantic", "fsspec",
    "gguf", "sacrebleu", "rouge_score", "torchao", "tokenizers", "accelerate",
}  # fmt: skip
"""What takes a noticeable part of a second to load. A quick command loads none of it that it does
not need, and that is the one reason for an import inside a function. A command of `cli` may also
keep for itself what it alone needs of ours: the machinery of a sweep takes a fifth of a second."""

RARELY = {"difflib", "importlib", "psutil", "pydoc_data", "yaml"}
"""Light, and needed by a message or a check that few runs come to."""

LONG = {
    "_fit": "the arguments of Ray Tune, which cannot be taken apart",
    "_run": "the order of a sweep's parts",
    "runs_list": "typer reads the options of the command from its parameters",
    "predict": "the same",
    "extend": "the same",
    "sweep": "the same",
    "reproduce": "the same",
    "select": "the same",
    "serve": "the same",
    "prune": "the same",
    "fused": "the factors that a fused update has, each by its letter of the paper",
    "forward": "what torch.autograd gives to a function of that many tensors",
}
"""Functions of over 60 lines or 8 parameters, with the reason."""


def names_of(path):
    """The module of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def modules():
    """Every module of the packages, by name."""
    files = [p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))]
    return {names_of(path): path for path in files}


@cache
def tree(name):
    """The syntax tree of a module."""
    return ast.parse(modules()[name].read_text(encoding="utf-8"))


def imports(nodes):
    """What import statements name: modules of ours as far as there are such, others' packages."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in modules() else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def functions(name):
    """Every function of a module."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree(name)) if isinstance(node, kinds)]


def is_typing(node):
    """Whether a statement is `if TYPE_CHECKING`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


@cache
def all_loaded(name):
    """What comes with the import of a module: modules of ours, and what they import of others."""
    waiting, seen = [name], set()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        if one in modules():
            parents = one.split(".")[:-1]
            waiting += [".".join(parents[: n + 1]) for n in range(len(parents))]
            waiting += imports(node for node in tree(one).body if not is_typing(node))
    return seen


def loaded(name):
    """Others' packages that come with the import of a module."""
    return {one.split(".")[0] for one in all_loaded(name) if one not in modules()}


def ours_loaded(name):
    """Modules of ours that come with the import of a module."""
    return {one for one in all_loaded(name) if one in modules()}


def test_folders_import_only_from_those_below_and_outside_systems_have_one_door(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


def test_the_contract_fits_on_one_screen():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = [c["layers"] for c in config["tool"]["importlinter"]["contracts"] if "layers" in c]
    assert sum(map(len, layers)) < 40


def test_no_module_imports_in_a_circle_wherever_the_imports_stand():
    needs = {
        name: {m for m in imports(ast.walk(tree(name))) if m in modules() and m != name}
        for name in modules()
    }
    while True:
        free = {name for name, needed in needs.items() if not needed}
        if not free:
            break
        needs = {n: needed - free for n, needed in needs.items() if n not in free}
    assert not needs, f"in circles, or upon such: {sorted(needs)}"


# `orchestrator` itself answers `orchestrator.load` by an import that would lead back to it.
@pytest.mark.parametrize("name", sorted(set(modules()) - {"orchestrator"}))
def test_an_import_inside_a_function_keeps_something_heavy_out(name):
    for function in functions(name):
        for imported in imports(ast.walk(function)):
            if imported in modules():
                late = loaded(imported) & HEAVY - loaded(name)
                own = name.startswith("orchestrator.cli.") and imported not in ours_loaded(name)
                assert late or own, f"{function.name}: {imported} may stand at the top"
            else:
                assert imported.split(".")[0] in HEAVY | RARELY | set(PACKAGES)


def test_files_are_short_and_folders_small():
    files = [path for path in modules().values() if path.name != "__init__.py"]
    lengths = sorted(path.read_text(encoding="utf-8").count("\n") for path in files)
    assert statistics.median(lengths) <= 160
    assert sum(length > 300 for length in lengths) <= len(lengths) / 5
    for folder, inside in itertools.groupby(
        sorted(files, key=lambda path: path.parent), key=lambda path: path.parent
    ):
        assert len(list(inside)) <= 20, folder


def test_what_is_no_code_is_installed_with_it():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    installed = {
        path
        for package, patterns in config["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    files = {p for package in PACKAGES for p in (ROOT / package).rglob("*") if p.is_file()}
    assert {path for path in files if path.suffix not in {".py", ".pyc"}} == installed


def test_every_folder_says_what_it_is():
    for name, path in modules().items():
        said = ast.get_docstring(tree(name)) or ""
        assert said, path
        assert "TODO" not in said, path


@pytest.mark.parametrize("name", sorted(modules()))
def test_functions_are_short_and_take_few_arguments(name):
    for function in functions(name):
        body = function.body[ast.get_docstring(function) is not None :]
        given = function.args
        named = [a.arg for a in [*given.posonlyargs, *given.args, *given.kwonlyargs]]
        named = [n for n in named if n not in {"self", "cls"}]
        count = len(named) + (given.vararg is not None) + (given.kwarg is not None)
        lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
        if function.name not in LONG:
            assert lines <= 60, function.name
            assert count <= 8, function.name


WHOLE = {
    "curlora/adapters/test_table.py": "every kind of adapter of `curlora_kinds`",
    "curlora/adapters/test_quantised.py": "adapters on quantised bases",
    "curlora/retention/test_table.py": "every kind of retention of `curlora_kinds`",
    "orchestrator/engines/test_parity.py": "every engine beside the plain one",
    "orchestrator/executors/pool/test_growing.py": "a pool that grows and shrinks",
    "orchestrator/executors/pool/test_packed_ranks.py": "one pool over several workers",
    "orchestrator/executors/pool/test_seats.py": "the pool as the driver sees it",
    "orchestrator/spec/test_experiment_files.py": "the files of `experiments/`",
    "orchestrator/spec/test_setting_bounds.py": "files beside the library",
    "orchestrator/sweep/test_heads_and_finalists.py": "a sweep with both",
    "orchestrator/sweep/test_proposals.py": "whatever a search may propose",
}
"""Tests of more than one module, and of what."""


def test_tests_mirror_the_tree():
    for package in PACKAGES:
        for path in (ROOT / "tests" / package).rglob("test_*.py"):
            place = path.relative_to(ROOT / "tests")
            if len(place.parts) == 2 or str(place) in WHOLE:
                continue  # tests of the whole stand at the top
            tested = ROOT / place.parent / place.name.removeprefix("test_")
            assert tested.is_file(), f"{place}: there is no {tested.relative_to(ROOT)}"
    assert all((ROOT / "tests" / place).is_file() for place in WHOLE)
