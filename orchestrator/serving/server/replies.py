"""Answers as clients of OpenAI's expect them, whole and piece by piece."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from orchestrator.serving.server.jobs import Told, WriteJob
from orchestrator.serving.server.orders import decoded
from orchestrator.serving.server.sampling import TokenChances

DONE = b"data: [DONE]\n\n"


def event(document: dict[str, Any]) -> bytes:
    """A document as a server-sent event."""
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


@dataclass
class Reply:
    """The answer to one request for texts."""

    kind: Literal["completion", "chat"]
    model: str
    jobs: Sequence[WriteJob]
    tokenizer: Any
    echoed: bool = False
    """Whether the prompt stands before what was written."""
    number: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))
    _offsets: dict[int, int] = field(default_factory=dict)
    _written: dict[int, int] = field(default_factory=dict)

    def whole(self, news: Sequence[Sequence[Told]]) -> dict[str, Any]:
        """The answer in one piece.

        Args:
            news: Of each text, all that was told.

        Returns:
            The document.
        """
        choices: list[dict[str, Any]] = []
        for index, told in enumerate(news):
            text = self.prompt(index) + "".join(one.text for one in told)
            chances = [chance for one in told for chance in one.chances]
            choice: dict[str, Any] = {"index": index, "finish_reason": told[-1].finish}
            if self.kind == "chat":
                choice["message"] = {"role": "assistant", "content": text}
            else:
                choice["text"] = text
            choice["logprobs"] = self._chances(index, chances)
            choices.append(choice)
            self._written[index] = told[-1].tokens
        return self._document(choices, part=False) | {"usage": self.usage}

    def begin(self, index: int) -> dict[str, Any] | None:
        """What is streamed before a text's first news; None if nothing is."""
        if self.kind == "chat":
            delta = {"role": "assistant", "content": ""}
            return self._document([self._choice(index, delta=delta)], part=True)
        if self.echoed and not self.jobs[index].echo:
            return self._document([self._choice(index, text=self.prompt(index))], part=True)
        return None

    def piece(self, index: int, told: Told) -> dict[str, Any] | None:
        """News of a text as they are streamed; None where there is nothing to show."""
        self._written[index] = told.tokens
        if not (told.text or told.finish or told.chances):
            return None
        # The prompt's own log-probabilities come first, and with its text.
        echo = self.jobs[index].echo and index not in self._offsets
        text = (self.prompt(index) if echo else "") + told.text
        fields: dict[str, Any] = {"text": text}
        if self.kind == "chat":
            fields = {"delta": {"content": text} if text else {}}
        chances = self._chances(index, told.chances) if told.chances else None
        choice = self._choice(index, **fields) | {
            "finish_reason": told.finish,
            "logprobs": chances,
        }
        return self._document([choice], part=True)

    def last(self) -> dict[str, Any]:
        """The piece with the counts, where they are asked for."""
        return self._document([], part=True) | {"usage": self.usage}

    @property
    def usage(self) -> dict[str, int]:
        """How many tokens were read and written."""
        read, written = sum(len(job.prompt) for job in self.jobs), sum(self._written.values())
        return {
            "prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written,
        }  # fmt: skip

    def prompt(self, index: int) -> str:
        """What stands before a written text."""
        if not self.echoed:
            return ""
        return str(self.tokenizer.decode(list(self.jobs[index].prompt), skip_special_tokens=True))

    def _choice(self, index: int, **fields: Any) -> dict[str, Any]:
        return {"index": index, "finish_reason": None, "logprobs": None, **fields}

    def _document(self, choices: list[dict[str, Any]], *, part: bool) -> dict[str, Any]:
        name, kind = f"cmpl-{self.number}", "text_completion"
        if self.kind == "chat":
            name = f"chatcmpl-{self.number}"
            kind = "chat.completion.chunk" if part else "chat.completion"
        return {
            "id": name, "object": kind, "created": self.created, "model": self.model,
            "choices": choices,
        }  # fmt: skip

    def _chances(self, index: int, chances: Sequence[TokenChances]) -> dict[str, Any] | None:
        top = self.jobs[index].top
        if top is None:
            return None
        texts = [decoded(self.tokenizer, chance.token) for chance in chances]
        tops = [[(decoded(self.tokenizer, t), v) for t, v in c.top[:top]] for c in chances]
        if self.kind == "chat":
            content = [
                _chat_chance(text, chance.log_probability)
                | {"top_logprobs": [_chat_chance(*one) for one in likeliest]}
                for text, chance, likeliest in zip(texts, chances, tops, strict=True)
            ]
            return {"content": content}
        offset = self._offsets.get(index, 0)
        offsets = [offset + sum(map(len, texts[:place])) for place in range(len(texts))]
        self._offsets[index] = offset + sum(map(len, texts))
        return {
            "tokens": texts,
            "token_logprobs": [chance.log_probability for chance in chances],
            # Of tokens that read alike the likelier stands.
            "top_logprobs": [
                dict(reversed(likeliest)) if chance.top else None
                for chance, likeliest in zip(chances, tops, strict=True)
            ],
            "text_offset": offsets,
        }


def _chat_chance(text: str, value: float | None) -> dict[str, Any]:
    return {"token": text, "logprob": value, "bytes": list(text.encode())}
