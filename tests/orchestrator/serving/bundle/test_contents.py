"""What is read of the licences that a base's folder states; its card may be anybody's."""

import pytest

from orchestrator.serving.bundle.contents import NOT_STATED, _licence


def nested(form, levels):
    """A document of a few lines that would be of 2 ** levels parts if it were written out."""
    lines = ["a0: &a0 {k: v}"]
    lines += [f"a{n}: &a{n} {form.format(f'*a{n - 1}')}" for n in range(1, levels)]
    return "\n".join([*lines, f"license: *a{levels - 1}"])


@pytest.mark.parametrize(("metadata", "expected"), [
    ("license: apache-2.0", "apache-2.0"),
    ("license: [mit, apache-2.0]", "mit, apache-2.0"),
    ("license: " + "x" * 500, "x" * 297 + "..."),
    ("license: {a: b}", NOT_STATED),
    ("license: 5", NOT_STATED),
    ("license: [mit, 5]", NOT_STATED),
    ("license: 2001-99-99", NOT_STATED),
    ("license: " + "[" * 3000, NOT_STATED),
    ("license: !!python/object:os.system x", NOT_STATED),
    (nested("[{0}, {0}]", 60), NOT_STATED),
    (nested("{{<<: [{0}, {0}]}}", 60), NOT_STATED),
    ("a: &a {b: c}\nlicense: {<<: [" + "*a, " * 100 + "*a]}", NOT_STATED),
])  # fmt: skip
def test_only_what_is_a_name_is_a_licence(tmp_path, metadata, expected):
    (tmp_path / "README.md").write_text(f"---\n{metadata}\n---\n\nA model.\n")
    assert _licence(tmp_path)["licence"] == expected
