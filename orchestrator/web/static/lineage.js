// Adapters over tasks: a node for each, a line to the one that it was learnt on from.
import {Chart, tooltip} from "./chart.js";

export class Lineage extends Chart {
  address(event) { return event.dataType === "node" ? this.data.nodes[event.dataIndex]?.href ?? null : null; }
  stops() { return this.data.nodes.map((node, i) => [0, i, node.words, node.href]); }
  option(c) {
    const {nodes, links} = this.data, marks = {trial: c.quiet, front: c.accent, champion: c.good, base: c.ink};
    return {
      tooltip: {...tooltip(c), formatter: p => p.dataType === "node" ? nodes[p.dataIndex].words : ""},
      series: [{
        type: "graph", layout: "none", left: 70, right: 90, top: 24, bottom: 28, roam: false, symbol: "circle",
        edgeSymbol: ["none", "arrow"], edgeSymbolSize: 7,
        lineStyle: {color: c.faint, width: 1.5, curveness: .08, opacity: .9}, emphasis: {focus: "adjacency", lineStyle: {width: 3}},
        data: nodes.map((node, i) => ({
          id: String(i), name: String(i), x: node.x, y: node.y, symbolSize: node.role === "champion" ? 17 : node.role === "base" ? 15 : 11,
          itemStyle: {color: node.kept ? marks[node.role] : c.paper, borderColor: marks[node.role], borderWidth: 2},
          label: {show: node.labelled, position: "right", color: c.ink, fontSize: 11, formatter: () => node.label, textBorderColor: c.paper, textBorderWidth: 3},
        })),
        links: links.map(([source, target, taken]) => ({source, target, lineStyle: taken ? {type: "dashed", color: c.accent} : undefined})),
      }],
    };
  }
}
