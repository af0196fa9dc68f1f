"""What the server refuses, in the shape of OpenAI's errors: what was wrong, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """A refusal."""

    status: int
    """Of HTTP."""
    message: str
    code: str
    param: str | None = None
    """The field of the request that is meant."""
    retry_after: int | None = None
    """Seconds after which it may go better."""

    @property
    def document(self) -> dict[str, Any]:
        """As clients of OpenAI's expect it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status in {429, 503}:
            kind = "overloaded_error"
        return {
            "error": {
                "message": self.message, "type": kind, "param": self.param, "code": self.code,
            }
        }  # fmt: skip


class ProblemError(Exception):
    """Raised where a request is refused."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class RefusedError(ProblemError):
    """A request that can be put right by whoever has sent it."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(Problem(400, message, code, param))


CLOSING = Problem(
    503, "The server is shutting down. Send the request again once it is back.", "shutting_down",
    retry_after=10,
)  # fmt: skip


def failed(reason: str) -> Problem:
    """A pass of the model that went wrong, with its reason in one line."""
    return Problem(500, f"The model could not compute this: {reason}", "model_failure")


NOT_FINITE = failed(
    "its scores of the next token are no numbers. Its weights are damaged, or its training had "
    "diverged; use another version."
)
