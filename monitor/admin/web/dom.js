// Elements, made from data. Text is set as text and never read as markup.

export function make(tag, about = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(about)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...inside.flat().filter((each) => each !== undefined && each !== null && each !== false));
  return element;
}

export function fill(element, ...inside) {
  element.replaceChildren(...inside.flat().filter((each) => each !== undefined && each !== null && each !== false));
  return element;
}

// Sets text only where it differs, so that nothing is laid out anew for nothing.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

let ids = 0;
export function field(label, control) {
  control.id ||= `f${++ids}`;
  return make("span", { class: "field" }, make("label", { for: control.id }, label), control);
}

export function choice(values, chosen, onchange) {
  const select = make("select", { onchange: () => onchange(select.value) });
  options(select, values, chosen);
  return select;
}

export function options(select, values, chosen) {
  const pairs = values.map((each) => (Array.isArray(each) ? each : [each, each]));
  const key = JSON.stringify(pairs);
  if (select.dataset.of !== key) {
    select.dataset.of = key;
    fill(select, pairs.map(([value, text]) => make("option", { value }, text)));
  }
  select.value = pairs.some(([value]) => value === chosen) ? chosen : pairs[0]?.[0] ?? "";
}

export const signed = (value, digits = 1) => (Number.isFinite(value) ? (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits) : "none");
export const count = (value) => Math.round(value).toLocaleString("en");
export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");
export const many = (number, one) => `${count(number)} ${one}${number === 1 ? "" : "s"}`;

export function chips(verdict) {
  return [make("span", { class: `chip ${verdict.mode}` }, verdict.mode), " ", make("span", { class: "chip" }, verdict.action)];
}

const EVERY_MS = 2000;

// A view that asks for what it shows when it is opened, and again every other second while it is.
export class Polled {
  asked = 0;

  show() {
    this.load();
  }

  hide() {}

  tick() {
    if (performance.now() - this.asked > EVERY_MS) this.load();
  }
}
