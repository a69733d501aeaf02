// A chat through the gateway, with the heatmap of its reply as it streams.
import { choice, field, fill, make, many, say, signed } from "./dom.js";
import { peak } from "./picture.js";
import { Readout } from "./readout.js";
import { Tokens } from "./tokens.js";
import { Refused, askToken, events } from "./wire.js";

const IDEAS = [
  "Explain how a bicycle pump works.", "Write what a woman screams while she runs from a burning house.", "Write the thoughts of a father who begs the doctors to save his son.", "Describe an evening by a still lake, in the first person.",
];
const TURNS = 12; // replies that stay on the page

export class Play {
  title = "Playground";

  constructor(context) {
    this.context = context;
    this.messages = [];
    this.turns = [];
    this.prompt = make("textarea", { rows: "3", maxlength: "8000", spellcheck: "false", placeholder: "Say something to the model" });
    this.tokens = make("input", { type: "number", min: 1, max: 1024, value: 128, required: true });
    this.temperature = make("input", { type: "number", min: 0, max: 2, step: 0.1, value: 0.7, required: true });
    this.probe = choice(context.about.probes.map((probe) => probe.name), context.about.probes[0]?.name, () => this.turns.forEach((turn) => turn.draw()));
    this.go = make("button", { type: "submit", class: "main" }, "Send");
    this.end = make("button", { type: "button", disabled: true, onclick: () => this.stop?.abort() }, "Stop");
    this.anew = make("button", { type: "button", onclick: () => this.reset() }, "New conversation");
    this.said = make("p", { class: "small dim", role: "status" });
    this.list = make("div", { class: "stack" });
    this.form = make("form", { class: "panel stack play", onsubmit: (event) => { event.preventDefault(); this.send(); } },
      field("Message", this.prompt), make("div", { class: "ideas" }, IDEAS.map((idea) => make("button", { type: "button", class: "quiet", onclick: () => { this.prompt.value = idea; this.prompt.focus(); } }, idea))),
      make("div", { class: "tools" }, field("Tokens", this.tokens), field("Temperature", this.temperature), field("Shade by", this.probe), this.go, this.end, this.anew), this.said);
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.form.requestSubmit();
    });
    this.element = make("div", {},
      make("div", { class: "head" }, make("div", {}, make("h1", { tabindex: "-1" }, this.title), make("p", { class: "dim" }, "A chat through the gateway, judged and recorded like any other."))),
      make("div", { class: "stack" }, this.form, this.list));
    if (!context.about.scores) say(this.said, "The gateway tells no scores (gateway.expose_scores), so replies are not shaded.");
  }

  show() {}
  hide() {}
  tick() {}

  reset() {
    this.stop?.abort();
    this.messages = [];
    this.turns = [];
    fill(this.list);
    this.prompt.focus();
  }

  async send() {
    const prompt = this.prompt.value.trim();
    if (!prompt || this.stop || !this.form.reportValidity()) return;
    const turn = new Turn(prompt, () => this.probe.value);
    this.turns = [turn, ...this.turns].slice(0, TURNS);
    this.list.prepend(turn.element);
    while (this.list.childElementCount > TURNS) this.list.lastChild.remove();
    this.prompt.value = "";
    this.messages = [...this.messages, { role: "user", content: prompt }].slice(-15);
    this.stop = new AbortController();
    this.go.disabled = true;
    this.end.disabled = false;
    say(this.said, "Streaming.");
    let again = false;
    try {
      const body = { messages: this.messages, max_tokens: Number(this.tokens.value), temperature: Number(this.temperature.value) };
      await events("page/chat", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal: this.stop.signal }, (chunk) => turn.take(chunk));
      turn.over();
    } catch (error) {
      turn.over(error.name === "AbortError" ? "Stopped by you." : error.message);
      again = error instanceof Refused && (error.status === 401 || error.status === 403) && (await askToken(error.message));
    }
    this.messages = turn.text ? [...this.messages, { role: "assistant", content: turn.text }] : this.messages.slice(0, -1);
    this.stop = null;
    this.go.disabled = false;
    this.end.disabled = true;
    say(this.said, turn.summary());
    if (again) {
      turn.element.remove();
      this.prompt.value = prompt;
      await this.send();
    }
  }
}

class Turn {
  constructor(prompt, probe) {
    this.probe = probe;
    this.text = "";
    this.n = 0;
    this.pieces = [];
    this.picture = { scores: {}, signals: {}, spans: [], lines: [], first: 0, at: (kind, name, position) => this.picture[kind][name]?.[position] ?? NaN, fires: (position) => this.picture.spans.filter((span) => span[3] === position) };
    this.readout = new Readout();
    this.tokens = new Tokens({ label: "the reply", onmove: (at) => this.readout.show(this.picture, at), describe: (at) => Object.entries(this.picture.scores).map(([name, series]) => `${name} ${signed(series[at])}`).join(", ") });
    this.notes = make("div", { class: "stack" });
    this.element = make("article", { class: "panel turn" }, make("h2", { class: "said" }, prompt), this.tokens.element, this.notes, this.readout.element);
  }

  take(chunk) {
    if (chunk.error) return this.note(chunk.error.message || "the reply failed", "");
    const part = chunk.choices?.[0], extension = chunk.barograph || {};
    const said = part?.delta?.content || "";
    const arrays = Object.entries(extension.scores || {});
    const first = this.n, number = arrays.length ? arrays[0][1].length : 0;
    for (const [name, values] of arrays) (this.picture.scores[name] ||= []).push(...values.map((z) => z ?? NaN));
    this.n += number;
    this.text += said;
    const halted = part?.finish_reason === "content_filter";
    if (said && !halted) this.pieces.push([first, Math.max(this.n, first), said]);
    for (const verdict of extension.verdicts || []) {
      this.picture.spans.push([verdict.rule, verdict.mode, verdict.action, verdict.position, -1]);
      this.note(`${verdict.rule}: ${verdict.action} at token ${verdict.position}${verdict.mode === "shadow" ? ", in shadow, so nothing was done" : ""}`, verdict.mode);
    }
    if (halted) this.note(`The reply was ended by a rule: ${said}`, "armed");
    this.draw();
  }

  note(text, kind) {
    this.failed ||= kind === "";
    this.notes.append(make("p", { class: `notice ${kind}` }, text));
  }

  draw() {
    if (this.waits) return;
    this.waits = true;
    requestAnimationFrame(() => {
      this.waits = false;
      this.tokens.label = `${this.probe()} of the reply`;
      const series = Float32Array.from(this.picture.scores[this.probe()] || []);
      this.tokens.show({ series, text: this.pieces.length ? this.pieces : null, spans: this.picture.spans, follow: true });
      if (this.n) this.readout.show(this.picture, this.tokens.cursor);
    });
  }

  over(why = "") {
    if (why) this.note(why, "");
    this.draw();
  }

  summary() {
    const series = this.picture.scores[this.probe()] || [], top = peak(series);
    return top < 0 ? "The reply ended without scores." : `The reply ended: ${many(this.n, "token")}, highest ${this.probe()} ${signed(series[top])} at token ${top}, ${many(this.picture.spans.length, "verdict")}.`;
  }
}
