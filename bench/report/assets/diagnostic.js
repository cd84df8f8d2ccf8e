// How well a score orders the KL that an update removes.
function diagnosticSection() {
  if (!DATA.diagnostics.length) return;
  const state = { at: 0, keep: null, scores: null };
  const holder = h("div");
  const draw = () => {
    const found = DATA.diagnostics[state.at];
    const keeps_ = Object.keys(found.top);
    state.keep = keeps_.includes(state.keep) ? state.keep : keeps_[Math.floor(keeps_.length / 2)];
    const known = ["forward_kl", "teachability", "entropy", "random"].filter((name) => name in found.buckets);
    const names = [...known, ...Object.keys(found.buckets).filter((name) => !known.includes(name)).sort()];
    const series = names.map((name) => ({
      name,
      points: found.buckets[name].map(([value, low, high], at) => ({
        x: at + 1, y: value, low, high,
        label: `${name}\ntenth ${at + 1} of 10 by score\ngain ${compact(value)}${isNumber(low) ? ` (${compact(low)} to ${compact(high)})` : ""} nats`,
      })),
    }));
    const top = Object.entries(found.top[state.keep]).map(([name, one]) => ({ name, gain: one.gain, low: one.ci95?.[0], high: one.ci95?.[1] }))
      .filter((one) => isNumber(one.gain)).sort((a, b) => b.gain - a.gain)
      .map((one) => ({ ...one, label: `${one.name}\ngain ${compact(one.gain)}${isNumber(one.low) ? ` (${compact(one.low)} to ${compact(one.high)})` : ""} nats` }));
    const ends = ["oracle", "oracle_other_seeds", "random"];
    holder.replaceChildren(
      h("p", { class: "soft" }, `${found.contexts.toLocaleString("en")} contexts of ${found.prompts} prompts, ${visible(found.pair)}; the update is ${visible(found.update)}.`),
      lines("Gain by tenth of the contexts, in the order of each score (10 has the highest scores).", series, { x: { label: "tenth by score", ticks: 10 }, y: { label: "gain, nats" }, shown: Math.max(2, known.length) }),
      h("div", { class: "controls" }, choose("keep", keeps_.map((keep) => [keep, keepText(+keep)]), state.keep, (v) => { state.keep = v; draw(); })),
      chart(`Mean gain of the contexts that each score keeps, at ${keepText(+state.keep)}; oracle and random are the ends.`, (width) => Plot.plot({
        width, marginLeft: Math.min(190, width * 0.4), height: 40 + 18 * top.length, style: { fontSize: "12px", background: "none" },
        x: { label: "gain, nats", grid: true }, y: { domain: top.map((one) => one.name), label: null },
        marks: [
          Plot.link(top.filter((one) => isNumber(one.low)), { x1: "low", x2: "high", y1: "name", y2: "name", stroke: "currentColor", strokeOpacity: 0.5, ariaHidden: "true" }),
          Plot.dot(top, { x: "gain", y: "name", r: 5, fill: (one) => (ends.includes(one.name) ? PALETTE[1] : PALETTE[0]), ariaLabel: "label" }),
        ],
      }), () => ({ head: ["score", "gain", "low", "high"], rows: top.map((one) => [one.name, one.gain, one.low, one.high]) })),
      heat(found),
      rankTable(found));
  };
  section("diagnostic", "Diagnostic: which score orders what an update removes",
    h("div", { class: "controls" }, choose("record", DATA.diagnostics.map((one, at) => [String(at), one.name]), "0", (v) => { state.at = +v; draw(); })), holder);
  draw();
}

function heat({ map }) {
  const cells = map.gain.flatMap((row, entropy) => row.map((gain, divergence) => ({
    entropy: entropy + 1, divergence: divergence + 1, gain, n: map.n[entropy][divergence],
  }))).filter((cell) => isNumber(cell.gain)).map((cell) => ({ ...cell, label: `entropy decile ${cell.entropy}, divergence decile ${cell.divergence}\ngain ${compact(cell.gain)} nats, ${cell.n} contexts` }));
  return chart("Mean gain by decile of the student's entropy and of the divergence D.", (width) => Plot.plot({
    width: Math.min(width, 520), height: 440, style: { fontSize: "12px", background: "none" },
    x: { label: "decile of D", type: "band" }, y: { label: "decile of entropy", type: "band", reverse: true },
    color: { scheme: "blues", legend: true, label: "gain, nats" },
    marks: [Plot.cell(cells, { x: "divergence", y: "entropy", fill: "gain", ariaLabel: "label" })],
  }), () => ({ head: ["entropy decile", "D decile", "gain", "contexts"], rows: cells.map((c) => [String(c.entropy), c.divergence, c.gain, c.n]) }));
}

function rankTable({ spearman }) {
  const table = sortable("Rank correlation of a score with the gain", [
    { title: "score", value: (r) => r.name },
    { title: "Spearman", number: true, value: (r) => r.value, cell: (r) => (isNumber(r.value) ? `${r.value.toFixed(3)} (${r.low?.toFixed(3)} to ${r.high?.toFixed(3)})` : NONE) },
  ], { start: 1, descending: true });
  table.show(Object.entries(spearman).map(([name, [value, low, high]]) => ({ name, value, low, high })));
  return table.element;
}
