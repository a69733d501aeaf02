// Lines over tokens: signals, what they are compared with, and the marks of verdicts.
import { fill, make } from "./dom.js";
import { colours, sized } from "./scale.js";

const LEFT = 38, RIGHT = 12, TOP = 20, BOTTOM = 24;

export class Plot {
  constructor({ label, height = 260, onmove }) {
    this.height = height;
    this.label = label;
    this.canvas = make("canvas", { role: "img", "aria-label": label, onpointerdown: (event) => this.point(event, onmove), onpointermove: (event) => event.buttons && this.point(event, onmove) });
    this.keys = make("ul", { class: "keys" });
    this.element = make("figure", { class: "plot" }, this.canvas, this.keys);
    this.data = null;
    new ResizeObserver(() => this.draw()).observe(this.element);
    addEventListener("theme", () => this.draw());
  }

  // `series`: [{name, values}], `lines`: [{name, value, of}], `marks`: [{position, text, armed}]; tokens behind `to` are not drawn yet.
  show(data) {
    const changed = this.data?.series !== data.series;
    this.data = data;
    if (changed) {
      fill(this.keys, data.series.map((each, i) => make("li", { class: `k${i % 6}` }, each.name)), data.lines.map((line) => make("li", { class: `dash k${line.of % 6}` }, /^[<>]/.test(line.name) ? line.name : `${line.name} = ${line.value.toFixed(2)}`)));
      this.canvas.setAttribute("aria-label", `${this.label}: ${data.series.map((each) => each.name).join(", ")} over ${data.n} tokens. ${data.marks.map((mark) => `${mark.text} at token ${mark.position}`).join(", ")}`);
    }
    this.draw();
  }

  point(event, onmove) {
    const { left, width } = this.canvas.getBoundingClientRect();
    const at = Math.round((event.clientX - left - LEFT) / (width - LEFT - RIGHT) * Math.max(1, this.data.n - 1));
    onmove?.(this.data.first + Math.min(Math.max(at, 0), this.data.n - 1));
  }

  draw() {
    if (!this.data || this.waits) return;
    this.waits = true;
    requestAnimationFrame(() => {
      this.waits = false;
      this.paint();
    });
  }

  paint() {
    const { series, lines, marks, first, n, cursor, to } = this.data;
    const width = this.element.clientWidth;
    if (!width || !n) return;
    const context = sized(this.canvas, width, this.height), colour = colours();
    let [low, high] = [-1, 2];
    for (const each of series) for (const value of each.values) if (Number.isFinite(value)) { low = Math.min(low, value); high = Math.max(high, value); }
    for (const line of lines) { low = Math.min(low, line.value); high = Math.max(high, line.value); }
    const pad = (high - low) * 0.06, x = (i) => LEFT + i / Math.max(1, n - 1) * (width - LEFT - RIGHT), y = (value) => TOP + (high + pad - value) / (high - low + 2 * pad) * (this.height - TOP - BOTTOM);
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    const every = [0.5, 1, 2, 5, 10, 20, 50, 100].find((each) => (high - low) / each <= 6) || 200;
    for (let value = Math.ceil(low / every) * every; value <= high + pad; value += every) {
      context.fillStyle = value === 0 ? colour.dim : colour.line;
      context.fillRect(LEFT, Math.round(y(value)), width - LEFT - RIGHT, 1);
      context.fillStyle = colour.dim;
      context.textAlign = "right";
      context.fillText(String(Math.round(value * 10) / 10).replace("-", "−"), LEFT - 7, y(value));
    }
    context.textAlign = "center";
    const ticks = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((each) => n / each <= width / 60) || 2000;
    for (let i = Math.ceil(first / ticks) * ticks; i < first + n; i += ticks) context.fillText(String(i), x(i - first), this.height - 9);
    context.setLineDash([5, 4]);
    for (const line of lines) {
      context.strokeStyle = colour.lines[line.of % 6];
      context.lineWidth = 1.5;
      stroke(context, [[LEFT, y(line.value)], [width - RIGHT, y(line.value)]]);
    }
    context.setLineDash([]);
    series.forEach((each, i) => {
      context.strokeStyle = colour.lines[i % 6];
      context.lineWidth = 2;
      let points = [];
      for (let at = 0; at <= n; at += 1) {
        const value = at < n && first + at <= to ? each.values[at] : NaN;
        if (Number.isFinite(value)) points.push([x(at), y(value)]);
        else if (points.length) { stroke(context, points); points = []; }
      }
    });
    let taken = -1e9;
    for (const mark of marks) {
      if (mark.position > to || mark.position < first) continue;
      const at = x(mark.position - first);
      context.fillStyle = mark.armed ? colour.alarm : colour.dim;
      context.fillRect(at - 1, TOP - 4, 2, this.height - TOP - BOTTOM + 4);
      const wide = context.measureText(mark.text).width;
      const left = Math.min(Math.max(at - wide / 2, LEFT), width - RIGHT - wide);
      if (left > taken) {
        context.textAlign = "left";
        context.fillText(mark.text, left, TOP - 11);
        taken = left + wide + 8;
      }
    }
    context.fillStyle = colour.mark;
    if (cursor >= first) context.fillRect(Math.round(x(cursor - first)), TOP, 1, this.height - TOP - BOTTOM);
  }
}

function stroke(context, points) {
  context.beginPath();
  if (points.length === 1) context.moveTo(points[0][0] - 1, points[0][1]);
  for (const [x, y] of points) context.lineTo(x, y);
  context.stroke();
}
