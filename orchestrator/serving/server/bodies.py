"""What clients send: the fields of OpenAI's requests that are understood, and ours."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.serving.server.problems import RefusedError
from orchestrator.system.strict_json import half_character
from orchestrator.system.wording import cut, suggestion

_Stop = Annotated[str, Field(min_length=1, max_length=200)]
_Seed = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]


class StreamOptions(BaseModel):
    """Of a streamed answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    include_usage: bool = False


class _Body(BaseModel):
    """Fields that change nothing here are taken; others that are not understood are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: str
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None


class _Writing(_Body):
    """What both kinds of requests for texts have."""

    temperature: Annotated[float, Field(ge=0.0, le=5.0)] | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    seed: _Seed | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=16)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts before which the answer ends."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class CompletionBody(_Writing):
    """`/v1/completions`."""

    prompt: str | list[int] | list[str] | list[list[int]]
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: Annotated[int, Field(ge=0)] | None = None
    echo: bool = False
    best_of: Literal[1] | None = None
    suffix: None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or several, as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [one for one in self.prompt if not isinstance(one, int)]


class TextPart(BaseModel):
    """A part of a message that is text, the only kind that is understood."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @property
    def as_text(self) -> dict[str, str]:
        """As chat templates take it."""
        content = self.content
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        return {"role": self.role, "content": content}


class ChatBody(_Writing):
    """`/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0)] | None = None


class ClassifyBody(_Body):
    """`/v1/classify`: rows of one of the model's tasks."""

    task: str | None = None
    """May be left out where there is one."""
    rows: Annotated[list[dict[str, Any]], Field(min_length=1)]


_Kind = TypeVar("_Kind", bound=_Body)


def read_body(raw: bytes, kind: type[_Kind]) -> _Kind:
    """A request's JSON.

    Args:
        raw: What was sent.
        kind: Which request it is.

    Returns:
        Its fields.

    Raises:
        RefusedError: It is no JSON, or no such request.
    """
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        raise RefusedError("The body is not valid JSON.", code="invalid_json") from None
    if not isinstance(document, dict):
        raise RefusedError("The body should be a JSON object.", code="invalid_json")
    try:
        body = kind.model_validate(document)
    except ValidationError as error:
        raise RefusedError(*_refusal(error, list(kind.model_fields))) from None
    except RecursionError:
        raise RefusedError("The body is nested too deeply.", code="invalid_json") from None
    if (place := half_character(document)) is not None:
        raise RefusedError(
            f"`{place}` holds half of a character (one of two surrogates), as when a text is cut "
            "within an emoji. Cut texts between characters."
        )
    return body


def _refusal(error: ValidationError, known: list[str]) -> tuple[str, str, str]:
    """The first thing that is wrong with a request: in words, its field, and a code."""
    problem = error.errors(include_url=False)[0]
    field = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
        return (
            f"`{cut(field)}` is not known here, and would not be heeded.{suggestion(field, known)} "
            f"Leave it out; known are {', '.join(known)}.",
            field,
            "unknown_field",
        )
    if problem["type"] == "missing":
        return (f"`{field}` is missing.", field, "missing_field")
    got = cut(repr(problem["input"]))
    return (f"`{field}`: {problem['msg']}; got {got}. Change it.", field, "invalid_value")
