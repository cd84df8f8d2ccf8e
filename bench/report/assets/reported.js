// What papers reported, each beside its own source's full row, and what was measured here.
/** As long as an axis has room for. */
const shortened = (name) => (name.length > 28 ? `${name.slice(0, 27)}…` : name);

function reportedSection() {
  if (!DATA.reported.length) return;
  const cells = DATA.reported.reduce((total, one) => total + one.cells.length, 0);
  const mean = (values) => values.reduce((total, value) => total + value, 0) / values.length;
  const rows = DATA.reported.map((one) => {
    const points = one.cells.map((cell) => cell.points);
    return { ...one, mean: mean(points), least: Math.min(...points), most: Math.max(...points) };
  });
  const shown = rows.filter((row) => row.cells.length > 1 || row.measured.length);
  const table = sortable("Reported rules", [
    { title: "rule", value: (r) => r.rule, cell: (r) => untrusted(r.rule) },
    { title: "cells", number: true, value: (r) => r.cells.length, cell: (r) => String(r.cells.length) },
    { title: "sources", number: true, value: (r) => unique(r.cells.map((c) => c.id)).length, cell: (r) => String(unique(r.cells.map((c) => c.id)).length) },
    { title: "mean − full", number: true, value: (r) => r.mean, cell: (r) => signed(r.mean / 100) },
    { title: "range", number: true, value: (r) => r.most - r.least, cell: (r) => `${signed(r.least / 100)} to ${signed(r.most / 100)}` },
    { title: "measured here, 5 %", value: (r) => r.measured[0]?.points ?? null, cell: (r) => (r.measured.length ? h("div", {}, r.measured.map((m) => h("div", {}, `${visible(m.pair)}: ${signed(m.points / 100)}${isNumber(m.low) ? ` (${signed(m.low / 100)} to ${signed(m.high / 100)})` : ""}`))) : NONE) },
  ], {
    start: 1, descending: true,
    detail: (r) => scroller("Cells", plainTable("Cells", {
      head: ["source", "paper", "pair", "keep", "points from its own full", "read as"],
      rows: r.cells.map((c) => [c.source, c.id, c.pair, c.keep, c.points, c.read_as]),
    })),
  });
  const dots = shown.flatMap((row) => row.cells.map((cell) => ({ rule: row.rule, points: cell.points, label: `${row.rule}\n${cell.source} (${cell.id})\n${cell.pair}${cell.keep ? `, keep ${cell.keep}` : ""}\n${cell.points >= 0 ? "+" : ""}${cell.points.toFixed(1)} points from its own full` })));
  const ours = shown.flatMap((row) => row.measured.filter((m) => isNumber(m.points)).map((m) => ({ rule: row.rule, ...m, label: `${row.rule}, measured here\n${m.pair}\n${m.points.toFixed(1)} points (${m.low?.toFixed(1)} to ${m.high?.toFixed(1)})` })));
  const all = dots.map((dot) => dot.points).sort((a, b) => a - b);
  const bound = [Math.min(-40, all[0] ?? -1, ...ours.map((o) => o.low ?? 0)), Math.max(10, all.at(-1) ?? 1)];
  section("reported", "Reported elsewhere, beside what was measured",
    h("p", {}, h("strong", {}, "Second-hand. "), `The ${cells} reported differences are other people's numbers, read from papers; none was measured here. Each is a rule minus the full row of its own table, on its own pair, benchmark and budget: they rank no rule of one source against a rule of another.`),
    chart("Points from full. Circles: reported, each from its own source's full row. Diamonds with intervals: measured here at 5 %.", (width) => Plot.plot({
      width, marginLeft: Math.min(190, width * 0.4), marginTop: 30, height: 50 + 20 * shown.length, style: { fontSize: "12px", background: "none" },
      x: { domain: bound, label: "points from full", grid: true, axis: "both" }, y: { domain: shown.map((row) => row.rule), label: null, tickFormat: shortened },
      marks: [
        Plot.ruleX([0], { stroke: "currentColor" }),
        Plot.dot(dots, { x: "points", y: "rule", stroke: PALETTE[0], r: 4, ariaLabel: "label" }),
        Plot.link(ours.filter((o) => isNumber(o.low)), { x1: "low", x2: "high", y1: "rule", y2: "rule", stroke: PALETTE[1], strokeWidth: 2, ariaHidden: "true" }),
        Plot.dot(ours, { x: "points", y: "rule", symbol: "diamond", fill: PALETTE[1], r: 6, ariaLabel: "label" }),
      ],
    }), () => ({ head: ["rule", "cells", "mean", "least", "most"], rows: shown.map((r) => [r.rule, r.cells.length, r.mean, r.least, r.most]) })),
    table.element);
  table.show(rows);
}
