// Before the page is drawn, so that it does not flash in the other colours.
try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch { /* a browser that keeps nothing for the page */ }

// The data of the first chart are asked for before anything that draws it is there.
{
  const source = document.currentScript.dataset.first;
  if (source) {
    globalThis.firstChart = {source, answer: fetch(source, {headers: {accept: "application/json"}})};
    globalThis.firstChart.answer.catch(() => { /* told where the chart is drawn */ });
  }
}
