"""JSON that anybody may have written."""

import pytest

from orchestrator.system.strict_json import MOST_DEEP, plain


def nested(levels):
    return "[" * levels + "]" * levels


@pytest.mark.parametrize("text", ["", "{", "[" * 5000, "9" * 5000, nested(MOST_DEEP + 1), b"\xff"])
def test_whatever_is_wrong_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"Expecting|nested too deeply|digits|decode"):
        plain(text)


def test_what_is_deep_but_not_too_deep_is_read():
    assert str(plain(nested(MOST_DEEP))).count("[") == MOST_DEEP
    wide = "[" + ",".join(["[1]"] * 1000) + "]"
    assert plain(wide.encode()) == [[1]] * 1000
    assert plain('{"a": "' + "[" * 500 + '"}') == {"a": "[" * 500}
