"""Who is champion, by the lines of the registry."""

from orchestrator.records.cards.reference import AdapterKey
from orchestrator.records.registry.by_hand import AliasSeen, change_by_hand
from orchestrator.records.registry.change import BY_MLFLOW, BY_VERDICT, Change
from orchestrator.records.registry.standing import Standing


def key(trial):
    return AdapterKey("demo", "id", trial, 2)


def standing(*said):
    changes = []
    for number, (event, trial) in enumerate(said):
        who = BY_VERDICT if event == "decided" else "me@here"
        changes.append(Change(event, "demo", who=who, adapter=key(trial) if trial else None,
                              n=number))  # fmt: skip
    other = Change("promoted", "other", adapter=key("t009"))
    return Standing.of("demo", [other, *changes])


def test_rolling_back_goes_further_back_each_time():
    story = [("decided", "t001"), ("promoted", "t002"), ("promoted", "t003")]
    assert standing(*story).champion == key("t003")
    assert standing(*story).previous == key("t002")
    story.append(("rolled_back", "t002"))
    assert standing(*story).champion == key("t002")
    assert standing(*story).previous == key("t001")
    story.append(("rolled_back", "t001"))
    assert standing(*story).champion == key("t001")
    assert standing(*story).previous is None
    story.append(("promoted", "t003"))
    assert standing(*story).previous == key("t001")


def test_what_a_person_chose_is_kept_until_they_choose_what_the_verdict_does():
    assert not standing(("decided", "t001")).by_hand
    assert standing(("decided", "t001"), ("promoted", "t002")).by_hand
    assert not standing(("decided", "t001"), ("promoted", "t002"), ("promoted", "t001")).by_hand
    assert standing(("decided", "t001"), ("withdrawn", None)).by_hand


def test_an_alias_that_a_person_moved_is_seen_once():
    now = standing(("decided", "t001"))
    tags = {"name": "demo", "sweep": "id", "trial": "t002", "learnt": "2"}
    assert change_by_hand(now, AliasSeen("demo", "1", "1")) is None
    assert change_by_hand(now, AliasSeen("demo", None, None)) is None, "never given"
    moved = change_by_hand(now, AliasSeen("demo", "2", "1", tags))
    assert moved is not None
    assert (moved.event, moved.who, moved.adapter) == ("moved", BY_MLFLOW, key("t002"))
    now.take(moved)
    assert now.champion == key("t002")
    assert now.by_hand
    assert change_by_hand(now, AliasSeen("demo", "2", "1", tags)) is None
    gone = change_by_hand(now, AliasSeen("demo", None, "1"))
    assert gone is not None
    assert gone.event == "withdrawn"
    now.take(gone)
    assert now.champion is None
    assert change_by_hand(now, AliasSeen("demo", None, "1")) is None


def test_a_version_made_elsewhere_is_a_champion_that_is_not_ours():
    moved = change_by_hand(standing(("decided", "t001")), AliasSeen("demo", "7", "1", {}))
    assert moved is not None
    assert moved.adapter is None
