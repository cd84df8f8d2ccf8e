// One run: its record, its steps, its answers.
function runSections() {
  DATA.runs.forEach((run, at) => {
    const tasks = Object.keys(run.scores.trained);
    const table = scroller("Scores", plainTable("Scores", {
      head: ["model", ...tasks.map((task) => `${task}, %`)],
      rows: ["untrained", "trained", "teacher"].filter((who) => who in run.scores).map((who) => [who, ...tasks.map((task) => {
        const found = run.scores[who][task];
        return found ? `${percent(found.mean)} (${(found.ci95 || []).map((v) => percent(v)).join(" to ")}), n ${found.n}` : NONE;
      })]),
    }));
    const changes = tasks.map((task) => h("p", {}, `${visible(task)}: trained minus untrained `, h("strong", {}, signed(run.change[task].mean)), ` points (95 % over items ${run.change[task].ci95.map((v) => signed(v)).join(" to ")}); one run, one seed.`));
    section(`run-${at}`, `Run ${visible(run.id)}`, table, changes,
      facts([
        ["settings that differ", Object.entries(run.changes).map(([name, value]) => `${name} = ${JSON.stringify(value)}`).join("\n") || "none"],
        ["tokens", `${compact(run.tokens.sampled)} sampled, ${compact(run.tokens.scored)} scored, ${compact(run.tokens.trained)} trained on (${keepText(run.realised_keep)})`],
        ["seconds", Object.entries(run.seconds).map(([name, value]) => `${name} ${value}`).join(", ")],
        ["peak memory", `${compact(run.memory / 2 ** 20)} MiB`],
        ["made by", `${run.provenance.git || "no revision"}${run.provenance.dirty ? ", with changes" : ""}, torch ${run.provenance.versions.torch}, ${run.provenance.device}, ${run.ended}`],
      ]),
      stepCurves(run), run.curve.length > 1 ? curveOf(run) : null, ...run.answers.map(answersOf));
  });
}

function stepCurves(run) {
  const names = Object.keys(run.steps).filter((name) => run.steps[name].some(isNumber));
  return picked("Step by step", "number", names, (name) => lines(`${name} at each optimizer step.`, [{
    name,
    points: run.steps[name].map((y, at) => ({ x: at + 1, y, label: `step ${at + 1}\n${name} ${compact(y)}` })).filter((p) => isNumber(p.y)),
  }], { x: { label: "optimizer step" }, y: { label: name } }));
}

function curveOf(run) {
  const tasks = Object.keys(run.curve[0]).filter((name) => name !== "step");
  return lines("Accuracy during training.", tasks.map((task) => ({
    name: task, points: run.curve.map((p) => ({ x: p.step, y: 100 * p[task], label: `${task}\nstep ${p.step}\n${percent(p[task])} %` })),
  })), { x: { label: "optimizer step" }, y: { label: "accuracy, %" } });
}

const CHANGES = {
  "": "all", gained: "wrong before, right now", lost: "right before, wrong now", changed: "changed", wrong: "wrong now", right: "right now",
};

function answersOf({ task, n, k, items }) {
  const right = (said) => said && said[2] === 1;
  const is = {
    "": () => true, gained: (i) => !right(i.untrained) && right(i.trained), lost: (i) => right(i.untrained) && !right(i.trained),
    changed: (i) => right(i.untrained) !== right(i.trained), wrong: (i) => !right(i.trained), right: (i) => right(i.trained),
  };
  const state = { only: "changed", search: "", page: 0 };
  const holder = h("div");
  const count = h("span", { role: "status" });
  const PAGE = 20;
  const draw = () => {
    const found = items.filter((item) => is[state.only](item) && (!state.search || JSON.stringify(item).toLowerCase().includes(state.search.toLowerCase())));
    state.page = Math.min(state.page, Math.max(0, Math.ceil(found.length / PAGE) - 1));
    count.textContent = `${found.length} of ${items.length} items${items.length < n ? ` (of the task's ${n})` : ""}, page ${state.page + 1} of ${Math.max(1, Math.ceil(found.length / PAGE))}`;
    holder.replaceChildren(...found.slice(PAGE * state.page, PAGE * (state.page + 1)).map(answer));
  };
  const answer = (item) => h("div", { class: "box" },
    h("p", {}, h("strong", {}, visible(item.id)), " ", untrusted(item.question, "span", "code")),
    h("p", {}, "gold ", untrusted(item.gold || NONE, "span", "code")),
    h("div", { class: "two" }, ["untrained", "trained", "teacher"].filter((who) => item[who]).map((who) => h("div", {},
      h("p", {}, `${who}: `, chipOf(item[who]), " ", untrusted(item[who][1] ?? "no answer", "span", "code")),
      untrusted(item[who][0], "p", "code")))));
  const chipOf = (said) => h("span", { class: `chip ${said[2] === 1 ? "good" : said[2] === 0 ? "bad" : ""}` },
    said[2] === 1 ? "right" : said[2] === 0 ? "wrong" : `${percent(said[2])} % of ${k}`);
  const search = h("input", { type: "search", oninput: () => { state.search = search.value; state.page = 0; draw(); } });
  const turn = (by_) => h("button", { type: "button", onclick: () => { state.page = Math.max(0, state.page + by_); draw(); } }, by_ < 0 ? "← previous" : "next →");
  draw();
  return h("div", {}, h("h3", {}, `Answers, ${visible(task)}`), h("div", { class: "controls" },
    choose("items", Object.entries(CHANGES), state.only, (v) => { state.only = v; state.page = 0; draw(); }),
    h("label", {}, "search", search), turn(-1), turn(1), count), holder);
}
