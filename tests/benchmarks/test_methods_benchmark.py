from pathlib import Path

import pytest
import torch

from curlora_kinds.adapters.table import ADAPTERS
from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.spec.presets import PRESETS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def methods(benchmark_module):
    return benchmark_module("methods")


@pytest.fixture(scope="session")
def sizes(methods, tiny_base):
    return methods.Sizes(tiny_base, "all-linear", 2, steps=2, examples=8, batch=4, length=8)


def test_every_kind_and_preset_has_a_case(methods, sizes):
    cases = list(methods.cases(sizes))
    named = [case.method.get("adapter", {}).get("kind") for case in cases]
    kept = [case.method.get("retention", {}).get("kind") for case in cases]
    presets = [case.method.get("preset") for case in cases]
    assert set(named) >= set(ADAPTERS)
    assert set(kept) >= set(RETENTIONS) - {"none"}
    assert set(presets) >= set(PRESETS)
    assert len({case.name for case in cases}) == len(cases)


def test_what_a_step_keeps_is_counted_once_and_without_what_was_there(methods):
    """x @ W saves x (new, 2 x 3) and W (old); squaring twice saves y (2 x 5) once."""
    W = torch.ones(3, 5, requires_grad=True)

    def step():
        x = torch.ones(2, 3, requires_grad=True)
        y = x @ W
        (y * y + y * y).sum().backward()

    assert methods.kept_bytes(step) == 4 * (2 * 3 + 2 * 5)


def test_what_is_dropped_before_the_backward_pass_is_not_added_up(methods):
    def step():
        x = torch.ones(100, requires_grad=True)
        for _ in range(3):
            (x * 2).exp().detach()  # saved, and dropped at once
        (x * x).sum().backward()

    # x and one result of exp at a time
    assert methods.kept_bytes(step) <= 4 * 2 * 100


def test_methods_are_measured_to_the_end(methods, sizes):
    names = ["curlora", "lora", "head_only", "lora + olora", "curlora + laplace full"]
    names += ["preset secura", "preset zero-shot"]
    heard = []
    record = methods.measured(sizes, names, tell=heard.append)
    lines = {line["name"]: line for line in record["methods"]}
    assert list(lines) == names
    assert "no trial" in lines["preset zero-shot"]["refused"]
    assert "`r` must be at most" in lines["preset secura"]["refused"]
    measured = [line for line in lines.values() if not line["refused"]]
    assert all(line["step"]["low"] > 0 for line in measured)
    assert all(line["state_bytes"] == line["predicted_state_bytes"] for line in measured)
    # 2 layers x 7 matrices x (2 x 2)
    assert lines["curlora"]["trained"] == 56
    # The frozen factors let CURLoRA do without the inputs that LoRA has to keep.
    assert lines["curlora"]["activations"] < lines["lora"]["activations"]
    assert lines["head_only"]["activations"] < 0.1
    assert lines["curlora + laplace full"]["between_tasks"] > 0
    blocks = methods.blocks_of({methods.SMALL: record, "another": record})
    assert blocks["measured elsewhere"].count("`lora`") == 1
    assert "refused: the preset 'zero-shot' is no trial" in blocks["measured presets"]


def test_an_unknown_case_is_named(methods, sizes):
    with pytest.raises(ValueError, match="There is no case 'loar'"):
        methods.measured(sizes, ["loar"], tell=print)


def test_a_page_gets_its_tables_and_keeps_the_rest(methods, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- end -->\nafter <!-- b -->\n<!-- end -->\n")
    methods.write_page({"a": r"new \1"}, page)
    methods.write_page({"a": r"new \1"}, page)
    assert page.read_text() == (
        "before\n<!-- a -->\n\nnew \\1\n\n<!-- end -->\nafter <!-- b -->\n<!-- end -->\n"
    )
    with pytest.raises(SystemExit, match="expected one block <!-- c -->"):
        methods.write_page({"c": ""}, page)


def test_the_page_has_every_kind_pair_and_preset_of_the_code(methods):
    """Else `benchmarks/methods.py --redraw`."""
    page = methods.PAGE.read_text()
    for block in methods.known_blocks().values():
        for row in block.splitlines():
            assert "|".join(row.split("|")[:3]) in page
