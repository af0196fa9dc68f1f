// Two measures against each other: a mark for each trial, the front above, the rest faint.
import {Chart, hue, axis, shown, tooltip, zoomed} from "./chart.js";

const SHAPES = ["circle", "rect", "diamond", "triangle", "pin", "arrow"];

export class Scatter extends Chart {
  words(group, i) {
    const {x, y} = this.data, [px, py, low, high] = group.points[i];
    const bounds = low === null || low === undefined ? "" : ` [${shown(low)}, ${shown(high)}]`;
    const said = `${group.names[i]}${group.role === "trial" ? "" : ` (${group.role})`}`;
    return [said, `${y.label} ${shown(py)}${bounds}`, `${x.label} ${shown(px)}`, group.kinds?.[i] || ""].filter(Boolean);
  }
  address(event) {
    const group = this.drawn?.[event.seriesIndex];
    return group?.at ? group.at + encodeURIComponent(group.names[event.dataIndex]) : null;
  }
  stops() {
    if (this.kept) return this.kept;
    const found = [];
    this.drawn.forEach((group, series) => {
      if (!group || (group.role === "trial" && this.data.groups.length > 1 && !this.data.sweeps)) return;
      group.points.forEach((point, i) => found.push([series, i, this.words(group, i).join(", "), this.address({seriesIndex: series, dataIndex: i}), point[0]]));
    });
    return this.kept = found.sort((a, b) => a[4] - b[4]);
  }
  option(c) {
    const {x, y, groups, kinds = []} = this.data, marks = {trial: c.faint, repeat: c.warn, front: c.accent, champion: c.good};
    const series = [];
    this.drawn = [];
    this.kept = null;
    const add = (one, group) => { series.push(one); this.drawn.push(group ?? null); };
    for (const [number, group] of groups.entries()) {
      const colour = this.data.sweeps ? hue(c, group.sweep) : marks[group.role];
      const strong = group.role !== "trial" && group.role !== "repeat", many = group.points.length > 2000, few = group.points.length < 200;
      const symbol = kinds.length > 1 && !many ? (_, p) => SHAPES[kinds.indexOf(group.kinds[p.dataIndex]) % SHAPES.length] : "circle";
      if (strong && group.points.length < 60) add(this.bars(group, colour));
      if (group.role === "front" && group.joined.length > 1)
        add({type: "line", data: group.joined, symbol: "none", silent: true, z: 2, lineStyle: {color: colour, type: "dashed", width: 1.3, opacity: .7}, tooltip: {show: false}});
      add({
        type: "scatter", name: group.name, data: group.points, symbol, z: 3 + number,
        symbolSize: group.role === "champion" ? 14 : strong ? 10 : many ? 4 : few ? 8 : 6, large: many, largeThreshold: 2000,
        itemStyle: {color: colour, opacity: strong ? 1 : this.data.sweeps ? .25 : many ? .35 : few ? .85 : .6, borderColor: strong ? c.paper : undefined, borderWidth: strong ? 1.2 : 0},
        emphasis: {scale: 1.6, itemStyle: {borderColor: c.ink, borderWidth: 1.5, opacity: 1}},
        label: strong && group.points.length <= 12 ? {show: true, position: "top", distance: 6, color: c.ink, fontSize: 11.5, textBorderColor: c.paper, textBorderWidth: 3, formatter: p => group.names[p.dataIndex]} : undefined,
        labelLayout: {hideOverlap: true},
      }, group);
    }
    return {
      grid: {left: 62, right: 18, top: 18, bottom: 46},
      xAxis: axis(c, x.label + (x.better === "min" ? " (less is better)" : x.better === "max" ? " (more is better)" : "")),
      yAxis: axis(c, y.label, {nameGap: 44}),
      dataZoom: zoomed(),
      tooltip: {...tooltip(c), trigger: "item", formatter: p => { const group = this.drawn[p.seriesIndex]; return group ? this.words(group, p.dataIndex).join("\n") : ""; }},
      series,
    };
  }
  bars(group, colour) {
    return {
      type: "custom", silent: true, z: 2, data: group.points.filter(p => p[2] !== null && p[2] !== undefined), encode: {x: 0, y: [2, 3]}, tooltip: {show: false},
      renderItem: (_, api) => {
        const [low, high] = [2, 3].map(d => api.coord([api.value(0), api.value(d)]));
        const style = {stroke: colour, lineWidth: 1.3, opacity: .75};
        const cap = at => ({type: "line", shape: {x1: at[0] - 3.5, x2: at[0] + 3.5, y1: at[1], y2: at[1]}, style});
        return {type: "group", children: [{type: "line", shape: {x1: low[0], y1: low[1], x2: high[0], y2: high[1]}, style}, cap(low), cap(high)]};
      },
    };
  }
}
