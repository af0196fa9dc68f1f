import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from orchestrator.system.field_types import check_of, wrong_fields


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (int, [0, -3, 2**63 - 1], [True, 1.0, "1", None, 2**63, [], {}]),
        (float, [0, 1.5, math.inf, None], [True, "1", [1.0], 2**70]),
        (str, ["", "x"], [None, 1, b"x", ["x"]]),
        (bool, [True, False], [0, 1, "true", None]),
        (str | None, ["x", None], [1, []]),
        (list[str], [[], ["a"]], ["a", [1], [None], None, {"a": 1}, ("a",)]),
        (tuple[float, ...], [(), [1, 2.5, None]], [[True], ["1"], 1.0, {}, [2**70]]),
        (tuple[float, float], [(0.0, 1)], [(1.0,), (1.0, 2.0, 3.0), None]),
        (dict[str, float], [{}, {"a": 1, "b": None}], [[], {"a": "1"}, {"a": [1.0]}]),
        (dict[str, list[float] | None], [{"a": None, "b": [1.0]}], [{"a": 1.0}, {"b": ["x"]}]),
        (dict[str, Any], [{"a": object()}], ["a", []]),
    ],
)
def test_a_value_is_told_from_one_of_another_type(hint, right, wrong):
    check = check_of(hint)
    assert [value for value in right if not check(value)] == []
    assert [value for value in wrong if check(value)] == []


@dataclass
class Inner:
    count: int = 0


@dataclass
class Outer:
    names: list[str] = field(default_factory=list)
    inner: Inner | None = None
    by_name: dict[str, Inner] = field(default_factory=dict)


def test_the_fields_of_a_value_are_checked_to_the_bottom():
    assert wrong_fields(Outer(["a"], Inner(), {"x": Inner(3)})) == {}
    assert wrong_fields(Outer([1], None)) == {"names": "a list of texts"}
    assert set(wrong_fields(Outer([], Inner("3"), {"x": Inner(None)}))) == {"inner", "by_name"}


def test_an_unknown_type_is_said_and_not_passed():
    with pytest.raises(TypeError, match="nothing is known"):
        check_of(complex)
