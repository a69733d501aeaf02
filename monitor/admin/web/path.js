// The way of a conversation over the plane of valence and arousal, smoothed over tokens.
import { choice, field, fill, make, many, say, signed } from "./dom.js";
import { Picture, ewma } from "./picture.js";
import { colours, sized } from "./scale.js";
import { picture } from "./store.js";

const HALF_LIFE = 8, MOST = 12; // tokens; replies of one conversation that are drawn
const AXES = ["valence", "arousal"];

export class Path {
  title = "Valence and arousal";

  constructor(context) {
    this.context = context;
    this.there = AXES.every((name) => context.about.probes.some((probe) => probe.name === name));
    this.select = choice([], "", (value) => { location.hash = `#path/${value}`; });
    this.canvas = make("canvas", { role: "img", "aria-label": "Path over valence and arousal" });
    this.figure = make("figure", {}, this.canvas);
    this.body = make("tbody");
    this.note = make("p", { class: "dim", role: "status" });
    this.table = make("table", {}, make("thead", {}, make("tr", {}, ["Reply", "Tokens", "Valence", "Arousal"].map((name, i) => make("th", { scope: "col", class: i ? "num" : "" }, name)))), this.body);
    this.panel = make("div", { class: "panel map" }, this.figure, make("div", { class: "stack" }, make("h2", {}, "Means of each reply"), this.table, make("p", { class: "small dim" }, `The line is an exponential mean with a half-life of ${HALF_LIFE} tokens; it starts at 0, the neutral text’s mean, and grows stronger from the first token to the last, which has the large dot.`)));
    this.element = make("div", {},
      make("div", { class: "head" }, make("div", {}, make("h1", { tabindex: "-1" }, this.title), this.note), make("div", { class: "tools" }, field("Conversation or stream", this.select))), this.panel);
    new ResizeObserver(() => this.draw()).observe(this.figure);
    addEventListener("theme", () => this.draw());
  }

  async show(of) {
    this.fill(of);
    const wanted = of || this.select.value;
    this.panel.hidden = true;
    if (!this.there) return say(this.note, "This bank has no probes of valence and arousal.");
    if (!wanted) return say(this.note, "No stream is kept yet.");
    this.of = wanted;
    const streams = this.context.store.order.filter((each) => each.conversation === wanted || each.name === wanted).sort((a, b) => a.number - b.number).slice(-MOST);
    const names = streams.length ? streams.map((each) => each.name) : [wanted];
    try {
      const said = await Promise.all(names.map((name) => picture(name)));
      if (this.of !== wanted) return;
      this.replies = said.map((each) => new Picture(each)).filter((each) => each.n);
    } catch (error) {
      return say(this.note, error.message);
    }
    say(this.note, `${many(this.replies.length, "reply").replace("replys", "replies")} of ${wanted}`);
    this.panel.hidden = !this.replies.length;
    this.points = this.replies.map((each) => AXES.map((axis) => ewma(each.scores[axis], HALF_LIFE)));
    fill(this.body, this.replies.map((each, i) => make("tr", {}, make("td", {}, make("span", { class: `k${i % 6}` }, "● "), make("a", { class: "mono", href: `#live/${each.name}` }, each.name)), make("td", { class: "num" }, String(each.n)), AXES.map((axis) => make("td", { class: "num" }, signed(mean(each.scores[axis]), 2))))));
    this.canvas.setAttribute("aria-label", `Path over valence and arousal of ${wanted}: ${this.replies.map((each) => `${each.n} tokens, mean valence ${signed(mean(each.scores.valence))}, mean arousal ${signed(mean(each.scores.arousal))}`).join("; ")}`);
    this.draw();
  }

  hide() {}

  tick() {
    this.fill(this.of);
    if (!this.of && this.there && this.context.store.order.length) this.show("");
  }

  fill(of) {
    const { order } = this.context.store, conversations = [...new Set(order.map((each) => each.conversation).filter(Boolean))];
    const values = [...conversations.map((each) => [each, `conversation ${each}`]), ...order.slice(0, 100).map((each) => [each.name, `stream ${each.name}`])];
    if (of && !values.some(([value]) => value === of)) values.unshift([of, of]);
    const key = values.map(([value]) => value).join();
    if (this.values === key && this.select.value === of) return;
    if (document.activeElement === this.select && this.values) return;
    this.values = key;
    fill(this.select, values.map(([value, text]) => make("option", { value }, text)));
    if (of) this.select.value = of;
  }

  draw() {
    const size = Math.min(this.figure.clientWidth, 520);
    if (!size || !this.points?.length) return;
    const context = sized(this.canvas, size, size), colour = colours(), edge = 34;
    this.canvas.style.width = `${size}px`;
    let wide = 1.5;
    for (const axes of this.points) for (const series of axes) for (const value of series) if (Number.isFinite(value)) wide = Math.max(wide, Math.abs(value) * 1.12);
    const x = (value) => edge + (value + wide) / 2 / wide * (size - 2 * edge), y = (value) => size - edge - (value + wide) / 2 / wide * (size - 2 * edge);
    context.font = "12px system-ui, sans-serif";
    context.fillStyle = colour.faint;
    context.fillRect(edge, edge, size - 2 * edge, size - 2 * edge);
    for (let value = Math.ceil(-wide); value <= wide; value += 1) {
      context.fillStyle = value === 0 ? colour.dim : colour.line;
      context.fillRect(Math.round(x(value)), edge, 1, size - 2 * edge);
      context.fillRect(edge, Math.round(y(value)), size - 2 * edge, 1);
      context.fillStyle = colour.dim;
      context.textAlign = "center";
      if (value) context.fillText(String(value).replace("-", "−"), x(value), size - edge + 15);
      context.textAlign = "right";
      if (value) context.fillText(String(value).replace("-", "−"), edge - 6, y(value) + 4);
    }
    context.fillStyle = colour.ink;
    context.textAlign = "center";
    context.fillText("valence, z →", size / 2, size - 4);
    context.save();
    context.translate(11, size / 2);
    context.rotate(-Math.PI / 2);
    context.fillText("arousal, z →", 0, 0);
    context.restore();
    this.points.forEach(([across, up], reply) => {
      const n = across.length;
      context.strokeStyle = context.fillStyle = colour.lines[reply % 6];
      context.lineWidth = 1.8;
      for (let i = 1; i < n; i += 1) {
        context.globalAlpha = 0.2 + 0.8 * i / n;
        context.beginPath();
        context.moveTo(x(across[i - 1]), y(up[i - 1]));
        context.lineTo(x(across[i]), y(up[i]));
        context.stroke();
      }
      context.globalAlpha = 1;
      for (const [i, radius] of [[0, 3], [n - 1, 5.5]]) {
        context.beginPath();
        context.arc(x(across[i]), y(up[i]), radius, 0, 7);
        context.fill();
      }
    });
  }
}

function mean(series) {
  const known = series.filter(Number.isFinite);
  return known.length ? known.reduce((sum, z) => sum + z, 0) / known.length : NaN;
}
