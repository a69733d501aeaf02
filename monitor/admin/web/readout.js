// All that is known at one token: every probe's score, the rules' signals beside what they are compared with, and what fires.
import { fill, make, signed } from "./dom.js";
import { stepClass } from "./scale.js";

const WIDE = 6; // z at the end of a gauge

export class Readout {
  constructor() {
    this.element = make("div", { class: "readout" });
  }

  show(picture, position) {
    if (!picture || position < 0) return fill(this.element);
    const scores = Object.keys(picture.scores).map((name) => [name, picture.at("scores", name, position)]);
    const shown = scores.length > 24 ? scores.toSorted((a, b) => b[1] - a[1]).slice(0, 24) : scores;
    const signals = Object.keys(picture.signals).map((name) => signal(picture, name, position));
    const fires = picture.fires(position);
    const parts = [make("div", {}, make("h3", {}, `Token ${position}`), shown.map(reading))];
    if (signals.length || fires.length) {
      const heard = fires.length ? fires.map(([rule, mode, action]) => make("p", { class: "small" }, make("span", { class: `chip ${mode}` }, `${mode} ${action}`), ` ${rule} fires`)) : [];
      parts.push(make("div", {}, make("h3", {}, "Signals of the rules"), heard, signals));
    }
    return fill(this.element, parts);
  }
}

function reading([name, z]) {
  const bar = make("i", { class: stepClass(z) });
  const width = Math.min(Math.abs(Number.isFinite(z) ? z : 0), WIDE) / WIDE / 2 * 100;
  bar.style.width = `${width}%`;
  bar.style.left = z < 0 ? `${50 - width}%` : "50%";
  return make("div", { class: "reading" }, make("span", {}, name), make("span", { class: "gauge", "aria-hidden": "true" }, bar, make("b")), make("span", { class: `value ${stepClass(z)}` }, signed(z)));
}

function signal(picture, name, position) {
  const value = picture.at("signals", name, position);
  const lines = picture.lines.filter((line) => line.signal === name);
  const unique = [...new Map(lines.map((line) => [line.label, line])).values()].sort((a, b) => a.value - b.value);
  const over = unique.some((line) => !line.ends && value > line.value && !line.label.startsWith("<"));
  return make("div", { class: "signal" }, make("span", { class: "mono" }, name), make("span", { class: `num ${over ? "over" : ""}` }, Number.isFinite(value) ? `${over ? "▲ " : ""}${signed(value, 2)}` : "not full yet"),
    make("span", { class: "dim num" }, unique.map((line) => (/^[<>]/.test(line.label) ? line.label : `${line.label} = ${line.value.toFixed(2)}`)).join(", ")));
}

// One token in a line, for a screen reader.
export function told(picture, position) {
  const scores = Object.entries(picture.scores).slice(0, 12).map(([name, series]) => `${name} ${signed(series[position - picture.first])}`);
  const fires = picture.fires(position).map(([rule, mode]) => `${rule} fires, ${mode}`);
  return [...scores, ...fires].join(", ");
}
