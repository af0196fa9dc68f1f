"""What the gauges show of a sweep, and that Prometheus sees them."""

import time
import urllib.request
from types import SimpleNamespace

import pytest

from orchestrator.executors.job import Job
from orchestrator.executors.messages import Ready, Reported
from orchestrator.records.trial_record import STATES
from orchestrator.sweep.telemetry.gauges import SweepGauges, ray_gauges
from orchestrator.sweep.telemetry.metrics import METRICS
from orchestrator.system.pulse import Pulse
from tests.made_up_sweep import MadeUp, answers, report

SEARCH = {
    "space": {"training.learning_rate": {"choice": [0.01, 0.02, 0.03]}},
    "searcher": "grid",
    "trials": 3,
}


class Shown(dict):
    """Gauges that remember, by name and by whatever labels they have beside the sweep."""

    def gauges(self):
        def of(name):
            def show(value, tags):
                assert tags.pop("sweep") == "made-up"
                self[(name.removeprefix("orchestrate_"), *tags.values())] = value

            return SimpleNamespace(set=show)

        return {metric.name: of(metric.name) for metric in METRICS}


class Watched:
    """A made-up sweep whose gauges are looked at."""

    def __init__(self, folder, recorder):
        self.now = time.time() + 60  # after all that is journalled by the clock of the machine
        self.sweep = MadeUp(folder, recorder, search=SEARCH)
        self.sweep.journal._clock = lambda: self.now
        self.driver = self.sweep.driver
        self.pool = SimpleNamespace(slots=8, pulses={})
        self.shown, self.lag = Shown(), (0, 0.0)
        self.gauges = SweepGauges(
            self.driver, self.pool, SimpleNamespace(running=1, pulses={}), lambda: self.lag,
            gauges=self.shown.gauges, clock=lambda: self.now,
        )  # fmt: skip

    def start(self):
        job = self.driver.next_job()
        assert isinstance(job, Job)
        self.gauges.starts(job.trial)
        return job.trial

    def hear(self, name, message):
        self.driver.hear(name, message)
        self.gauges.heard(name, message)

    def after(self, seconds):
        self.now += seconds
        self.gauges.look()
        return self.shown


@pytest.fixture
def watched(tmp_path, recorder):
    one = Watched(tmp_path / "made-up", recorder)
    yield one
    one.sweep.journal.close()


def test_trials_and_slots_are_counted(watched):
    base = watched.start()
    watched.hear(base, Reported(report(-1, answers(0.5))))
    watched.driver.ended(base, error=False)
    watched.gauges.ends(base)
    first, second = watched.start(), watched.start()
    watched.hear(first, Ready(7))
    shown = watched.after(6)
    assert shown[("trials", "RUNNING")] == 2
    assert shown[("trials", "COMPLETE")] == 1
    assert shown[("slots",)] == 9
    assert shown[("slots_used",)] == 1
    assert shown[("queue_seconds",)] == pytest.approx(6)
    watched.hear(second, Ready(7))
    assert watched.after(6)[("queue_seconds",)] == 0
    watched.gauges.close()
    assert shown[("slots_used",)] == 0
    assert {key[1] for key in shown if key[0] == "trials"} == set(STATES)


def test_a_trial_that_is_saved_has_a_young_checkpoint_and_one_that_reports_a_young_report(
    watched, tmp_path
):
    base = watched.start()
    first = watched.start()
    watched.hear(first, Ready(7))
    watched.hear(base, Reported(report(-1, answers(0.5))))
    watched.driver.ended(base, error=False)
    watched.gauges.ends(base)
    shown = watched.after(100)
    assert shown[("last_report_age_seconds",)] == pytest.approx(100, abs=0.01)  # the journal rounds
    assert shown[("last_checkpoint_age_seconds",)] == pytest.approx(100, abs=0.01)
    watched.gauges.heard(first, Reported(report(0, answers(0.6)), tmp_path))
    shown = watched.after(10)
    assert shown[("last_checkpoint_age_seconds",)] == pytest.approx(10, abs=0.01)
    assert shown[("last_report_age_seconds",)] == pytest.approx(110, abs=0.01)  # not journalled


def test_tokens_are_counted_over_the_time_since_the_last_look_and_after_a_restart_from_zero(
    watched,
):
    watched.pool.pulses = {"member-0": Pulse(0, 0, 1, 1000, 1250)}
    watched.after(10)
    watched.pool.pulses = {"member-0": Pulse(0, 0, 9, 3000, 3750)}
    shown = watched.after(10)
    assert shown[("tokens_per_second",)] == pytest.approx(200)
    assert shown[("useful_share",)] == pytest.approx(0.8)
    watched.pool.pulses = {"member-0": Pulse(0, 0, 1, 500, 1000)}
    shown = watched.after(10)
    assert shown[("tokens_per_second",)] == pytest.approx(50)
    assert shown[("useful_share",)] == pytest.approx(0.5)
    watched.after(10)
    assert shown[("tokens_per_second",)] == 0
    assert shown[("useful_share",)] == pytest.approx(0.5)  # nothing was computed


def test_they_are_not_set_more_often_than_they_are_read(watched):
    watched.lag = (3, 7.0)
    shown = watched.after(6)
    assert shown[("projection_lag_lines",)] == 3
    watched.lag = (9, 11.0)
    assert watched.after(1)[("projection_lag_lines",)] == 3
    assert watched.after(6)[("projection_lag_seconds",)] == pytest.approx(11)


@pytest.mark.ray
def test_prometheus_sees_every_metric_under_the_name_that_the_dashboard_has(ray_cluster):
    import ray

    node = next(node for node in ray.nodes() if node["Alive"])
    page = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    gauges = ray_gauges()
    for metric in METRICS:
        gauges[metric.name].set(3.5, {"sweep": "seen", **dict.fromkeys(metric.labels, "X")})
    wanted, deadline = {metric.exported for metric in METRICS}, time.monotonic() + 60
    while wanted and time.monotonic() < deadline:
        with urllib.request.urlopen(page, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        seen = [line for line in lines if 'sweep="seen"' in line and line.endswith(" 3.5")]
        wanted -= {line.partition("{")[0] for line in seen}
        time.sleep(0.5)
    assert not wanted
