import json
import math
import os
import random
import zlib
from pathlib import Path

import pytest

from orchestrator.base.loading import load_tokenizer
from orchestrator.data import (
    encoding,
    items,
    model_inputs,
    preparation,
    task_preparation,
)
from orchestrator.data import (
    splits as splits_module,
)
from orchestrator.data.formats import placed_row
from orchestrator.data.sources import reading
from orchestrator.spec.load import load_experiment
from orchestrator.spec.sections import DataLimits
from orchestrator.spec.task_files import find_task_file, load_task, parse_task

ROOT = Path(__file__).parents[3]
DATA_ROOT = Path(os.environ.get("ORCHESTRATOR_DATA_ROOT", ROOT.parent / "shared" / "data"))


class Words:
    """A tokenizer of words; token ids are their lengths, so that texts are easy to follow."""

    bos_token_id = None
    eos_token_id = None

    def __init__(self, opening=()):
        self.opening = list(opening)

    def __call__(self, text, add_special_tokens=True):
        tokens = [len(word) for word in text.split()]
        return {"input_ids": (self.opening if add_special_tokens else []) + tokens}

    def decode(self, tokens):
        return " ".join("x" * token for token in tokens)


class DifferentWords(Words):
    """The same with different token ids for different words."""

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [zlib.crc32(word.encode()) for word in text.split()]}

    def decode(self, tokens):  # as long as an id would be no text but gigabytes
        return " ".join(str(token) for token in tokens)


class EndedWords(DifferentWords):
    """The same with an end of text, as real tokenizers have: a choice may be how another begins."""

    eos_token_id = 0


def task(**fields):
    return parse_task(
        {
            "name": "t",
            "kind": "classification",
            "data": {"files": "."},
            "prompt": "{text} is",
            "labels": {"0": " bad", "1": " quite good"},
            **fields,
        },
        "t.yaml",
    )


def test_a_question_is_prompt_and_continuations():
    question = encoding.encode_question(task(), {"text": "a bb", "label": 1}, Words(), 32)
    assert question == items.Question((1, 2, 2), ((3,), (5, 4)), (3, 10), 1)
    assert items.example_of(question) == items.Example((1, 2, 2, 5, 4), 3, None, 1)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": "a", "label": 7}, "the label '7' is not among"),
        ({"txt": "a", "label": 1}, "Did you mean 'txt'?"),
        ({"text": "a"}, "has no column 'label'"),
    ],
)
def test_wrong_rows_are_refused(row, expected):
    with pytest.raises(placed_row.DataError) as caught:
        encoding.encode_question(task(), row, Words(), 32)
    assert expected in str(caught.value)


def test_single_token_labels_share_one_input():
    question = items.Question((1, 2), ((5,), (6,), (7,)), (1, 1, 1), 0)
    assert model_inputs.scored_rows(question) == (
        model_inputs.Scored((1, 2), ((1, 5), (1, 6), (1, 7))),
    )
    assert model_inputs.pick_owners(question) == (0, 1, 2)


def test_labels_share_an_input_only_where_one_begins_with_the_other():
    question = items.Question((1, 2), ((5,), (5, 8), (6, 8, 9)), (1, 1, 1), 0)
    (joint,) = model_inputs.scored_rows(question)
    assert joint.tokens == (1, 2, 6, 8, 5)
    rows = model_inputs.apart(joint)
    assert [row.tokens for row in rows] == [(1, 2, 6, 8), (1, 2, 5)]
    owners = model_inputs.pick_owners(question)
    picks = [pick for row in rows for pick in row.picks]
    by_owner = {
        o: [pick for pick, owner in zip(picks, owners, strict=True) if owner == o] for o in range(3)
    }
    assert by_owner == {0: [(1, 5)], 1: [(1, 5), (2, 8)], 2: [(1, 6), (2, 8), (3, 9)]}


@pytest.mark.parametrize("seed", range(20))
def test_a_joint_row_is_taken_apart_into_the_rows_that_it_was_joined_from(seed):
    generator = random.Random(seed)

    def text(least, most):
        return tuple(generator.randrange(9) for _ in range(generator.randint(least, most)))

    prompt = text(1, 8)
    separate = []
    for _ in range(generator.randint(1, 4)):
        tokens = prompt + text(0, 5)
        places = generator.choices(range(len(prompt) - 1, len(tokens)), k=4)
        separate.append(model_inputs.Scored(tokens, tuple((p, 7) for p in places)))
    joint = model_inputs.joined(separate, len(prompt))
    assert model_inputs.apart(joint) == tuple(separate)
    assert len(joint.tokens) == len(prompt) + sum(len(r.tokens) - len(prompt) for r in separate)
    picked = [(r.tokens[place], token) for r in separate for place, token in r.picks]
    assert [(joint.tokens[place], token) for place, token in joint.picks] == picked


def test_a_prompt_is_read_once_unless_attention_would_cost_more_than_that_saves():
    long, short = tuple(range(1000)), tuple(range(20))
    tails = [tuple(range(i, i + 1500)) for i in range(4)]
    few = model_inputs.scored_rows(items.Question(long, ((1, 2), (3, 4)), (1, 1), 0))
    assert [len(row.tokens) for row in few] == [1002]
    many = model_inputs.scored_rows(items.Question(short, tuple(tails), (1,) * 4, 0))
    assert [len(row.tokens) for row in many] == [20 + 1499] * 4


@pytest.mark.parametrize("opening", [(), (99,)])
def test_windows_cover_the_text_once(opening):
    text = " ".join("w" * (1 + i % 7) for i in range(50))
    windows = encoding.encode_windows(text, Words(opening), length=8, limit=45)
    bodies = [w.tokens[len(opening) :] for w in windows]
    assert [t for body in bodies for t in body] == [1 + i % 7 for i in range(45)]
    assert all(w.tokens[: len(opening)] == opening for w in windows)
    scored = sum(len(w.tokens) - w.scored_from for w in windows)
    # Without an opening token the first token of each window is context only.
    assert scored == (45 if opening else 45 - len(windows))


def test_batches_hold_every_example_once_an_epoch_and_depend_on_the_seed_only():
    examples = [items.Example(tuple(range(2 + i % 9)), 1) for i in range(37)]
    steps = model_inputs.epoch_batches(examples, 8, seed=3, epochs=2)
    assert sorted(map(len, steps)) == [5, 5] + [8] * 8
    flat = [e for step in steps for e in step]
    assert sorted(flat, key=repr) == sorted(examples * 2, key=repr)
    assert steps == model_inputs.epoch_batches(examples, 8, seed=3, epochs=2)
    assert steps != model_inputs.epoch_batches(examples, 8, seed=4, epochs=2)


def test_bucketing_saves_padding():
    import random

    generator = random.Random(0)
    examples = [items.Example(tuple(range(generator.randrange(2, 60))), 1) for _ in range(128)]

    def padded(steps):
        return sum(len(s) * max(len(e.tokens) for e in s) for s in steps)

    shuffled = list(examples)
    generator.shuffle(shuffled)
    plain = [shuffled[i : i + 8] for i in range(0, 128, 8)]
    assert padded(model_inputs.epoch_batches(examples, 8, seed=0, epochs=1)) < 0.8 * padded(plain)


# --- splits --------------------------------------------------------------------------------------


def rows(start, stop, label=0):
    return [{"text": f"text {i}", "label": label} for i in range(start, stop)]


def test_overlaps_are_removed_from_train_and_counted():
    source = {"train": rows(0, 20), "validation": rows(15, 25), "test": rows(19, 30)}
    splits = splits_module.split_rows(task(), source.get)
    assert (len(splits.train), splits.overlaps_removed) == (15, 5)
    assert (len(splits.validation), len(splits.test)) == (10, 11)


def test_a_missing_validation_split_is_a_hash_chosen_tenth():
    source = {"train": rows(0, 2000), "test": rows(3000, 3010)}
    splits = splits_module.split_rows(task(), source.get)
    assert 150 < len(splits.validation) < 250
    assert len(splits.train) + len(splits.validation) == 2000
    backwards = {"train": source["train"][::-1], "test": source["test"]}
    again = splits_module.split_rows(task(), backwards.get)
    assert {r["text"] for r in again.validation} == {r["text"] for r in splits.validation}
    assert splits.origins["validation"] == "a tenth of train, chosen by hash"


def test_a_derived_validation_split_has_at_most_a_thousand_rows():
    splits = splits_module.split_rows(
        task(), {"train": rows(0, 14000), "test": rows(20000, 20001)}.get
    )
    assert len(splits.validation) == 1000


@pytest.mark.parametrize("test", [None, rows(50, 60, label=-1)])
def test_without_a_labelled_test_split_validation_becomes_test(test):
    source = {"train": rows(100, 400), "validation": rows(0, 9), "test": test}
    splits = splits_module.split_rows(task(), source.get)
    assert len(splits.test) == 9
    assert "no labelled test split" in splits.origins["test"]
    assert splits.origins["validation"] == "a tenth of train, chosen by hash"


def test_a_probe_with_one_split_is_measured_on_it():
    splits = splits_module.split_rows(task(), {"test": rows(0, 9)}.get)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (0, 9, 0)


def test_nothing_to_measure_on_is_refused():
    with pytest.raises(
        placed_row.DataError, match="no validation split and nothing to cut one from"
    ):
        splits_module.split_rows(task(), {}.get)


def test_null_labels_leave_rows_out_and_equal_words_are_one_label():
    spec = task(labels={"0": " bad", "4": " good", "1": " good", "2": None})
    source = {
        "train": rows(0, 10, 4) + rows(10, 20, 2) + rows(20, 30, 1),
        "validation": rows(30, 40),
        "test": rows(40, 50),
    }
    splits = splits_module.split_rows(spec, source.get)
    assert (len(splits.train), splits.left_out) == (20, 10)
    assert spec.label_values == ["0", "4"]
    answers = {encoding.encode_question(spec, r, Words(), 32).answer for r in splits.train}
    assert answers == {1}


# --- preparing -----------------------------------------------------------------------------------


def test_limits_choose_the_same_rows_whatever_their_order(tiny_tasks):
    spec = load_task(find_task_file("mood", [tiny_tasks / "tasks"]))
    limits = DataLimits(train_examples=10, validation_examples=5)
    prepared = task_preparation.prepare_task(
        spec, DifferentWords(), limits, max_length=64, learnt=True
    )
    assert (len(prepared.train), len(prepared.validation)) == (10, 5)
    whole = task_preparation.prepare_task(
        spec, DifferentWords(), DataLimits(), max_length=64, learnt=True
    )
    assert whole.train[:10] == prepared.train
    assert whole.validation[:5] == prepared.validation


def test_without_limits_the_order_of_a_file_changes_nothing(tiny_tasks, monkeypatch):
    """A validation file sorted by label would give the rungs one label only."""
    spec = load_task(find_task_file("mood", [tiny_tasks / "tasks"]))
    limits = DataLimits(validation_examples=None, test_examples=None)
    read = reading.read_split
    prepared = []
    for order in (False, True):
        monkeypatch.setattr(
            task_preparation, "read_split",
            lambda data, name, order=order: sorted(
                read(data, name), key=lambda row: (row["label"], row["text"]), reverse=order
            ),
        )  # fmt: skip
        prepared.append(
            task_preparation.prepare_task(
                spec, DifferentWords(), limits, max_length=64, learnt=True
            )
        )
    first, second = prepared
    assert (first.train, first.validation) == (second.train, second.validation)
    assert {question.answer for question in first.validation[:8]} == {0, 1}


def test_a_source_is_read_like_train_and_refused_without_it(tiny_tasks):
    spec = load_task(tiny_tasks / "tasks" / "prose.yaml")
    limits = DataLimits(source_examples=3)
    with pytest.raises(placed_row.DataError, match="has no training rows, and a method reads them"):
        task_preparation.prepare_task(
            spec, Words(), limits, max_length=8, learnt=False, source=True
        )
    mood = load_task(tiny_tasks / "tasks" / "mood.yaml")
    read = task_preparation.prepare_task(
        mood, DifferentWords(), limits, max_length=32, learnt=False, source=True
    )
    assert len(read.train) == 3
    assert not task_preparation.prepare_task(
        mood, DifferentWords(), limits, max_length=32, learnt=False
    ).train


def test_the_majority_is_that_of_train():
    spec = task()
    train = rows(0, 10, 0) + rows(10, 13, 1)
    facts = {}

    class Fixed:
        def __call__(self, name):
            return {"train": train, "validation": rows(50, 52, 0) + rows(60, 66, 1)}.get(
                name, rows(90, 91)
            )

    splits = splits_module.split_rows(spec, Fixed())
    assert len(splits.validation) == 8
    from orchestrator.data import task_preparation as module

    original = module.read_split
    module.read_split = lambda data, name: Fixed()(name)
    try:
        facts = task_preparation.prepare_task(
            spec, Words(), DataLimits(), max_length=32, learnt=True
        ).facts
    finally:
        module.read_split = original
    assert facts["majority_label"] == "0"
    assert facts["majority"] == pytest.approx(2 / 8)
    assert facts["chance"] == pytest.approx(0.5)


@pytest.mark.skipif(not DATA_ROOT.is_dir(), reason="no data root with the public benchmarks here")
@pytest.mark.parametrize("name", ["sst2", "mrpc", "sentiment140", "wikitext2", "arc_easy"])
def test_committed_task_files_read_a_data_root(name, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(
        json.dumps(
            {
                "name": "x",
                "model": {"name": "m"},
                "tasks": [name],
                "method": {"adapter": {"kind": "lora"}},
                "objectives": {"gain": "max"},
                "champion": {"subject_to": {}},
            }
        )
    )
    (tmp_path / "tasks").symlink_to(ROOT / "experiments" / "tasks")
    loaded = load_experiment(path, data_root=DATA_ROOT)
    limits = DataLimits(train_examples=20, validation_examples=20, probe_tokens=500)
    learnt = name != "wikitext2"
    tokenizer = EndedWords()
    prepared = task_preparation.prepare_task(
        loaded.tasks[name], tokenizer, limits, max_length=256, learnt=learnt
    )
    assert len(prepared.validation) >= 1
    assert len(prepared.train) == (20 if learnt else 0)
    if learnt:
        assert 0 < prepared.facts["chance"] <= 0.5
        assert all(math.isfinite(len(q.prompt)) and q.prompt for q in prepared.validation)


@pytest.mark.parametrize("searched", [False, True])
def test_early_stopping_needs_an_example_to_hold_out(experiment_file, searched):
    adapter = {"kind": "lora", "r": 2, "target_modules": ["q_proj"]}
    method = {"adapter": adapter} if searched else {"adapter": adapter, "early_stopping": {}}
    space = {"method.early_stopping": {"choice": [None, {}]}}
    fields = {"method": method, "search": {"space": space} if searched else None}
    for count, enough in ((1, False), (2, True)):
        data = {"train_examples": count, "validation_examples": 2, "probe_tokens": 64,
                "probe_context": 32}  # fmt: skip
        loaded = load_experiment(experiment_file(data=data, **fields))
        tokenizer = load_tokenizer(loaded.experiment.model)
        if enough:
            assert len(preparation.prepare(loaded, tokenizer).tasks["mood"].train) == 2
        else:
            with pytest.raises(
                placed_row.DataError, match=r"'mood' has 1 training example.*needs two"
            ):
                preparation.prepare(loaded, tokenizer)
