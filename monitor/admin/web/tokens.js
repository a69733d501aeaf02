// The token heatmap: cells on a canvas, or the text itself where it may be read. A range beside it moves the cursor by keyboard.
import { make, say, signed } from "./dom.js";
import { colours, sized, stepClass } from "./scale.js";
import { peak } from "./picture.js";

const CELL = 15, GAP = 2;

export class Tokens {
  // `onmove` hears of a position; `describe` says what lies there.
  constructor({ label, onmove, describe }) {
    this.label = label;
    this.onmove = onmove;
    this.describe = describe || (() => "");
    this.series = new Float32Array(0);
    this.first = 0;
    this.text = null;
    this.spans = [];
    this.cursor = -1;
    this.shownTo = Infinity; // tokens behind it are still to come, in a replay
    this.canvas = make("canvas", { role: "img", "aria-label": label, onpointermove: (event) => this.point(event), onpointerdown: (event) => this.point(event) });
    this.hold = make("div", { class: "hold" }, this.canvas);
    this.prose = make("div", { class: "prose", tabindex: "0", role: "region", "aria-label": `${label}, its text`, hidden: true, onpointerover: (event) => this.over(event) });
    this.range = make("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": `Token, ${label}`, oninput: () => this.move(Number(this.range.value)) });
    this.element = make("div", { class: "tokens" }, this.hold, this.prose, this.range);
    this.nodes = [];
    new ResizeObserver(() => this.draw()).observe(this.element);
    addEventListener("theme", () => this.draw());
  }

  show({ series, first = 0, text = null, spans = [], follow = false }) {
    if (this.text !== text && (!text || !this.text || text.length < this.nodes.length || text[0]?.[0] !== this.text[0]?.[0])) {
      this.nodes = [];
      this.prose.replaceChildren();
    }
    Object.assign(this, { series, first, text, spans });
    const last = first + series.length - 1;
    const stood = this.cursor < 0 || this.cursor >= this.was;
    this.was = last;
    this.range.min = first;
    this.range.max = Math.max(first, last);
    this.range.disabled = !series.length;
    if (this.cursor < first || this.cursor > last || (follow && stood)) this.move(last, false);
    this.draw();
  }

  move(position, draw = true) {
    this.cursor = position;
    this.range.value = position;
    this.range.setAttribute("aria-valuetext", `token ${position}: ${this.describe(position)}`);
    this.onmove?.(position);
    if (draw) this.draw();
  }

  get columns() {
    return Math.max(8, Math.floor((this.width + GAP) / (CELL + GAP)));
  }

  point(event) {
    const { left, top } = this.canvas.getBoundingClientRect();
    const [column, row] = [Math.floor((event.clientX - left) / (CELL + GAP)), Math.floor((event.clientY - top) / (CELL + GAP))];
    const at = row * this.columns + column;
    if (column < this.columns && at >= 0 && at < this.series.length && this.first + at !== this.cursor) this.move(this.first + at);
  }

  over(event) {
    const position = Number(event.target.dataset?.first ?? NaN);
    if (Number.isFinite(position) && position < this.first + this.series.length) this.move(position);
  }

  draw() {
    if (this.waits) return;
    this.waits = true;
    requestAnimationFrame(() => {
      this.waits = false;
      this.hold.hidden = Boolean(this.text?.length);
      this.prose.hidden = !this.text?.length;
      if (this.text?.length) this.write();
      else this.paint();
      const top = peak(this.series);
      this.range.setAttribute("aria-label", `Token, ${this.label}`);
      this.canvas.setAttribute("aria-label", `${this.label}: ${this.series.length} tokens${top >= 0 ? `, highest ${signed(this.series[top])} at token ${this.first + top}` : ""}`);
    });
  }

  paint() {
    this.width = this.hold.clientWidth;
    if (!this.width) return;
    const { columns } = this, rows = Math.max(1, Math.ceil(this.series.length / columns));
    const context = sized(this.canvas, this.width, rows * (CELL + GAP)), colour = colours();
    const fired = new Set(this.spans.map((span) => span[3]));
    for (let i = 0; i < this.series.length; i += 1) {
      const z = this.series[i], position = this.first + i;
      const [x, y] = [(i % columns) * (CELL + GAP), Math.floor(i / columns) * (CELL + GAP)];
      const name = stepClass(z);
      context.fillStyle = name ? colour.steps[name[1]] : colour.none;
      context.globalAlpha = position > this.shownTo ? 0.15 : 1;
      context.fillRect(x, y, CELL, CELL);
      if (fired.has(position)) {
        context.fillStyle = colour.alarm;
        context.fillRect(x, y + CELL - 3, CELL, 3);
      }
      if (position === this.cursor) {
        context.strokeStyle = colour.mark;
        context.lineWidth = 2;
        context.strokeRect(x + 1, y + 1, CELL - 2, CELL - 2);
      }
    }
    context.globalAlpha = 1;
  }

  write() {
    const fired = this.spans.map((span) => span[3]);
    this.text.forEach(([first, end, said], i) => {
      const node = this.nodes[i] || make("span", { "data-first": first });
      say(node, said);
      let top = NaN;
      for (let at = first; at < end; at += 1) {
        const z = this.series[at - this.first];
        if (Number.isFinite(z) && !(z <= top)) top = z;
      }
      const name = [
        stepClass(top), first <= this.cursor && this.cursor < end ? "at" : "", first > this.shownTo ? "later" : "", fired.some((at) => first <= at && at < end) ? "first-fired" : "",
      ].filter(Boolean).join(" ");
      if (node.className !== name) node.className = name;
      if (!this.nodes[i]) {
        this.nodes[i] = node;
        this.prose.append(node);
      }
    });
  }
}
