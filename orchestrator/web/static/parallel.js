// Settings and measures of every trial side by side. A range is brushed along an axis, with the
// pointer or with the keys; what was brushed becomes a filter in words for the table.
import {Chart, shown, tick} from "./chart.js";

export class Parallel extends Chart {
  begun() {
    this.picture.on("axisareaselected", () => this.brushed());
    this.button = this.figure.querySelector("[data-brushed]");
    this.button?.addEventListener("click", () => this.filter());
    this.on = 0;
  }
  option(c) {
    const {axes, rows, roles} = this.data, many = rows.length;
    const faint = many > 3000 ? .035 : many > 300 ? .12 : .4;
    const group = (role, colour, opacity, width, z) => ({
      type: "parallel", z, smooth: false, progressive: 800, progressiveThreshold: 2000, inactiveOpacity: .01, activeOpacity: Math.max(.25, opacity),
      lineStyle: {color: colour, opacity, width}, emphasis: {disabled: many > 500},
      data: rows.filter((_, i) => roles[i] === role).map(row => row.map(v => v === null ? "-" : v)),
    });
    const narrow = this.plot.clientWidth < 600;
    return {
      parallel: {
        left: 46, right: 60, top: 58, bottom: 28, axisExpandable: narrow, axisExpandCount: 4, axisExpandWidth: 110,
        parallelAxisDefault: {
          nameLocation: "end", nameGap: 18, nameTextStyle: {color: c.ink, fontSize: 11.5, fontWeight: 600}, nameRotate: 0,
          axisLine: {lineStyle: {color: c.faint, width: 1.4}}, axisTick: {lineStyle: {color: c.faint}},
          axisLabel: {color: c.ink, fontSize: 11, formatter: tick, textBorderColor: c.paper, textBorderWidth: 3, width: 84, overflow: "truncate"},
          areaSelectStyle: {width: 18, borderWidth: 1, borderColor: c.accent, color: c.accent, opacity: .25}, splitLine: {show: false},
        },
      },
      parallelAxis: axes.map((one, dim) => ({
        dim, id: `a${dim}`, name: one.short, type: one.kind === "category" ? "category" : one.kind === "log" ? "log" : "value", scale: true,
        data: one.kind === "category" ? one.values : undefined, realtime: many < 3000, inverse: false,
        nameTextStyle: {align: dim === 0 ? "left" : dim === axes.length - 1 ? "right" : "center", padding: [dim % 2 ? 0 : 14, 0, dim % 2 ? 14 : 0, 0]},
      })),
      series: [group("trial", c.quiet, faint, 1, 1), group("front", c.accent, .85, 1.8, 3), group("champion", c.good, 1, 3, 4)],
    };
  }
  intervals() {
    const model = this.picture.getModel();
    return this.data.axes.map((one, i) => model.getComponent("parallelAxis", i).activeIntervals.map(([a, b]) => {
      const [low, high] = [Math.min(a, b), Math.max(a, b)];
      // The data have six digits: a little wider holds what was rounded over an end.
      return one.kind === "category" ? [low, high] : [low - Math.abs(low) * 1e-5, high + Math.abs(high) * 1e-5];
    }));
  }
  within(dim, value, ranges) {
    const one = this.data.axes[dim];
    const at = one.kind === "category" ? one.values.indexOf(value) : value;
    return ranges.length === 0 || (at !== null && ranges.some(([low, high]) => low <= at && at <= high));
  }
  brushed() {
    const ranges = this.intervals();
    const left = this.data.rows.filter(row => row.every((value, dim) => this.within(dim, value, ranges[dim]))).length;
    const some = ranges.some(r => r.length);
    if (this.button) this.button.disabled = !some;
    this.read.textContent = some ? `${left} of ${this.data.rows.length} trials lie within what is brushed` : "Nothing is brushed";
  }
  filter() {
    const parts = this.intervals().flatMap((ranges, dim) => {
      const one = this.data.axes[dim];
      if (!ranges.length) return [];
      if (one.kind === "category") {
        const chosen = one.quoted.filter((_, i) => this.within(dim, one.values[i], ranges));
        return chosen.length ? [`${one.path} in (${chosen.join(", ")})`] : [];
      }
      const each = ranges.map(([low, high]) => `${one.path} >= ${Number(low.toPrecision(7))} and ${one.path} <= ${Number(high.toPrecision(7))}`);
      return [each.length > 1 ? `(${each.map(e => `(${e})`).join(" or ")})` : each[0]];
    });
    const to = new URL(location.href);
    to.searchParams.set("where", [this.data.where ? `(${this.data.where})` : "", ...parts].filter(Boolean).join(" and "));
    to.searchParams.delete("offset");
    to.hash = "trials";
    location.href = to;
  }
  span(dim) {
    const one = this.data.axes[dim];
    if (one.kind === "category") return [0, one.values.length - 1, 1];
    const values = this.data.rows.map(row => row[dim]).filter(v => v !== null);
    const low = values.reduce((a, b) => Math.min(a, b), Infinity), high = values.reduce((a, b) => Math.max(a, b), -Infinity);
    return [low, high, (high - low) / 20 || 1];
  }
  // Left and right choose an axis; up and down move the lower end, with Shift the upper end.
  key(event) {
    if (!this.picture || event.ctrlKey || event.metaKey || event.altKey) return;
    const axes = this.data.axes, turn = {ArrowRight: 1, ArrowLeft: -1}[event.key], move = {ArrowUp: 1, ArrowDown: -1}[event.key];
    if (event.key === "Enter" && !this.button?.disabled) { this.filter(); return; }
    if (event.key === "Escape") {
      axes.forEach((_, dim) => this.brush(dim, []));
      this.brushed();
      return;
    }
    if (turn === undefined && move === undefined) return;
    event.preventDefault();
    if (turn) this.on = Math.min(axes.length - 1, Math.max(0, this.on + turn));
    const [first, last, step] = this.span(this.on);
    let [low, high] = this.intervals()[this.on][0] ?? [first, last];
    if (move && event.shiftKey) high = Math.min(last, Math.max(low, high + move * step));
    else if (move) low = Math.max(first, Math.min(high, low + move * step));
    if (move) this.brush(this.on, [[low, high]]);
    this.brushed();
    const one = axes[this.on], name = at => one.kind === "category" ? one.values[Math.round(at)] : shown(at);
    this.read.textContent = `${one.label}: ${name(low)} to ${name(high)}. ${this.read.textContent}`;
  }
  brush(dim, intervals) { this.picture.dispatchAction({type: "axisAreaSelect", parallelAxisId: `a${dim}`, intervals}); }
}
