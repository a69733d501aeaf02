// The rules in force, what they would have done today, and the switch between shadow and armed.
import { Polled, count, fill, make, many, say } from "./dom.js";
import { Refused, ask, askToken, get, post } from "./wire.js";

export class Rules extends Polled {
  title = "Rules";

  constructor(context) {
    super();
    this.context = context;
    this.lead = make("p", { class: "dim" });
    this.said = make("p", { role: "status" });
    this.list = make("div", { class: "panel" });
    this.element = make("div", {}, make("div", { class: "head" }, make("div", {}, make("h1", { tabindex: "-1" }, this.title), this.lead)), this.said, this.list);
  }

  async load() {
    this.asked = performance.now();
    try {
      [this.rules, this.state] = await Promise.all([get("rules"), get("page/state")]);
    } catch (error) {
      return say(this.said, error.message);
    }
    this.render();
  }

  render() {
    const { rules, state } = this, today = state.today;
    const since = new Date(today.since * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
    say(this.lead, `${many(rules.rules.length, "rule")} of ${rules.file.split("/").at(-1)}, digest ${rules.digest.slice(0, 12)}${rules.frozen ? `; frozen: ${rules.frozen}` : ""}. Counts are kept in memory since ${since}, over ${count(today.tokens)} tokens.`);
    const key = JSON.stringify([rules, today.rules]);
    if (this.key === key) return;
    this.key = key;
    const focused = document.activeElement?.dataset?.rule;
    fill(this.list, rules.rules.map((rule) => this.row(rule, today)));
    if (focused) this.list.querySelector(`[data-rule="${CSS.escape(focused)}"]`)?.focus();
  }

  row(rule, today) {
    const armed = rule.mode === "armed", off = rule.mode === "disabled";
    const fired = today.rules[rule.rule] || {};
    const would = [`${many(fired.armed || 0, "time")} armed`, `${many(fired.shadow || 0, "time")} in shadow`];
    const rate = today.tokens ? ((fired.armed || 0) + (fired.shadow || 0)) / today.tokens * 1000 : 0;
    const control = off ? make("span", { class: "chip" }, "disabled in its file")
      : make("button", { type: "button", class: "switch", role: "switch", "aria-checked": String(armed), "data-rule": rule.rule, "aria-label": `${rule.rule} armed`, onclick: () => this.turn(rule, !armed) }, armed ? "armed" : "shadow");
    return make("article", { class: "rule" },
      make("div", { class: "stack" }, make("h2", {}, rule.rule), make("p", {}, rule.desc), make("p", {}, make("code", {}, rule.when)),
        make("p", {}, make("span", { class: "chip" }, rule.action), " ", make("span", { class: "chip" }, rule.severity), " ", rule.mode !== rule.file_mode && make("span", { class: "chip warn" }, `its file says ${rule.file_mode}`))),
      make("div", { class: "side" }, control, !off && rule.mode !== rule.file_mode && make("button", { type: "button", class: "quiet", onclick: () => this.release(rule) }, "As in its file"), make("p", { class: "num" }, would.join(", ")), make("p", { class: "small dim num" }, fired.shadow && !armed ? `armed, it would have asked ${many(fired.shadow, "time")} for ${rule.action}` : `${rate.toFixed(2)} in 1,000 tokens`)));
  }

  turn(rule, arm) {
    return arm
      ? this.give("arm", rule, { title: `Arm ${rule.rule}`, yes: "Arm", text: `From the next token on it may ${rule.action}.`, done: "is armed now" })
      : this.give("disarm", rule, { title: `Put ${rule.rule} in shadow`, yes: "Put in shadow", text: "It goes on to record what it would have done.", done: "is in shadow now" });
  }

  release(rule) {
    return this.give("release", rule, { title: `Give ${rule.rule} its file's mode`, yes: "Release", text: `Its file says ${rule.file_mode}.`, done: "has the mode of its file now" });
  }

  // A command about a rule, with a reason. A token is asked for where one is needed.
  async give(verb, rule, { title, yes, text, done }) {
    if (!this.context.about.commands && !(await askToken("A change of rules needs the token of an operator."))) return;
    const reason = await ask({ title, yes, label: "Reason", text: `${text} The ledger keeps who did it and why.` });
    if (!reason) return;
    try {
      await post("commands", { verb, rule: rule.rule, reason });
      say(this.said, `${rule.rule} ${done}.`);
    } catch (error) {
      say(this.said, `Nothing was changed: ${error.message}`);
      if (error instanceof Refused && (error.status === 401 || error.status === 403)) await askToken(error.message);
    }
    await this.load();
  }
}
