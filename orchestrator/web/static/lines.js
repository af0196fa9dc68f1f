// Lines over a common axis: losses by step, scores by tasks learnt, hypervolume over compute.
import {Chart, hue, axis, shown, tick, tooltip, zoomed} from "./chart.js";

const DASHES = ["solid", "dashed", "dotted"];

export class Lines extends Chart {
  stops() {
    if (this.kept) return this.kept;
    const found = [], {x, y, lines} = this.data;
    // A line of thousands of points is gone through in a hundred steps.
    lines.forEach((line, series) => {
      const step = Math.max(1, Math.ceil(line.points.length / 100));
      line.points.forEach((point, i) => {
        if (point[1] === null || (i % step && i !== line.points.length - 1)) return;
        const at = x.ticks ? x.ticks[point[0]] : `${x.label} ${shown(point[0])}`;
        found.push([series, i, `${line.name}: ${y.label} ${shown(point[1])}, ${at}`, line.href]);
      });
    });
    return this.kept = found;
  }
  address(event) { return this.data.lines[event.seriesIndex]?.href ?? null; }
  option(c) {
    const {x, y, lines, marks = []} = this.data;
    this.kept = null;
    const many = lines.length > 1;
    return {
      grid: {left: 62, right: 20, top: many ? 40 : 18, bottom: 46},
      legend: many ? {type: "scroll", top: 0, textStyle: {color: c.ink}, inactiveColor: c.faint, pageTextStyle: {color: c.quiet}, pageIconColor: c.ink, pageIconInactiveColor: c.faint} : undefined,
      xAxis: x.ticks ? axis(c, x.label, {type: "category", data: x.ticks, boundaryGap: false, axisLabel: {color: c.quiet, fontSize: 11, hideOverlap: true, width: 90, overflow: "truncate"}}) : axis(c, x.label, {type: x.log ? "log" : "value", max: "dataMax", axisLabel: {color: c.quiet, fontSize: 11, hideOverlap: true, formatter: tick, showMaxLabel: false}}),
      yAxis: axis(c, y.label, {nameGap: 44, type: y.log ? "log" : "value", min: y.min ?? undefined, max: y.max ?? undefined}),
      dataZoom: zoomed(),
      tooltip: {...tooltip(c), trigger: "axis", axisPointer: {lineStyle: {color: c.faint}}, formatter: parts => {
        const head = parts.length ? (x.ticks ? x.ticks[parts[0].dataIndex] : `${x.label} ${shown(parts[0].value[0])}`) : "";
        return [head, ...parts.slice(0, 12).map(p => `${p.seriesName}: ${shown(p.value[1])}`)].join("\n");
      }},
      series: lines.map((line, i) => ({
        type: "line", name: line.name, data: x.ticks ? line.points.map(p => [x.ticks[p[0]], p[1]]) : line.points, step: line.step ? "end" : false,
        showSymbol: line.points.length < 30 && !line.step, symbolSize: 6, sampling: "lttb", connectNulls: false,
        lineStyle: {width: line.control ? 1.4 : 2, type: DASHES[line.dash ?? 0], color: line.control ? c.quiet : hue(c, i)},
        itemStyle: {color: line.control ? c.quiet : hue(c, i)}, areaStyle: line.step && !many ? {opacity: .12} : undefined,
        markLine: i === 0 && marks.length ? {silent: true, symbol: "none", animation: false, lineStyle: {color: c.faint, type: "dashed"}, label: {color: c.quiet, fontSize: 11, formatter: p => p.name, position: "insideEndTop", rotate: 90}, data: marks.map(m => ({xAxis: m.at, name: m.name}))} : undefined,
      })),
    };
  }
}
