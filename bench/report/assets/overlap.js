// How far rules keep the same tokens, and what kind of tokens each keeps.
const PROFILES = { position: "tenth of the response", entropy: "decile of the student's entropy", class: "token class" };

function overlapSection() {
  if (!DATA.overlaps.length) return;
  const holder = h("div");
  const show = (at) => holder.replaceChildren(matrix(DATA.overlaps[+at]), profiles(DATA.overlaps[+at]));
  section("overlap", "Which rules keep the same tokens",
    h("p", { class: "soft" }, "Jaccard index of every two rules' masks on the same tokens at the same budget, like next to like. A cell opens the two rules in the token explorer."),
    h("div", { class: "controls" }, choose("run", DATA.overlaps.map((one, at) => [String(at), one.name]), "0", show)), holder);
  show(0);
}

function matrix(found) {
  const order = found.clustered_order;
  const names = order.map((at) => found.rules[at]);
  const cells = order.flatMap((row) => order.map((column) => ({
    a: found.rules[row], b: found.rules[column], value: found.jaccard[row][column],
  }))).map((cell) => ({ ...cell, label: `${cell.a} and ${cell.b}: ${isNumber(cell.value) ? cell.value.toFixed(3) : "no token"}` }));
  const side = Math.max(9, Math.min(16, 1000 / names.length));
  const words = `Jaccard index at keep ${keepText(found.keep)}, ${found.tokens.toLocaleString("en")} tokens of steps ${found.steps.join(", ")}; by chance ${found.jaccard_by_chance.toFixed(3)}.`;
  return chart(words, () => Plot.plot({
    width: 190 + side * names.length, height: 160 + side * names.length, marginLeft: 170, marginTop: 150, marginBottom: 10,
    style: { fontSize: `${Math.min(11, side)}px`, background: "none" },
    x: { domain: names, axis: "top", tickRotate: -90, label: null }, y: { domain: names, label: null },
    color: { scheme: "blues", domain: [0, 1], legend: true, label: "Jaccard" },
    marks: [Plot.cell(cells, { x: "b", y: "a", fill: "value", ariaLabel: "label" })],
  }), () => ({ head: ["rule", "other", "Jaccard"], rows: cells.filter((c) => c.a < c.b).map((c) => [c.a, c.b, c.value]) }),
  { chosen: (at) => openRules(cells[at].a, cells[at].b, found.keep) });
}

function profiles(found) {
  const start = ["teachability", "entropy", "forward_kl"].filter((name) => found.rules.includes(name));
  const state = { group: "position", rules: start.length ? start : found.rules.slice(0, 3) };
  const holder = h("div");
  const draw = () => {
    const { names, all, kept } = found.profiles[state.group];
    const sum = (values) => values.reduce((total, value) => total + value, 0);
    const series = found.rules.map((rule, at) => ({ rule, kept: kept[at] })).map(({ rule, kept: own }) => ({
      name: rule,
      points: names.map((name, at) => {
        const y = sum(own) && all[at] ? own[at] / sum(own) / (all[at] / sum(all)) : null;
        return { x: String(name), y, label: `${rule}\n${name}\n${isNumber(y) ? y.toFixed(2) : "no token"} × its share of all tokens` };
      }).filter((p) => isNumber(p.y)),
    }));
    series.sort((a, b) => state.rules.includes(b.name) - state.rules.includes(a.name));
    holder.replaceChildren(lines(`Share of the kept tokens over share of all tokens, by ${PROFILES[state.group]}; 1 is no preference.`, series,
      { x: { type: "point", label: PROFILES[state.group], domain: names.map(String) }, y: { label: "× share of all" }, shown: state.rules.length }));
  };
  draw();
  return h("div", {}, h("h3", {}, "What kind of tokens a rule keeps"), h("div", { class: "controls" },
    choose("by", Object.entries(PROFILES), state.group, (value) => { state.group = value; draw(); })), holder);
}
