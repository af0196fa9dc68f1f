import pytest
import torch
import yaml

from curlora.cur.forms import explicit
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


def test_alpha_is_not_searched_beside_a_rate_as_their_product_is_what_acts():
    """AdamW scales its steps by their own size, so alpha in the output is alpha in the rate."""
    generator = torch.Generator().manual_seed(1)
    C, R, x, target = (
        torch.randn(size, generator=generator, dtype=torch.float64)
        for size in ((6, 3), (3, 5), (20, 5), (20, 6))
    )
    ended = []
    for alpha, rate in ((4.0, 1e-3), (1.0, 4e-3), (1.0, 1e-3)):
        U = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.AdamW([U], lr=rate, weight_decay=0.0)
        for _ in range(30):
            optimiser.zero_grad()
            made = explicit(torch.zeros_like(target), x, C, U, R, alpha)
            (made - target).square().mean().backward()
            optimiser.step()
        ended.append(alpha * U.detach())
    assert torch.allclose(ended[0], ended[1], rtol=1e-5)
    assert not torch.allclose(ended[0], ended[2], rtol=0.1)
    assert not any("alpha" in path for its in PORTFOLIO.values() for path in its.knobs)


def test_what_a_penalty_does_is_searched_as_a_share_of_the_losss_gradient(file):
    """So it needs no scale of the base's own; but for the one whose paper states a number."""
    for name in PORTFOLIO:
        experiment = load_experiment(file(portfolio_search([name]), name)).experiment
        own = experiment.with_overrides({PRESET: name}).method.retention
        if getattr(own, "strength", None) == "auto":
            assert "method.retention.pull" in PORTFOLIO[name].knobs


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
