// What each probe means and how well it does, from the bank's card.
import { choice, field, fill, make, say } from "./dom.js";

const percent = (share) => (share === null || share === undefined ? "–" : `${Number((100 * share).toPrecision(3))} %`);

export class Probes {
  title = "Probes";

  constructor(context) {
    const { about } = context;
    this.about = about;
    const groups = [...new Set(about.probes.map((probe) => probe.group))];
    this.cards = make("div", { class: "cards" });
    const select = choice([["", "all groups"], ...groups], "", (group) => this.fill(group));
    this.element = make("div", {},
      make("div", { class: "head" }, make("div", {}, make("h1", { tabindex: "-1" }, this.title), make("p", { class: "dim" }, `${about.probes.length} probes of bank ${about.bank}, fitted on ${about.model} (${about.passport.dtype}, ${about.passport.engine}).`)), make("div", { class: "tools" }, field("Group", select))),
      make("ul", { class: "small dim limits" }, about.limits.map((limit) => make("li", {}, limit))), this.cards);
    this.fill("");
  }

  show() {}
  hide() {}
  tick() {}

  fill(group) {
    const found = this.about.probes.filter((probe) => !group || probe.group === group).slice(0, 200);
    fill(this.cards, found.map(card));
  }
}

function card(probe) {
  const windows = Object.entries(probe.thresholds).slice(0, 4);
  const held = probe.evaluation.find((figure) => figure.suite === "held-out topics");
  return make("article", { class: "panel" },
    make("div", {}, make("h2", {}, probe.name), make("p", { class: "small dim" }, probe.concept)),
    make("p", {}, make("span", { class: "chip" }, probe.group), " ", make("span", { class: "chip" }, `layer ${probe.layer}`), " ", make("span", { class: "chip" }, probe.method), " ",
      make("span", { class: `chip ${probe.causal ? "good" : ""}` }, probe.causal === null ? "cause not tried" : probe.causal ? "causal" : "no cause shown"), " ",
      probe.worthwhile === false && make("span", { class: "chip warn" }, "no better than words")),
    auroc(probe),
    held && make("p", { class: "small" }, `On held-out topics the default rule finds ${percent(held.tpr)} of ${held.positives} texts, and ${percent(held.fpr)} of ${held.negatives} other ones are false alarms.`),
    windows.length ? make("table", {}, make("caption", { class: "unseen" }, `Thresholds of ${probe.name}`), make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "z exceeded by"), windows[0][1].map((each) => make("th", { scope: "col", class: "num" }, `${percent(each.rate)}`)))),
      make("tbody", {}, windows.map(([name, rates]) => make("tr", {}, make("th", { scope: "row", class: "mono" }, name), rates.map((each) => make("td", { class: "num" }, each.value.toFixed(2))))))) : make("p", { class: "small dim" }, "No calibrated thresholds."));
}

function auroc(probe) {
  if (probe.auroc === null) return make("p", { class: "small dim" }, "AUROC not measured.");
  const bar = make("div", { class: "scale", "aria-hidden": "true" }), place = (value) => `${Math.max(0, (value - 0.5) * 200)}%`;
  if (probe.auroc_ci) {
    const range = make("i");
    range.style.left = place(probe.auroc_ci[0]);
    range.style.width = `${(probe.auroc_ci[1] - probe.auroc_ci[0]) * 200}%`;
    bar.append(range);
  }
  const mark = make("b");
  mark.style.left = place(probe.auroc);
  bar.append(mark);
  const interval = probe.auroc_ci ? ` [${probe.auroc_ci.map((each) => each.toFixed(2)).join(", ")}]` : "";
  return make("div", {}, make("p", { class: "small num" }, make("strong", {}, `AUROC ${probe.auroc.toFixed(2)}`), `${interval}, from 0.5 to 1`), bar);
}
