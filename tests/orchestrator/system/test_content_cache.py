"""A cache that is asked by many at once, and whose files may be damaged."""

import threading

import pytest

from orchestrator.system.content_cache import ContentCache

KEY = {"task": "a", "limit": None, "list": [1, 2]}


def test_what_was_written_is_read_whatever_the_order_of_keys(tmp_path):
    cache = ContentCache(tmp_path / "cache")
    assert cache.read("task", KEY) is None
    assert cache.write("task", KEY, {"tokens": [1, 2, 3], "score": None})
    again = {name: KEY[name] for name in reversed(KEY)}
    assert ContentCache(tmp_path / "cache").read("task", again) == {
        "tokens": [1, 2, 3], "score": None,
    }  # fmt: skip


def test_another_key_or_kind_is_another_entry(tmp_path):
    cache = ContentCache(tmp_path)
    cache.write("task", KEY, 1)
    assert cache.read("task", {**KEY, "limit": 5}) is None
    assert cache.read("base", KEY) is None


@pytest.mark.parametrize(
    "damage", [lambda t: t[:-5], lambda t: t.replace("17", "18"), lambda _: ""]
)
def test_a_damaged_entry_is_none_and_is_replaced(tmp_path, damage):
    cache = ContentCache(tmp_path)
    cache.write("task", KEY, [17])
    [file] = tmp_path.glob("task/*.json")
    file.write_text(damage(file.read_text()))
    assert cache.read("task", KEY) is None
    cache.write("task", KEY, [17])
    assert cache.read("task", KEY) == [17]


def test_writers_at_once_leave_one_whole_entry(tmp_path):
    value = list(range(5000))
    seen = []

    def work():
        cache = ContentCache(tmp_path)
        for _ in range(10):
            cache.write("task", KEY, value)
            seen.append(cache.read("task", KEY))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [value] * 80
    assert [p.name for p in tmp_path.glob("task/*")] == [
        p.name for p in tmp_path.glob("task/*.json")
    ]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "cache").write_text("a file in its place")
    cache = ContentCache(tmp_path / "cache")
    assert not cache.write("task", KEY, 1)
    assert cache.read("task", KEY) is None
