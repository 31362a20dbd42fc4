// One picture, large, with what is known of it and what can be done with it.

import { ask, wasCancelled } from "./api.js";
import { $, breakable, bytes, el, first, icon, number, pathOf, toast } from "./dom.js";
import { render } from "./render.js";
import { addPicture, likeThis } from "./searchbox.js";
import { isCloser, move, settle, startStage, toggleZoom } from "./stage.js";
import { change, state } from "./state.js";

const KNOWN = new Set(["width", "height", "size_bytes", "taken", "modified", "camera", "latitude", "longitude", "folders", "name", "sha256", "caption", "title", "format"]);
const STEP = 80; // pixels that a key moves a picture
let current = null;
let shown = { id: "" }; // the picture's element and its id
let ready = []; // the pictures beside it, which are loaded already
let isAlone = false; // drawn before the results were there: without score and neighbours
let neighbours = { of: () => [], more: () => {}, select: () => {} };

/** `of` gives the hits that are shown, so that one can step through them. */
export function start(around) {
  neighbours = around;
  const place = $("detail");
  place.addEventListener("close", () => state.open && change({ open: "" }));
  place.addEventListener("click", (event) => event.target === place && place.close());
  addEventListener("keydown", (event) => {
    if (!place.open || event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input")) return;
    const act = keys()[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  startStage(place, step);
}

/** What the keys do now. They work wherever the focus is: what had it may be gone with the last picture. */
function keys() {
  const known = { "+": () => addPicture(state.open, 1), "-": () => addPicture(state.open, -1), z: () => toggleZoom(), f: fullScreen };
  if (isCloser()) {
    const moves = { ArrowLeft: [STEP, 0], ArrowRight: [-STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };
    const made = Object.entries(moves).map(([key, by]) => [key, () => move(...by)]);
    return { ...known, ...Object.fromEntries(made), Escape: () => toggleZoom() };
  }
  const all = neighbours.of().length;
  return { ...known, ArrowRight: () => step(1), ArrowLeft: () => step(-1), Home: () => step(-all), End: () => step(all) };
}

function fullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else $("detail").querySelector(".stage").requestFullscreen().catch(() => toast("This browser shows no page on the full screen"));
}

export async function show() {
  const place = $("detail");
  if (!state.open) {
    const last = current;
    current = null;
    shown = { id: "" };
    if (document.fullscreenElement) document.exitFullscreen();
    if (place.open) place.close();
    if (last) neighbours.select(last);
    return;
  }
  const known = neighbours.of().find((item) => item.id === state.open);
  if (known) draw(known);
  if (!place.open) place.showModal();
  if (known) return;
  try {
    const found = await ask(`/api/images/${encodeURIComponent(state.open)}`, { purpose: "detail" });
    draw(neighbours.of().find((item) => item.id === found.id) ?? found); // the results may have come first
  } catch (error) {
    if (wasCancelled(error)) return;
    toast(error.message, { stays: true });
    change({ open: "" }, { replace: true });
  }
}

/** The results are there: give the picture its place among them. */
export function place() {
  const known = neighbours.of().find((item) => item.id === state.open);
  if (!$("detail").open) show();
  else if (known && isAlone) draw(known);
}

export function step(by) {
  const items = neighbours.of();
  const at = items.findIndex((item) => item.id === state.open);
  const next = items[Math.min(items.length - 1, Math.max(0, at + by))];
  if (at > items.length - 10) neighbours.more();
  if (at >= 0 && next) change({ open: next.id }, { replace: true });
}

function draw(item) {
  current = item.id;
  const items = neighbours.of();
  const at = items.findIndex((each) => each.id === item.id);
  isAlone = at < 0;
  const isNew = shown.id !== item.id;
  const stage = el(
    "div",
    { class: "stage", tabIndex: -1, autofocus: true },
    picture(item),
    arrow("left", "Previous picture", -1, at > 0),
    arrow("right", "Next picture", 1, at >= 0 && at < items.length - 1),
    el("button", { class: "round full", "aria-label": "Full screen", title: "Full screen (f)", onclick: fullScreen }, icon("full")),
  );
  const close = el("form", { method: "dialog" }, el("button", { class: "round", "aria-label": "Close", title: "Close (Esc)" }, icon("x")));
  render($("detail"), stage, el("aside", {}, close, el("h2", { dir: "auto" }, titleOf(item.payload)), actions(item), facts(item)));
  settle({ isNew });
  if (document.activeElement === document.body) $("detail").querySelector(".stage").focus();
  ready = [items[at + 1], items[at - 1]].filter((each) => at >= 0 && each).map((each) => Object.assign(new Image(), { src: large(each) }));
}

const titleOf = (it) => first(it.title) || first(it.caption) || it.name || "Picture";

function large(item) {
  return item.links.thumbnail.replace("size=320", `size=${devicePixelRatio > 1 || innerWidth > 1300 ? 2048 : 1280}`);
}

/** The element of a picture; of the one in sight the same as before. */
function picture(item) {
  if (shown.id === item.id) return shown.image;
  const { width = 0, height = 0 } = item.payload;
  const scale = Math.max(width, height) < 700 ? 2 : 1; // small ones are hard to see at their own size
  const image = el("img", { key: item.id, alt: titleOf(item.payload), draggable: false });
  image.style.setProperty("--width", `${width * scale || 2048}px`);
  image.style.setProperty("--ratio", String(width / height || 1));
  image.style.backgroundImage = `url("${item.links.thumbnail}")`; // shown at once, the large one replaces it
  image.addEventListener("load", () => (image.style.backgroundImage = ""));
  image.addEventListener("error", () => {
    if (image.src.endsWith(item.links.thumbnail)) return image.replaceWith(el("p", { class: "gone" }, "This picture cannot be shown: its file is not available."));
    image.src = item.links.thumbnail; // the file has vanished: its thumbnail may be kept
    return image.classList.add("small");
  });
  image.src = large(item);
  shown = { id: item.id, image };
  return image;
}

function arrow(side, label, by, isThere) {
  return el("button", { class: `round ${side}`, "aria-label": label, hidden: !isThere, onclick: () => step(by) }, icon(side));
}

function actions(item) {
  const make = (name, label, title, onclick) => el("button", { class: "plain", title, onclick }, icon(name), label);
  return el(
    "div",
    { class: "actions" },
    make("like", "More like this", "Search by this picture alone", () => likeThis(item.id)),
    make("plus", "More of this", "Add this picture to the query (+)", () => addPicture(item.id, 1)),
    make("minus", "Less of this", "Take this picture away from the query (-)", () => addPicture(item.id, -1)),
    make("copy", "Copy path", "Copy where the picture is", () => copy(pathOf(item.uri))),
    item.links.file
      ? el("a", { class: "plain", href: `${item.links.file}${item.links.file.includes("?") ? "&" : "?"}download=true`, download: "" }, icon("down"), "Download")
      : el("p", { class: "fine" }, "The file is not at its place any more."),
  );
}

function facts(item) {
  const it = item.payload;
  const when = (text) => new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  const rows = [
    ["Score", item.score !== undefined && `${item.score.toFixed(3)}${item.line === undefined ? "" : `, likely from ${item.line.toFixed(3)} on`}`],
    ["Name", it.name],
    ["Caption", others(it)],
    ["Size", it.width && `${number(it.width)} × ${number(it.height)}${it.size_bytes ? `, ${bytes(it.size_bytes)}` : ""}${it.format ? `, ${it.format.toUpperCase()}` : ""}`],
    ["Taken", it.taken && when(it.taken)],
    ["Changed", !it.taken && it.modified && when(it.modified)],
    ["Camera", it.camera],
    ["Place", it.latitude !== undefined && `${it.latitude.toFixed(5)}, ${it.longitude?.toFixed(5)}`],
    ["Folder", folder(item)],
    ...Object.entries(it).filter(([name]) => !KNOWN.has(name)).map(([name, value]) => [name.replaceAll("_", " "), Array.isArray(value) ? value.join(", ") : String(value)]),
    ["Copies", item.duplicates?.length && el("button", { class: "link", onclick: () => change({ words: "", terms: [{ kind: "id", value: item.id, weight: 1 }], fold: 0, open: "" }) }, `${item.duplicates.length} near-duplicates: show them`)],
  ];
  return el("dl", {}, rows.filter(([, value]) => value).map(([name, value]) => [el("dt", {}, name), el("dd", { dir: "auto" }, value)]));
}

/** The captions that are not in the heading, each on its line. */
function others(it) {
  const every = [it.title, it.caption].flat().filter(Boolean).map(String);
  const rest = every.filter((text) => text !== titleOf(it));
  return rest.length ? rest.map((text) => el("div", {}, text)) : null;
}

function folder(item) {
  const uri = item.payload.folders?.at(-1);
  if (!uri) return null;
  return el("button", { class: "link", title: "Only pictures of this folder", onclick: () => change({ folder: uri, open: "" }) }, breakable(pathOf(uri)));
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Path copied");
  } catch {
    toast(text);
  }
}
