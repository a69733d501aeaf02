// One stream in full: its heatmap, all that is known at a token, and its verdicts.
import { chips, clock, fill, make, many, say } from "./dom.js";
import { Picture } from "./picture.js";
import { Readout, told } from "./readout.js";
import { picture } from "./store.js";
import { Tokens } from "./tokens.js";

const AGAIN_MS = 700; // until a stream that runs is asked for again

export class Detail {
  constructor(context, probe) {
    this.context = context;
    this.probe = probe;
    this.name = "";
    this.readout = new Readout();
    this.tokens = new Tokens({ label: "the stream", onmove: (at) => this.readout.show(this.picture, at), describe: (at) => (this.picture ? told(this.picture, at) : "") });
    this.heading = make("h2", {}, "No stream chosen");
    this.facts = make("p", { class: "facts" });
    this.hint = make("p", { class: "small dim" });
    this.verdicts = make("div");
    this.body = make("div", { class: "stack", hidden: true }, this.facts, this.tokens.element, this.hint, this.readout.element, this.verdicts);
    addEventListener("token", () => this.again()); // who asks now may read more, or less
    this.element = make("section", { class: "panel stack", "aria-label": "Chosen stream" }, this.heading, this.body);
  }

  choose(probe) {
    this.probe = probe;
    this.draw();
  }

  open(name) {
    if (name === this.name) return;
    Object.assign(this, { name, picture: null, asked: 0, over: false });
    this.tokens.cursor = -1;
    this.load();
  }

  again() {
    const { name } = this;
    this.name = "";
    if (name) this.open(name);
  }

  pause() {
    this.asked = Infinity;
  }

  tick() {
    if (this.asked === Infinity) this.asked = 0;
    if (this.name && !this.over && performance.now() - this.asked > AGAIN_MS && !this.loading) this.load();
  }

  async load() {
    const { name } = this;
    this.loading = true;
    this.asked = performance.now();
    try {
      const said = await picture(name, this.picture);
      if (name !== this.name) return;
      if (this.picture) this.picture.merge(said);
      else this.picture = new Picture(said);
      this.over = Boolean(said.ended);
    } catch (error) {
      if (name !== this.name) return;
      this.over = true;
      say(this.hint, error.message);
    } finally {
      if (name === this.name) this.loading = false;
    }
    this.draw();
  }

  draw() {
    const { picture: known } = this;
    this.body.hidden = !known;
    if (!known) return say(this.heading, this.name ? `Stream ${this.name}` : "No stream chosen");
    say(this.heading, `Stream ${known.name}`);
    const path = known.conversation ? `#path/${known.conversation}` : `#path/${known.name}`;
    const facts = [
      make("span", {}, make("strong", {}, known.model)), make("span", {}, `${many(known.tokens, "token")}, ${known.ended ? "ended" : "running"}`), make("span", {}, `since ${clock(known.started)}`),
      known.tenant && make("span", {}, `tenant ${known.tenant}`), known.grade !== "activations" && make("span", {}, `read from ${known.grade} only`), make("a", { href: path }, "valence and arousal"),
    ];
    const key = JSON.stringify([known.name, known.tokens, known.ended]);
    if (this.key !== key) fill(this.facts, facts);
    this.key = key;
    const series = known.scores[this.probe] || new Float32Array(0);
    this.tokens.label = `${this.probe} of stream ${known.name}`;
    this.tokens.show({ series, first: known.first, text: known.text, spans: known.spans, follow: !known.ended });
    if (series.length) this.readout.show(known, this.tokens.cursor);
    say(this.hint, hint(known, this.context.about));
    const verdicts = this.context.store.verdicts.filter((each) => each.stream === known.name);
    if (this.told !== `${known.name}${verdicts.length}`) {
      this.told = `${known.name}${verdicts.length}`;
      fill(this.verdicts, verdicts.length && make("h3", {}, "Verdicts"), verdicts.map((each) => make("p", { class: "small" }, make("a", { href: `#incident/${each.number}` }, each.rule), ` at token ${each.position} `, chips(each))));
    }
  }
}

function hint(known, about) {
  const notes = [];
  if (known.gap) notes.push("Scores were lost; none are shown from there on.");
  if (known.first > 0) notes.push(`Kept from token ${known.first} on.`);
  if (!known.text?.length) notes.push(about.texts_kept && !about.texts ? "Texts are for operators and auditors: enter a token." : about.texts ? "No text is kept of this reply." : "Positions only: texts are not kept (sidecar.page.texts).");
  return notes.join(" ");
}
