"""What may follow a prompt is told apart, and from the prompt, or it is refused."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from orchestrator.cli.application import app
from orchestrator.data import task_preparation
from orchestrator.data.encoding import encode_question, encode_writing
from orchestrator.data.formats.placed_row import DataError
from orchestrator.data.items import example_of
from orchestrator.data.model_inputs import apart
from orchestrator.data.prompt_tokens import encode_prompt
from orchestrator.loop.scoring import score
from orchestrator.planning.tokens import ByteTokenizer
from orchestrator.spec.load import load_experiment
from orchestrator.spec.sections import DataLimits
from orchestrator.spec.task_files import parse_task
from orchestrator.sweep.errors import SweepError
from orchestrator.sweep.run import run_sweep
from orchestrator.sweep.run_options import SweepOptions
from orchestrator.system import content_cache
from orchestrator.system.strict_json import fingerprint

CORPUS = [
    "Text: a book Answer: science fiction Answer: negative review Answer: positive review",
    "Question: how many Answer: yes no one hundred and ten",
]


def bpe(**special):
    """A byte-level BPE as GPT-2's, which puts the space before a word into the word's token."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True),
         pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )  # fmt: skip
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        CORPUS * 20,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<end>"], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=made, **{"eos_token": "<end>"} | special)


@pytest.fixture(scope="module")
def tokenizer():
    return bpe()


def task(kind="classification", **fields):
    document = {"name": "t", "kind": kind, "data": {"files": "."}, "prompt": "Text: {text} Answer:"}
    if kind == "classification":
        document["labels"] = {"0": " science", "1": " science fiction"}
    return parse_task(document | fields, "t.yaml")


def choices(*texts, answer=0, text="a book"):
    return {"text": text, "choices": list(texts), "answer": answer, "label": "0"}


class Knows:
    """Answers as a model that has learnt one text: nearly all of each step's probability."""

    def __init__(self, tokens):
        self.tokens = tokens

    def log_probabilities(self, rows):
        return [
            [self._of(part, place, token) for part in apart(row) for place, token in part.picks]
            for row in rows
        ]

    def _of(self, row, place, token):
        learnt = row.tokens[: place + 1] == self.tokens[: place + 1]
        right = learnt and self.tokens[place + 1 : place + 2] == (token,)
        return math.log(0.999 if right else 1e-3)


# --- label words ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "labels", "expected"),
    [
        ("Text: {text} Answer:", (" science", " science fiction"),
         ("' science' is how ' science fiction' begins", "no label word begins another")),
        ("Text: {text} Answer:", (" 10", " no", " 1"),
         ("' 1' is how ' 10' begins", "no label word begins another")),
        ("Text: {text} Answer: ", ("negative review", "positive review"),
         ("'negative review' and 'positive review'", "End `prompt` without a space")),
        ("{text} sci", ("ence", " no"),
         ("to the beginning of 'ence'", "End `prompt` in a fixed word or mark")),
    ],
)  # fmt: skip
def test_label_words_that_cannot_be_told_apart_are_refused(tokenizer, prompt, labels, expected):
    spec = task(prompt=prompt, labels={str(i): word for i, word in enumerate(labels)})
    with pytest.raises(DataError) as caught:
        encode_question(spec, choices(), tokenizer, 64)
    for words in ("Task 't'", *expected):
        assert words in str(caught.value)


def test_a_tokenizer_that_writes_two_label_words_alike_is_refused():
    lower = bpe()
    from tokenizers import normalizers

    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    spec = task(labels={"0": " Yes", "1": " yes", "2": " no"})
    with pytest.raises(DataError, match="' Yes' and ' yes' are the same tokens"):
        encode_question(spec, choices(), lower, 64)


def test_a_linear_head_has_no_words_to_tell_apart(tokenizer):
    question = encode_question(task(head="linear"), choices(), tokenizer, 64)
    assert question.continuations == ((0,), (1,))


def test_a_stand_in_for_a_tokenizer_refuses_nothing():
    """Its tokens are guesses; `plan` says that it cannot tell."""
    question = encode_question(task(), choices(), ByteTokenizer(), 64)
    assert len(question.continuations) == 2
    assert len(encode_question(task(template="chat"), choices(), ByteTokenizer(), 64).prompt) > 4


# --- choices of a row ----------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["accuracy", "accuracy_norm"])
@pytest.mark.parametrize("answer", [0, 1, 2])
def test_a_choice_that_begins_another_can_be_learnt_and_so_can_the_other(tokenizer, metric, answer):
    spec = task("multiple_choice", metric=metric)
    row = choices("science fiction", "science", "no", answer=answer)
    question = encode_question(spec, row, tokenizer, 64)
    end = tokenizer.eos_token_id
    assert all(tail[-1] == end for tail in question.continuations)
    learnt = example_of(question)
    assert learnt.tokens[learnt.scored_from :] == question.continuations[answer]
    found = score([question], spec, Knows(learnt.tokens))
    assert found.value == 1.0
    # Asked without knowing the answer, it is the same question.
    asked = encode_question(spec, spec.with_any_answer(row), tokenizer, 64)
    assert asked.continuations == question.continuations


def test_other_rows_are_as_they_were(tokenizer):
    spec = task("multiple_choice")
    question = encode_question(spec, choices("yes", "no one"), tokenizer, 64)
    prompt = "Text: a book Answer:"
    assert tokenizer.decode(question.prompt) == prompt
    assert [tokenizer.decode(tail) for tail in question.continuations] == [" yes", " no one"]


def test_without_an_end_of_text_the_choices_are_named():
    with pytest.raises(DataError, match=r"' 1' of a row is how ' 10' begins.*has none"):
        encode_question(task("multiple_choice"), choices("10", "1"), bpe(eos_token=None), 64)


def test_choices_joined_to_their_prompt_begin_with_what_is_joined(tokenizer):
    """The text ends in a space of its own, which no task file can mend."""
    spec = task("multiple_choice", prompt="{text}", continuation="{choice}")
    row = choices("negative review", "positive review", text="Answer: ")
    question = encode_question(spec, row, tokenizer, 64)
    assert tokenizer.decode(question.prompt) == "Answer:"
    texts = [tokenizer.decode(tail) for tail in question.continuations]
    assert texts == [" negative review", " positive review"]
    assert len(encode_prompt(spec, row, tokenizer, 64)) == len(question.prompt) + 1
    with pytest.raises(DataError, match="End `prompt` without a space"):
        encode_question(
            task("multiple_choice", prompt="{text} Answer: ", continuation="{choice}"),
            row, tokenizer, 64,
        )  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    texts=st.lists(st.text("01 abn\n", max_size=5), min_size=2, max_size=5),
    text=st.text("01 abn:\n", max_size=6),
    glued=st.booleans(),
)
def test_no_continuation_ever_begins_another(tokenizer, texts, text, glued):
    """And prompt and continuation together are what the tokenizer makes of the whole text."""
    between = "" if glued else " "
    spec = task("multiple_choice", prompt="Q {text}", continuation=between + "{choice}")
    try:
        question = encode_question(spec, choices(*texts, text=text), tokenizer, 64)
    except DataError as error:
        assert "adds no token" in str(error)  # noqa: PT017
        assert "" in texts
        return
    tails = dict.fromkeys(question.continuations)
    assert not any(one != other and other[: len(one)] == one for one in tails for other in tails)
    closed = all(tail[-1] == tokenizer.eos_token_id for tail in tails)
    for choice, tail in zip(texts, question.continuations, strict=True):
        whole = tokenizer(f"Q {text}{between}{choice}")["input_ids"]
        assert [*question.prompt, *tail[: len(tail) - closed]] == whole


def test_rows_whose_right_choice_stands_there_twice_are_left_out_and_counted(tokenizer, tmp_path):
    rows = [
        choices("yes", "no", "one" if i % 5 else "yes", answer=i % 2, text=f"book {i}")
        for i in range(40)
    ]
    for split in ("train", "validation"):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{split}.jsonl").write_text(lines.replace("book", split))
    spec = task("multiple_choice", data={"files": str(tmp_path)}, splits={"test": None})
    limits = DataLimits(validation_examples=None)
    made = task_preparation.prepare_task(spec, tokenizer, limits, max_length=64, learnt=True)
    # Of the 8 rows with two equal choices, 4 have "yes" for the right one; validation is test too.
    assert (
        made.facts["rows_alike"]
        == sum(row["choices"].count(row["choices"][row["answer"]]) > 1 for row in rows) * 2
    )
    assert all(question.is_answerable for question in made.validation)


# --- writing -------------------------------------------------------------------------------------


def test_a_reference_joined_to_its_prompt_is_refused(tokenizer):
    """Asked, the model gets the prompt's own tokens; it must have learnt to go on from those."""
    row = {"text": "a", "target": "yes"}
    spec = task("generation", prompt="Text: {text} Answer: ", target="{target}")
    with pytest.raises(DataError, match="End `prompt` without a space"):
        encode_writing(spec, row, tokenizer, 64)
    writing = encode_writing(task("generation"), row, tokenizer, 64)
    assert tokenizer.decode(writing.target) == " yes<end>"


# --- said before anything is trained -------------------------------------------------------------


@pytest.fixture
def two_labels(experiment_file, tiny_tasks, tmp_path):
    """A task of which one label word begins the other, and an experiment with it."""
    document = {
        "name": "twins", "kind": "classification",
        "data": {"files": str(tiny_tasks / "data" / "mood")},
        "prompt": "text : {text} label :",
        "labels": {"negative": " good", "positive": " good film"},
    }  # fmt: skip
    file = tmp_path / "twins.yaml"
    file.write_text(json.dumps(document))
    path = experiment_file(
        tasks=[str(file)], probes=[], objectives={"gain": "max"}, champion={"subject_to": {}},
        resources={"executor": "local"},
    )  # fmt: skip
    return file, path


def test_check_plan_and_sweep_say_it_before_anything_is_trained(two_labels, tiny_base, recorder):
    file, path = two_labels
    said = [
        CliRunner().invoke(app, list(map(str, words)))
        for words in (["tasks", "check", file, "--model", tiny_base], ["plan", path])
    ]
    assert [result.exit_code for result in said] == [2, 2]
    with pytest.raises(SweepError) as caught:
        run_sweep(load_experiment(path), SweepOptions(), recorder)
    assert not recorder.lines
    for text in (*(result.stderr for result in said), str(caught.value)):
        assert "' good' is how ' good film' begins" in text
        assert str(file) in text
        assert "Change `labels`" in text


def test_a_plan_without_the_tokenizer_says_that_it_cannot_tell(two_labels, monkeypatch):
    from orchestrator.planning import planner, tokens
    from orchestrator.planning.plan import Machine

    monkeypatch.setattr(tokens, "local_folder", lambda _: None)
    machine = Machine(2, 0, None, None, here=False)
    plan = planner.make_plan(load_experiment(two_labels[1]), machine, calibrate=False)
    assert any("' good' is how ' good film' begins" in warning for warning in plan.warnings)


def test_an_encoding_that_changes_takes_a_new_format_of_the_cache(tokenizer):
    """What was tokenised before is read from a cache; raise `FORMAT` with the numbers here."""
    rows = [choices("science", "science fiction", "no"), choices("yes", "no", answer=1)]
    asked = [encode_question(task("multiple_choice"), row, tokenizer, 64) for row in rows]
    asked.append(encode_question(task(head="linear"), rows[0], tokenizer, 6))
    texts = [
        [tokenizer.convert_ids_to_tokens(tokens) for tokens in (item.prompt, *item.continuations)]
        if item.head is None else [tokenizer.convert_ids_to_tokens(item.prompt)]
        for item in asked
    ]  # fmt: skip
    assert (content_cache.FORMAT, fingerprint(texts)) == (3, "d8e5afee2170b539")


@pytest.fixture
def grown_tokenizer(tiny_base, tmp_path):
    """A base whose tokenizer was given a token that the embedding lacks, and a padding token."""
    import shutil

    from transformers import AutoTokenizer

    shutil.copytree(tiny_base, tmp_path / "grown")
    grown = AutoTokenizer.from_pretrained(tmp_path / "grown")
    grown.add_tokens(["<sep>"])
    grown.add_special_tokens({"pad_token": "<fill>"})
    grown.save_pretrained(tmp_path / "grown")
    return tmp_path / "grown"


def test_tokens_that_the_base_lacks_are_said_before_a_trial(
    grown_tokenizer, experiment_file, tiny_tasks, recorder, tmp_path
):
    text = (tiny_tasks / "tasks" / "mood.yaml").read_text()
    file = tmp_path / "mood.yaml"
    file.write_text(
        text.replace("'text : ", "'text <sep> ").replace("../data", str(tiny_tasks / "data"))
    )
    path = experiment_file(
        tasks=[str(file)], probes=[], objectives={"gain": "max"}, champion={"subject_to": {}},
        model={"name": str(grown_tokenizer)}, resources={"executor": "local"},
    )  # fmt: skip
    said = [
        CliRunner().invoke(app, list(map(str, words)))
        for words in (["tasks", "check", file, "--model", path], ["plan", path])
    ]
    with pytest.raises(SweepError) as caught:
        run_sweep(load_experiment(path), SweepOptions(), recorder)
    assert not recorder.lines
    for words in (*(result.stderr for result in said), str(caught.value)):
        assert "the tokenizer writes '<sep>' as token" in words
        assert str(file) in words


def test_a_padding_token_that_the_base_lacks_is_not_used(grown_tokenizer):
    """Masked places are looked up in the embedding as well."""
    import torch

    from orchestrator.base.loading import load_base, load_tokenizer
    from orchestrator.engines.generation import write_batch
    from orchestrator.spec.sections import ModelSpec

    spec = ModelSpec(name=str(grown_tokenizer))
    model, grown = load_base(spec, "fp32"), load_tokenizer(spec)
    assert grown.pad_token_id >= model.get_input_embeddings().num_embeddings
    writes = task("generation", max_new_tokens=2, stop=[])
    [short, _] = write_batch(model, grown, [(5,), (5, 6, 7)], writes, torch.device("cpu"))
    [alone] = write_batch(model, grown, [(5,)], writes, torch.device("cpu"))
    assert short == alone
