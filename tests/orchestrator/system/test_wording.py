"""Parts of messages can be printed, and what is to be copied into a file means what it should."""

import pytest
import yaml

from orchestrator.system.wording import as_yaml, cut, listed, one_line, suggestion

NAMES = [
    "label", "messages.user.content", "conversations.-1.value", "train", "a b", "a: b", "{a}", "#1",
    "'", '"', "\\",
    "no", "Null", "1", "1e3", "-1", "", " ", "\n", "l\ufeffbel", "\u2028", "\x00", "é",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_read_from_yaml_as_it_was(name):
    written = f"{{{as_yaml(name)}: {as_yaml(name)}}}"
    assert yaml.safe_load(written) == {name: name}
    assert written.isprintable()


def test_plain_names_need_no_quotes():
    assert as_yaml("messages.user.content") == "messages.user.content"


@pytest.mark.parametrize("name", [*NAMES, "\ud83d", "x" * 500])
def test_what_is_shown_of_a_text_can_be_printed(name):
    assert len(cut(name)) <= 60
    assert listed([name]).isprintable()
    assert one_line(ValueError(name)).isprintable()


@pytest.mark.parametrize("name", ["thousnd", "THOUSAND", "Thousan"])
def test_the_nearest_name_is_found_whatever_its_capitals(name):
    assert suggestion(name, ["six", "thousand", "Other"]) == " Did you mean 'thousand'?"
    assert suggestion("other", ["six", "Other"]) == " Did you mean 'Other'?"
    assert suggestion("zzz", ["six", "thousand"]) == ""
