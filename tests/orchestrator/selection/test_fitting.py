import pytest

from orchestrator.selection.fitting import fitting, within_context
from orchestrator.selection.portfolio import PORTFOLIO
from orchestrator.selection.request import Request
from orchestrator.spec.validation import ExperimentError


@pytest.fixture
def document(tiny_base):
    return Request(str(tiny_base), ("mood",), ("prose",), train_examples=8).document()


def test_ranks_and_methods_that_the_base_cannot_hold_are_left_out(document, tiny_tasks):
    fit, ranks, left_out = fitting(document, list(PORTFOLIO), tiny_tasks, None)
    # The smallest weight that is adapted is of 16 x 32.
    assert ranks == {"seq": [4, 8, 16], "curlora": [8, 16]}
    assert list(left_out) == ["secura"]
    assert "the rank is at most" in left_out["secura"]
    assert fit == [name for name in PORTFOLIO if name != "secura"]


def test_where_nothing_fits_it_says_why(document, tiny_tasks):
    with pytest.raises(ExperimentError, match=r"No method .* secura: .*the rank is at most"):
        fitting(document, ["secura"], tiny_tasks, None)


def test_texts_are_no_longer_than_what_the_base_reads(document, tiny_tasks):
    fitted = within_context(document, tiny_tasks)
    assert fitted["training"]["max_length"] == fitted["data"]["probe_context"] == 64
    assert within_context(fitted, tiny_tasks) == fitted
