"""The page's style and script: plain text within the page, nothing is fetched."""

from orchestrator.report.figures import COLOURS
from orchestrator.report.markup import Markup

_LINES = "\n".join(
    f".k{i} {{ --k: {colour}; }}" for i, colour in enumerate(COLOURS)
)  # the same in light and dark: chosen to stand out on both

_HEAT = "\n".join(
    f".h{i} {{ background: color-mix(in oklab, var(--heat) {8 * i + 4}%, var(--paper)); }}"
    for i in range(11)
)

STYLE = Markup(
    """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --raised: #f5f6f7; --ink: #1c2126; --quiet: #5a646e; --rule: #d9dde1;
  --faint: #b3bac1; --link: #0b5cad; --good: #0a7a52; --warn: #8a5a00; --bad: #b3261e;
  --heat: #2f86c5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14181c; --raised: #1d2329; --ink: #e6eaee; --quiet: #a0abb6; --rule: #333c45;
    --faint: #5d6873; --link: #7cb8f2; --good: #4fd0a0; --warn: #e4b04a; --bad: #ff8a80;
    --heat: #2f79b5;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.2rem clamp(.8rem, 3vw, 2.5rem) 4rem; max-width: 90rem;
  background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: .2rem 0; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .5rem; padding-top: .7rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { margin: .4rem 0; max-width: 52rem; }
a { color: var(--link); }
.quiet, figcaption, caption { color: var(--quiet); }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .8rem 0; }
.verdict {
  border-left: 5px solid var(--faint); background: var(--raised); padding: .7rem 1rem; margin: 1rem 0;
}
.verdict strong { font-size: 1.1rem; }
.verdict.won { border-color: var(--good); } .verdict.won strong { color: var(--good); }
.verdict.none { border-color: var(--warn); } .verdict.none strong { color: var(--warn); }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .6rem 0; }
dl.facts dt { color: var(--quiet); } dl.facts dd { margin: 0; }
.scroll { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: break-word; }
ol.tasks { padding-left: 1.4rem; margin: .5rem 0; } ol.tasks li { margin: .5rem 0; max-width: 60rem; }
ul.tasks { list-style: none; padding-left: 1.4rem; margin: .5rem 0; max-width: 60rem; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .22rem .6rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; }
thead th { border-bottom: 2px solid var(--faint); }
.w { text-align: left; } td.w.wrap { white-space: normal; min-width: min(22rem, 72vw); max-width: 48rem; overflow-wrap: break-word; }
tbody th { text-align: left; font-weight: 400; } tbody > tr > * { vertical-align: top; }
tr.control td, tr.control th { color: var(--quiet); background: var(--raised); }
tr.champion th, tr.champion td { font-weight: 600; }
tr.FAILED td { color: var(--bad); }
table.trials th:first-child { position: sticky; left: 0; background: var(--paper); z-index: 1; }
table.trials tr.control th:first-child { background: var(--raised); }
table.trials tbody tr:not(.control):hover > *, .hot > th, .hot > td { background: var(--raised); }
th button {
  all: unset; cursor: pointer; font: inherit; display: inline-flex; gap: .25rem; align-items: baseline;
}
th button::after { content: "\\2195"; color: var(--faint); font-size: .8em; }
th[aria-sort=ascending] button::after { content: "\\25B2"; color: var(--ink); }
th[aria-sort=descending] button::after { content: "\\25BC"; color: var(--ink); }
th button:focus-visible, summary:focus-visible, a:focus-visible, .scroll:focus-visible {
  outline: 2px solid var(--link); outline-offset: 2px;
}
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
.charts.small { grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); }
figure { margin: 0; min-width: 0; } figcaption { font-size: .87rem; }
figure.wide svg { min-width: 40rem; }
svg { width: 100%; height: auto; display: block; font: 12px system-ui, sans-serif; }
svg text { fill: var(--ink); }
svg .tick, svg .label.quiet { fill: var(--quiet); font-size: 11px; }
svg .mid { text-anchor: middle; } svg .end { text-anchor: end; }
svg .label { font-weight: 600; } svg .label.quiet { font-weight: 400; }
svg .measure { font-style: italic; }
svg .halo { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round; }
svg line, svg polyline { fill: none; }
.grid { stroke: var(--rule); } .axis { stroke: var(--faint); } .zero { stroke: var(--faint); stroke-dasharray: 2 3; }
.mark { stroke: var(--faint); stroke-dasharray: 4 3; } .cross { stroke: var(--ink); stroke-width: 1.6; }
.best { stroke: var(--faint); stroke-width: 1.5; stroke-dasharray: 5 4; }
.ko, .kf { --k: var(--faint); } .kf { --k: var(--quiet); } .kc { --k: var(--ink); }
"""
    + _LINES
    + """
.bar { stroke: var(--k); opacity: .75; } .dot { fill: var(--k); stroke: var(--k); stroke-width: 1.5; }
.open .dot { fill: var(--paper); } .ring { fill: none; stroke: var(--k); stroke-width: 1.5; }
.curve polyline { stroke: var(--k); stroke-width: 1.9; stroke-linejoin: round; }
.curve.ko polyline { stroke-width: 1; opacity: .7; }
.curve.kc polyline { stroke-width: 1; opacity: .8; }
.curve.majority polyline { stroke-dasharray: 6 4; } .curve.chance polyline { stroke-dasharray: 1 4; }
.curve.g0 polyline { opacity: .3; } .curve.g1 polyline { opacity: .45; } .curve.g2 polyline { opacity: .6; }
.curve.g3 polyline { opacity: .8; } .curve.g4 polyline { opacity: 1; }
g[data-trial].hot polyline { stroke-width: 3.4; opacity: 1; } g[data-trial].hot .dot { stroke-width: 4; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; font-size: .87rem; margin: .3rem 0; }
.legend svg { width: 20px; height: 12px; display: inline-block; vertical-align: -1px; margin-right: .3rem; }
.matrices { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); gap: .3rem 1.5rem; align-items: start; }
details { margin: .3rem 0; } summary { cursor: pointer; padding: .15rem 0; }
.matrix td { border: 0; text-align: center; min-width: 3.6rem; } .matrix thead th { text-align: center; }
.matrix tr.control td { border-top: 1px solid var(--rule); }
"""
    + _HEAT
    + """
pre { background: var(--raised); padding: .8rem; overflow-x: auto; font-size: .83rem; line-height: 1.45; }
code, pre { font-family: ui-monospace, monospace; }
@media (max-width: 36rem) {
  dl.facts { grid-template-columns: 1fr; gap: 0; } dl.facts dd { margin-bottom: .4rem; }
  th, td { padding: .2rem .4rem; } tbody th { white-space: normal; min-width: 6.5rem; }
}
@media print {
  :root {
    --paper: #fff; --raised: #f4f4f4; --ink: #000; --quiet: #444; --rule: #ccc; --faint: #888;
    --good: #060; --warn: #640; --bad: #900; --heat: #2f86c5; --link: #000;
  }
  body { padding: 0; max-width: none; font-size: 11px; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  nav, th button::after { display: none; } .scroll { overflow: visible; } pre { white-space: pre-wrap; }
  figure, tr, .verdict, .matrix { break-inside: avoid; } h2, h3 { break-after: avoid; }
  th, td { padding: .12rem .3rem; } th, .wrap { white-space: normal; } table { font-size: 9px; }
  table.trials { font-size: 7.5px; } table.trials th, table.trials td { padding: .1rem .2rem; }
  .charts { grid-template-columns: 1fr 1fr; } .charts.small { grid-template-columns: 1fr 1fr 1fr; }
}
"""
)

SCRIPT = Markup(
    """
"use strict";
for (const button of document.querySelectorAll("table.trials thead button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = head.closest("table").tBodies[0];
    const column = head.cellIndex, again = head.getAttribute("aria-sort");
    const first = head.dataset.first || "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = again === first ? other : first;
    for (const th of head.parentNode.cells) th.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const key = row => row.cells[column].dataset.v;
    const numeric = head.dataset.kind === "number", sign = order === "ascending" ? 1 : -1;
    const rows = [...body.rows].sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      return sign * (numeric ? x - y : x.localeCompare(y, undefined, {numeric: true}));
    });
    body.append(...rows);
  });
}
const named = new Map();
for (const part of document.querySelectorAll("[data-trial]")) {
  const name = part.dataset.trial;
  if (!named.has(name)) named.set(name, []);
  named.get(name).push(part);
  const heat = on => () => { for (const p of named.get(name)) p.classList.toggle("hot", on); };
  for (const event of ["pointerenter", "focusin"]) part.addEventListener(event, heat(true));
  for (const event of ["pointerleave", "focusout"]) part.addEventListener(event, heat(false));
}
const opened = [];
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details.print:not([open])")) { part.open = true; opened.push(part); }
});
addEventListener("afterprint", () => { for (const part of opened.splice(0)) part.open = false; });
const reveal = () => {
  const part = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (part && part.tagName === "DETAILS") { part.open = true; part.scrollIntoView(); }
};
addEventListener("hashchange", reveal);
reveal();
"""
)
