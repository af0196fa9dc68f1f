"""Lines in a store: in order, once, and of one writer."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator.system.stores.errors import StoreError
from orchestrator.system.stores.segments import SPAN, SegmentedLines


def lines(store, count):
    made = SegmentedLines(store, "demo/journal")
    for number in range(count):
        assert made.add(b"line %d\n" % number)
    return made


@pytest.mark.parametrize("count", [0, 1, SPAN - 1, SPAN, SPAN + 1, 2 * SPAN + 3])
def test_a_reader_has_them_all_in_their_order(store, count):
    lines(store, count)
    reader = SegmentedLines(store, "demo/journal")
    assert reader.read_on() == b"".join(b"line %d\n" % n for n in range(count))
    assert reader.count == count
    assert reader.read_on() == b""


def test_a_reader_goes_on_from_where_it_was(store):
    made, reader = lines(store, SPAN + 5), SegmentedLines(store, "demo/journal")
    reader.read_on()
    for number in range(2 * SPAN):
        made.add(b"more %d\n" % number)
    assert reader.read_on() == b"".join(b"more %d\n" % n for n in range(2 * SPAN))


def test_packs_are_only_there_to_be_read_faster(store):
    lines(store, SPAN + 2)
    assert store.children("demo/journal") == ["000000.pack", "000000/", "000001/"]
    whole = SegmentedLines(store, "demo/journal").read_on()
    store.remove(["demo/journal/000000.pack"])
    assert SegmentedLines(store, "demo/journal").read_on() == whole


def test_of_two_writers_one_loses(store):
    first, second = lines(store, 3), SegmentedLines(store, "demo/journal")
    second.read_on()
    assert second.add(b"mine\n")
    assert not first.add(b"mine too\n")
    assert SegmentedLines(store, "demo/journal").read_on().endswith(b"line 2\nmine\n")


def test_nobody_adds_anything_after_a_fence_but_who_made_it(store):
    first, second = lines(store, 3), SegmentedLines(store, "demo/journal")
    second.read_on()
    assert first.add(b"late\n")
    assert second.fence("2-second") == b"late\n"
    assert not first.add(b"too late\n")
    assert second.add(b"mine\n")
    assert SegmentedLines(store, "demo/journal").read_on().endswith(b"late\nmine\n")


def test_many_writers_at_once_lose_nothing_and_double_nothing(store):
    def write(who):
        own, mine = SegmentedLines(store, "demo/journal"), 0
        for _ in range(200):
            own.read_on()
            mine += own.add(b"%d %d\n" % (who, mine))
        return [b"%d %d" % (who, number) for number in range(mine)]

    with ThreadPoolExecutor(4) as threads:
        told = list(threads.map(write, range(4)))
    found = SegmentedLines(store, "demo/journal").read_on().splitlines()
    assert sorted(found) == sorted(line for mine in told for line in mine)
    for who in range(4):
        assert [line for line in found if line.startswith(b"%d " % who)] == told[who]


@pytest.mark.parametrize("gone", ["000000/001", "000000.pack 000000/001", "000001/001"])
def test_a_missing_line_is_refused(store, gone):
    lines(store, 2 * SPAN + 3 if gone.startswith("000000 ") else SPAN + 3)
    missing = gone.split()
    store.remove([f"demo/journal/{name}" for name in missing])
    if missing == ["000000/001"]:  # the pack has it
        assert SegmentedLines(store, "demo/journal").read_on().startswith(b"line 0\nline 1\n")
        return
    with pytest.raises(StoreError, match="missing"):
        SegmentedLines(store, "demo/journal").read_on()
