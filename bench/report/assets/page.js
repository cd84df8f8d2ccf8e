// Elements, numbers and text. Every text of the data is set as text, never as markup.
const DATA = JSON.parse(document.getElementById("data").textContent);

/** An element; `on…` attributes are listeners, false and null leave one out. */
function h(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in { value: 1, checked: 1, hidden: 1, selected: 1 }) made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

// eslint-disable-next-line no-control-regex
const UNSEEN = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

/** Text whose characters can all be seen: controls and overrides of direction by their names. */
function visible(text) {
  return String(text).replace(UNSEEN, (found) =>
    `⟨U+${found.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}

/** Untrusted text in a span of its own direction. */
function untrusted(text, tag = "span", more = "") {
  return h(tag, { class: `untrusted ${more}`, dir: "ltr" }, visible(text));
}

const NONE = "—";
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const percent = (share, digits = 1) => (isNumber(share) ? (100 * share).toFixed(digits) : NONE);
const signed = (share, digits = 1) =>
  isNumber(share) ? `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(digits)}` : NONE;
const keepText = (keep) => (isNumber(keep) ? `${+(100 * keep).toPrecision(3)} %` : NONE);
const compact = (value) =>
  isNumber(value) ? new Intl.NumberFormat("en", { maximumSignificantDigits: 3 }).format(value) : NONE;
const unique = (values) => [...new Set(values)];
const by = (read) => (one, other) => (read(one) < read(other) ? -1 : read(one) > read(other) ? 1 : 0);

const CHIPS = {
  better: "good", shown: "good", worse: "bad", "the opposite shown": "bad",
};
/** A verdict: its word carries it, the colour repeats it. */
const chip = (word) => h("span", { class: `chip ${CHIPS[word] || ""}` }, word || "no verdict");

/** A labelled select; `options` are values or [value, words]. */
function choose(words, options, value, changed) {
  const select = h("select", { onchange: () => changed(select.value) },
    options.map((option) => {
      const [key, text] = Array.isArray(option) ? option : [option, option];
      return h("option", { value: key, selected: String(key) === String(value) }, visible(text));
    }));
  return h("label", {}, words, select);
}

/** A section of the page, and its place in the navigation. */
function section(id, title, ...content) {
  const made = h("section", { id, "aria-labelledby": `${id}-title` },
    h("h2", { id: `${id}-title` }, title), content);
  document.getElementById("main").append(made);
  return made;
}

/**
 * A table that sorts. Columns: {title, value(row), cell(row), number, start}; `detail(row)` opens
 * below its row. Returns {element, show(rows)}.
 */
function sortable(caption, columns, { detail, start = 0, descending = false } = {}) {
  const state = { column: start, descending, rows: [], open: new Set() };
  const heads = columns.map((column, place) =>
    h("th", { scope: "col", class: column.number ? "n" : null },
      h("button", { type: "button", onclick: () => sort(place) }, column.title)));
  const body = h("tbody");
  const words = h("caption", {});
  const table = h("table", {}, words, h("thead", {}, h("tr", {}, heads)), body);

  function sort(place) {
    state.descending = state.column === place ? !state.descending : Boolean(columns[place].number);
    state.column = place;
    draw();
  }
  function compare(one, other) {
    const { value } = columns[state.column];
    const [a, b] = [value(one), value(other)];
    if (a === b) return 0;
    if (a === null || a === undefined) return 1;
    if (b === null || b === undefined) return -1;
    return (a < b ? -1 : 1) * (state.descending ? -1 : 1);
  }
  function draw() {
    heads.forEach((head, place) => {
      if (place === state.column) {
        head.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
      } else head.removeAttribute("aria-sort");
    });
    const made = [];
    for (const row of [...state.rows].sort(compare)) {
      const cells = columns.map((column, place) => {
        const inside = column.cell ? column.cell(row) : visible(column.value(row) ?? NONE);
        const opens = detail && place === 0
          ? h("button", {
            type: "button", class: "open", "aria-expanded": String(state.open.has(row)),
            onclick: () => toggle(row),
          }, inside)
          : inside;
        const kind = column.number ? "n" : null;
        return place === 0 ? h("th", { scope: "row" }, opens) : h("td", { class: kind }, opens);
      });
      made.push(h("tr", {}, cells));
      if (state.open.has(row)) {
        made.push(h("tr", { class: "detail" }, h("td", { colspan: columns.length }, detail(row))));
      }
    }
    body.replaceChildren(...made);
    words.textContent = `${caption}: ${state.rows.length}`;
  }
  function toggle(row) {
    if (!state.open.delete(row)) state.open.add(row);
    draw();
    const again = [...body.querySelectorAll("button.open")];
    const shown = [...state.rows].sort(compare);
    again[shown.indexOf(row)]?.focus();
  }
  return {
    element: scroller(caption, table),
    show(rows) {
      state.rows = rows;
      draw();
    },
  };
}

/** What may be wider than the page: it scrolls by itself, by keyboard too. */
function scroller(label, ...content) {
  return h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": label }, content);
}

/** Names and values, as a list. */
function facts(pairs) {
  return h("dl", {}, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => [h("dt", {}, name),
      h("dd", {}, value instanceof Node ? value : untrusted(value))]));
}
