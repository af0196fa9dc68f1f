import pytest
import yaml

from orchestrator.selection.portfolio import PORTFOLIO, PRESET, RATE, portfolio_search
from orchestrator.spec.load import load_experiment
from orchestrator.spec.presets import PRESETS


@pytest.fixture
def file(experiment_file, tmp_path):
    def write(search, name="portfolio"):
        path = experiment_file(name, method={"preset": "seq"})
        document = yaml.safe_load(path.read_text())
        document["search"] = {**search, "trials": 20}
        document["resources"] = {"executor": "local"}
        path.write_text(yaml.safe_dump(document))
        return path

    return write


def test_every_method_is_in_it_but_for_controls_and_a_variant():
    trials = {name for name, preset in PRESETS.items() if preset.method is not None}
    assert set(PORTFOLIO) == trials - {"head-only", "curlora-author"}


def test_a_file_with_the_whole_portfolio_is_valid_and_its_starts_are_as_stated(file):
    search = load_experiment(file(portfolio_search())).experiment.search
    assert search.per == PRESET
    assert {entry[PRESET] for entry in search.first} == set(PORTFOLIO)
    for entry in search.first:
        low, high = PORTFOLIO[entry[PRESET]].rates
        assert low <= entry[RATE] <= high


@pytest.mark.parametrize("name", PORTFOLIO)
def test_each_method_alone_is_a_valid_search(name, file):
    experiment = load_experiment(file(portfolio_search([name]), name)).experiment
    assert experiment.search.space[PRESET].choice == (name,)
    paths = set(experiment.search.space) - {PRESET, RATE}
    assert paths == set(PORTFOLIO[name].knobs)


def test_rates_are_taken_in_the_place_of_the_stated_ones(file):
    search = portfolio_search(["seq", "er"], rates={"er": (1e-6, 1e-5)})
    alternatives = search["space"][RATE]
    assert [(d["log_uniform"], d["when"][PRESET]) for d in alternatives] == [
        ([1e-4, 1e-2], "seq"), ([1e-6, 1e-5], "er"),
    ]  # fmt: skip
    assert [entry[RATE] for entry in search["first"]] == [1e-3, 1e-5]
    load_experiment(file(search))


def test_a_published_rate_lies_in_its_range():
    for name, its in PORTFOLIO.items():
        published = PRESETS[name].learning_rate
        assert published is None or its.rates[0] <= published <= its.rates[1]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["secora"], "secura"),
        (["head-only"], "a control that every sweep measures"),
        (["seq", "seq"], "once"),
        ([], "at least one"),
    ],
)
def test_other_names_are_refused_with_the_cure(names, said):
    with pytest.raises(ValueError, match=said):
        portfolio_search(names)
