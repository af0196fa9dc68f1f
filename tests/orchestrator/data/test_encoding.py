"""Prompts: chat templates, what is shortened, and what is learnt after them."""

import pytest

from orchestrator.data.encoding import encode_question, encode_writing
from orchestrator.data.formats.placed_row import DataError
from orchestrator.data.items import Example, example_of, token_ids
from orchestrator.data.prompt_tokens import fitted_prompt, refuse_unknown_ids
from orchestrator.data.prompts import rendered_prompt
from orchestrator.spec.task_files import TaskFileError, parse_task


class Letters:
    """A tokenizer of letters: token ids are code points, so texts can be read off."""

    bos_token_id = None
    eos_token_id = 0
    chat_template = None

    def __call__(self, text, add_special_tokens=True):
        opening = [self.bos_token_id] if add_special_tokens and self.bos_token_id else []
        return {"input_ids": opening + [ord(letter) for letter in text]}

    def decode(self, tokens):
        return "".join(map(chr, tokens))


class Chatting(Letters):
    """The same with a chat template."""

    bos_token_id = 1
    chat_template = "yes"

    def apply_chat_template(self, messages, *, tokenize, add_generation_prompt):
        assert not tokenize
        assert add_generation_prompt
        said = "".join(f"<{m['role']}>{m['content']}\n" for m in messages)
        return f"\x01{said}<assistant>"


def text_of(tokens):
    return "".join(map(chr, tokens))


def task(kind="classification", **fields):
    document = {"name": "t", "kind": kind, "data": {"files": "."}, "prompt": "{a}|{b}?", **fields}
    if kind == "classification":
        document.setdefault("labels", {"0": " no", "1": " yes"})
    return parse_task(document, "t.yaml")


ROW = {"a": "aaaaaaaaaa", "b": "bbbb", "label": 1, "target": "answer"}


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (16, "aaaaaaaaaa|bbbb?"),
        (12, "aaaaaa|bbbb?"),  # the longer text of a pair pays first
        (8, "aaa|bbb?"),  # then both
        (4, "a|b?"),
        (2, "b?"),  # nothing left to shorten: the beginning goes
    ],
)
def test_the_longest_column_loses_its_end(room, expected):
    _, tokens, whole = fitted_prompt(task(), ROW, Letters(), room)
    assert text_of(tokens) == expected
    assert whole == (room == 16)


def test_a_prompt_that_loses_its_beginning_keeps_the_opening_token():
    _, tokens, _ = fitted_prompt(task(), ROW, Chatting(), 3)
    assert tokens == (1, ord("b"), ord("?"))


def test_a_question_leaves_room_for_its_longest_continuation():
    question = encode_question(task(), ROW, Letters(), 12)
    assert text_of(question.prompt) == "aaa|bbb?"
    assert len(question.prompt) + max(map(len, question.continuations)) == 12
    assert question.shortened
    assert not encode_question(task(), ROW, Letters(), 20).shortened


def test_a_chat_template_stays_whole_and_answers_lose_their_space():
    chat = task(template="chat", system="be kind")
    prompt = "\x01<system>be kind\n<user>aaaaaaaaaa|bbbb?\n<assistant>"
    assert rendered_prompt(chat, ROW, Chatting()) == prompt
    question = encode_question(chat, ROW, Chatting(), 100)
    assert text_of(question.prompt) == prompt
    assert [text_of(c) for c in question.continuations] == ["no", "yes"]
    cut = encode_question(chat, ROW, Chatting(), len(prompt) - 4)
    assert text_of(cut.prompt) == "\x01<system>be kind\n<user>aaa|bbbb?\n<assistant>"


def test_a_chat_template_needs_a_tokenizer_that_has_one():
    with pytest.raises(DataError, match="tokenizer has none"):
        encode_question(task(template="chat"), ROW, Letters(), 100)


def test_a_system_message_needs_a_chat():
    with pytest.raises(TaskFileError, match="`system` has no place in `template: raw`"):
        task(system="be kind")


def test_a_linear_head_learns_the_label_after_the_whole_prompt():
    question = encode_question(task(head="linear"), ROW, Letters(), 16)
    assert text_of(question.prompt) == "aaaaaaaaaa|bbbb?"
    assert (question.continuations, question.head, question.lengths) == (((0,), (1,)), "t", (1, 1))
    assert example_of(question) == Example((*question.prompt, 1), 16, "t", 1)


def test_a_text_to_write_ends_with_the_end_of_the_text():
    writing = encode_writing(task("generation"), ROW, Letters(), 40)
    assert text_of(writing.target) == " answer\x00"
    assert writing.reference == "answer"
    example = example_of(writing)
    assert text_of(example.tokens) == "aaaaaaaaaa|bbbb? answer\x00"
    assert example.scored_from == 16


def test_a_long_reference_leaves_the_prompt_a_quarter():
    writing = encode_writing(task("generation"), {**ROW, "target": "x" * 50}, Letters(), 20)
    assert len(writing.prompt) == 5
    assert text_of(writing.target) == " " + "x" * 14
    assert writing.shortened
    assert writing.reference == "x" * 50


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"target": "no braces"}, "must hold {target}"),
        ({"metric": "bleu", "answer": "final_number"}, "belongs to `metric: exact_match`"),
        ({"metric": "accuracy"}, "'exact_match', 'bleu' or 'rouge_l'"),
        ({"max_new_tokens": 10**12}, "less than or equal to 65536"),
        ({"stop": ["\n", ""]}, "an empty text, which ends all writing"),
    ],
)
def test_wrong_generation_tasks_are_refused(fields, expected):
    with pytest.raises(TaskFileError) as caught:
        task("generation", **fields)
    assert expected in str(caught.value)


# --- chat templates that will not have it --------------------------------------------------------


class Templated(Letters):
    """A tokenizer with a chat template as models bring them."""

    def __init__(self, template):
        from transformers.utils.chat_template_utils import render_jinja_template

        self.chat_template, self._render = template, render_jinja_template

    def apply_chat_template(self, messages, *, tokenize, add_generation_prompt):
        [text], _ = self._render(
            [messages], chat_template=self.chat_template,
            add_generation_prompt=add_generation_prompt,
        )  # fmt: skip
        return text


TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
         + TURNS, r"refuses it \(no system here\).*Take `system` out"),
        (TURNS.replace("messages %}", "messages if m.role == 'user' %}"),
         r"leaves it out without a word.*Take `system` out"),
        ("{{ raise_exception('never') }}", r"fails on a prompt \(never\).*`template: raw`"),
        ("{{ messages[0].content.nothing.more }}", "fails on a prompt"),
        ("{% for", "fails on a prompt"),
    ],
)  # fmt: skip
def test_a_chat_template_that_will_not_have_the_messages_is_said(template, told):
    with pytest.raises(DataError, match=told) as caught:
        rendered_prompt(task(template="chat", system="be kind"), ROW, Templated(template))
    assert "Task 't'" in str(caught.value)


def test_a_chat_template_that_trims_the_system_message_has_it():
    template = TURNS.replace("m.content", "m.content | trim")
    chat = task(template="chat", system=" be kind ")
    assert "<system>be kind<user>" in rendered_prompt(chat, ROW, Templated(template))


# --- tokens that a base does not have ------------------------------------------------------------


def test_tokens_beyond_the_embedding_are_refused():
    question = encode_question(task(), ROW, Letters(), 100)
    largest = max(token_ids(question))
    refuse_unknown_ids("t", token_ids(question), Letters(), largest + 1)
    refuse_unknown_ids("t", token_ids(question), Letters(), None)
    with pytest.raises(DataError, match=f"'|' as token {largest}.*has {largest} rows"):
        refuse_unknown_ids("t", token_ids(question), Letters(), largest)
