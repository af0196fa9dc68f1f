// What all charts share: colours of the page, loading, one tab stop with arrow keys inside, and a
// line below that says in words what is pointed at.
const probe = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
// light-dark() and color-mix() are for style sheets; a canvas wants one colour.
const resolved = name => {
  const span = document.createElement("span");
  span.className = "hidden";
  span.style.color = `var(${name})`;
  document.body.append(span);
  const colour = getComputedStyle(span).color;
  span.remove();
  probe.fillStyle = colour;
  return probe.fillStyle;
};
export const colours = () => ({dark: parseInt(resolved("--paper").slice(1, 3), 16) < 128, ...Object.fromEntries(
  ["paper", "raised", "high", "ink", "quiet", "rule", "faint", "link", "accent", "good", "warn", "bad"]
    .map(name => [name, resolved(`--${name}`)]))});
const HUES = ["#0072B2", "#D55E00", "#00835F", "#B5528C", "#A87400", "#3A8FBF", "#7A6FC9", "#7C7C00"];
const HUES_IN_THE_DARK = ["#56B4E9", "#F0904D", "#3ECF9F", "#E07BB0", "#E4B04A", "#8CC8E8", "#A79CF0", "#C4C44A"];
// By which lines and sweeps are told apart: an index has one hue.
export const hue = (c, i) => (c.dark ? HUES_IN_THE_DARK : HUES)[i % HUES.length];
export const shown = value => {
  if (value === null || value === undefined) return "-";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(2);
  return size >= 1000 || Number.isInteger(value) ? value.toLocaleString("en", {maximumFractionDigits: 1}) : value.toFixed(3);
};
export const tick = value => typeof value !== "number" ? String(value) : value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(0) : Number(value.toPrecision(4)).toLocaleString("en", {maximumFractionDigits: 6});
export const tooltip = c => ({
  renderMode: "richText", confine: true, backgroundColor: c.high, borderColor: c.faint, transitionDuration: 0,
  textStyle: {color: c.ink, fontSize: 12.5},
});
export const axis = (c, name, extra) => ({
  name, nameLocation: "middle", nameGap: 28, nameTextStyle: {color: c.quiet, fontSize: 12},
  axisLine: {lineStyle: {color: c.faint}}, axisLabel: {color: c.quiet, fontSize: 11, hideOverlap: true, formatter: tick},
  splitLine: {lineStyle: {color: c.rule}}, scale: true, ...extra,
});
export const zoomed = () => [
  {type: "inside", xAxisIndex: 0, filterMode: "none", zoomOnMouseWheel: "ctrl", moveOnMouseWheel: false},
  {type: "inside", yAxisIndex: 0, filterMode: "none", zoomOnMouseWheel: "ctrl", moveOnMouseWheel: false},
];

export class Chart {
  constructor(figure) {
    this.figure = figure;
    this.plot = figure.querySelector(".plot");
    this.read = figure.querySelector(".read");
    this.at = -1;
    this.plot.addEventListener("keydown", event => this.key(event));
    this.plot.addEventListener("blur", () => this.left());
  }
  async load() {
    const {source} = this.figure.dataset, first = globalThis.firstChart;
    // Once: what is read again later has changed since.
    if (first?.source === source) globalThis.firstChart = null;
    const answer = await (first?.source === source ? first.answer : fetch(source, {headers: {accept: "application/json"}}));
    if (!answer.ok) { this.none(`The chart's data could not be read (${answer.status}).`); return; }
    this.data = await answer.json();
    if (this.data.empty) { this.none(this.data.empty); return; }
    this.plot.classList.remove("empty");
    this.draw();
    this.figure.dataset.drawn = "yes";
  }
  none(words) {
    this.plot.dataset.empty = words;
    this.plot.classList.add("empty");
    this.plot.removeAttribute("tabindex");
    this.picture?.dispose();
    this.picture = null;
    this.figure.dataset.drawn = "yes";
  }
  draw() {
    this.plot.tabIndex = 0;
    if (!this.picture) {
      this.picture = echarts.init(this.plot, null, {renderer: "canvas"});
      this.picture.on("click", event => { const to = this.address(event); if (to) location.href = to; });
      this.picture.on("mouseover", event => { this.plot.style.cursor = this.address(event) ? "pointer" : ""; });
      this.picture.on("mouseout", () => { this.plot.style.cursor = ""; });
      new ResizeObserver(() => this.picture?.resize()).observe(this.plot);
      this.begun?.();
    }
    this.picture.setOption({animation: false, textStyle: {fontFamily: "system-ui, sans-serif"}, ...this.option(colours())}, true);
  }
  // What the arrow keys go through: [series, place within it, words, address].
  stops() { return []; }
  address() { return null; }
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.picture) return;
    const stops = this.stops(), last = stops.length - 1;
    const to = {ArrowRight: this.at + 1, ArrowDown: this.at + 1, ArrowLeft: this.at - 1, ArrowUp: this.at - 1,
      Home: 0, End: last, PageDown: this.at + 10, PageUp: this.at - 10}[event.key];
    if (to !== undefined && stops.length) {
      event.preventDefault();
      this.go(stops, Math.min(last, Math.max(0, to)));
    } else if (event.key === "Enter" && stops[this.at]?.[3]) {
      location.href = stops[this.at][3];
    } else if (event.key === "Escape") this.left();
  }
  go(stops, place) {
    this.left();
    this.at = place;
    const [seriesIndex, dataIndex, words] = stops[place];
    if (seriesIndex !== null) {
      this.picture.dispatchAction({type: "highlight", seriesIndex, dataIndex});
      this.picture.dispatchAction({type: "showTip", seriesIndex, dataIndex});
    }
    this.read.textContent = `${words} (${place + 1} of ${stops.length})`;
  }
  left() {
    this.picture?.dispatchAction({type: "downplay"});
    this.picture?.dispatchAction({type: "hideTip"});
  }
}
