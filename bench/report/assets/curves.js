// Curves: accuracy by keep, during training, along a dial, and by cost.
const FIRST = ["full", "random", "teachability", "entropy", "forward_kl", "tip", "incompatible"];
/** Well-known rules first, so that they are shown without a click. */
const inOrder = (series, rule = (one) => one.name) =>
  [...series].sort(by((one) => (FIRST.includes(rule(one)) ? FIRST.indexOf(rule(one)) : FIRST.length)));
const place = (line) => `${line.pair}, ${line.regime}`;
const labelled = (name, x, y, low, high) =>
  `${name}\n${x}\n${y.toFixed(1)} %${isNumber(low) ? ` (${low.toFixed(1)} to ${high.toFixed(1)})` : ""}`;
const nameOf = (line) => (line.params ? `${line.rule} (${line.params})` : line.rule);

function point(name, x, words, line) {
  const [y, low, high] = [line.accuracy, line.low, line.high].map((v) => (isNumber(v) ? 100 * v : null));
  return { x, y, low, high, label: labelled(name, words, y, low, high) };
}

function curvesSection() {
  const parts = [keepCurves(), learningCurves(), dialCurves(), costCurves()].filter(Boolean);
  if (parts.length) section("curves", "Curves", parts);
}

/** A choice with what it draws below it. */
function picked(title, words, options, draw) {
  const holder = h("div");
  const show = (value) => holder.replaceChildren(draw(value));
  show(options[0] && (Array.isArray(options[0]) ? options[0][0] : options[0]));
  return h("div", {}, h("h3", {}, title),
    h("div", { class: "controls" }, choose(words, options, undefined, show)), holder);
}

function keepCurves() {
  const arms = DATA.lines.filter((line) => isRun(line) && line.kind === "score");
  const several = unique(arms.map(place)).filter((where) =>
    unique(arms.filter((l) => place(l) === where && l.rule !== "full").map((l) => l.keep)).length > 1);
  if (!several.length) return null;
  return picked("Accuracy by keep", "pair and regime", several, (where) => {
    const own = arms.filter((line) => place(line) === where);
    const names = unique(["random", ...own.filter((l) => l.rule !== "full").map(nameOf)])
      .filter((name) => own.some((l) => nameOf(l) === name));
    const full = own.find((line) => line.rule === "full");
    const series = names.map((name) => ({
      name,
      points: own.filter((l) => nameOf(l) === name).sort(by((l) => l.keep))
        .map((l) => point(name, 100 * l.keep, `keep ${keepText(l.keep)}`, l)),
    }));
    if (full) series.unshift({ name: "full", points: [point("full", 100, "keep 100 %", full)] });
    return lines(`Accuracy by keep, ${where}; the band is random's interval.`, inOrder(series),
      { x: { type: "log", label: "keep, %", tickFormat: (v) => `${v}` }, y: { label: "accuracy, %" }, band: "random" });
  });
}

function learningCurves() {
  if (!DATA.curves.length) return null;
  const where = (curve) => `${curve.pair}, ${curve.regime}, keep ${keepText(curve.keep)}`;
  const all = unique(DATA.curves.filter((c) => c.rule !== "full").map(where));
  const options = all.length ? all : unique(DATA.curves.map(where));
  return picked("During training", "pair, regime and keep", options, (chosen) => {
    const first = DATA.curves.find((curve) => where(curve) === chosen);
    const own = DATA.curves.filter((curve) => where(curve) === chosen
      || (curve.rule === "full" && curve.pair === first.pair && curve.regime === first.regime));
    const series = own.map((curve) => ({
      name: curve.rule,
      points: curve.steps.map((step, at) => point(curve.rule, step, `step ${step}`,
        { accuracy: curve.mean[at], low: curve.low[at], high: curve.high[at] })),
    }));
    return lines(`Accuracy during training, ${chosen}; bars are the seeds' range.`, inOrder(series),
      { x: { label: "optimizer step" }, y: { label: "accuracy, %" } });
  });
}

function dialCurves() {
  if (!DATA.dials.length) return null;
  const options = DATA.dials.map((dial, at) => [String(at), `${dial.title}: ${dial.where}`]);
  return picked("Along a dial", "dial", options, (at) => {
    const dial = DATA.dials[+at];
    const numeric = dial.series.every((one) => one.points.every((p) => isNumber(p.value)));
    const series = dial.series.map((one) => {
      const name = `${one.rule} ${keepText(one.keep)}`;
      return { name, points: one.points.map((p) => point(name, p.value, `${dial.title} ${p.value}`, p)) };
    });
    return lines(`Accuracy by ${dial.title}, ${dial.where}.`, inOrder(series, (one) => one.name.split(" ")[0]),
      { x: { label: dial.title, type: numeric ? (dial.title === "learning_rate" ? "log" : "linear") : "point" }, y: { label: "accuracy, %" } });
  });
}

const COSTS = { trained: "tokens trained on", scored: "tokens scored by the teacher", seconds: "seconds of training" };

function costCurves() {
  const arms = DATA.lines.filter((line) => isRun(line) && isNumber(line.trained));
  if (!arms.length) return null;
  const state = { where: place(arms[0]), cost: "trained" };
  const holder = h("div");
  const draw = () => {
    const own = arms.filter((line) => place(line) === state.where && isNumber(line[state.cost]));
    const data = own.map((line) => ({
      ...point(nameOf(line), line[state.cost], `keep ${keepText(line.keep)}, ${compact(line[state.cost])} ${COSTS[state.cost]}`, line),
      name: nameOf(line),
    })).sort(by((p) => p.x));
    let best = -1;
    const front = data.filter((p) => (p.y > best ? ((best = p.y), true) : false));
    holder.replaceChildren(chart(`Accuracy by ${COSTS[state.cost]}, ${state.where}; the line joins what nothing cheaper beats: ${front.map((p) => p.name).join(", ")}.`,
      (width) => Plot.plot({
        width, height: Math.max(260, Math.min(420, width * 0.5)), marginLeft: 48, marginBottom: 40,
        style: { fontSize: "13px", background: "none" },
        x: { type: "log", label: COSTS[state.cost], grid: true, tickFormat: "~s" }, y: { label: "accuracy, %", grid: true },
        marks: [
          Plot.line(front, { x: "x", y: "y", stroke: PALETTE[1], curve: "step-after", ariaHidden: "true" }),
          Plot.dot(data, { x: "x", y: "y", r: 4.5, fill: (p) => (front.includes(p) ? PALETTE[1] : PALETTE[0]), ariaLabel: "label" }),
        ],
      }), () => ({ head: ["rule", COSTS[state.cost], "accuracy %", "low", "high"], rows: data.map((p) => [p.name, p.x, p.y, p.low, p.high]) })));
  };
  draw();
  return h("div", {}, h("h3", {}, "Accuracy by cost"), h("div", { class: "controls" },
    choose("pair and regime", unique(arms.map(place)), state.where, (v) => { state.where = v; draw(); }),
    choose("cost", Object.entries(COSTS), state.cost, (v) => { state.cost = v; draw(); })), holder);
}
