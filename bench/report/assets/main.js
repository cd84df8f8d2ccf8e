// The page, part by part; a part without data is left out.
function navigation() {
  const links = [...document.querySelectorAll("main > section")].map((made) =>
    h("li", {}, h("a", { href: `#${made.id}` }, made.querySelector("h2").textContent)));
  document.getElementById("nav").append(h("ul", {}, links));
}

DATA.notes.forEach((note) => document.getElementById("main").append(h("p", { class: "soft" }, visible(note))));
[runSections, claimsSection, leaderboardSection, curvesSection, overlapSection, tokensSection, reportedSection, diagnosticSection]
  .forEach((part) => part());
navigation();
document.documentElement.dataset.ready = "true";
