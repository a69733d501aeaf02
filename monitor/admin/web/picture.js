// One stream's scores and signals, as arrays by name that grow while it runs.
import { floats } from "./scale.js";

export class Picture {
  constructor(said) {
    this.scores = {};
    this.signals = {};
    this.text = null;
    this.merge(said);
  }

  get end() {
    return this.first + this.n;
  }

  // What was asked from a position on lies behind what is known; else all is new.
  merge(said) {
    const { scores, signals, text, first, n, ...about } = said;
    const fits = this.n !== undefined && first === this.end;
    Object.assign(this, about);
    for (const [kind, given] of [["scores", scores], ["signals", signals]]) {
      const made = {};
      for (const [name, packed] of Object.entries(given)) {
        const new_ = floats(packed), old = this[kind][name];
        made[name] = fits && old ? joined(old, new_) : fits && !old ? joined(new Float32Array(this.n).fill(NaN), new_) : new_;
      }
      this[kind] = made;
    }
    if (!fits) this.first = first;
    this.n = fits ? this.n + n : n;
    this.text = text ? [...(fits && this.text ? this.text : []), ...text] : null;
  }

  at(kind, name, position) {
    return this[kind][name]?.[position - this.first] ?? NaN;
  }

  fires(position) {
    return this.spans.filter(([, , , begin, end]) => begin <= position && (end < 0 || position < end));
  }
}

function joined(old, new_) {
  const made = new Float32Array(old.length + new_.length);
  made.set(old);
  made.set(new_, old.length);
  return made;
}

// As the rules' ewma: a half-life in tokens, from the first score on.
export function ewma(series, halfLife) {
  const decay = 0.5 ** (1 / halfLife);
  let smooth = NaN;
  return series.map((z) => {
    if (Number.isFinite(z)) smooth = Number.isNaN(smooth) ? z : smooth * decay + z * (1 - decay);
    return smooth;
  });
}

export function peak(series) {
  let at = -1;
  for (let i = 0; i < series.length; i += 1) if (Number.isFinite(series[i]) && (at < 0 || series[i] > series[at])) at = i;
  return at;
}
