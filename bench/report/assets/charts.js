// Charts by Observable Plot, each with its values on hover and focus, and as a table.
const PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a51a3", "#8c564b"];
const DASHES = ["0", "6 3", "2 3", "8 3 2 3"];
const TIP = document.getElementById("tip");

function tell(element, text) {
  TIP.textContent = text;
  TIP.hidden = false;
  const box = element.getBoundingClientRect();
  const left = Math.min(window.innerWidth - TIP.offsetWidth - 8, Math.max(8, box.left));
  const above = box.top - TIP.offsetHeight - 8;
  TIP.style.left = `${left}px`;
  TIP.style.top = `${above > 0 ? above : box.bottom + 8}px`;
}
const hush = () => { TIP.hidden = true; };
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hush(); });
window.addEventListener("scroll", hush, { passive: true });

/**
 * A figure: `draw(width)` gives a plot, or nothing; marks with an ariaLabel are values that can be
 * pointed at, and walked with the arrow keys. `table` is {head, rows}. `chosen(place)` hears Enter.
 */
function chart(caption, draw, table, { chosen } = {}) {
  const place = h("div", { class: "scroll" });
  const values = scroller(`${caption} As a table`);
  const details = h("details", {}, h("summary", {}, "As a table"), values);
  details.addEventListener("toggle", () => {
    if (details.open && !values.hasChildNodes()) values.append(plainTable(caption, table()));
  });
  const figure = h("figure", {}, place, h("figcaption", {}, caption), details);
  let width = 0;
  const again = () => {
    const now = Math.max(280, Math.floor(figure.clientWidth));
    if (now === width || !figure.isConnected) return;
    width = now;
    const plot = draw(Math.min(now, 1100));
    place.replaceChildren(plot || h("p", { class: "soft" }, "Nothing to draw."));
    if (plot) walkable(plot, caption, chosen);
  };
  new ResizeObserver(again).observe(figure);
  return figure;
}

function plainTable(caption, { head, rows }) {
  return h("table", {}, h("caption", {}, caption),
    h("thead", {}, h("tr", {}, head.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, place) =>
      (place ? h("td", { class: isNumber(cell) ? "n" : null },
        isNumber(cell) ? compact(cell) : visible(cell ?? NONE))
        : h("th", { scope: "row" }, visible(cell ?? NONE))))))));
}

/** One stop for the tabulator; the arrow keys go from value to value. */
function walkable(plot, caption, chosen) {
  const svgs = plot.tagName === "svg" ? [plot] : [...plot.querySelectorAll("svg")];
  svgs.forEach((svg) => { svg.setAttribute("role", "group"); svg.setAttribute("aria-label", caption); });
  // Plot names its groups; a group without a role may have no name.
  plot.querySelectorAll("g[aria-label]").forEach((group) => group.removeAttribute("aria-label"));
  const marks = svgs.flatMap((svg) => [...svg.querySelectorAll("circle[aria-label], rect[aria-label], path[aria-label]")]);
  marks.forEach((mark, place) => {
    mark.setAttribute("tabindex", place ? "-1" : "0");
    mark.setAttribute("role", chosen ? "button" : "img");
    const say = () => tell(mark, mark.getAttribute("aria-label"));
    mark.addEventListener("focus", say);
    mark.addEventListener("mouseenter", say);
    mark.addEventListener("blur", hush);
    mark.addEventListener("mouseleave", hush);
    if (chosen) mark.addEventListener("click", () => chosen(place));
    mark.addEventListener("keydown", (event) => {
      if (chosen && (event.key === "Enter" || event.key === " ")) {
        event.preventDefault();
        chosen(place);
      }
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = marks[(place + step + marks.length) % marks.length];
      mark.setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    });
  });
}

/** Series whose buttons are always there. */
const LEGEND = 12;

/** Buttons that show and hide series; `names` -> colour and dash by their place. */
function legend(names, hidden, changed) {
  const box = h("div", { class: "legend", role: "group", "aria-label": "Series" });
  const rest = h("div", { class: "legend" });
  names.forEach((name, place) => {
    const button = h("button", {
      type: "button", "aria-pressed": String(!hidden.has(name)),
      onclick: () => {
        if (!hidden.delete(name)) hidden.add(name);
        button.setAttribute("aria-pressed", String(!hidden.has(name)));
        changed();
      },
    }, swatch(place), visible(name));
    (place < LEGEND || names.length <= LEGEND + 2 ? box : rest).append(button);
  });
  if (!rest.hasChildNodes()) return box;
  const more = h("details", { open: hidden.open || false, ontoggle: () => { hidden.open = more.open; } },
    h("summary", {}, `${rest.childElementCount} more series`), rest);
  return h("div", {}, box, more);
}
const colour = (place) => PALETTE[place % PALETTE.length];
const dash = (place) => DASHES[Math.floor(place / PALETTE.length) % DASHES.length];

function swatch(place) {
  const box = h("span", { class: "swatch", "aria-hidden": "true" });
  box.style.borderTop = `3px ${place < PALETTE.length ? "solid" : "dashed"} ${colour(place)}`;
  box.style.height = "0";
  return box;
}

/**
 * Lines of series [{name, points: [{x, y, low, high, label}]}] with a legend that toggles them.
 * `band` is a name drawn as an area. `x` and `y` are Plot's scales.
 */
function lines(caption, series, { x, y, band, shown = 8 } = {}) {
  const names = series.map((one) => one.name);
  const hidden = new Set(names.filter((name, place) => place >= shown && name !== band));
  const holder = h("div");
  const draw = () => {
    const seen = series.filter((one) => !hidden.has(one.name));
    const figure = chart(caption, (width) => Plot.plot({
      width, height: Math.max(260, Math.min(420, width * 0.5)), x: { grid: true, ...x }, y: { grid: true, ...y },
      marginLeft: 48, marginBottom: 40, style: { fontSize: "13px", background: "none" },
      marks: seen.flatMap((one) => {
        const place = names.indexOf(one.name);
        const marks = [];
        if (one.points.some((point) => isNumber(point.low))) {
          marks.push(one.name === band
            ? Plot.areaY(one.points, { x: "x", y1: "low", y2: "high", fill: colour(place), fillOpacity: 0.18, ariaHidden: "true" })
            : Plot.ruleX(one.points, { x: "x", y1: "low", y2: "high", stroke: colour(place), strokeOpacity: 0.5, ariaHidden: "true" }));
        }
        marks.push(Plot.line(one.points, { x: "x", y: "y", stroke: colour(place), strokeDasharray: dash(place), strokeWidth: 1.8, ariaHidden: "true" }));
        marks.push(Plot.dot(one.points, { x: "x", y: "y", fill: colour(place), r: 4.5, ariaLabel: "label" }));
        return marks;
      }),
    }), () => ({
      head: ["series", x?.label || "x", y?.label || "y", "low", "high"],
      rows: series.flatMap((one) => one.points.map((p) => [one.name, p.x, p.y, p.low, p.high])),
    }));
    holder.replaceChildren(legend(names, hidden, draw), figure);
  };
  draw();
  return holder;
}
