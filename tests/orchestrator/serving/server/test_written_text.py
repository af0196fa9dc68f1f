"""Pieces of a text join to what its tokens read like at once, up to a stop text."""

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.serving.server.written_text import WrittenText


class Bytes:
    """A tokenizer of bytes: characters are several tokens."""

    def decode(self, tokens, skip_special_tokens=True):
        return bytes(tokens).decode(errors="replace")


texts = st.text(alphabet="abcx \n é漢🙂", max_size=30)


@settings(max_examples=300, deadline=None)
@given(text=texts, stop=st.lists(st.text("ab \n漢", min_size=1, max_size=3), max_size=3),
       stripped=st.booleans(), streamed=st.booleans())  # fmt: skip
def test_the_pieces_are_the_text_before_its_first_stop(text, stop, stripped, streamed):
    written = WrittenText(Bytes(), stop, stripped=stripped)
    shown = ""
    for token in text.encode():
        written.add(token)
        if written.stopped:
            break
        if streamed:
            shown += written.shown(last=False)
    written.end()
    shown += written.shown(last=True)
    whole = text.lstrip() if stripped else text
    ends = [whole.find(one) for one in stop if one in whole]
    # Token by token the stop that is complete first ends the text; of these the earliest beginning.
    if ends:
        first = min(whole.find(one) + len(one) for one in stop if one in whole)
        done = [one for one in stop if whole.find(one) + len(one) == first and one in whole]
        whole = whole[: min(whole.find(one) for one in done)]
    assert shown == whole == written.text
    assert written.stopped == bool(ends)
