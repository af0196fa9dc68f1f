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
