"""Every page in a browser, as a person uses it: by pointer, by keys, on a phone."""

import re

import pytest

from tests.synthetic_sweeps import HOSTILE

HOSTILE_NAME = "<b onclick=x>&'\"{{7*7}}"
SIZES = ("none", "six", "thousand", HOSTILE_NAME)


def quoted(name):
    from urllib.parse import quote

    return quote(name, safe="")


def drawn(page):
    """Scroll through the page until every chart is drawn."""
    charts = page.locator("[data-chart]")
    for i in range(charts.count()):
        charts.nth(i).scroll_into_view_if_needed()
        page.locator(f"[data-chart] >> nth={i}").and_(page.locator("[data-drawn]")).wait_for()
    return charts


def fits(page, path):
    """Whether a page answers, draws its charts, and is no wider than any window."""
    page.set_viewport_size({"width": 1600, "height": 900})
    page.emulate_media(color_scheme="light")
    answer = page.goto(path)
    assert answer.status == 200, path
    drawn(page)
    page.emulate_media(color_scheme="dark")
    for width in (3840, 400):
        page.set_viewport_size({"width": width, "height": 900})
        overhang = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert overhang <= 0, f"{path} is {overhang} px wider than a window of {width} px"
    assert page.locator("h1").count() == 1


def every_page(name):
    sweep = f"/sweeps/{quoted(name)}"
    found = ["/", "/trials", "/champions", sweep, f"{sweep}/lineage", f"/champions/{quoted(name)}",
             f"/compare?sweep={quoted(name)}&sweep=six"]  # fmt: skip
    if name != "none":
        first = "t0001" if name == "thousand" else "t001"
        trial = f"{sweep}/trials/{first}"
        # Settings that no version has make no card.
        cards = [] if name == HOSTILE_NAME else [f"{trial}/cards/1"]
        found += [trial, *cards, f"/diff?trial={quoted(name)}/{first}&trial=six/t002"]
        if cards:
            found.append(f"/diff?trial={quoted(name)}/{first}@1&trial=six/t002@2")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_every_page_at_every_size_fits_and_shows_hostile_text_as_text(page, name):
    for path in every_page(name):
        fits(page, path)
        assert page.locator("img, b[onclick]").count() == 0


@pytest.mark.slow
def test_every_page_fits_with_ten_thousand_trials(full_page):
    trial = "/sweeps/full/trials/t05000"
    for path in ("/", "/trials", "/champions", "/champions/full", "/sweeps/full", trial,
                 "/sweeps/full/lineage", f"{trial}/cards/1", "/compare?sweep=full&sweep=full",
                 "/diff?trial=full/t05000&trial=full/t10000",
                 "/diff?trial=full/t05000@1&trial=full/t10000@2"):  # fmt: skip
        fits(full_page, path)


@pytest.mark.slow
def test_ten_thousand_trials_are_filtered_sorted_paged_brushed_and_reached_by_keys(full_page):
    page = full_page
    page.goto("/sweeps/full?sort=-gain&rows=500&offset=9500")
    assert re.search(r"9501 to 10,?000 of 10,000", page.locator("#trials-table nav").inner_text())
    page.get_by_role("searchbox").fill("gain > 0.1 and method.adapter.r in (4, 8)")
    page.get_by_role("button", name="Apply").click()
    page.wait_for_url("**where=gain*")
    chosen = page.locator("#trials-table nav").inner_text()
    assert 500 < int(re.search(r"of ([\d,]+)", chosen)[1].replace(",", "")) < 10_000
    page.goto("/sweeps/full?axes=training.learning_rate&axes=gain")
    drawn(page)
    stops = page.evaluate(
        """() => [...document.querySelectorAll("*")]
        .filter(e => e.tabIndex >= 0 && e.checkVisibility() && !e.disabled).length"""
    )
    assert stops < 250
    plot = page.locator("#settings .plot")
    plot.focus()
    plot.press("ArrowRight")
    for _ in range(8):
        plot.press("ArrowUp")
    assert "trials lie within" in page.locator("#settings output").inner_text()
    plot.press("Enter")
    page.wait_for_url("**where=gain*")
    drawn(page)
    front = page.locator("#front .plot").first
    front.focus()
    front.press("End")
    name = re.match(r"t\d+", page.locator("#front output").first.inner_text()).group()
    front.press("Enter")
    page.wait_for_url(f"**/sweeps/full/trials/{name}")


@pytest.mark.slow
def test_what_the_first_chart_draws_is_asked_for_before_what_draws_it_is_there(full_page):
    full_page.goto("/sweeps/full")
    drawn(full_page)
    asked = full_page.evaluate(
        """() => Object.fromEntries(performance.getEntriesByType("resource").map(
        e => [e.name.split("/").pop().split("?")[0], [e.startTime, e.responseEnd]]))"""
    )
    assert asked["front"][0] < asked["echarts.min.js"][1]
    modules = [asked[f"{name}.js"][0] for name in ("chart", "scatter", "lines", "parallel")]
    assert max(modules) < asked["pages.js"][1], "none waits for the one that names it"
    times = full_page.evaluate(
        """() => performance.getEntriesByType("resource")
        .filter(e => e.name.includes("/front?")).length"""
    )
    assert times == 1, "the data are fetched once"


def test_hostile_values_are_seen_whole(page):
    name = HOSTILE_NAME
    page.goto(f"/sweeps/{quoted(name)}")
    assert name in page.locator("h1").inner_text()
    page.goto(f"/sweeps/{quoted(name)}/trials/t001")
    assert HOSTILE in page.locator("#settings").inner_text()


def test_the_front_leads_to_a_trial_by_keys_alone(page):
    page.goto("/sweeps/six")
    drawn(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    stops = 0
    while page.evaluate("document.activeElement.dataset.empty") is None:
        page.keyboard.press("Tab")
        stops += 1
        assert stops < 40
    page.keyboard.press("ArrowRight")
    said = page.locator("#front output").first.inner_text()
    name = re.match(r"t\d+", said).group()
    assert "gain" in said
    page.keyboard.press("ArrowLeft")
    assert page.locator("#front output").first.inner_text() == said
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/sweeps/six/trials/{name}")
    assert page.locator("h1").inner_text().startswith(name)


def test_a_chart_is_one_tab_stop_and_a_page_of_thousand_trials_has_few(page):
    page.goto("/sweeps/thousand")
    charts = drawn(page)
    stops = page.evaluate(
        """() => [...document.querySelectorAll("*")]
        .filter(e => e.tabIndex >= 0 && e.checkVisibility() && !e.disabled).length"""
    )
    assert stops < 250
    for i in range(charts.count()):
        assert charts.nth(i).locator("[tabindex='0']").count() == 1


def test_brushing_with_keys_becomes_a_filter_of_the_table(page):
    page.goto("/sweeps/thousand?axes=training.learning_rate&axes=gain")
    drawn(page)
    plot = page.locator("#settings .plot")
    plot.focus()
    plot.press("ArrowRight")
    for _ in range(12):
        plot.press("ArrowUp")
    said = page.locator("#settings output").inner_text()
    inside = int(re.search(r"(\d+) of \d+ trials lie within", said).group(1))
    plot.press("Enter")
    page.wait_for_url("**where=gain*")
    assert f"of {inside:,}" in page.locator("#trials-table nav").inner_text()


def test_the_table_is_filtered_sorted_paged_and_linked(page):
    page.goto("/sweeps/thousand")
    page.get_by_role("searchbox").fill("gain > 0.1 and not state = FAILED")
    page.get_by_role("button", name="Apply").click()
    page.get_by_role("link", name="gain", exact=True).click()
    gains = page.locator("table.trials tbody tr").all_inner_texts()
    assert len(gains) == 50
    assert page.locator("th[aria-sort=descending]").inner_text() == "gain"
    page.get_by_role("link", name="Next").click()
    assert "51 to 100 of" in page.locator("#trials-table nav").inner_text()
    link = page.url
    page.goto("/")
    page.goto(link)
    assert "51 to 100 of" in page.locator("#trials-table nav").inner_text()


def test_a_wrong_filter_is_answered_beside_it(page):
    page.goto("/sweeps/six?where=gian+%3E+0")
    assert "Did you mean 'gain'?" in page.get_by_role("alert").inner_text()
    assert page.get_by_role("searchbox").input_value() == "gian > 0"


def test_two_trials_are_chosen_and_compared(page):
    page.goto("/sweeps/six")
    for name in ("t001", "t002"):
        page.get_by_label(f"Compare six/{name}").check()
    page.get_by_role("button", name="Compare two chosen trials").click()
    assert "learning_rate" in page.locator("main").inner_text()
    assert "paired 95 % interval" in page.locator("main").inner_text()


def test_two_adapters_of_a_trial_are_chosen_and_compared(page):
    page.goto("/sweeps/six")
    page.locator("table.trials tbody th a").first.click()
    page.get_by_label("Compare the adapter after mood").check()
    page.get_by_label("Compare the adapter after topic").check()
    page.get_by_role("button", name="Compare two chosen adapters").click()
    said = page.locator("main").inner_text()
    assert "Forgotten since it was learnt" in said
    assert "to_come" in said
    page.locator("thead th a").first.click()
    assert "An adapter that has learnt mood" in page.locator("main").inner_text()
    page.get_by_label("Compare with").fill("six/t002@nothing")
    page.get_by_role("button", name="Compare").click()
    assert "should stand one of its tasks" in page.get_by_role("alert").inner_text()
    page.goto("/diff?trial=../x/t001@1&trial=six/t002")
    assert "No sweep" in page.get_by_role("alert").inner_text()


def test_a_running_sweep_is_followed(page, pages):
    from orchestrator.records.events import TrialProposed
    from orchestrator.records.journal import Journal

    page.goto("/sweeps/open")
    drawn(page)
    before = page.locator("#trials-table nav").inner_text()
    with Journal(pages.storage / "open") as journal:
        journal.append(TrialProposed("t099", {"method.adapter.kind": "lora"}))
        page.get_by_text("t099").wait_for(timeout=10_000)
        assert page.locator(".pill.running").first.is_visible()
    assert page.locator("#trials-table nav").inner_text() != before


def test_a_champion_is_promoted_and_rolled_back_with_reasons(page, pages):
    page.goto(f"/enter/{pages.changes.key}")
    page.goto("/champions/example")
    before = page.locator("h1 .pill").inner_text()
    other = "example/t002" if before != "example/t002" else "example/t001"
    page.get_by_label("Adapter (SWEEP/TRIAL").fill(other)
    why = page.get_by_label("Why").first
    page.get_by_role("button", name="Promote").click()
    assert page.evaluate("document.activeElement.name") == "reason"  # the browser asks for it
    why.fill(f"a person says so {HOSTILE}")
    page.get_by_label("Promote although").check()
    page.get_by_role("button", name="Promote").click()
    page.get_by_text("promoted", exact=True).wait_for()
    assert page.locator("h1 .pill").inner_text() == other
    assert HOSTILE in page.locator("#history").inner_text()
    assert (pages.storage / "registry.jsonl").is_file()
    page.get_by_label("Why").nth(1).fill("it was a mistake")
    page.get_by_role("button", name="Roll back").click()
    page.get_by_text("rolled back to", exact=True).wait_for()
    assert page.locator("h1 .pill").inner_text() == before


def test_a_running_sweep_is_asked_to_stop_a_trial_and_to_add_one(page, pages):
    from orchestrator.records.events import TrialProposed, TrialStarted
    from orchestrator.records.journal import Journal
    from orchestrator.records.requests.request_files import pending
    from orchestrator.records.sweep_folder import SweepFolder

    folder = SweepFolder(pages.storage / "other six")
    page.goto(f"/enter/{pages.changes.key}")
    page.goto("/sweeps/other six/trials/t001")
    assert page.get_by_role("button", name="Stop").count() == 0  # it is over
    changes = page.get_by_label("Settings, a line each")
    asked = changes.input_value()
    page.get_by_label("Why").fill(HOSTILE)
    changes.fill(f"{asked}\nmethod.adapter.r=32")
    page.get_by_role("button", name="Add").click()
    page.get_by_text("One like it is to be added").wait_for()
    assert HOSTILE in page.locator("#asked").inner_text()
    (request,) = pending(folder)
    assert (request.ask, request.trial, request.reason) == ("add", "t001", HOSTILE)
    assert request.changes["method.adapter.r"] == 32
    with Journal(folder.path) as journal:
        journal.append(TrialProposed("t050", {"method.adapter.kind": "lora"}))
        journal.append(TrialStarted("t050"))
        page.goto("/sweeps/other six/trials/t050")
        page.locator("form", has_text="Stop t050").get_by_label("Why").fill("it is behind")
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("To be stopped").wait_for()
    assert [one.ask for one in pending(folder)] == ["add", "stop"]
