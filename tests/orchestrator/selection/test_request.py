import pytest
import yaml

from orchestrator.selection.portfolio import PRESET, portfolio_search
from orchestrator.selection.request import (
    WRITTEN,
    Request,
    section_of,
    selected,
    write_experiment,
)
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.validation import ExperimentError


def made(document, *, text=True):
    search = portfolio_search(["seq", "er"])
    return selected(document, search, has_text_probe=text, budget="2h")


def test_a_request_becomes_a_sweep_with_equal_compute_and_a_budget():
    request = Request("m", ("a", "b"), ("p",), methods=("seq", "er"))
    experiment = Experiment.model_validate(made(request.document()))
    search = experiment.search
    assert (search.per, search.budgets, search.open_ended) == (PRESET, {"time": 7200.0}, True)
    assert search.early_stopping is not None
    assert (experiment.finalists.per, experiment.finalists.most) == (PRESET, 3)
    assert experiment.repeated_trials == 2 * 3
    assert experiment.champion.subject_to == {"probe_drift": 0.1}


def test_without_running_text_nothing_asks_for_drift():
    experiment = Experiment.model_validate(made(Request("m", ("a",)).document(), text=False))
    assert experiment.objectives == {"gain": "max", "forgetting": "min"}
    assert experiment.champion.subject_to == {}


def test_what_a_file_says_itself_is_kept():
    document = Request("m", ("a",)).document() | {
        "objectives": {"gain": "max"}, "champion": {"maximize": "accuracy", "subject_to": {}},
        "selection": {"fresh_seeds": 5, "finalists": 1},
    }  # fmt: skip
    experiment = Experiment.model_validate(made(document))
    assert experiment.champion.maximize == "accuracy"
    assert (experiment.finalists.fresh_seeds, experiment.finalists.most) == (5, 1)
    assert "selection" not in made(document)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"selection": {"method": ["seq"]}}, "`selection` holds `methods`"),
        ({"selection": ["seq"]}, "`selection` holds"),
        ({"selection": {}, "search": {}}, "exclude each other"),
        ({"search": {}}, "exclude each other"),
    ],
)
def test_a_wrong_section_is_refused_with_the_cure(document, said):
    with pytest.raises(ExperimentError, match=said):
        section_of(document)


def test_a_users_own_file_is_never_written_over(tmp_path):
    path = tmp_path / "mine.selected.yaml"
    write_experiment({"name": "a"}, path, ["orchestrate", "select"])
    assert path.read_text().startswith(WRITTEN)
    write_experiment({"name": "b"}, path, ["orchestrate", "select"])
    assert yaml.safe_load(path.read_text()) == {"name": "b"}
    path.write_text("name: mine\n")
    with pytest.raises(ExperimentError, match="not one of its own"):
        write_experiment({"name": "c"}, path, ["orchestrate", "select"])
    assert path.read_text() == "name: mine\n"
