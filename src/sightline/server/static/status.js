// How the server and its indexes are, live; failures with reasons; pictures added here.

import { ask, Problem } from "./api.js";
import { $, breakable, bytes, el, icon, number, pathOf, plural, toast } from "./dom.js";
import { render } from "./render.js";
import { change } from "./state.js";

const EVERY_MS = 2000;
let timer = 0;
let before = new Map(); // name -> [pictures, when]
let changed = () => {};

/** `onChanged` is called when an index grew or shrank. */
export function start(onChanged) {
  changed = onChanged;
  $("status").addEventListener("close", () => {
    clearTimeout(timer);
    change({ view: "" });
  });
  $("status").addEventListener("click", (event) => event.target === $("status") && $("status").close());
}

export async function open() {
  render($("status"), head(), el("p", { class: "fine" }, "Asking the server"));
  if (!$("status").open) $("status").showModal();
  await refresh();
}

export function close() {
  if ($("status").open) $("status").close();
}

export async function get() {
  const status = await ask("/api/status");
  $("show-status").querySelector(".dot").hidden = !status.indexes.some((index) => index.failures || index.problem);
  return status;
}

async function refresh() {
  clearTimeout(timer);
  if (!$("status").open) return;
  try {
    const [status, failures] = await Promise.all([get(), ask("/api/failures?limit=50").catch(() => ({ failures: [], total: 0 }))]);
    draw(status, failures);
  } catch (error) {
    render($("status"), head(), el("p", {}, error instanceof Problem ? error.message : "The server does not answer."));
  }
  timer = setTimeout(refresh, EVERY_MS);
}

function draw(status, failures) {
  render(
    $("status"),
    head(),
    status.indexes.map(card),
    failures.total ? failureList(failures, status.may_write) : el("p", { class: "fine" }, "Every picture that was offered is indexed."),
    status.may_write && status.indexes[0]?.uploads ? el("button", { class: "primary", onclick: upload }, icon("plus"), "Add pictures") : null,
    el("p", { class: "fine" }, `Sightline ${status.version} · `, el("a", { href: "docs" }, "HTTP API"), " · press ? for the keys"),
  );
}

function head() {
  const close = el("form", { method: "dialog" }, el("button", { class: "round", "aria-label": "Close" }, icon("x")));
  return el("div", { class: "head" }, el("h2", { id: "status-title" }, "Status"), close);
}

function card(index) {
  const rows = [
    ["Pictures", `${number(index.pictures)}${pace(index)}`],
    ["Model", index.model && `${index.model}${index.words ? "" : " (pictures only, no words)"}`],
    ["On disk", index.size_bytes === null ? "kept by a database" : bytes(index.size_bytes)],
    ["Failures", index.failures ? number(index.failures) : null],
    ["Folders", Object.entries(index.roots).map(([uri, note]) => el("div", {}, breakable(pathOf(uri)), el("small", {}, ` indexed ${String(note.indexed).slice(0, 16).replace("T", " ")} UTC`)))],
    ["Problem", index.problem],
    ["Retry", index.retry && (index.retry.problem ?? (index.retry.is_running ? `reading again: ${number(index.retry.seen ?? 0)} so far` : `read ${number((index.retry.encoded ?? 0) + (index.retry.reused ?? 0))} of ${number(index.retry.seen ?? 0)}`))],
  ].filter(([, value]) => value && value.length !== 0);
  return el("section", { key: index.name, class: "card" }, el("h3", {}, index.name), el("dl", {}, rows.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])));
}

/** Whether another process indexes meanwhile, and how fast. */
function pace(index) {
  const [pictures, when] = before.get(index.name) ?? [index.pictures, performance.now()];
  const seconds = (performance.now() - when) / 1000;
  before.set(index.name, [index.pictures, performance.now()]);
  if (index.pictures === pictures || seconds <= 0) return "";
  changed();
  return index.pictures > pictures ? `, growing by ${Math.round((index.pictures - pictures) / seconds)} a second` : ", shrinking";
}

function failureList({ failures, total }, mayWrite) {
  const rows = failures.map((failure) => el("li", {}, el("b", {}, breakable(pathOf(failure.uri))), el("span", {}, `${failure.stage}: ${failure.reason}`), el("small", {}, `${failure.when.slice(0, 16).replace("T", " ")} UTC, tried ${failure.retries + 1} times`)));
  const retry = mayWrite ? el("button", { class: "plain", onclick: tryAgain }, "Try them again") : null;
  return el("details", { key: "failures", class: "card" }, el("summary", {}, `${plural(total, "picture")} could not be read`), retry, el("ul", { class: "failures" }, rows));
}

async function tryAgain() {
  try {
    await ask("/api/failures/retry", { method: "POST" });
    toast("Reading them again");
    refresh();
  } catch (error) {
    toast(error.message, { stays: true });
  }
}

/** Let the user choose pictures for the index. */
export function upload() {
  const input = el("input", { type: "file", accept: "image/*", multiple: true });
  input.addEventListener("change", () => send([...input.files]));
  input.click();
}

export async function send(files) {
  let done = 0;
  const refused = [];
  for (const file of files) {
    const form = new FormData();
    form.append("files", file);
    try {
      await ask("/api/images", { method: "POST", body: form });
      done += 1;
      toast(`${number(done)} of ${plural(files.length, "picture")} added`);
    } catch (error) {
      refused.push(`${file.name}: ${error.message}`);
    }
  }
  if (refused.length) toast(`${number(done)} of ${plural(files.length, "picture")} added. ${refused.join(" ")}`, { stays: true });
  if (done) changed();
  refresh();
}
