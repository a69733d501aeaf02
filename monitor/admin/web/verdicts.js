// What rules said, the newest on top, filtered.
import { chips, choice, clock, field, fill, make, many, options, say, signed } from "./dom.js";

const SHOWN = 200;
const FILTERS = ["rule", "tenant", "model", "mode", "action"];

export class Verdicts {
  title = "Verdicts";

  constructor(context) {
    this.store = context.store;
    this.chosen = {};
    this.selects = Object.fromEntries(FILTERS.map((name) => [name, choice([["", "all"]], "", (value) => { this.chosen[name] = value; this.render(); })]));
    this.counts = make("p", { class: "dim", role: "status" });
    this.body = make("tbody");
    this.table = make("table", { class: "flat" }, make("thead", {}, make("tr", {}, ["Time", "Rule", "Did", "At token", "Stream", "Model", "Tenant", "Values"].map((name) => make("th", { scope: "col" }, name)))), this.body);
    this.empty = make("p", { class: "empty" }, "No rule has spoken since the sidecar started.");
    this.element = make("div", {},
      make("div", { class: "head" }, make("div", {}, make("h1", { tabindex: "-1" }, this.title), this.counts),
        make("div", { class: "tools" }, FILTERS.map((name) => field(name[0].toUpperCase() + name.slice(1), this.selects[name])))),
      make("div", { class: "panel" }, this.empty, this.table));
  }

  show() {
    this.render();
  }

  hide() {}

  tick() {
    if (this.seen !== `${this.store.verdicts.length}|${this.store.verdicts.at(-1)?.number}`) this.render();
  }

  render() {
    const { verdicts } = this.store;
    this.seen = `${verdicts.length}|${verdicts.at(-1)?.number}`;
    for (const name of FILTERS) {
      const values = [...new Set(verdicts.map((each) => each[name]))].sort();
      options(this.selects[name], [["", "all"], ...values.filter(Boolean)], this.chosen[name] || "");
    }
    const found = verdicts.filter((each) => FILTERS.every((name) => !this.chosen[name] || each[name] === this.chosen[name])).reverse();
    say(this.counts, verdicts.length ? `${many(found.length, "verdict")} of the last ${verdicts.length}${found.length > SHOWN ? `, ${SHOWN} shown` : ""}; the ledger has all.` : "The ledger has those of before: barograph rules explain last.");
    this.table.hidden = !found.length;
    this.empty.hidden = Boolean(found.length);
    say(this.empty, verdicts.length ? "No verdict is of that kind." : "No rule has spoken since the sidecar started.");
    fill(this.body, found.slice(0, SHOWN).map((each) => {
      const values = Object.entries(each.signals).slice(0, 3).map(([name, value]) => `${name} ${signed(value, 2)}`).join(", ");
      const cells = [
        ["Time", make("span", { class: "num" }, clock(each.time))], ["Rule", make("a", { href: `#incident/${each.number}` }, each.rule)], ["Did", make("span", {}, chips(each))], ["At token", String(each.position), "num"],
        ["Stream", make("a", { class: "mono", href: `#live/${each.stream}` }, each.stream)], ["Model", each.model], ["Tenant", each.tenant || "–"], ["Values", make("span", { class: "small dim" }, values)],
      ];
      return make("tr", {}, cells.map(([name, inside, kind]) => make("td", { "data-name": name, class: kind }, inside)));
    }));
  }
}
