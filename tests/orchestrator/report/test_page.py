"""The report: one page that needs nothing beside itself, whatever a sweep came to."""

import base64
import hashlib
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markupsafe import Markup

from orchestrator.measures.objectives import dominates
from orchestrator.records.sweep_state import SweepState
from orchestrator.report import page as page_module
from orchestrator.report.page import render_page
from orchestrator.report.svg import element, powers, ticks
from orchestrator.report.sweep_figures import make_figures
from orchestrator.report.written import write_report

VOID = {"meta", "br", "input"}
TEMPLATES = Path(page_module.__file__).parent / "templates"
NASTY = "</td><script>alert(1)</script><img src=http://example.org/x onerror=alert(2)>"


class Page(HTMLParser):
    """A page's elements; every element that is opened must be closed in its turn."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def text(self):
        shown = [data for tag, data in self.texts if tag not in {"script", "style"}]
        return " ".join(" ".join(shown).split())


@pytest.fixture
def report(tmp_path):
    def make(lines):
        view = SweepState.of(lines)
        return Page(render_page(view, make_figures(view), tmp_path))

    return make


def test_page_fetches_nothing_and_links_only_within_itself(report, new_sweep, tmp_path):
    page = report(new_sweep(yaml=f"# {NASTY}"))
    assert not page.all("link") + page.all("img") + page.all("iframe")
    assert all("src" not in attrs for _, attrs in page.elements)
    names = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
    links = [attrs["href"] for attrs in page.all("a")]
    assert links
    assert {link.removeprefix("#") for link in links} <= names
    style = " ".join(data for tag, data in page.texts if tag == "style")
    assert "url(" not in style
    assert "@import" not in style
    policies = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policies[0].startswith("default-src 'none'")
    assert "http" not in policies[0]


def test_what_users_wrote_is_shown_as_text(report, new_sweep):
    tasks = {"task0": {"kind": "classification", "description": NASTY, "source": NASTY}}
    lines = new_sweep(sweep=NASTY, yaml=NASTY, provenance={NASTY: NASTY}, failing=[2])
    lines[0]["tasks"] = {NASTY: tasks["task0"]}
    lines[0]["experiment"]["tasks"][0] = NASTY
    lines[0]["controls"][NASTY] = {"label_counts": {NASTY: 1}}
    for line in lines:
        if line.get("state") == "FAILED":
            line["reason"] = NASTY
    page = report(lines)
    scripts = [data for tag, data in page.texts if tag == "script"]
    assert "".join(scripts) == (TEMPLATES / "script.js").read_text(encoding="utf-8")
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert page.text.count("<script>alert(1)</script>") >= 8
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)


def test_only_the_script_of_the_page_may_run(report, new_sweep):
    page = report(new_sweep())
    script = "".join(data for tag, data in page.texts if tag == "script")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert f"script-src 'sha256-{digest}'" in policy


def test_control_characters_are_replaced_wherever_they_come_from(new_sweep, tmp_path):
    lines = new_sweep(sweep="a\x01b", yaml="c\x00d\n\te", provenance={"f\x7fg": "h\x0bi"})
    lines[0]["experiment"]["tasks"][0] = "j\x1fk"
    view = SweepState.of(lines)
    text = render_page(view, make_figures(view), tmp_path)
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", text)
    for shown in ("a\ufffdb", "c\ufffdd\n\te", "f\ufffdg", "h\ufffdi", "j\ufffdk"):
        assert shown in text


def test_no_template_shows_a_value_unescaped():
    templates = list(TEMPLATES.glob("*.jinja"))
    assert templates
    for template in templates:
        assert not re.search(r"\|\s*safe|autoescape", template.read_text(encoding="utf-8")), (
            template
        )


def test_credentials_are_not_shown(report, new_sweep):
    lines = new_sweep(yaml="tracking: {uri: https://me:secret@mlflow.example}")
    lines[0]["provenance"]["server"] = "https://me:secret@mlflow.example"
    assert "secret" not in report(lines).text


def test_same_journal_gives_the_same_bytes(new_sweep, tmp_path):
    first = write_report(new_sweep(), tmp_path / "a").parent
    second = write_report(new_sweep(), tmp_path / "b").parent
    names = sorted(path.name for path in first.iterdir())
    assert names == ["forgetting.png", "front.png", "index.html", "learning.png", "matrices.png",
                     "settings.png"]  # fmt: skip
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_verdict_controls_and_caveat_stand_on_the_page(report, new_sweep):
    text = report(new_sweep(repeats=2)).text
    for wanted in ("Champion t00", "zero-shot (untouched base)", "majority class", "chance",
                   "head only (base frozen)", "0.438", "95 % paired bootstraps", "one seed",
                   "+0.312 ± 0.062", "seed 1 of t00", "overlaps removed", "a" * 64,
                   "name: made-up"):  # fmt: skip
        assert wanted in text, wanted


STATES = {
    "only opened": {"trials": 0, "ended": False},
    "unfinished": {"ended": False},
    "failures": {"failing": [1, 3]},
    "nothing complete": {"trials": 2, "failing": [1, 2]},
    "one task": {"tasks": 1},
    "one trial": {"trials": 1},
    "base not measured": {"unmeasured": [0, 2]},
}


@pytest.mark.parametrize("state", STATES)
def test_every_state_of_a_sweep_gives_a_sensible_page(tmp_path, new_sweep, state):
    lines = new_sweep(**STATES[state])
    path = write_report(lines[:1] if state == "only opened" else lines, tmp_path / "sweep")
    assert path == tmp_path / "sweep" / "report" / "index.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert "made-up" in page.text
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)
    assert "None" not in page.text
    for attrs in [attrs for name, attrs in page.elements if name in {"line", "circle", "polyline"}]:
        assert "nan" not in " ".join(str(value) for value in attrs.values())


def test_no_champion_says_why(report, new_sweep):
    page = report(new_sweep(trials=2, failing=[1, 2]))
    assert "No champion No trial finished." in page.text
    assert "the loss ran away trials/t001/log.txt" in page.text


def test_journal_of_an_older_version_is_shown(report, with_champion):
    text = report(with_champion).text
    assert "Champion t003" in text
    assert "head only (base frozen)" not in text


def test_hundred_trials_stay_below_two_megabytes(new_sweep, tmp_path):
    view = SweepState.of(new_sweep(trials=100, tasks=8, steps=64))
    text = render_page(view, make_figures(view), tmp_path)
    assert len(text.encode()) < 2_000_000
    assert Page(text).text.count("complete") >= 100


def test_not_measured_cells_print_a_dash(report, new_sweep):
    page = report(new_sweep(unmeasured=[1], trials=1))
    row = page.text.split("0 (untouched base)")[1].split("1 task0")[0]
    assert row.split() == ["0.250", "-", "0.250"]


def test_table_can_be_sorted_by_its_buttons(report, new_sweep):
    page = report(new_sweep(failing=[2]))
    heads = [attrs for attrs in page.all("th") if "data-kind" in attrs]
    assert {"number", "word"} == {head["data-kind"] for head in heads}
    assert len(page.all("button")) == len(heads)
    rows = [attrs for attrs in page.all("tr") if "data-trial" in attrs]
    assert [row["data-trial"] for row in rows][-1] == "t002"


# --- the pictures' numbers ---


def test_joined_trials_are_those_that_no_other_beats(new_sweep):
    view = SweepState.of(new_sweep(trials=30))
    for figure in make_figures(view).trade_offs:
        values = {dot.name: {"gain": dot.y, figure.x: dot.x} for dot in figure.dots}
        ways = {"gain": "max", figure.x: "min"}
        beaten = {
            mine
            for mine in values
            if any(dominates(other, values[mine], ways) for other in values.values())
        }
        assert set(figure.best) == set(values) - beaten
        places = [values[name][figure.x] for name in figure.best]
        assert places == sorted(places)


def test_losses_run_through_all_tasks_and_a_repeated_step_counts_once(new_sweep):
    lines = new_sweep(trials=1, tasks=2, steps=4)
    reports = [
        line for line in lines if line["event"] == "stage_report" and line["trial"] == "t001"
    ]
    again = dict(reports[0], report=reports[0]["report"] | {"losses": [9.0] * 4})
    losses = SweepState.of([*lines, again]).trial("t001").losses
    assert losses == [*((i, 9.0) for i in (1, 2, 3, 4)), (5, 2.0), (6, 1.0), (7, 2 / 3), (8, 0.5)]


def test_long_series_are_thinned_to_means(new_sweep):
    lines = new_sweep(trials=1, tasks=1, steps=1000)
    drawn = make_figures(SweepState.of(lines)).learning.series[0].points
    assert len(drawn) <= 150
    width = 7
    expected = sum(2.0 / (i + 1) for i in range(width)) / width
    assert drawn[0] == pytest.approx((4.0, expected))


def test_parallel_places_keep_order_and_leave_out_what_all_share(new_sweep):
    view = SweepState.of(new_sweep(trials=8))
    figure = make_figures(view).parallel
    labels = [axis.label for axis in figure.axes]
    assert "method.adapter.r" not in labels
    at = labels.index("training.learning_rate")
    rates = {t.name: t.overrides["training.learning_rate"] for t in view.searched}
    by_place = sorted(figure.lines, key=lambda line: line[0].points[at][1])
    assert [line.name for line, _ in by_place] == sorted(rates, key=rates.__getitem__)
    assert all(0 <= y <= 1 for line, _ in figure.lines for _, y in line.points if not math.isnan(y))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.05, 0.17), (13, 13.002), (0, 4000)])
def test_ticks_are_round_and_within_the_range(low, high):
    found = ticks(low, high)
    assert found[0] >= low - 1e-9
    assert found[-1] <= high + 1e-9
    assert 2 <= len(found) <= 10
    step = found[1] - found[0]
    lead = step / 10.0 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(lead - round_) for round_ in (1, 2, 5, 10)) < 1e-6


def test_powers_lie_in_the_range():
    assert powers(0.05, 20) == pytest.approx([0.1, 1, 10])
    assert all(1.2 <= tick <= 9 for tick in powers(1.2, 9))


def test_elements_escape_all_but_markup():
    made = element("text", "<&\"'", class_='"><b>', lang=None)
    assert made == '<text class="&#34;&gt;&lt;b&gt;">&lt;&amp;&#34;&#39;</text>'
    assert element("g", made, None) == f"<g>{made}</g>"
    assert element("line", x1=0) == '<line x1="0"/>'
    assert isinstance(made, Markup)


def test_test_scores_lead_the_page(new_sweep, tmp_path):
    lines = new_sweep(tested=True)
    page = write_report(lines, tmp_path).read_text(encoding="utf-8")
    champion = SweepState.of(lines).champion
    headline = f"On 30 test examples, which had no part in any choice: gain of {champion} +0.350"
    assert headline in page
    assert page.index(headline) < page.index("largest gain".capitalize())
    assert page.index('id="test"') < page.index('id="asked"') < page.index('id="trials"')
    assert "Reading 1: scores by task" in page
    assert "The test examples have not been read" in write_report(
        new_sweep(), tmp_path / "unread", tmp_path / "other"
    ).read_text(encoding="utf-8")
