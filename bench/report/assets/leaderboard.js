// The leaderboard: every line of every table, searched, filtered, sorted and opened.
const HEADLINE = 0.05;
const isRun = (line) => line.kind !== "baseline";

function leaderboardSection() {
  if (!DATA.lines.length) return;
  const values = (read) => unique(DATA.lines.map(read).filter((v) => v !== null && v !== undefined)).sort();
  const ruleOf = (line) => DATA.rules[line.rule] || {};
  const regimes = values((line) => line.regime);
  const filter = {
    search: "", pair: "", regime: regimes.includes("default") ? "default" : "",
    keep: DATA.lines.some((line) => line.keep === HEADLINE) ? String(HEADLINE) : "", family: "", cost: "", kind: "",
  };
  const table = sortable("Lines", [
    { title: "rule", value: (l) => l.rule, cell: (l) => untrusted(l.params ? `${l.rule} (${l.params})` : l.rule) },
    { title: "pair", value: (l) => l.pair, cell: (l) => h("span", { class: "whole" }, visible(l.pair)) },
    { title: "regime", value: (l) => l.regime },
    { title: "keep", number: true, value: (l) => l.keep, cell: (l) => keepText(l.keep) },
    { title: "accuracy %", number: true, value: (l) => l.accuracy, cell: (l) => `${percent(l.accuracy)} (${percent(l.low)} to ${percent(l.high)})` },
    { title: "− full", number: true, value: (l) => l.full, cell: (l) => difference(l, "full") },
    { title: "verdict", value: (l) => l.full_verdict, cell: (l) => (isNumber(l.full) ? chip(l.full_verdict) : NONE) },
    { title: "− random", number: true, value: (l) => l.random, cell: (l) => difference(l, "random") },
    { title: "verdict", value: (l) => l.random_verdict, cell: (l) => (isNumber(l.random) ? chip(l.random_verdict) : NONE) },
    { title: "seeds", number: true, value: (l) => l.seeds?.length ?? null, cell: (l) => String(l.seeds?.length ?? NONE) },
    { title: "trained on", number: true, value: (l) => l.trained, cell: (l) => compact(l.trained) },
    { title: "s", number: true, value: (l) => l.seconds, cell: (l) => compact(l.seconds) },
    { title: "cost", value: (l) => ruleOf(l).cost },
  ], { start: 4, descending: true, detail: lineDetail });

  const show = () => table.show(DATA.lines.filter((line) =>
    (!filter.search || `${line.rule} ${line.params}`.toLowerCase().includes(filter.search.toLowerCase()))
    && ["pair", "regime", "kind"].every((name) => !filter[name] || line[name] === filter[name])
    && (!filter.keep || !isRun(line) || line.rule === "full" || String(line.keep) === filter.keep)
    && ["family", "cost"].every((name) => !filter[name] || ruleOf(line)[name] === filter[name])));
  const pick = (words, name, options) => choose(words, [["", "all"], ...options], filter[name], (value) => {
    filter[name] = value;
    show();
  });
  const search = h("input", { type: "search", id: "search", oninput: () => { filter.search = search.value; show(); } });
  const infos = Object.values(DATA.rules);
  section("leaderboard", "Leaderboard",
    h("div", { class: "controls" },
      h("label", {}, "rule", search),
      pick("pair", "pair", values((l) => l.pair)),
      pick("regime", "regime", regimes),
      pick("keep", "keep", values((l) => l.keep).sort((a, b) => a - b).map((keep) => [String(keep), keepText(keep)])),
      pick("family", "family", unique(infos.map((i) => i.family).filter(Boolean)).sort()),
      pick("cost class", "cost", unique(infos.map((i) => i.cost).filter(Boolean)).sort()),
      pick("kind", "kind", values((l) => l.kind))),
    h("p", { class: "soft" }, "Points of accuracy from full and from random at the same keep, seeds and items, with 95 % intervals of one comparison; verdicts are Holm-adjusted over their table. A rule's name opens its formula, seeds and runs."),
    table.element);
  show();
}

function lineDetail(line) {
  const rule = DATA.rules[line.rule] || {};
  const box = [facts([
    ["what it keeps", rule.summary], ["formula", rule.formula], ["source", rule.source],
    ["differs from the source", rule.deviations], ["family", rule.family], ["signals", rule.cost],
    ["realised keep", isNumber(line.realised) ? keepText(line.realised) : null],
    ["tokens", isNumber(line.sampled) ? `${compact(line.sampled)} sampled, ${compact(line.scored)} scored by the teacher, ${compact(line.trained)} trained on` : null],
    ["peak memory", isNumber(line.memory) ? `${compact(line.memory / 2 ** 20)} MiB` : null],
    ["items", line.items],
  ])];
  if (line.runs?.length) {
    box.push(scroller("Seeds", plainTable("Seeds", {
      head: ["seed", "accuracy %", "run"],
      rows: line.seeds.map((seed, place) => [String(seed), percent(line.by_seed[place]), line.runs[place]]),
    })));
  }
  return h("div", {}, box);
}
