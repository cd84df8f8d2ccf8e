// The token explorer: a response token by token, what a signal says, what one or two rules keep.
const KINDS = { f4: Float32Array, u4: Uint32Array, u1: Uint8Array };
const NEVER = 255;

function unpack(text, kind) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new KINDS[kind](bytes.buffer);
}

/** A bank with its arrays read on first use. */
function opened(bank) {
  if (bank.ready) return bank.ready;
  const read = (name, text) => unpack(text, name.endsWith("_text") ? "u4" : "f4");
  bank.ready = {
    ...bank,
    text: unpack(bank.token_text, "u4"),
    kind: unpack(bank.token_class, "u1"),
    wasTrained: unpack(bank.trained, "u1"),
    signal: Object.fromEntries(bank.signals.map((s) => [s.name, unpack(s.values, "f4")])),
    words: Object.fromEntries(bank.signals.map((s) => [s.name, s.words])),
    list: Object.fromEntries(Object.entries(bank.lists).map(([name, text]) => [name, read(name, text)])),
    first: Object.fromEntries(bank.rules.map((r) => [r.name, unpack(r.first, "u1")])),
    own: new Set(bank.rules.filter((r) => r.own).map((r) => r.name)),
  };
  return bank.ready;
}

const WELL_KNOWN = ["student_entropy", "forward_kl", "reverse_kl", "teacher_mass_on_student_topk", "gain"];
const explorer = { bank: 0, response: 0, token: 0, signal: "", a: "", b: null, keep: 5, right: "", kind: "", only: "" };

function tokensSection() {
  if (!DATA.tokens.length) return;
  const controls = h("div", { class: "controls" });
  const stage = h("div", { id: "stage" });
  const made = section("tokens", "Token explorer",
    h("p", { class: "soft" }, "Each token of a response: the background is a signal, the line below says which rule keeps it at the chosen share of the whole batch. Arrow keys walk the tokens, n and p the responses; the address names the token."),
    controls, stage);
  explorer.controls = controls;
  explorer.stage = stage;
  setBank(0);
  readAddress();
  drawControls();
  drawStage();
  made.addEventListener("keydown", walk);
  window.addEventListener("hashchange", () => { if (readAddress()) { drawControls(); drawStage(); } });
}

function setBank(at) {
  const bank = opened(DATA.tokens[at]);
  const rules = Object.keys(bank.first);
  const known = (name, other) => (rules.includes(name) ? name : other);
  Object.assign(explorer, { bank: at, response: 0, token: 0 });
  if (!(explorer.signal in bank.signal)) {
    explorer.signal = WELL_KNOWN.find((name) => name in bank.signal) || bank.signals[0].name;
  }
  explorer.a = known(explorer.a, known("teachability", rules[0]));
  explorer.b = explorer.b === null ? known("entropy", "") : known(explorer.b, "");
}
const bankNow = () => opened(DATA.tokens[explorer.bank]);
const keeps = (bank, rule, token) => rule !== "" && bank.first[rule][token] <= explorer.keep;

function mark(bank, token) {
  const [a, b] = [keeps(bank, explorer.a, token), keeps(bank, explorer.b, token)];
  return a && b ? "both" : a ? "a" : b ? "b" : "";
}

/** Places of the responses that the filters leave. */
function shownResponses(bank) {
  return bank.responses.map((_, at) => at).filter((at) => {
    const { correct, start, end } = bank.responses[at];
    if (explorer.right && String(correct) !== explorer.right) return false;
    if (!explorer.only) return true;
    for (let token = start; token < end; token += 1) {
      if (mark(bank, token) === explorer.only) return true;
    }
    return false;
  });
}

function drawControls() {
  const bank = bankNow();
  const redraw = (change) => { Object.assign(explorer, change); drawStage(); };
  const rules = Object.keys(bank.first);
  const known = unique([...WELL_KNOWN.filter((name) => name in bank.signal), ...Object.keys(bank.signal)]);
  const shown = h("output", {}, `${explorer.keep} %`);
  const slider = h("input", {
    type: "range", min: 1, max: 100, value: explorer.keep, id: "keep", "aria-label": "keep, per cent of the batch",
    oninput: () => { shown.textContent = `${slider.value} %`; redraw({ keep: +slider.value }); },
  });
  slider.value = explorer.keep;
  explorer.controls.replaceChildren(
    choose("pair and run", DATA.tokens.map((one, at) => [at, `${one.pair}, step ${one.step}`]), explorer.bank, (v) => { setBank(+v); drawControls(); drawStage(); }),
    choose("background", known, explorer.signal, (v) => redraw({ signal: v })),
    choose("rule A", rules, explorer.a, (v) => redraw({ a: v })),
    choose("rule B", [["", "none"], ...rules], explorer.b, (v) => redraw({ b: v })),
    h("label", {}, h("span", {}, "keep ", shown), slider),
    choose("responses", [["", "all"], ["true", "right"], ["false", "wrong"]], explorer.right, (v) => redraw({ right: v })),
    choose("token class", [["", "all"], ...bank.classes], explorer.kind, (v) => redraw({ kind: v })),
    choose("only with", [["", "anything"], ["a", "a token of A alone"], ["b", "a token of B alone"], ["both", "a token of both"]], explorer.only, (v) => redraw({ only: v })));
}

function drawStage() {
  const bank = bankNow();
  const shown = shownResponses(bank);
  if (!shown.includes(explorer.response)) {
    if (!shown.length) {
      explorer.stage.replaceChildren(h("p", { role: "status" }, `None of the ${bank.responses.length} responses is left by these filters.`));
      return;
    }
    explorer.response = shown[0];
    explorer.token = 0;
  }
  const response = bank.responses[explorer.response];
  explorer.token = Math.min(explorer.token, response.end - response.start - 1);
  const values = bank.signal[explorer.signal];
  const [low, high] = range(values);
  const tokens = [];
  for (let token = response.start; token < response.end; token += 1) {
    tokens.push(tokenButton(bank, token, token - response.start, (values[token] - low) / (high - low || 1)));
  }
  const at = shown.indexOf(explorer.response);
  const step = (by_) => h("button", { type: "button", onclick: () => nextResponse(by_) }, by_ < 0 ? "← previous" : "next →");
  const verdict = response.correct === null ? "no right answer is known" : response.correct ? "right" : "wrong";
  explorer.stage.replaceChildren(
    h("div", { class: "controls" }, step(-1), step(1),
      h("span", {}, `response ${at + 1} of ${shown.length}, ${bank.responses.length} of the batch's ${bank.of_responses} are in this page`)),
    h("div", { class: "box" },
      h("p", {}, h("strong", {}, "Prompt "), untrusted(response.text, "span", "code")),
      h("p", {}, h("strong", {}, "Right answer "), untrusted(response.answer, "span", "code"), " · the response is ",
        h("span", { class: `chip ${response.correct ? "good" : response.correct === false ? "bad" : ""}` }, verdict))),
    h("p", { class: "soft" }, h("span", { class: "scale", "aria-hidden": "true" }),
      ` ${explorer.signal}: ${compact(low)} to ${compact(high)}${bank.words[explorer.signal] ? `, ${bank.words[explorer.signal]}` : ""}`),
    h("p", {}, h("span", { class: "key a" }), `${explorer.b ? "only " : ""}A ${ruleName(bank, explorer.a)}  `,
      explorer.b ? [h("span", { class: "key b" }), `only B ${ruleName(bank, explorer.b)}  `, h("span", { class: "key both" }), "both"] : null),
    h("div", { class: "tokens", role: "group", "aria-label": "Tokens of the response", dir: "ltr" }, tokens),
    h("div", { id: "card", "aria-live": "polite" }));
  drawCard();
}

/** The slider moves no rule that sets a budget of its own. */
const ruleName = (bank, rule) => visible(rule) + (bank.own.has(rule) ? " (its own budget)" : "");

/** Between the 2nd and the 98th per cent: single large values leave the rest their colours. */
function range(values) {
  const sorted = Array.from(values).filter(Number.isFinite).sort((a, b) => a - b);
  return [sorted[Math.floor(0.02 * sorted.length)], sorted[Math.min(sorted.length - 1, Math.floor(0.98 * sorted.length))]];
}

function tokenButton(bank, token, place, share) {
  const text = bank.texts[bank.text[token]];
  const found = mark(bank, token);
  const said = { a: "kept by A", b: "kept by B", both: "kept by both", "": "not kept" }[found];
  const button = h("button", {
    type: "button", class: `token untrusted ${found}${explorer.kind && bank.classes[bank.kind[token]] !== explorer.kind ? " dim" : ""}`,
    tabindex: place === explorer.token ? 0 : -1, "data-place": place,
    "aria-current": place === explorer.token ? "true" : null,
    "aria-label": `${visible(text).trim() || "white space"}, ${said}`,
    onclick: () => select(place), onfocus: () => select(place), onmouseenter: () => select(place),
  }, visible(text).replace("\n", "⏎\n"));
  const strength = Math.max(0, Math.min(1, share));
  if (strength > 0.01) button.style.background = `rgba(var(--heat), ${(0.75 * strength).toFixed(3)})`;
  return button;
}

function select(place) {
  if (place === explorer.token) return;
  explorer.token = place;
  for (const button of explorer.stage.querySelectorAll(".token")) {
    const here = +button.dataset.place === place;
    button.tabIndex = here ? 0 : -1;
    if (here) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
  drawCard();
}

function drawCard() {
  const bank = bankNow();
  const response = bank.responses[explorer.response];
  const token = response.start + explorer.token;
  const ranked = bank.rules.map(({ name }) => [name, bank.first[name][token]]).sort((a, b) => a[1] - b[1]);
  const values = Object.entries(bank.signal).map(([name, own]) => [name, own[token], bank.words[name]]);
  explorer.stage.querySelector("#card").replaceChildren(
    h("h3", {}, "Token ", untrusted(bank.texts[bank.text[token]].replace("\n", "⏎"), "code"),
      ` · ${explorer.token + 1} of ${response.end - response.start}, ${bank.classes[bank.kind[token]]}${bank.wasTrained[token] ? ", trained on" : ""} `,
      h("a", { href: address(), id: "link" }, "link")),
    h("div", { class: "two" },
      topList(bank, token, "The student's likeliest tokens", "student_topk"),
      topList(bank, token, "The teacher's likeliest tokens", "teacher_topk"),
      h("details", { open: explorer.signalsOpen, ontoggle: (e) => { explorer.signalsOpen = e.target.open; } },
        h("summary", {}, "Signals"), scroller("Signals", plainTable("Signals of this token", { head: ["signal", "value", "definition"], rows: values }))),
      h("details", { open: explorer.rulesOpen, ontoggle: (e) => { explorer.rulesOpen = e.target.open; } },
        h("summary", {}, "What each rule thinks of it"), scroller("Rules", plainTable("Smallest keep at which a rule keeps it", {
          head: ["rule", "keeps it from", `at ${explorer.keep} %`],
          rows: ranked.map(([name, first]) => [name, first === NEVER ? "never" : bank.own.has(name) ? "its own budget" : `${first} %`, first <= explorer.keep ? "kept" : "—"]),
        })))));
}

function topList(bank, token, caption, side) {
  const { listed } = bank;
  const own = side === "student_topk"
    ? ["student_topk_logprob", "teacher_logprob_on_student_topk"] : ["student_logprob_on_teacher_topk", "teacher_topk_logprob"];
  const rows = [];
  for (let place = 0; place < listed; place += 1) {
    const at = token * listed + place;
    const [p, q] = own.map((name) => Math.exp(bank.list[name][at]));
    const bar = (value, kind) => {
      const made = h("span", { class: `bar ${kind}`, "aria-hidden": "true" });
      made.style.width = `${Math.round(60 * value)}px`;
      return h("td", { class: "share" }, made, ` ${percent(value)} %`);
    };
    const text = bank.texts[bank.list[`${side}_text`][at]];
    rows.push(h("tr", {}, h("th", { scope: "row", class: "word" }, untrusted(text.replace("\n", "⏎"), "span", "code")), bar(p, "p"), bar(q, "q"), h("td", { class: "n" }, signed(q - p))));
  }
  return scroller(caption, h("table", {}, h("caption", {}, caption),
    h("thead", {}, h("tr", {}, ["token", "student p", "teacher q", "Δ = q − p"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows)));
}

function nextResponse(by_) {
  const shown = shownResponses(bankNow());
  if (!shown.length) return;
  const at = shown.indexOf(explorer.response);
  explorer.response = shown[(at + by_ + shown.length) % shown.length];
  explorer.token = 0;
  drawStage();
}

function walk(event) {
  const field = ["SELECT", "INPUT"].includes(event.target.tagName);
  if (field || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "n" || event.key === "p") {
    nextResponse(event.key === "n" ? 1 : -1);
    explorer.stage.querySelector(".token[aria-current]")?.focus();
    return;
  }
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step || !event.target.classList.contains("token")) return;
  event.preventDefault();
  const buttons = [...explorer.stage.querySelectorAll(".token")];
  buttons[(explorer.token + step + buttons.length) % buttons.length].focus();
}

/** #token/bank/response/token/A/B/keep/signal */
function address() {
  const parts = [explorer.bank, explorer.response, explorer.token, explorer.a, explorer.b, explorer.keep, explorer.signal];
  return `#token/${parts.map(encodeURIComponent).join("/")}`;
}

/** Go where the address says; false where it names no token of this page. */
function readAddress() {
  const parts = window.location.hash.split("/").map((part) => { try { return decodeURIComponent(part); } catch { return ""; } });
  if (parts[0] !== "#token" || !DATA.tokens[+parts[1]]) return false;
  setBank(+parts[1]);
  const bank = bankNow();
  const response = bank.responses[+parts[2]];
  if (!response) return false;
  const rule = (name, other) => (name in bank.first ? name : other);
  Object.assign(explorer, {
    response: +parts[2], token: Math.max(0, Math.min(+parts[3] || 0, response.end - response.start - 1)),
    a: rule(parts[4], explorer.a), b: rule(parts[5], ""), keep: Math.max(1, Math.min(100, +parts[6] || 5)),
    signal: parts[7] in bank.signal ? parts[7] : explorer.signal, right: "", only: "",
  });
  requestAnimationFrame(() => explorer.stage.scrollIntoView({ block: "center" }));
  return true;
}

/** Two rules' disagreements, from the matrix. */
function openRules(a, b, keep) {
  if (!DATA.tokens.length) return;
  const bank = bankNow();
  if (!(a in bank.first) || !(b in bank.first)) return;
  Object.assign(explorer, { a, b, keep: Math.max(1, Math.round(100 * keep)), only: a === b ? "both" : "a", right: "" });
  drawControls();
  drawStage();
  document.getElementById("tokens").scrollIntoView();
  explorer.stage.querySelector(".token[aria-current]")?.focus({ preventScroll: true });
}
