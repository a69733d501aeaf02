// One verdict replayed token by token: the rule's signals, what they were compared with, and where it acted.
import { chips, choice, clock, field, fill, make, many, say, signed } from "./dom.js";
import { Picture } from "./picture.js";
import { Plot } from "./plot.js";
import { Readout, told } from "./readout.js";
import { Tokens } from "./tokens.js";
import { get } from "./wire.js";

const DID = {
  "": "", mode: "The rule is in shadow, so nothing was done.", stale: "The thresholds are of another engine, so nothing was done.", canary: "The stream is not among those in which the rule acts, so nothing was done.",
};
const SPEEDS = [["4", "4 a second"], ["12", "12 a second"], ["40", "40 a second"]];

export class Incident {
  title = "Incident";

  constructor(context) {
    this.context = context;
    this.heading = make("h1", { tabindex: "-1" }, "Incident");
    this.lead = make("p", { class: "dim" });
    this.facts = make("div", { class: "stack" });
    this.plot = new Plot({ label: "Signals of the rule", onmove: (at) => this.seek(at) });
    this.readout = new Readout();
    this.tokens = new Tokens({ label: "the stream", onmove: (at) => this.at(at), describe: (at) => (this.picture ? told(this.picture, at) : "") });
    this.probe = choice([], "", () => this.draw());
    this.speed = choice(SPEEDS, "12", () => this.playing && this.play());
    const button = (text, label, act) => make("button", { type: "button", "aria-label": label, onclick: act }, text);
    this.toggle = button("Play", "Play", () => (this.playing ? this.stop() : this.play()));
    this.where = make("span", { class: "num" });
    this.player = make("div", { class: "player", role: "group", "aria-label": "Replay" },
      button("First", "To the first token", () => this.seek(this.picture.first)), button("Back", "One token back", () => this.seek(this.tokens.cursor - 1)), this.toggle,
      button("On", "One token on", () => this.seek(this.tokens.cursor + 1)), button("Verdict", "To the verdict", () => this.seek(this.verdict.position)), field("Speed", this.speed), field("Shade by", this.probe), this.where);
    this.body = make("div", { class: "stack" },
      make("section", { class: "panel stack", "aria-label": "Rule" }, this.facts),
      make("section", { class: "panel stack", "aria-label": "Signals" }, make("h2", {}, "Token by token"), this.plot.element, this.player, this.tokens.element, this.readout.element));
    addEventListener("token", () => {
      const { number } = this;
      this.number = null;
      if (this.element.isConnected) this.show(number);
    });
    this.element = make("div", {}, make("div", { class: "head" }, make("div", {}, this.heading, this.lead), make("a", { href: "#verdicts" }, "All verdicts")), this.body);
  }

  async show(number) {
    if (this.number === number && this.picture?.ended) return; // one that runs has more to show by now
    Object.assign(this, { number, verdict: null, picture: null });
    this.body.hidden = true;
    say(this.heading, `Incident ${number}`);
    say(this.lead, "…");
    try {
      const said = await get(`page/verdicts/${encodeURIComponent(number)}`);
      if (this.number !== number) return;
      this.verdict = said;
      this.picture = new Picture(said.picture);
    } catch (error) {
      this.number = null;
      return say(this.lead, error.message);
    }
    this.open();
  }

  hide() {
    this.stop();
  }

  tick() {}

  open() {
    const { verdict, picture } = this;
    say(this.heading, verdict.rule);
    say(this.lead, verdict.desc);
    const notes = [DID[verdict.shadow], verdict.limited ? "Its limit was reached: the action was weakened." : "", verdict.runbook ? `Runbook: ${verdict.runbook}` : "", picture.n ? "" : "Its scores are no longer kept here; the ledger has the last ones: barograph rules explain."];
    fill(this.facts,
      make("p", {}, chips(verdict), " ", make("span", { class: "chip" }, verdict.severity), " ", `at token ${verdict.position} of `, make("a", { class: "mono", href: `#live/${verdict.stream}` }, verdict.stream), `, ${clock(verdict.time)}, ${verdict.model}`),
      make("p", {}, make("code", {}, `${verdict.when}${held(verdict.for)}`)),
      notes.some(Boolean) && make("p", { class: "small dim" }, notes.filter(Boolean).join(" ")),
      make("p", { class: "small" }, Object.entries(verdict.signals).map(([name, value]) => `${name} was ${signed(value, 2)}`).join(", ")));
    this.body.hidden = false;
    this.body.lastChild.hidden = !picture.n;
    if (!picture.n) return;
    const probes = Object.keys(picture.scores), first = Object.keys(picture.signals)[0]?.split(".")[0];
    fill(this.probe, probes.map((value) => make("option", { value }, value)));
    this.probe.value = probes.includes(first) ? first : probes[0];
    const names = Object.keys(picture.signals);
    const seen = new Set();
    this.data = {
      n: picture.n, first: picture.first, series: names.map((name) => ({ name, values: picture.signals[name] })),
      lines: picture.lines.filter((line) => names.includes(line.signal) && !seen.has(line.signal + line.label) && seen.add(line.signal + line.label)).map((line) => ({ name: line.ends ? `${line.label}, ends` : line.label, value: line.value, of: names.indexOf(line.signal) })),
      marks: picture.spans.filter(([rule]) => rule === verdict.rule).map(([, mode, action, position]) => ({ position, text: `${action}, ${mode}`, armed: mode === "armed" })),
    };
    this.tokens.cursor = -1;
    this.draw();
    this.seek(Math.min(verdict.position, picture.end - 1));
  }

  draw() {
    const { picture } = this;
    this.tokens.label = `${this.probe.value} of stream ${picture.name}`;
    this.tokens.show({ series: picture.scores[this.probe.value], first: picture.first, text: picture.text, spans: picture.spans.filter(([rule]) => rule === this.verdict.rule) });
  }

  seek(position) {
    const { first, end } = this.picture;
    this.tokens.move(Math.min(Math.max(position, first), end - 1));
  }

  at(position) {
    if (!this.data) return;
    this.tokens.shownTo = this.playing ? position : Infinity;
    this.plot.show(Object.assign(this.data, { cursor: position, to: this.playing ? position : Infinity }));
    this.readout.show(this.picture, position);
    say(this.where, `token ${position} of ${many(this.picture.tokens, "token")}`);
  }

  play() {
    clearInterval(this.timer);
    if (this.tokens.cursor >= this.picture.end - 1) this.seek(this.picture.first);
    this.playing = true;
    this.name("Pause");
    this.timer = setInterval(() => {
      if (this.tokens.cursor >= this.picture.end - 1) this.stop();
      else this.seek(this.tokens.cursor + 1);
    }, 1000 / Number(this.speed.value));
  }

  stop() {
    clearInterval(this.timer);
    this.playing = false;
    this.name("Play");
    if (this.picture?.n) this.seek(this.tokens.cursor);
  }

  name(text) {
    say(this.toggle, text);
    this.toggle.setAttribute("aria-label", text);
  }
}

function held(span) {
  return span.seconds ? `, for ${span.seconds} s` : span.tokens > 1 ? `, for ${span.tokens} tokens` : "";
}
