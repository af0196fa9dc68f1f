"""From a champion to one that has learnt another task, and back to what the first was made from."""

import json
import random
import shutil

import pytest
import yaml
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.mlflow.registry import champion_record
from orchestrator.records.sweep_state import SweepState


def command(*words, code=0):
    """What a command says on standard output and beside it."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def found(tiny_base, tiny_tasks, empty_database, tmp_path_factory):
    """The storage of a sweep with a champion that has learnt `mood`."""
    storage = tmp_path_factory.mktemp("found")
    shutil.copyfile(empty_database, storage / "mlflow.db")
    document = {
        "name": "found", "model": {"name": str(tiny_base)}, "tasks": ["mood"],
        "method": {"adapter": {"kind": "lora", "r": 4, "target_modules": "all-linear"},
                   "retention": {"kind": "replay", "capacity": 48}},
        "training": {"learning_rate": 0.01, "batch_size": 8, "max_length": 48,
                     "precision": "fp32", "epochs": 6},
        "search": {"space": {"training.learning_rate": {"choice": [0.01]}}, "searcher": "grid"},
        "objectives": {"gain": "max"}, "champion": {"maximize": "gain", "subject_to": {}},
        "resources": {"executor": "local"}, "storage": str(storage),
    }  # fmt: skip
    path = tiny_tasks / "found.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    command("sweep", path)
    return storage


@pytest.fixture(scope="module")
def hue(tmp_path_factory):
    """The file of a task that is learnt quickly."""
    folder = tmp_path_factory.mktemp("hue")
    for split, count in (("train", 192), ("validation", 24), ("test", 16)):
        draw, rows = random.Random(f"3{split}"), []
        for _ in range(count):
            label, word = draw.choice([("one", "red"), ("two", "blue")])
            filler = " ".join(
                draw.choices(["the", "a", "was", "is", "very", "and", "it"], k=draw.randrange(3, 8))
            )
            rows.append(json.dumps({"text": f"{word} {filler} {word}", "label": label}))
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "hue.yaml").write_text(
        "name: hue\nkind: classification\ndata: {files: .}\nprompt: 'text : {text} label :'\n"
        "labels: {one: ' one', two: ' two'}\n"
    )
    return folder / "hue.yaml"


def journal(storage, sweep):
    return read_journal(storage / sweep)


def events(storage, sweep, name):
    return [line for line in journal(storage, sweep) if line["event"] == name]


def test_a_champion_learns_another_task_and_is_measured_as_it_was(found, hue):
    words = ("extend", "found@champion", "--tasks", hue, "--storage", found)
    planned = " ".join(command(*words, "--plan").stdout.split())
    assert "Goes on from found/t001" in planned
    assert not (found / "found-then-hue").exists()
    shown = command(*words)
    assert "Minus found/t001 as it was" in shown.stdout
    state = SweepState.of(journal(found, "found-then-hue"))
    event = state.extension
    assert (event.earlier, event.further) == (["mood"], ["hue"])
    assert [*event.sides] == ["t001", "joint", "fresh"]
    before = SweepState.of(journal(found, "found"))
    assert event.parent["adapter_sha256"] == before.trial("t001").adapter_sha256
    assert event.parent["carried_sha256"] == before.trial("t001").carried_sha256
    assert event.as_it_was["mood"] == before.matrix(before.trial("t001")).rows[1][0]
    own = event.sides["t001"]
    assert own.further == pytest.approx(own.scores["hue"] - event.as_it_was["hue"])
    assert own.earlier_interval[0] <= own.earlier <= own.earlier_interval[1]
    gain = state.trial("t001").measure("gain")
    assert gain == pytest.approx((own.further + own.earlier) / 2), "gain is over it as it was"
    assert not {"joint", "fresh"} & {*state.front, state.champion}
    page = (found / "found-then-hue/report/index.html").read_text(encoding="utf-8")
    assert "Gained and lost" in page

    before = len(journal(found, "found-then-hue"))
    command(*words)
    assert len(journal(found, "found-then-hue")) == before, "there is nothing left to do"
    assert state.champion == "t001", state.reason
    record = champion_record("found-then-hue", f"sqlite:///{found / 'mlflow.db'}", found)
    assert record["extends"] == {**event.parent, "begin": "state"}
    [reading] = events(found, "found-then-hue", "test_read")
    assert reading["reference"] == "found/t001 as it was"
    assert {*reading["sides"]} == {"base", "as it was", "t001"}


def test_a_champion_is_trained_again_to_the_last_digit(found):
    shown = command("reproduce", "found/t001", "--storage", found, "--json")
    told = json.loads(shown.stdout)
    assert told["agrees"]
    assert told["tolerance"]["exact"]
    named = {one["what"]: one["worst"] for one in told["compared"]}
    assert {"losses of mood", "scores after mood", "the adapter's hash"} <= {*named}
    assert set(named.values()) == {0.0}

    path = found / "found/journal.jsonl"
    kept = path.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in kept.splitlines()]
    last = [n for n, line in enumerate(lines) if line["event"] == "stage_report"][-1]
    lines[last]["report"]["losses"][3] += 1e-5
    for line in lines:  # as a journal that has no sums
        line.pop("sum")
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    try:
        shown = command("reproduce", "found/t001", "--storage", found, code=1)
    finally:
        path.write_text(kept, encoding="utf-8")
    assert "differs" in shown.stdout
    assert "found/t001 was not reproduced" in shown.stderr


def test_what_cannot_be_learnt_on_from_is_refused_in_one_message(found):
    where = ("--storage", found)
    twice = command("extend", "found/t001", "--tasks", "mood", *where, code=2)
    assert "has learnt mood. Name a task that it has not learnt" in twice.stderr
    base = command("extend", "found/base", "--tasks", "being", *where, code=2)
    assert "orchestrate:" in base.stderr
    bound = command("extend", "found/t001", "--tasks", "being", "--time-budget", "5min", *where,
                    code=2)  # fmt: skip
    assert "add `--select`" in bound.stderr
