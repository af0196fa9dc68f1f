"""The end of a sweep: its verdict, the reading of its test data, or why it is given up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from orchestrator.data.prepared import PreparedData
from orchestrator.records.events import SweepStopped
from orchestrator.records.savings import savings
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.spec.load import LoadedExperiment
from orchestrator.spec.task_kinds import computed_fields
from orchestrator.sweep.driver import Driver
from orchestrator.sweep.errors import SweepError
from orchestrator.sweep.mlflow_sync import MlflowSync
from orchestrator.sweep.scores.completion import Completion, Scores
from orchestrator.sweep.scores.readings import ReadingError, Side
from orchestrator.system.content_cache import ContentCache


class Readings:
    """Has the test data read for a verdict, once."""

    def __init__(self, driver: Driver, cache: ContentCache, base_key: Any) -> None:
        """Remember whose.

        Args:
            driver: The sweep.
            cache: Where the base's test scores are kept, to be used by other sweeps' verdicts.
            base_key: What they follow from; None where that is not known.
        """
        self._driver = driver
        self._cache = cache
        self._base_key = base_key

    def make(self, read: Callable[[Mapping[str, Side], PreparedData], dict[str, Any]]) -> None:
        """Score what the verdict asks for, and journal it; a failure is told and costs nothing.

        Args:
            read: Scores models on the test data.
        """
        driver = self._driver
        if not driver.state.reading_due:
            return
        sides = driver.judgement.to_be_read()
        found: dict[str, Any] = {}
        kept = self._cache.read("base", self._base_key) if self._base_key and sides else None
        if kept is not None and BASE_TRIAL in sides:
            found[BASE_TRIAL] = kept
        wanted = {name: side for name, side in sides.items() if name not in found}
        driver.observer.note(
            "reading the test examples, once, for the champion and what it is compared with: "
            f"{', '.join(wanted) or 'all were scored before'}"
        )
        try:
            found |= read(wanted, driver.data) if wanted else {}
        except ReadingError as error:
            driver.observer.note(
                f"the test examples could not be read: {error}. The verdict stands, and the same "
                "command tries again"
            )
            return
        base = found.get(BASE_TRIAL)
        if self._base_key and kept is None and base is not None and "unread" not in base:
            self._cache.write("base", self._base_key, base)
        driver.judgement.test_read(found)


class Ending:
    """What comes after a sweep's last trial."""

    def __init__(
        self, driver: Driver, projection: MlflowSync, completion: Completion, readings: Readings
    ) -> None:
        """Remember whose.

        Args:
            driver: The sweep.
            projection: Its MLflow.
            completion: Knows what is missing of the matrices.
            readings: Of its test data.
        """
        self._driver, self._projection = driver, projection
        self._completion, self._readings = completion, readings

    @property
    def needs_models(self) -> bool:
        """Whether something has to be scored before the verdict, or has been asked for by it."""
        return self._driver.state.reading_due or bool(
            self._completion.due(self._driver.judgement.contenders())
        )

    def decide(self, score: Scores) -> None:
        """Have scored what the verdict stands on, and make it, unless everything has failed.

        Args:
            score: Scores models.

        Raises:
            SweepError: If that could not be scored, or nothing could be measured at all.
        """
        driver = self._driver
        if driver.given_up and (driver.unfinished or driver.trials[BASE_TRIAL].state == "FAILED"):
            _give_up(driver, self._projection)
        saved = savings(trial.record for trial in driver.trials.values())
        if saved.steps:
            driver.observer.note(saved.words)
        self._completion.before_verdict(driver.judgement.contenders(), score)
        driver.judgement.conclude()

    def come(
        self,
        score: Scores,
        read: Callable[[Mapping[str, Side], PreparedData], dict[str, Any]],
    ) -> None:
        """Make the verdict, and have the test data read for it.

        Args:
            score: Scores models on cells of their matrices.
            read: Scores models on the test data.
        """
        self.decide(score)
        self._readings.make(read)


def row_0_key(loaded: LoadedExperiment, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the untouched base's scores follow from."""
    experiment = loaded.experiment
    named = [*experiment.tasks, *experiment.probes]
    return {
        **scores_follow_from(loaded, provenance),
        "asked": [computed_fields(loaded.tasks[name]) for name in named],
        "data": [[name, provenance["data"][name]] for name in experiment.tasks],
        "probes": [[name, provenance["data"][name]] for name in experiment.probes],
    }


def scores_follow_from(loaded: LoadedExperiment, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a score follows from, besides adapter, task and examples."""
    experiment = loaded.experiment
    return {
        "base": {
            "sha256": provenance["base"]["sha256"],
            "setup": provenance["base"]["setup_sha256"],
            "model": experiment.model.quantization,
        },
        "precision": experiment.training.precision,
        "on_gpu": experiment.resources.gpus_per_worker > 0,
        "executor": experiment.resources.executor,
        "batch_tokens": experiment.data.batch_tokens,
        "code": provenance["code"],
        "packages": provenance["packages"],
    }


def _give_up(driver: Driver, projection: MlflowSync) -> NoReturn:
    """End a sweep in which nothing can be measured; it can be continued once that is mended.

    Args:
        driver: The sweep.
        projection: Its MLflow.

    Raises:
        SweepError: Always, with the commonest reason and a log.
    """
    failed = driver.failures_now()
    base = next((trial for trial in failed if trial.name == BASE_TRIAL), None)
    if base is not None:
        why = (
            "The untouched base could not be measured, so no trial can be compared with it: "
            f"{base.failure}."
        )
        log = base.log
    else:
        reason, count = Counter(str(trial.failure) for trial in failed).most_common(1)[0]
        log = next(trial.log for trial in failed if trial.failure == reason)
        why = (
            f"All {len(failed)} trials that were begun have failed, {count} of them with: "
            f"{reason.rstrip('.')}."
        )
    driver.ledger.record(SweepStopped(why, [trial.name for trial in failed]))
    projection.catch_up()
    raise SweepError(
        f"{why} Log: {log}. No more trials were started. When the cause is fixed, the same command "
        f"goes on with what is left ({driver.unfinished + (base is not None)} to run), with "
        "`--retry-failed` it also runs what has failed again, and with `--new` it starts over."
    )
