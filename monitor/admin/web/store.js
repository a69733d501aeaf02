// What the page knows of streams and verdicts, fed by the sidecar. Everything in it has a bound.
import { Refused, askToken, events, get } from "./wire.js";
import { tenths } from "./scale.js";

const STRIP = 512; // tokens of a stream that are kept for its row
const VERDICTS = 512;
const AGAIN_MS = 2000;

class Strip {
  constructor(about) {
    Object.assign(this, about);
    this.z = new Int8Array(STRIP);
    this.n = 0;
    this.peak = -128;
    this.moved = 0;
    this.add(tenths(about.z));
    this.tokens = about.tokens;
  }

  add(new_) {
    if (!new_.length) return;
    const tail = new_.length > STRIP ? new_.subarray(new_.length - STRIP) : new_;
    const over = this.n + tail.length - STRIP;
    if (over > 0) {
      this.z.copyWithin(0, over, this.n);
      this.n -= over;
    }
    this.z.set(tail, this.n);
    this.n += tail.length;
    for (const z of tail) if (z > this.peak) this.peak = z;
  }
}

export class Store extends EventTarget {
  constructor(probe) {
    super();
    this.probe = probe;
    this.streams = new Map();
    this.verdicts = [];
    this.running = this.missed = 0;
    this.order = [];
    this.state = "connecting";
    this.stop = new AbortController();
  }

  // Follows the sidecar for as long as the page is open.
  async run() {
    for (;;) {
      this.stop = new AbortController();
      try {
        this.fresh = true;
        await events(`page/live?probe=${encodeURIComponent(this.probe)}`, { signal: this.stop.signal }, (step) => this.take(step));
        this.lost("the sidecar ended the stream");
      } catch (error) {
        if (error.name === "AbortError") continue;
        this.lost(error.message);
        if (error instanceof Refused && error.status === 401) await askToken(error.message);
      }
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
  }

  choose(probe) {
    this.probe = probe;
    this.stop.abort();
  }

  lost(why) {
    this.state = "bad";
    this.why = why;
    this.dispatchEvent(new Event("state"));
  }

  take(step) {
    if (this.fresh) {
      this.streams.clear();
      this.verdicts = [];
    }
    const first = this.fresh;
    this.fresh = false;
    for (const about of step.came || []) this.streams.set(about.number, new Strip(about));
    for (const [number, from, z] of step.more || []) {
      const stream = this.streams.get(number), new_ = tenths(z);
      if (!stream) continue;
      stream.add(new_);
      stream.tokens = from + new_.length;
    }
    for (const [number, tokens, gap, , z] of step.over || []) {
      const stream = this.streams.get(number);
      if (!stream) continue;
      stream.add(tenths(z));
      Object.assign(stream, { tokens, gap, ended: stream.ended || step.now });
    }
    for (const number of step.gone || []) this.streams.delete(number);
    for (const verdict of step.verdicts || []) {
      this.verdicts.push(verdict);
      const stream = this.streams.get(verdict.track);
      if (stream && !first && stream.spans.length < 64) stream.spans.push([verdict.rule, verdict.mode, verdict.action, verdict.position, -1]);
    }
    if (this.verdicts.length > VERDICTS) this.verdicts.splice(0, this.verdicts.length - VERDICTS);
    if (step.came || step.over || step.gone) this.sort();
    Object.assign(this, { running: step.running, missed: step.missed, now: step.now, state: "ok" });
    this.dispatchEvent(new Event("state"));
    this.dispatchEvent(new Event("step"));
    if (step.verdicts && !first) this.dispatchEvent(new CustomEvent("fired", { detail: step.verdicts }));
  }

  // Those that run first, the newest on top.
  sort() {
    const rank = (stream) => (stream.ended ? 0 : 1);
    this.order = [...this.streams.values()].sort((a, b) => rank(b) - rank(a) || b.number - a.number);
  }
}

export const picture = (name, known = null) => get(`page/streams/${encodeURIComponent(name)}?from=${known?.end ?? 0}&said=${known?.text?.length ?? 0}`);
