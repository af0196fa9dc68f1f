"""What the engine is asked: texts to write, and rows to give probabilities for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from orchestrator.data.items import Tokens
from orchestrator.data.model_inputs import Scored
from orchestrator.serving.server.problems import Problem
from orchestrator.serving.server.sampling import GREEDY, Sampling, TokenChances


@dataclass(frozen=True)
class Told:
    """News of a text: what is new of it, or that it failed."""

    text: str = ""
    chances: tuple[TokenChances, ...] = ()
    """Of the new tokens, where they are wanted."""
    finish: str | None = None
    """`stop` or `length` with the last news."""
    problem: Problem | None = None
    """Why there is no more."""
    tokens: int = 0
    """Written so far."""

    @property
    def last(self) -> bool:
        """Whether nothing follows."""
        return self.finish is not None or self.problem is not None


@dataclass(eq=False)
class Job:
    """What every job has."""

    request: int
    """Which request it is of; the queue counts requests."""
    model: str
    """Whose it is, for the metrics."""
    slot: int
    """The adapter's place in the pack, or `curlora.packing.pack.BARE`."""
    deadline: float
    """When it is too late, on the monotonic clock."""
    cancelled: bool = field(default=False, init=False)
    """Set by whoever no longer waits for it."""

    def fail(self, problem: Problem) -> None:
        """Say that there will be no answer."""
        raise NotImplementedError


@dataclass(eq=False)
class WriteJob(Job):
    """A text to be written after a prompt."""

    prompt: Tokens
    max_tokens: int
    """0: nothing is written, `echo` is wanted alone."""
    tell: Callable[[Told], None]
    """Called in the engine's thread."""
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    ends: frozenset[int] = frozenset()
    """Tokens that end the text."""
    top: int | None = None
    """How many likeliest tokens are named at each place; None: log-probabilities are not wanted."""
    echo: bool = False
    """Whether the prompt's own tokens have their log-probabilities told first."""
    streamed: bool = False
    """Whether news are told token by token; else all at the end."""
    stripped: bool = False
    """See `WrittenText`."""

    def fail(self, problem: Problem) -> None:
        """See `Job`."""
        self.tell(Told(problem=problem))


@dataclass(eq=False)
class JudgeJob(Job):
    """Rows whose log-probabilities are wanted."""

    rows: Sequence[Scored]
    deliver: Callable[[list[list[float]] | Problem], None]
    """Called in the engine's thread with those of every row's picks, in nats."""

    def fail(self, problem: Problem) -> None:
        """See `Job`."""
        self.deliver(problem)
