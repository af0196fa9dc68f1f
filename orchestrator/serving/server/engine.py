"""One thread that computes for all requests: questions are read, texts written on, in turns."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from orchestrator.executors.pool.failures import Failure, attempt
from orchestrator.serving.server.jobs import Job, JudgeJob, Told, WriteJob
from orchestrator.serving.server.limits import Limits
from orchestrator.serving.server.metrics import Metrics
from orchestrator.serving.server.passes import SharedReading
from orchestrator.serving.server.problems import (
    CLOSING,
    NOT_FINITE,
    Problem,
    ProblemError,
    failed,
)
from orchestrator.serving.server.running_batch import RunningBatch
from orchestrator.serving.server.sampling import Sampler, TokenChances, chances_of, next_tokens
from orchestrator.serving.server.served import ServedBase
from orchestrator.serving.server.written_text import WrittenText


@dataclass
class _Row:
    """A text in the running batch."""

    job: WriteJob
    text: WrittenText
    sampler: Sampler
    pending: int = 0
    """The last token, which is not in the cache yet."""
    chances: list[TokenChances] = field(default_factory=list)
    """Those that are not told yet."""


class Engine:
    """Takes jobs from any thread and does them in its own."""

    def __init__(self, base: ServedBase, limits: Limits, metrics: Metrics) -> None:
        """Take a base; nothing is computed before `start`.

        Args:
            base: The base and its adapters.
            limits: How much is taken on.
            metrics: Told what happens.
        """
        self._base, self._limits, self._metrics = base, limits, metrics
        self._reading = SharedReading(base.scored, base.pack, limits.pass_tokens)
        self._batch = RunningBatch(base.scored, base.pack)
        self._rows: list[_Row] = []
        self._changed = threading.Condition()
        self._waiting: deque[WriteJob] = deque()
        self._judged: deque[JudgeJob] = deque()
        self._until: float | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        metrics.watch(waiting=self._requests, rows=lambda: len(self._rows))

    def _requests(self) -> int:
        """How many requests have jobs that wait."""
        return len({job.request for job in (*tuple(self._waiting), *tuple(self._judged))})

    # ------------------------------------------------------------------ from other threads

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Hand in the jobs of one request, all or none.

        Args:
            jobs: What is to be done.

        Raises:
            ProblemError: There is no room for them, or the server is shutting down.
        """
        with self._changed:
            if self._until is not None or not self._thread.is_alive():
                raise ProblemError(CLOSING)
            waiting = self._requests()
            if waiting >= self._limits.queue:
                self._metrics.turned_away.inc()
                raise ProblemError(
                    Problem(
                        429,
                        f"{waiting} requests are waiting, and the queue holds {self._limits.queue}"
                        ". Try again later, or start the server with a larger `--queue`.",
                        "queue_full",
                        retry_after=1 + waiting // self._limits.rows,
                    )
                )
            for job in jobs:
                if isinstance(job, WriteJob):
                    self._waiting.append(job)
                elif isinstance(job, JudgeJob):
                    self._judged.append(job)
            self._changed.notify()

    def drain(self) -> None:
        """Take no more jobs; those that wait are told, those in work have some time to end."""
        with self._changed:
            if self._until is None:
                self._until = time.monotonic() + self._limits.grace
            self._changed.notify()

    def close(self) -> None:
        """Wait until nothing is in work any more; see `drain`."""
        self.drain()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether jobs are done."""
        return self._thread.is_alive() and self._until is None

    # ------------------------------------------------------------------ in the engine's thread

    def _run(self) -> None:
        try:
            while self._wait():
                self._drop()
                self._judge()
                self._admit()
                self._step()
        finally:
            # Whatever ended the thread, nobody waits for ever.
            with self._changed:
                self._until = time.monotonic()
                left = [*self._judged, *self._waiting, *(row.job for row in self._rows)]
                self._judged.clear()
                self._waiting.clear()
            for job in left:
                job.fail(CLOSING)

    def _wait(self) -> bool:
        """Wait for something to do; False once there will be no more."""
        with self._changed:
            while self._until is None and not (self._waiting or self._judged or self._rows):
                self._changed.wait()
            return bool(self._until is None or self._rows)

    def _drop(self) -> None:
        """Let go who has waited too long, or waits no more."""
        now = time.monotonic()
        with self._changed:
            closing = self._until is not None
            late: list[Job] = [
                j for j in (*self._waiting, *self._judged) if closing or _is_over(j, now)
            ]
            gone = set(map(id, late))
            self._waiting = deque(j for j in self._waiting if id(j) not in gone)
            self._judged = deque(j for j in self._judged if id(j) not in gone)
            ended = self._until is not None and now > self._until
        for job in late:
            job.fail(CLOSING if closing else self._too_late())
        kept: list[int] = []
        for index, row in enumerate(self._rows):
            if ended or _is_over(row.job, now):
                row.job.fail(CLOSING if ended else self._too_late())
            else:
                kept.append(index)
        self._keep(kept)

    def _too_late(self) -> Problem:
        return Problem(
            408,
            f"The request took longer than {self._limits.seconds:g} s. Ask for fewer tokens, or "
            "start the server with a larger `--seconds`.",
            "timeout",
        )

    def _judge(self) -> None:
        """Read the questions of as many requests as fit into about one pass."""
        jobs: list[JudgeJob] = []
        with self._changed:
            tokens = 0
            while self._judged and (not jobs or tokens < self._limits.pass_tokens):
                job = self._judged.popleft()
                tokens += sum(len(row.tokens) for row in job.rows)
                jobs.append(job)
        if not jobs:
            return
        rows = [row for job in jobs for row in job.rows]
        slots = [job.slot for job in jobs for _ in job.rows]
        found = attempt(lambda: self._reading.values(rows, slots))
        self._metrics.passed("read", len({job.slot for job in jobs}))
        if isinstance(found, Failure):
            for job in jobs:
                job.fail(failed(found.reason))
            return
        values = iter(found)
        for job in jobs:
            job.deliver([next(values) for _ in job.rows])
            read = sum(len(row.tokens) for row in job.rows)
            self._metrics.tokens.labels(job.model, "read").inc(read)

    def _admit(self) -> None:
        """Read the prompts of texts for which there is room, and begin to write them."""
        jobs: list[WriteJob] = []
        with self._changed:
            longest = 0
            while self._waiting and len(self._rows) + len(jobs) < self._limits.rows:
                longest = max(longest, len(self._waiting[0].prompt))
                if jobs and longest * (len(jobs) + 1) > self._limits.pass_tokens:
                    break
                jobs.append(self._waiting.popleft())
        jobs = [job for job in jobs if self._echoed(job)]
        if not jobs:
            return
        prompts, slots = [job.prompt for job in jobs], [job.slot for job in jobs]
        found = attempt(lambda: self._batch.join(prompts, slots))
        self._metrics.passed("prompts", len(set(slots)))
        if isinstance(found, Failure):
            # The caches may be half joined: what runs is lost, the next request begins afresh.
            self._fail_all(found, [*(row.job for row in self._rows), *jobs])
            return
        for job in jobs:
            self._metrics.tokens.labels(job.model, "prompt").inc(len(job.prompt))
        scores, order = found
        new = [
            _Row(
                job,
                WrittenText(self._base.tokenizer, job.stop, stripped=job.stripped),
                Sampler(job.sampling),
            )
            for job in jobs
        ]
        both = [*self._rows, *new]
        self._rows = [both[index] for index in order]
        self._choose(new, scores)

    def _echoed(self, job: WriteJob) -> bool:
        """Tell the prompt's log-probabilities where they are wanted; whether a text is, too."""
        if job.echo:
            top = job.top or 1
            found = attempt(lambda: self._reading.prompt_chances(job.prompt, job.slot, top))
            self._metrics.passed("read", 1)
            if isinstance(found, Failure):
                job.fail(failed(found.reason))
                return False
            done = job.max_tokens == 0
            job.tell(Told(chances=tuple(found), finish="length" if done else None))
        return job.max_tokens > 0

    def _step(self) -> None:
        """Write one token on in every text."""
        if not self._rows:
            return
        pending = [row.pending for row in self._rows]
        scores = attempt(lambda: self._batch.step(pending))
        self._metrics.passed("write", len(set(self._batch.slots)))
        if isinstance(scores, Failure):
            self._fail_all(scores, [row.job for row in self._rows])
            return
        self._choose(list(self._rows), scores)

    def _fail_all(self, failure: Failure, jobs: Sequence[WriteJob]) -> None:
        for job in jobs:
            job.fail(failed(failure.reason))
        self._rows = []
        self._batch = RunningBatch(self._base.scored, self._base.pack)

    def _choose(self, rows: Sequence[_Row], scores: Tensor) -> None:
        """Choose the next token of some rows, tell it, and let go who is done."""
        tokens = next_tokens(scores, [row.sampler for row in rows])
        done: set[int] = set()
        for index, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            if token is not None and row.job.top is not None:
                row.chances += chances_of(scores[index : index + 1], [token], row.job.top or 1)
            if self._written(row, token):
                done.add(id(row))
        self._keep([i for i, row in enumerate(self._rows) if id(row) not in done])

    def _written(self, row: _Row, token: int | None) -> bool:
        """Note a row's next token; whether it is its last."""
        job, text = row.job, row.text
        if token is None:
            job.fail(NOT_FINITE)
            return True
        finish = "stop" if token in job.ends else None
        if finish is not None and token in self._base.special:
            del row.chances[-1:]  # its own
        else:
            row.pending = token
            text.add(token)
            self._metrics.tokens.labels(job.model, "written").inc()
            if text.stopped:
                finish = "stop"
            elif finish is None and len(text.tokens) >= job.max_tokens:
                finish = "length"
        if finish is not None:
            text.end()
            finish = "stop" if text.stopped else finish
        if finish is not None or job.streamed:
            chances, row.chances = tuple(row.chances), []
            job.tell(
                Told(text.shown(last=finish is not None), chances, finish, tokens=len(text.tokens))
            )
        return finish is not None

    def _keep(self, rows: Sequence[int]) -> None:
        if len(rows) < len(self._rows):
            self._batch.keep(rows)
            self._rows = [self._rows[index] for index in rows]


def _is_over(job: Job, now: float) -> bool:
    return job.cancelled or now > job.deadline
