// Whether the sidecar can do its work, and how much of what was said was judged.
import { Polled, count, fill, make, many, say } from "./dom.js";
import { get, health } from "./wire.js";

export class Health extends Polled {
  title = "Health and coverage";

  constructor(context) {
    super();
    this.context = context;
    this.lead = make("p", { class: "dim", role: "status" });
    this.reasons = make("ul", { class: "reasons" });
    this.tiles = make("dl", { class: "tiles" });
    this.taps = make("tbody");
    this.replies = make("tbody");
    this.decisions = make("tbody");
    const table = (names, body, words = names.length - 1) => make("table", {}, make("thead", {}, make("tr", {}, names.map((name, i) => make("th", { scope: "col", class: i >= words ? "num" : "" }, name)))), body);
    this.element = make("div", {},
      make("div", { class: "head" }, make("div", {}, make("h1", { tabindex: "-1" }, this.title), this.lead)), this.reasons, this.tiles,
      make("div", { class: "two" },
        make("section", { class: "panel", "aria-label": "Taps" }, make("h2", {}, "Taps"), table(["Model", "Engine", "State"], this.taps, 3)),
        make("section", { class: "panel", "aria-label": "Replies" }, make("h2", {}, "Replies, by how they were judged"), table(["How", "Replies"], this.replies)),
        make("section", { class: "panel", "aria-label": "Decisions" }, make("h2", {}, "Chunks decided without a good score"), table(["Condition", "Decision", "Chunks"], this.decisions))));
  }

  async load() {
    this.asked = performance.now();
    try {
      const [well, state] = await Promise.all([health(), get("page/state")]);
      this.render(well, state);
    } catch (error) {
      say(this.lead, error.message);
    }
  }

  render(well, state) {
    const key = JSON.stringify([well, { ...state, now: 0 }]);
    if (this.key === key) return;
    this.key = key;
    say(this.lead, well.status === "ok" ? "The engine serves, a tap that proved itself is connected, and the ledger takes records." : `Degraded: ${(well.reasons || []).length} reasons.`);
    fill(this.reasons, (well.reasons || []).map((reason) => make("li", {}, reason)));
    const replies = state.replies.reduce((sum, each) => sum + each[1], 0), open = state.replies.filter(([how]) => how.startsWith("open:")).reduce((sum, each) => sum + each[1], 0);
    const ms = (seconds) => (seconds === null ? "–" : `${(1000 * seconds).toFixed(1)} ms`);
    const tiles = [
      ["Status", well.status, well.status !== "ok"], ["Tokens judged", count(state.tokens)], ["Replies judged", replies ? `${(100 * (replies - open) / replies).toFixed(1)} %` : "–", open > 0], ["Frames lost", count(state.frames_lost), state.frames_lost > 0],
      ["Scores not a number", count(state.not_finite), state.not_finite > 0], ["Hold, mean", ms(state.hold)], ["Tap lag, mean", ms(state.lag)], ["Running now", count(state.running)], ["Ledger: to be synced", count(state.ledger.waiting), Boolean(state.ledger.failed)], ["Ledger: signed", count(state.ledger.sealed)],
    ];
    fill(this.tiles, tiles.map(([name, value, bad]) => make("div", { class: "tile panel" }, make("dt", {}, name), make("dd", { class: bad ? "bad" : "" }, value))));
    const rows = (body, found, empty, columns) => fill(body, found.length ? found.map((row) => make("tr", {}, row.map((cell, i) => make("td", { class: typeof cell === "number" ? "num" : "" }, typeof cell === "number" ? count(cell) : cell)))) : make("tr", {}, make("td", { colspan: columns, class: "dim" }, empty)));
    rows(this.taps, (well.taps || []).map((tap) => [tap.model, tap.engine, tap.failed || (tap.stale.length ? `thresholds are stale: ${tap.stale.join(", ")}` : String(tap.check))]), "No tap is connected.", 3);
    rows(this.replies, state.replies, "No reply yet.", 2);
    rows(this.decisions, state.decisions, "None: every chunk had its scores.", 3);
  }
}
