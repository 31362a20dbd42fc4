// The page: what is shown follows from the state, and every event changes the state.

import { ask, post, Problem, wasCancelled } from "./api.js";
import * as detail from "./detail.js";
import { $, el, icon, number, plural, toast } from "./dom.js";
import * as filters from "./filters.js";
import { startKeys } from "./keys.js";
import * as marks from "./marks.js";
import { render } from "./render.js";
import { emptyIndex, Results, trouble } from "./results.js";
import * as searchbox from "./searchbox.js";
import { apiQuery, apiWhere, change, describe, hasFilters, hasQuery, onChange, state } from "./state.js";
import * as status from "./status.js";

let views = [];
let server = { indexes: [], may_write: false };
let curve = { scores: [], counts: [], total: 0 };
let curveTimer = 0;
let answered = ""; // what the results in sight are the answer to
let opened = null; // the column that the large picture belongs to

const LOOK_MS = 4000;

const events = {
  dates: filters.dates,
  knowsWords: (name) => (server.indexes.find((index) => index.name === name) ?? server.indexes[0])?.words !== false,
  onOpen: (item, view) => ((opened = view), change({ open: item.id })),
  onProblem,
  onLoaded,
  onMarked: showSummary,
  onCounted,
};

async function start() {
  searchbox.start(takeFiles);
  detail.start({ of: () => around()?.grid.items ?? [], more: () => around()?.more(), select: selectById });
  status.start(() => reload());
  const togglePanel = () => change({ panel: !state.panel }, { replace: true });
  const openStatus = () => change({ view: "status" });
  startKeys({ grid: () => (views.find((view) => view.grid.list.contains(document.activeElement)) ?? views[0])?.grid });
  $("show-filters").addEventListener("click", togglePanel);
  $("show-status").addEventListener("click", openStatus);
  $("show-compare").addEventListener("click", toggleCompare);
  $("theme").addEventListener("click", nextTheme);
  $("by").addEventListener("change", (event) => change({ by: event.target.value }));
  $("fold").addEventListener("change", (event) => change({ fold: Number(event.target.value) }));
  $("threshold").addEventListener("input", slide);
  $("results").addEventListener("click", onDo);
  document.querySelector(".mark").addEventListener("click", startOver);
  onChange(onState);
  arrange();
  reload(history.state?.top ?? 0);
  detail.show();
  filters.show();
  filters.load();
  if (state.view) status.open();
  await refreshStatus();
  setInterval(look, LOOK_MS);
}

/** Files that are dropped on an empty index become its pictures. */
function takeFiles(files) {
  const isEmpty = mayUpload() && !server.indexes[0]?.pictures && !hasQuery();
  if (isEmpty) status.send(files);
  return isEmpty;
}

/** Whether pictures came or went: an empty page fills, and the start shows them where its reader is at the top. */
async function look() {
  if (document.hidden || !$("banner").hidden || !$("results").querySelector(".column")) return;
  try {
    const before = server.indexes[0]?.pictures;
    server = await status.get();
    if (server.indexes[0].pictures === before) return;
    filters.load();
    if (!state.compare && !hasQuery() && !hasFilters() && !state.open && scrollY < 10) reload();
  } catch {
    // what is asked for next says so
  }
}

const asked = (it) => JSON.stringify([apiQuery(it), apiWhere(filters.dates(), it), it.fold, it.by, it.compare]);

function onState(now, before, top) {
  searchbox.show();
  filters.show();
  if (now.compare !== before.compare) arrange();
  if (asked(now) !== asked(before)) {
    scrollTo(0, 0);
    reload(top);
  } else if (now.least !== before.least) for (const view of views) view.cut();
  if (now.open !== before.open) detail.show();
  if (now.view !== before.view) (now.view ? status.open : status.close)();
  showTools();
  document.title = describe() ? `${describe()} · Sightline` : "Sightline";
}

/** One grid, or a column for each index. */
function arrange() {
  for (const view of views) view.destroy();
  const place = $("results");
  place.replaceChildren();
  place.classList.toggle("columns", state.compare);
  const names = state.compare ? server.indexes.map((index) => index.name) : [null];
  views = names.map((name) => {
    const body = el("div", { class: "body" });
    const model = server.indexes.find((index) => index.name === name)?.model;
    const title = name === null ? null : el("h2", { class: "column-title" }, name, el("small", {}, ` ${model ?? ""}`), el("small"), el("small", { class: "counted" }));
    place.append(el("section", { class: "column", "aria-label": name ?? "Results" }, title, body));
    return new Results(body, name, events, { canMark: state.compare });
  });
  $("show-compare").setAttribute("aria-pressed", String(state.compare));
  showTools();
}

/** Ask anew; `top` is the place to come back to. */
function reload(top = 0) {
  for (const view of views) view.load().then(() => top && view === views[0] && comeBack(view, top));
  clearTimeout(curveTimer);
  curve = { scores: [], counts: [], total: 0 };
  if (hasQuery()) curveTimer = setTimeout(loadCurve, 350);
}

/** Fetch as much as it takes to scroll there again. */
async function comeBack(view, top) {
  const asked = view.items[0];
  while (document.documentElement.scrollHeight < top + innerHeight && view.next !== null && view.items[0] === asked) {
    const known = view.items.length;
    await view.more();
    if (view.items.length === known) break;
  }
  if (view.items[0] === asked && scrollY < 10) scrollTo(0, top);
}

async function loadCurve() {
  try {
    curve = await post("/api/scores", { ...apiQuery(), where: apiWhere(filters.dates()) }, "scores");
    showTools();
  } catch (error) {
    if (!wasCancelled(error)) curve = { scores: [], counts: [], total: 0 };
  }
}

function onLoaded(view, answer) {
  $("banner").hidden = true;
  answered = asked(state);
  if (!answer.total_estimate && !hasFilters() && !hasQuery()) view.note(emptyIndex(server.indexes[0], mayUpload()));
  onCounted(view);
  if (state.open && view === views[0]) detail.place();
}

function onCounted(view) {
  const [took, counted] = view.place.parentElement.querySelectorAll(".column-title small:not(:first-child)");
  took?.replaceChildren(view.took === undefined ? "" : ` ${Math.round(view.took)} ms`);
  counted?.replaceChildren(view.likelyText && `, ${view.likelyText}`);
  showSummary();
}

function onProblem(error, view) {
  if (error.status === 401) return askForKey();
  if (error instanceof Problem) {
    const isEmpty = error.status === 503 && server.indexes[0]?.problem;
    view.note(isEmpty ? emptyIndex(server.indexes[0], mayUpload()) : trouble(error.message));
  } else offline();
  return showSummary();
}

/** The server is gone: say so, look for it, go on where it was. */
function offline() {
  if (!$("banner").hidden) return;
  $("banner").hidden = false;
  $("banner").textContent = "The server does not answer. This page goes on as soon as it is back.";
  const look = async () => {
    try {
      await ask("/healthz");
      $("banner").hidden = true;
      if (answered !== asked(state)) scrollTo(0, 0);
      reload();
    } catch {
      setTimeout(look, 2000);
    }
  };
  setTimeout(look, 2000);
}

function showSummary() {
  const view = views[0];
  const parts = [];
  if (state.compare) parts.push(marks.count() ? plural(marks.count(), "judgement") : "Mark pictures good or bad to judge the models");
  else if (view?.total !== undefined && view.items.length) {
    const shown = state.least === null ? view.total : remaining();
    if (view.likelyText) parts.push(view.likelyText);
    parts.push(hasQuery() || hasFilters() ? plural(shown, "result") : plural(shown, "picture"));
  }
  $("summary").replaceChildren(parts.join(" · ") || "\u00a0");
  if (state.compare && marks.count()) {
    $("summary").append(" ", el("button", { class: "link", onclick: marks.download }, "Export"), " ", el("button", { class: "link", onclick: () => (marks.forget(), arrange(), reload(), showSummary()) }, "Forget"));
  }
}

function showTools() {
  showFold();
  $("tools").hidden = !hasQuery() || !views[0]?.items.length;
  const [high, low] = [curve.scores[0], curve.scores.at(-1)];
  const slider = $("threshold");
  slider.disabled = !(high > low);
  if (document.activeElement !== slider) {
    slider.value = state.least === null || slider.disabled ? 0 : Math.round(((state.least - low) / (high - low)) * 1000);
  }
  const text = state.least === null ? "All results" : `${state.least.toFixed(2)}: ${number(remaining())} remain`;
  $("threshold-text").textContent = text;
  slider.setAttribute("aria-valuetext", text);
  showSummary();
}

function showFold() {
  $("by").value = state.by;
  const [select, value] = [$("fold"), String(state.fold)];
  if (![...select.options].some((option) => option.value === value)) select.append(el("option", { value }, `Folded from ${value}`));
  select.value = value;
}

function slide(event) {
  const [high, low] = [curve.scores[0], curve.scores.at(-1)];
  const part = Number(event.target.value) / 1000;
  change({ least: part ? Math.round((low + part * (high - low)) * 1000) / 1000 : null }, { replace: true });
}

/** How many pictures reach the threshold, from the curve of scores, between two points of it by rule of three. */
function remaining() {
  const { scores, counts } = curve;
  const at = scores.findIndex((score) => score < state.least);
  if (!scores.length) return views[0]?.grid.items.length ?? 0;
  if (at === 0) return 0;
  if (at < 0) return counts.at(-1);
  if (views[0]?.isCut) return views[0].grid.items.length; // all that remain are here: counted, not estimated
  const part = (scores[at - 1] - state.least) / (scores[at - 1] - scores[at]);
  return Math.round(counts[at - 1] + part * (counts[at] - 1 - counts[at - 1]));
}

async function refreshStatus() {
  try {
    server = await status.get();
  } catch (error) {
    if (error.status === 401) askForKey();
    return;
  }
  $("show-compare").hidden = server.indexes.length < 2;
  if (server.indexes[0]?.words === false) {
    $("words").dataset.only = "pictures";
    searchbox.show();
    if (state.words && !state.compare) reload();
  }
  if (state.compare) {
    arrange();
    reload();
  } else if (views[0]?.items.length === 0 && server.indexes[0] && !server.indexes[0].pictures && !hasQuery()) {
    views[0].note(emptyIndex(server.indexes[0], mayUpload()));
  }
}

const mayUpload = () => server.may_write && server.indexes[0]?.uploads !== false;

const around = () => (views.includes(opened) ? opened : views[0]);

/** Bring the keyboard to the picture that was open last. */
function selectById(id) {
  const grid = around()?.grid;
  const at = grid?.items.findIndex((item) => item.id === id) ?? -1;
  if (at >= 0) grid.select(at);
}

function toggleCompare() {
  if (server.indexes.length > 1) change({ compare: !state.compare });
}

function startOver(event) {
  event.preventDefault();
  change({ words: "", terms: [], from: "", to: "", folder: "", pixels: 0, facets: {}, least: null, compare: false, open: "", panel: false });
}

function onDo(event) {
  const what = event.target.closest("[data-do]")?.dataset.do;
  if (what === "all") change({ least: null });
  else if (what === "unfilter") filters.clear();
  else if (what === "upload") status.upload();
}

function askForKey() {
  const place = $("key");
  if (place.open) return;
  const input = el("input", { type: "password", id: "key-input", autocomplete: "current-password", required: true });
  const open = async (event) => {
    event.preventDefault();
    try {
      await ask("/api/session", { method: "POST", headers: { Authorization: `Bearer ${input.value}` } });
      place.close();
      refreshStatus();
      filters.load();
      reload();
    } catch (error) {
      toast(error.message, { stays: true });
    }
  };
  const form = el("form", { onsubmit: open }, el("label", { for: "key-input" }, "This server asks for a key. Whoever runs it can give you one."), input, el("button", { class: "primary" }, "Open"));
  render(place, el("h2", { id: "key-title" }, icon("info"), "Key"), form);
  place.showModal();
}

/** From the system's theme to light, to dark, and back. */
function nextTheme() {
  const now = document.documentElement.dataset.theme;
  const next = { light: "dark", dark: "" }[now] ?? "light";
  if (next) document.documentElement.dataset.theme = next;
  else delete document.documentElement.dataset.theme;
  toast(`Theme: ${next || "as the system's"}`);
  try {
    if (next) localStorage.setItem("sightline.theme", next);
    else localStorage.removeItem("sightline.theme");
  } catch {
    // it lasts until the page is left
  }
}

try {
  const theme = localStorage.getItem("sightline.theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch {
  // the system's choice
}
start();
