// The claims first: what was said, the paired difference, the verdict.
function claimsSection() {
  if (!DATA.claims.length) return;
  const counts = DATA.claims.reduce((found, claim) => {
    found[claim.outcome] = (found[claim.outcome] || 0) + 1;
    return found;
  }, {});
  const table = sortable("Claims", [
    { title: "claim", value: (c) => c.words, cell: (c) => untrusted(c.words) },
    { title: "pair", value: (c) => c.pair },
    { title: "regime", value: (c) => c.regime },
    { title: "difference, points", number: true, value: (c) => c.difference, cell: (c) => difference(c, "difference") },
    { title: "verdict", value: (c) => c.outcome, cell: (c) => chip(c.outcome) },
    { title: "seeds", number: true, value: (c) => c.difference_seeds },
    { title: "family", value: (c) => c.kind },
  ], {
    start: 6,
    detail: (c) => facts([
      ["comparison", `${c.rule} − ${c.reference} at keep ${keepText(c.keep)}`],
      ["margin", c.margin === null ? "none: shown where the difference is clearly above zero"
        : `shown where the difference is clearly above −${percent(c.margin)} points`],
      ["p", compact(c.p)], ["task", c.task], ["named in", c.sweep],
    ]),
  });
  section("claims", "What was claimed, and what was found",
    h("p", {}, Object.entries(counts).map(([word, count]) => [chip(word), ` ${count}  `])),
    h("p", { class: "soft" }, "Claims were named before their first run. Differences are paired over seeds and items, with 95 % intervals over both; verdicts are Holm-adjusted within their family."),
    table.element);
  table.show(DATA.claims);
}

/** +1.2 (−0.3 to +2.7). */
function difference(line, name) {
  if (!isNumber(line[name])) return NONE;
  const interval = isNumber(line[`${name}_low`])
    ? ` (${signed(line[`${name}_low`])} to ${signed(line[`${name}_high`])})` : "";
  return `${signed(line[name])}${interval}`;
}
