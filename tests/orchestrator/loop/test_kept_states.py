"""States are whole or not there, many may keep one at once, and what is not used makes room."""

import os

import pytest

from orchestrator.loop.kept_states import KeptStates, maker_of
from orchestrator.system.seals import Maker, seal

MAKER = Maker("a sweep", "t001", "its settings")
SIZE = 10_000


@pytest.fixture
def store(tmp_path):
    return KeptStates(tmp_path / "cache" / "states", 3.5 * SIZE)


def write(folder):
    (folder / "weights").write_bytes(b"w" * SIZE)


def test_what_is_kept_is_found_with_the_trial_that_made_it(store):
    assert store.find("key") == (None, None)
    assert store.keep("key", write, MAKER)
    folder, aside = store.find("key")
    assert aside is None
    assert (folder / "weights").stat().st_size == SIZE
    assert maker_of(folder) == ("a sweep", "t001")
    assert store.keep("key", lambda _: pytest.fail("it is there"), MAKER)


def test_what_was_not_used_for_longest_makes_room(store, tmp_path):
    for age, key in enumerate("abc"):
        store.keep(key, write, MAKER)
        os.utime(tmp_path / "cache" / "states" / key, (1000 + age, 1000 + age))
    assert store.find("a")[0] is not None, "which is a use"
    assert store.keep("d", write, MAKER)
    assert [store.find(key)[0] is not None for key in "abcd"] == [True, False, True, True]
    large = KeptStates(tmp_path / "cache" / "states", SIZE / 2)
    assert not large.keep("e", write, MAKER)
    assert sorted(p.name for p in (tmp_path / "cache" / "states").iterdir()) == []


def test_what_is_damaged_or_of_another_hash_is_set_aside(store, tmp_path):
    store.keep("key", write, MAKER)
    place = tmp_path / "cache" / "states" / "key"
    (place / "weights").write_bytes(b"x")
    folder, aside = store.find("key")
    assert folder is None
    assert aside.because == "its file weights is damaged"
    seal(aside.kept_as, MAKER)
    aside.kept_as.rename(place)
    assert store.find("key")[1].because == "it was made of something else"
    assert store.keep("key", write, MAKER), "there is a place for it again"
    assert store.find("key")[0] == place


def test_a_disk_that_refuses_and_a_quicker_trial_cost_nothing(store, tmp_path):
    def full(folder):
        raise OSError(28, "No space left on device")

    assert not store.keep("key", full, MAKER)
    assert list((tmp_path / "cache" / "states").iterdir()) == []

    def slowly(folder):
        write(folder)
        store.keep("key", write, Maker("another sweep", "t007", ""))

    assert store.keep("key", slowly, MAKER)
    assert maker_of(store.find("key")[0]) == ("another sweep", "t007")
