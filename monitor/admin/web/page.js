// The frame: which view is shown, the theme, the token, and what is said of new verdicts.
import { fill, make, say } from "./dom.js";
import { Health } from "./health.js";
import { Incident } from "./incident.js";
import { Live } from "./live.js";
import { Path } from "./path.js";
import { Play } from "./play.js";
import { Probes } from "./probes.js";
import { Rules } from "./rules.js";
import { labels, theme } from "./scale.js";
import { Store } from "./store.js";
import { Verdicts } from "./verdicts.js";
import { Refused, askToken, get, token } from "./wire.js";

const VIEWS = { live: ["Live", Live], play: ["Playground", Play], verdicts: ["Verdicts", Verdicts], path: ["Path", Path], rules: ["Rules", Rules], probes: ["Probes", Probes], health: ["Health", Health], incident: ["", Incident] };
const SPEAK_MS = 4000;
const by = (id) => document.getElementById(id);
const made = new Map();
let shown = null, context = null;

function route() {
  const [name, ...rest] = decodeURIComponent(location.hash.slice(1)).split("/");
  return [VIEWS[name] ? name : "live", rest.join("/")];
}

function show(focus = true) {
  const [name, rest] = route();
  if (!made.has(name)) made.set(name, new VIEWS[name][1](context));
  const view = made.get(name);
  if (shown !== view) {
    shown?.hide();
    fill(by("main"), view.element);
    shown = view;
    if (focus) view.element.querySelector("h1")?.focus();
  }
  for (const link of by("nav").children) {
    if (link.hash === `#${name}` || (name === "incident" && link.hash === "#verdicts")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${view.title} – Barograph`;
  view.show(rest);
}

// Themes: as the system has it, until somebody chooses.
const dark = matchMedia("(prefers-color-scheme: dark)");
const chosen = () => localStorage.getItem("barograph-theme") || (dark.matches ? "dark" : "light");
function paint() {
  theme(chosen());
  say(by("theme"), chosen() === "dark" ? "Light" : "Dark");
  by("theme").setAttribute("aria-label", chosen() === "dark" ? "Light theme" : "Dark theme");
}
by("theme").addEventListener("click", () => {
  localStorage.setItem("barograph-theme", chosen() === "dark" ? "light" : "dark");
  paint();
});
dark.addEventListener("change", paint);

function link(store) {
  by("link").dataset.state = store.state;
  say(by("link"), store.state === "ok" ? "connected" : store.state === "bad" ? "not connected" : "connecting");
  by("link").title = store.state === "bad" ? store.why : "";
}

// At most one sentence in a few seconds, however much happens.
let waiting = [], speaking = 0;
function speak(verdicts) {
  waiting.push(...verdicts);
  if (speaking) return;
  const last = waiting.at(-1), more = waiting.length - 1;
  fill(by("spoken"), make("p", {}, `${last.rule}: ${last.action}, ${last.mode}, at token ${last.position} of stream ${last.stream}${more ? `, and ${more} more` : ""}`));
  waiting = [];
  speaking = setTimeout(() => {
    speaking = 0;
    if (waiting.length) speak([]);
  }, SPEAK_MS);
}

async function about() {
  for (let why = ""; ; ) {
    try {
      return await get("page/about");
    } catch (error) {
      say(by("link"), error.message);
      why = error.message;
      const asked = error instanceof Refused && [401, 403].includes(error.status) && (await askToken(why));
      if (!asked) await new Promise((resolve) => setTimeout(resolve, 2000));
    }
  }
}

function person(known) {
  const near = known.role === "viewer" && known.person === "near";
  say(by("person"), near ? (token.get() ? "token not known: looking on" : "no token: looking on") : `${known.person}, ${known.role}`);
}

async function start() {
  paint();
  fill(by("legend"), labels().map(([name, text]) => make("li", { class: name }, text)));
  fill(by("nav"), Object.entries(VIEWS).filter(([, [name]]) => name).map(([key, [name]]) => make("a", { href: `#${key}` }, name)));
  by("token").addEventListener("click", () => askToken());
  by("skip").addEventListener("click", (event) => { event.preventDefault(); by("main").focus(); });
  const known = await about();
  const store = new Store(known.probes[0].name);
  context = { about: known, store };
  person(known);
  addEventListener("hashchange", () => show());
  addEventListener("token", async () => {
    try {
      Object.assign(context.about, await get("page/about"));
      person(context.about);
    } catch (error) {
      say(by("person"), error.message);
    }
    store.stop.abort();
  });
  store.addEventListener("state", () => link(store));
  store.addEventListener("step", () => { if (!document.hidden) shown?.tick(); });
  store.addEventListener("fired", (event) => speak(event.detail));
  show(false);
  store.run();
}

start();
