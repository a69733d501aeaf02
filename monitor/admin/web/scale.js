// The scale of z values: steps, their colours in the theme of now, and scores as they travel.

export const EDGES = [-3, -2, -1, 1, 2, 3, 4, 5.5];
const NAMES = ["< −3", "−3 … −2", "−2 … −1", "−1 … 1", "1 … 2", "2 … 3", "3 … 4", "4 … 5.5", "≥ 5.5"];
export const MISSING = -128;

export function step(z) {
  let at = 0;
  while (at < EDGES.length && z >= EDGES[at]) at += 1;
  return at;
}

export const stepClass = (z) => (Number.isFinite(z) ? `s${step(z)}` : "");
export const labels = () => NAMES.map((text, i) => [`s${i}`, text]);

let kept = null;
export function colours() {
  if (kept) return kept;
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).trim();
  const steps = NAMES.map((_, i) => read(`--s${i}`));
  kept = {
    steps, none: read("--none"), ink: read("--ink"), dim: read("--dim"), line: read("--line"), faint: read("--faint"), panel: read("--panel"), mark: read("--mark"),
    alarm: read("--alarm"), accent: read("--accent"), lines: [0, 1, 2, 3, 4, 5].map((i) => read(`--line${i}`)),
    // The steps as pixels, by tenths from -128 to 127.
    pixels: new Uint32Array(256).map((_, i) => pixel(i === 0 ? read("--none") : steps[step((i - 128) / 10)])),
  };
  return kept;
}

export function theme(name) {
  kept = null;
  document.documentElement.dataset.theme = name;
  dispatchEvent(new Event("theme"));
}

function pixel(text) {
  const value = parseInt(text.slice(1), 16);
  const little = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;
  const [r, g, b] = [value >> 16, (value >> 8) & 255, value & 255];
  return (little ? (255 << 24) | (b << 16) | (g << 8) | r : (r << 24) | (g << 16) | (b << 8) | 255) >>> 0;
}

function bytes(text) {
  const raw = atob(text), found = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i += 1) found[i] = raw.charCodeAt(i);
  return found;
}

export const tenths = (text) => new Int8Array(bytes(text).buffer);
export const floats = (text) => new Float32Array(bytes(text).buffer);

// A canvas of so many CSS pixels, sharp on every screen.
export function sized(canvas, width, height) {
  const ratio = Math.min(devicePixelRatio || 1, 2);
  const [w, h] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}
