"""How much the server takes on at a time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What is refused, and what shares a pass."""

    length: int
    """Tokens of prompt and answer together."""
    rows: int = 32
    """Texts that are written at a time."""
    queue: int = 64
    """Requests that wait at most; further ones are told to come again (429)."""
    seconds: float = 300.0
    """How long a request may take, waiting included."""
    grace: float = 10.0
    """Seconds that requests in work have to end once the server shall stop."""
    pass_tokens: int = 2048
    """Padded tokens that are read in one pass, of prompts and of questions."""
    asked_rows: int = 1024
    """Rows of one request for labels."""
    body: int = 4 << 20
    """Bytes of a request."""
    chances: int = 20
    """Most `logprobs`."""
