from orchestrator.report.deciding.decision import decide
from orchestrator.report.deciding.words import decision_lines


def test_headings_come_in_the_order_of_questions_and_none_is_empty(view):
    parts = decision_lines(decide(view()))
    headings = [heading for heading, _ in parts]
    assert headings[:2] == ["The pick", "By how much"]
    assert headings[-1] == "What it cost"
    assert all(lines and all(lines) for _, lines in parts)
    words = dict(parts)
    assert "preset er" in words["The pick"][0]
    assert words["What it cost"] == ["15 trials: 15 whole, 0 stopped early, 0 failed."]


def test_without_a_pick_the_first_words_are_the_reason(view):
    (heading, lines), *_ = decision_lines(decide(view(dict.fromkeys(("seq", "er", "joint"), 0.0))))
    assert heading == "No pick"
    assert lines[0].startswith("No method beats")
    assert not lines[0].endswith("..")
