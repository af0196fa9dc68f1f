"""The text of a row while it is written: what can be shown already, and where it stops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer writes for the first bytes of a character whose others are to come."""


class WrittenText:
    """New tokens of one row as text, cut before the first of its stop texts."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], *, stripped: bool = False) -> None:
        """Begin a text.

        Args:
            tokenizer: Turns tokens into text.
            stop: The text ends before the first of these.
            stripped: Whether space before the first word is no part of the text, so that it stops
                nothing: as texts of a task are written.
        """
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._stripped = stripped
        self.tokens: list[int] = []
        self.text = ""
        """All of it that is settled."""
        self.stopped = False
        self._shown = 0
        # Tokens are decoded with a few before them: what one reads like depends on these.
        self._from = self._read = 0

    def add(self, token: int) -> None:
        """Write a token; see `stopped`."""
        self.tokens.append(token)
        before = self._decode(self._from, self._read)
        whole = self._decode(self._from, len(self.tokens))
        if len(whole) > len(before) and not whole.endswith(_UNFINISHED):
            self._settle(whole[len(before) :])
            self._from, self._read = self._read, len(self.tokens)

    def end(self) -> None:
        """Settle what is left: nothing follows that would finish a character."""
        if not self.stopped:
            before = self._decode(self._from, self._read)
            self._settle(self._decode(self._from, len(self.tokens))[len(before) :])
            self._from = self._read = len(self.tokens)

    def shown(self, *, last: bool) -> str:
        """What may be shown since the last call.

        Args:
            last: Whether nothing follows; else what may be the beginning of a stop text is held
                back.

        Returns:
            Text, perhaps empty.
        """
        end = len(self.text)
        if not last:
            longest = max((len(stop) for stop in self._stop), default=1) - 1
            end -= next(
                (
                    size
                    for size in range(min(longest, end), 0, -1)
                    if any(stop.startswith(self.text[end - size :]) for stop in self._stop)
                ),
                0,
            )
        new = self.text[self._shown : max(end, self._shown)]
        self._shown = max(end, self._shown)
        return new

    def _settle(self, new: str) -> None:
        if self._stripped and not self.text:
            new = new.lstrip()
        longest = max((len(stop) for stop in self._stop), default=0)
        first = max(0, len(self.text) - longest)
        self.text += new
        places = [at for stop in self._stop if (at := self.text.find(stop, first)) >= 0]
        if places:
            self.text, self.stopped = self.text[: min(places)], True

    def _decode(self, first: int, end: int) -> str:
        if first == end:
            return ""
        return str(self._tokenizer.decode(self.tokens[first:end], skip_special_tokens=True))
