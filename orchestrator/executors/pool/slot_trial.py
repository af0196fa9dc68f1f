"""A trial of the pool as Ray Tune sees it: it asks for a slot and passes on what is said of it.

It runs in a light process: nothing that is imported here may import torch. Tune's schedulers stop
it wherever it reports; the member of the pool does not wait for their verdict.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from typing import Any

from orchestrator.executors.job import Job
from orchestrator.executors.messages import Lost, Message, News, Reported, to_metrics
from orchestrator.executors.pool.lease import ENDINGS
from orchestrator.executors.pool.mailbox import RENEW_SECONDS
from orchestrator.executors.train import trial_function

POLL_SECONDS = 0.9
"""How often a trial asks for news of its job. At 0.4 s, eight trials and their mailbox were seen to
take 7 of 180 core-seconds."""


PATIENT_POLLS = 10
"""How often a trial that waits for a slot asks its own member before it looks at the others."""


def slot_trial(
    config: dict[str, Any],
    mailboxes: Sequence[Any] = (),
    shared: list[Any] | None = None,
) -> None:
    """One trial: in a slot of the pool, or by the executor `train` where it cannot be packed.

    Args:
        config: The job, see `Job.as_config`.
        mailboxes: Actors of `mailbox.Mailbox`, one of each member.
        shared: A list holding the reference of the prepared data, for the executor `train`.
    """
    job = Job.from_config(config)
    if job.executor == "train":
        trial_function(job, shared)
        return
    reason = _Follower(job, mailboxes).follow(job.member)
    if reason is not None:
        from ray import tune

        tune.report(to_metrics(Lost(reason)))


class _Follower:
    """Reads a job's messages from mailboxes and reports each once."""

    def __init__(self, job: Job, mailboxes: Sequence[Any]) -> None:
        self._mailboxes = mailboxes
        self._trial, self._job = job.trial, job
        self._told: set[tuple[int, float]] = set()
        self._place = 0
        """Which mailbox has the job."""

    def follow(self, place: int) -> str | None:
        """Leave the job with a member, or with another one where that is lost, until it ends.

        Args:
            place: Which mailbox to try first.

        Returns:
            None once the job has ended; why no member is left, where none is.
        """
        with self._renewed():
            return self._follow(place)

    @contextmanager
    def _renewed(self) -> Iterator[None]:
        """Meanwhile the lease is renewed, also while a report waits for the driver."""
        from ray.exceptions import RayError

        over = threading.Event()

        def renew() -> None:
            while not over.wait(RENEW_SECONDS):
                with suppress(RayError):  # the trial's own calls say what is wrong
                    self._mailboxes[self._place].renew.remote(self._trial)

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _follow(self, place: int) -> str | None:
        from ray.exceptions import ActorUnavailableError, RayActorError

        gone: dict[int, str] = {}
        while True:
            self._place = place
            try:
                found = self._listen(place, gone)
            except ActorUnavailableError:  # a passing trouble: the job is still there
                time.sleep(POLL_SECONDS)
                continue
            except RayActorError as error:
                found = f"its mailbox has died: {error}"
            if found is None:
                return None
            if isinstance(found, int):
                place = found
                continue
            gone[place] = found
            turns = range(1, len(self._mailboxes))
            left = [(place + turn) % len(self._mailboxes) for turn in turns]
            left = [number for number in left if number not in gone]
            if not left:
                return "; ".join(f"member {number}: {why}" for number, why in gone.items())
            place = left[0]

    def _listen(self, place: int, gone: Mapping[int, str]) -> str | int | None:
        """Report until the job ends (None), its member is gone (why), or another is better."""
        import ray
        from ray import tune

        mailbox, seen, waited = self._mailboxes[place], 0, 0
        ray.get(mailbox.ask.remote(self._job))
        while True:
            news: News = ray.get(mailbox.poll.remote(self._trial, seen))
            if not news.known:
                # The lease ran out while this process was held up: ask again.
                ray.get(mailbox.ask.remote(self._job))
                seen = 0
            seen += len(news.messages)
            for message in news.messages:
                if self._is_new(message):
                    tune.report({**to_metrics(message), **self._progress(message)})
                if isinstance(message, ENDINGS):
                    return None
            if news.gone is not None:
                return news.gone
            waited = waited + 1 if news.waits else 0
            other = None
            if news.absent:
                other = self._first("present", {*gone, place})
            elif waited > PATIENT_POLLS:
                other = self._first("room", {*gone, place})
            if other is not None:
                # Should the member be only late, it is told to forget the job.
                ray.get(mailbox.release.remote(self._trial))
                return other
            time.sleep(POLL_SECONDS)

    def _first(self, question: str, without: Set[int]) -> int | None:
        """The first member, other than some, whose mailbox says yes to a question."""
        import ray
        from ray.exceptions import RayActorError

        for number, mailbox in enumerate(self._mailboxes):
            if number not in without:
                with suppress(RayActorError):  # it will be told as such once it is asked for a job
                    if ray.get(getattr(mailbox, question).remote()):
                        return number
        return None

    def _is_new(self, message: Message) -> bool:
        """Whether a stage is told for the first time: a resumed job repeats what it reported."""
        if not isinstance(message, Reported):
            return True
        stage = message.report.stage
        if stage in self._told:
            return False
        self._told.add(stage)
        return True

    def _progress(self, message: Message) -> dict[str, Any]:
        """What Ray Tune's schedulers can read: `gain` and `tasks_learnt`, after each task."""
        row_0 = self._job.row_0
        if not isinstance(message, Reported) or message.report.row is None or row_0 is None:
            return {}
        pairs = [
            (now, before)
            for now, before in zip(message.report.row, row_0, strict=True)
            if before is not None and math.isfinite(now + before)
        ]
        if not pairs:
            return {}
        gain = sum(now - before for now, before in pairs) / len(pairs)
        return {"gain": gain, "tasks_learnt": message.report.task_index + 1}
