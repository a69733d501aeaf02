// What the page asks of the address that it came from. A token lives as long as the tab.
import { fill, say } from "./dom.js";

const KEY = "barograph-token";
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEY) || "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

async function send(path, about = {}) {
  const headers = { ...about.headers };
  if (token.get()) headers.authorization = `Bearer ${token.get()}`;
  const response = await fetch(path, { ...about, headers, cache: "no-store", credentials: "omit", redirect: "error" });
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  const why = typeof said.error === "string" ? said.error : said.error?.message;
  throw new Refused(response.status, why || `the sidecar answered ${response.status}`);
}

export const get = async (path, signal) => (await send(path, { signal })).json();

// /health says what is wrong with a status of 503.
export async function health() {
  const headers = token.get() ? { authorization: `Bearer ${token.get()}` } : {};
  return (await fetch("health", { headers, cache: "no-store", credentials: "omit" })).json();
}

export async function post(path, body) {
  return (await send(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) })).json();
}

// Server-sent events by fetch, so that the token travels. Ends when the other side ends, or throws.
export async function events(path, about, take) {
  const response = await send(path, about);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const data = block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart()).join("\n");
        if (data && data !== "[DONE]") take(JSON.parse(data));
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

const by = (id) => document.getElementById(id);

// Asks for one line. Gives what was entered, or null.
export function ask({ title, text, label, yes, secret = false, wrong = "" }) {
  const dialog = by("ask"), value = by("ask-value");
  say(by("ask-title"), title);
  fill(by("ask-text"), text);
  say(by("ask-label"), label);
  say(by("ask-yes"), yes);
  say(by("ask-wrong"), wrong);
  value.type = secret ? "password" : "text";
  value.required = !secret;
  value.value = "";
  return new Promise((resolve) => {
    let given = null;
    const submit = (event) => {
      event.preventDefault();
      if (!secret && !value.value.trim()) return;
      given = value.value.trim();
      dialog.close();
    };
    const no = () => dialog.close();
    const end = () => {
      by("ask-form").removeEventListener("submit", submit);
      by("ask-no").removeEventListener("click", no);
      dialog.removeEventListener("close", end);
      value.value = "";
      resolve(given);
    };
    by("ask-form").addEventListener("submit", submit);
    by("ask-no").addEventListener("click", no);
    dialog.addEventListener("close", end);
    dialog.showModal();
    value.focus();
  });
}

// True when a token was entered. An empty one forgets it.
export async function askToken(why = "") {
  if (by("ask").open) return false;
  const given = await ask({
    title: "Token", label: "Bearer token", yes: "Use it", secret: true, wrong: why,
    text: "The token of an operator or an auditor, as in BAROGRAPH_ADMIN_TOKEN or the file of sidecar.access. It is kept in this tab only. Leave it empty to go on without one.",
  });
  if (given === null) return false;
  token.set(given);
  dispatchEvent(new Event("token"));
  return true;
}
