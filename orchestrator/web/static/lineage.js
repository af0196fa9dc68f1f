// Adapters over tasks: a node for each, a line to the one that it was learnt on from.
import {Chart, tooltip} from "./chart.js";

export class Lineage extends Chart {
  address(event) { return event.dataType === "node" ? this.data.nodes[event.dataIndex]?.href ?? null : null; }
  stops() { return this.data.nodes.map((node, i) => [0, i, node.words, node.href]); }
  option(c) {
    const {nodes, links, heads} = this.data, marks = {trial: c.quiet, front: c.accent, champion: c.good, base: c.ink};
    // In the plot's own pixels: a drawing that is stretched to fit would stretch its marks.
    const left = 60, top = 18, width = Math.max(120, this.plot.clientWidth - left - 84), height = this.plot.clientHeight - top - 30;
    const columns = Math.max(1, ...nodes.map(n => n.column)), rows = Math.max(1, this.data.rows - 1), narrow = width / columns < 90;
    const x = column => column / columns * width, y = row => this.data.rows < 2 ? height / 2 : 30 + row / rows * (height - 30);
    const head = (words, column) => ({name: `head ${column}`, x: x(column), y: 0, symbolSize: .01, label: {show: !narrow, color: c.quiet, fontSize: 12, formatter: () => words, width: width / columns - 8, overflow: "truncate"}});
    const corner = {name: "corner", x: width, y: height, symbolSize: .01};
    return {
      tooltip: {...tooltip(c), formatter: p => p.dataType === "node" && nodes[p.dataIndex] ? nodes[p.dataIndex].words : ""},
      series: [{
        type: "graph", layout: "none", left, top, width, height, roam: false, symbol: "circle",
        edgeSymbol: ["none", "arrow"], edgeSymbolSize: nodes.length > 60 ? 0 : 7,
        lineStyle: {color: c.faint, width: 1.5, curveness: 0, opacity: .9}, emphasis: {focus: "adjacency", lineStyle: {width: 3}},
        data: [...nodes.map((node, i) => ({
          name: String(i), x: x(node.column), y: y(node.row), symbolSize: node.role === "champion" ? 15 : node.role === "base" ? 14 : 10,
          itemStyle: {color: node.kept ? marks[node.role] : c.paper, borderColor: marks[node.role], borderWidth: 2},
          label: {show: node.labelled, position: node.role === "base" ? "bottom" : "right", color: c.ink, fontSize: 11, formatter: () => node.label, textBorderColor: c.paper, textBorderWidth: 3},
        })), ...heads.map((words, i) => head(words, i)), corner],
        links: links.map(([source, target, taken]) => ({source, target, lineStyle: taken ? {type: "dashed", color: c.accent} : undefined})),
      }],
    };
  }
}
