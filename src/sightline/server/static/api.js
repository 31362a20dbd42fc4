// Requests to the server: one at a time for each purpose, a newer one cancels the older.

import { $ } from "./dom.js";

const LOOKS = ["/api/search", "/api/scores"]; // posted, but they change nothing
const BASE = new URL("..", import.meta.url).pathname; // "/", or longer below a proxy
const running = new Map();
let waiting = 0;

/** A problem that the server explains. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? body.title ?? `the server answered ${status}`);
    this.status = status;
  }
}

/** Raised where a newer request took the place of this one, or the page moved on. */
export const wasCancelled = (error) => error.name === "AbortError";

/** An address of the API as the browser has to write it. */
export const addressOf = (path) => BASE + path.slice(1);

/** The JSON answer. `purpose` names what the answer is for; another request for the same purpose cancels this one. */
export async function ask(path, options = {}) {
  const { purpose = "", method = "GET", body = null, headers = {} } = options;
  const control = new AbortController();
  if (purpose) {
    running.get(purpose)?.abort();
    running.set(purpose, control);
  }
  const isJson = body !== null && !(body instanceof FormData);
  showProgress(1);
  try {
    const response = await fetch(addressOf(path), {
      method,
      signal: control.signal,
      headers: isJson ? { "Content-Type": "application/json", ...headers } : headers,
      body: isJson ? JSON.stringify(body) : body,
    });
    if (response.status === 503 && (method === "GET" || LOOKS.includes(path))) return await later(path, options, control.signal);
    if (!response.ok) throw new Problem(response.status, await response.json().catch(() => ({})));
    return await response.json();
  } finally {
    showProgress(-1);
    if (running.get(purpose) === control) running.delete(purpose);
  }
}

export const post = (path, body, purpose = "") => ask(path, { method: "POST", body, purpose });

export function cancel(purpose) {
  running.get(purpose)?.abort();
}

/** A busy server, or an index that does not exist yet: ask again, unless something newer was asked meanwhile. */
async function later(path, options, signal) {
  showProgress(-1);
  await new Promise((done) => setTimeout(done, 1000));
  showProgress(1);
  signal.throwIfAborted();
  return ask(path, options);
}

let timer = 0;
function showProgress(change) {
  waiting += change;
  clearTimeout(timer);
  // A quick answer shows no bar: it would only flicker.
  timer = setTimeout(() => ($("progress").hidden = waiting === 0), waiting ? 250 : 0);
}
