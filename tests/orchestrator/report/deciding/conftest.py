"""A made-up sweep with a verdict: three methods, one of them a control."""

import pytest

from orchestrator.records.sweep_state import SweepState
from tests.made_up_sweep import MadeUp, answers

SEARCH = {
    "space": {
        "method.preset": {"choice": ["seq", "er", "joint"]},
        "training.learning_rate": {"choice": [1e-4, 1e-3, 1e-2, 2e-2, 3e-2]},
    },
    "searcher": "grid",
}
GAINS = {"seq": 0.2, "er": 0.3, "joint": 0.25}


@pytest.fixture
def view(tmp_path, recorder):
    """The state of a sweep whose trials gain with their rate, `er` most; or without any gain."""

    def make(gains=GAINS, **changes):
        made = MadeUp(
            tmp_path / "sweep", recorder, method={"preset": "seq"}, search=SEARCH,
            objectives={"gain": "max", "cost_tokens": "min"}, **changes,
        )  # fmt: skip

        def scores(name, overrides):
            if name == "base":
                return answers(0.4, "same")
            rate = overrides["training.learning_rate"]
            return answers(0.4 + gains[overrides["method.preset"]] * (0.5 + 16 * rate), "same")

        made.run(scores)
        state = SweepState.of(list(made.journal.lines))
        state.experiment = made.loaded.experiment.model_dump(mode="json")
        return state

    return make
