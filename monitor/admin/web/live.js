// The streams that run and that ended last: a row for each, however many, and one of them in full.
import { choice, field, fill, make, many, say, signed } from "./dom.js";
import { MISSING, colours } from "./scale.js";
import { Detail } from "./detail.js";

const ROW = 30, WIDE = 160; // pixels of a row's height; tokens of its strip

export class Live {
  title = "Live streams";

  constructor(context) {
    this.context = context;
    this.store = context.store;
    this.only = "all";
    this.rows = [];
    this.active = null; // the number of the stream under the list's own cursor
    const probes = context.about.probes.map((probe) => probe.name);
    this.probe = choice(probes, this.store.probe, (probe) => { this.store.choose(probe); this.detail.choose(probe); });
    this.filter = choice([["all", "running and ended"], ["running", "running"], ["fired", "with verdicts"]], "all", (only) => { this.only = only; this.render(); });
    this.space = make("div", { class: "space", role: "presentation" });
    this.list = make("div", { class: "rows", role: "listbox", tabindex: "0", "aria-label": "Streams", onscroll: () => this.render(), onkeydown: (event) => this.key(event), hidden: true }, this.space);
    this.empty = make("p", { class: "empty" }, "No stream has been judged yet. The playground sends one.");
    this.counts = make("span");
    this.capped = make("span");
    this.detail = new Detail(context, this.store.probe);
    this.element = make("div", {},
      make("div", { class: "head" }, make("div", {}, make("h1", { tabindex: "-1" }, this.title), make("p", { class: "dim" }, "Every token shaded by one probe, as it is judged.")),
        make("div", { class: "tools" }, field("Probe", this.probe), field("Show", this.filter))),
      make("div", { class: "live" },
        make("section", { class: "panel list", "aria-label": "List of streams" }, make("p", { class: "bar" }, this.counts, this.capped), this.empty, this.list),
        this.detail.element));
    addEventListener("resize", () => this.render());
    addEventListener("theme", () => this.render(true));
  }

  show(name) {
    if (name) this.detail.open(name);
    this.render();
  }

  hide() {
    this.detail.pause();
  }

  tick() {
    if (!this.detail.name && this.store.order.length) {
      const first = this.store.order[0];
      this.active = first.number;
      this.detail.open(first.name);
    }
    this.detail.tick();
    this.render();
  }

  get shown() {
    const { order } = this.store;
    if (this.only === "running") return order.filter((stream) => !stream.ended);
    if (this.only === "fired") return order.filter((stream) => stream.spans.length);
    return order;
  }

  render(anew = false) {
    if (this.waits) return;
    this.waits = true;
    requestAnimationFrame(() => {
      this.waits = false;
      const { shown } = this, { store } = this;
      say(this.counts, `${store.running} running, ${many(store.streams.size - store.running, "stream")} ended`);
      say(this.capped, store.missed ? `${many(store.missed, "stream")} not followed: too many ran` : "");
      this.list.hidden = !shown.length;
      this.empty.hidden = Boolean(shown.length);
      if (!shown.length) return;
      const first = Math.max(0, Math.floor(this.list.scrollTop / ROW) - 2), number = Math.ceil((this.list.clientHeight || 400) / ROW) + 4;
      this.space.style.height = `${shown.length * ROW}px`;
      const visible = shown.slice(first, first + number);
      while (this.rows.length < visible.length) this.rows.push(this.row());
      this.rows.forEach((row, i) => this.put(row, visible[i], first + i, shown.length, anew));
      const at = visible.findIndex((stream) => stream.number === this.active);
      if (at >= 0) this.list.setAttribute("aria-activedescendant", this.rows[at].element.id);
      else this.list.removeAttribute("aria-activedescendant");
    });
  }

  row() {
    const row = { dot: make("span", { class: "dot" }), name: make("span", { class: "name" }), canvas: make("canvas", { width: WIDE, height: 1 }), count: make("span", { class: "count" }), fired: make("span", { class: "fired" }) };
    row.element = make("div", { class: "row", role: "option", id: `row-${this.rows.length}`, onclick: () => this.choose(row.stream) }, row.dot, row.name, row.canvas, row.count, row.fired);
    row.context = row.canvas.getContext("2d");
    row.image = row.context.createImageData(WIDE, 1);
    row.pixels = new Uint32Array(row.image.data.buffer);
    this.space.append(row.element);
    return row;
  }

  put(row, stream, index, of, anew) {
    row.element.hidden = !stream;
    if (!stream) {
      row.stream = null; // what it showed is drawn anew when it is needed again
      row.element.setAttribute("aria-selected", "false");
      return;
    }
    const state = `${stream.number}|${stream.tokens}|${stream.ended}|${stream.gap}|${stream.spans.length}|${stream.name === this.detail.name}|${index}|${of}`;
    if (row.state === state && row.stream === stream && !anew) return;
    Object.assign(row, { state, stream });
    row.element.style.transform = `translateY(${index * ROW}px)`;
    row.element.className = `row${stream.gap ? " lost" : stream.ended ? "" : " runs"}`;
    row.element.setAttribute("aria-selected", stream.name === this.detail.name);
    row.element.setAttribute("aria-posinset", index + 1);
    row.element.setAttribute("aria-setsize", of);
    say(row.name, stream.name);
    say(row.count, String(stream.tokens));
    const armed = stream.spans.filter((span) => span[1] === "armed").length;
    say(row.fired, stream.spans.length ? `▲ ${stream.spans.length}` : "");
    row.fired.className = armed ? "fired" : "fired shadow";
    const what = stream.gap ? "scores lost" : stream.ended ? "ended" : "running";
    row.element.setAttribute("aria-label", `${stream.name}, ${what}, ${many(stream.tokens, "token")}, highest ${this.store.probe} ${stream.peak === MISSING ? "none" : signed(stream.peak / 10)}, ${many(stream.spans.length, "verdict")}`);
    const { pixels } = colours(), from = Math.max(0, stream.n - WIDE);
    row.pixels.fill(0);
    for (let i = from; i < stream.n; i += 1) row.pixels[i - from] = pixels[stream.z[i] + 128];
    row.context.putImageData(row.image, 0, 0);
  }

  choose(stream) {
    if (!stream) return;
    this.active = stream.number;
    this.detail.open(stream.name);
    this.render();
  }

  key(event) {
    const { shown } = this, at = shown.findIndex((stream) => stream.number === this.active);
    const page = Math.max(1, Math.floor(this.list.clientHeight / ROW) - 1);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: shown.length - 1, PageDown: at + page, PageUp: at - page }[event.key];
    if (to === undefined || !shown.length) return;
    event.preventDefault();
    const index = Math.min(Math.max(to, 0), shown.length - 1);
    if (index * ROW < this.list.scrollTop) this.list.scrollTop = index * ROW;
    if ((index + 1) * ROW > this.list.scrollTop + this.list.clientHeight) this.list.scrollTop = (index + 1) * ROW - this.list.clientHeight;
    this.choose(shown[index]);
  }
}
