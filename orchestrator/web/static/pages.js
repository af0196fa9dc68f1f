// Draws the charts of a page when they come into view, keeps a running sweep's page up to date,
// and remembers whether the page is to be light or dark.
import {Lines} from "./lines.js";
import {Lineage} from "./lineage.js";
import {Parallel} from "./parallel.js";
import {Scatter} from "./scatter.js";

const KINDS = {scatter: Scatter, lines: Lines, parallel: Parallel, lineage: Lineage};
const drawn = new Map();
const seen = new IntersectionObserver(entries => {
  for (const {target, isIntersecting} of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    const chart = new KINDS[target.dataset.chart](target);
    drawn.set(target, chart);
    chart.load();
  }
}, {rootMargin: "200px"});
for (const figure of document.querySelectorAll("[data-chart]")) seen.observe(figure);
const redraw = () => { for (const chart of drawn.values()) if (chart.data && chart.picture) chart.draw(); };
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
addEventListener("beforeprint", redraw);

const theme = document.querySelector("[data-themes]");
const THEMES = ["", "light", "dark"];
const wear = name => {
  if (name) document.documentElement.dataset.theme = name; else delete document.documentElement.dataset.theme;
  theme.textContent = `Theme: ${name || "system"}`;
};
if (theme) {
  theme.hidden = false;
  wear(localStorage.getItem("theme") ?? "");
  theme.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "") + 1) % THEMES.length];
    localStorage.setItem("theme", next);
    wear(next);
    redraw();
  });
}

for (const field of document.querySelectorAll("[data-submits]")) field.addEventListener("change", () => field.form.requestSubmit());

// A sweep that runs: ask whether its journal has grown, and then for the page's parts again.
const live = document.querySelector("[data-revision]");
if (live) {
  let revision = live.dataset.revision, wait = 2000;
  const look = async () => {
    setTimeout(look, wait);
    if (document.hidden) return;
    try {
      const answer = await fetch(live.dataset.state);
      if (!answer.ok) throw new Error(String(answer.status));
      const now = await answer.json();
      wait = 2000;
      if (now.revision === revision) return;
      revision = now.revision;
      const page = new DOMParser().parseFromString(await (await fetch(location.href)).text(), "text/html");
      for (const part of document.querySelectorAll("[data-live]")) {
        const fresh = page.getElementById(part.id);
        // What the person is in stays as it is.
        if (fresh && !part.contains(document.activeElement)) part.replaceChildren(...fresh.childNodes);
      }
      for (const chart of drawn.values()) if (!chart.plot.matches(":hover, :focus")) await chart.load();
      live.querySelector("[data-said]").textContent = now.words;
    } catch (error) {
      wait = Math.min(30000, wait * 2);
      live.querySelector("[data-said]").textContent = `Not up to date: the server does not answer (${error.message}).`;
    }
  };
  setTimeout(look, wait);
}
