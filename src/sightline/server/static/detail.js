// One picture, large, with what is known of it and what can be done with it.

import { ask, wasCancelled } from "./api.js";
import { $, breakable, bytes, el, icon, number, pathOf, toast } from "./dom.js";
import { addPicture, likeThis } from "./searchbox.js";
import { change, state } from "./state.js";

const KNOWN = new Set(["width", "height", "size_bytes", "taken", "modified", "camera", "latitude", "longitude", "folders", "name", "sha256", "caption", "title", "format"]);
let current = null;
let isAlone = false; // drawn before the results were there: without score and neighbours
let neighbours = { of: () => [], more: () => {}, select: () => {} };

/** `of` gives the hits that are shown, so that one can step through them. */
export function start(around) {
  neighbours = around;
  const place = $("detail");
  place.addEventListener("close", () => state.open && change({ open: "" }));
  place.addEventListener("click", (event) => event.target === place && place.close());
  place.addEventListener("keydown", (event) => {
    if (event.target.closest("input")) return;
    if (event.key === "ArrowRight") step(1);
    else if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "+") addPicture(state.open, 1);
    else if (event.key === "-") addPicture(state.open, -1);
    else return;
    event.preventDefault();
  });
  let x = null;
  place.addEventListener("touchstart", (event) => (x = event.touches[0].clientX), { passive: true });
  place.addEventListener("touchend", (event) => {
    const moved = event.changedTouches[0].clientX - x;
    if (Math.abs(moved) > 60) step(moved < 0 ? 1 : -1);
  });
}

export async function show() {
  const place = $("detail");
  if (!state.open) {
    const last = current;
    current = null;
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
    toast(error.message);
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
  const next = items[at + by];
  if (at > items.length - 10) neighbours.more();
  if (at >= 0 && next) change({ open: next.id }, { replace: true });
}

function draw(item) {
  current = item.id;
  const items = neighbours.of();
  const at = items.findIndex((each) => each.id === item.id);
  isAlone = at < 0;
  $("detail").replaceChildren(
    el("div", { class: "stage" }, picture(item), at > 0 ? arrow("left", "Previous picture", -1) : null, at >= 0 && at < items.length - 1 ? arrow("right", "Next picture", 1) : null),
    el("aside", {}, el("form", { method: "dialog" }, el("button", { class: "round", "aria-label": "Close", title: "Close (Esc)" }, icon("x"))), el("h2", {}, item.payload.title || item.payload.caption || item.payload.name || "Picture"), actions(item), facts(item)),
  );
}

function picture(item) {
  const { width = 0, height = 0 } = item.payload;
  const large = item.links.thumbnail.replace("size=320", `size=${devicePixelRatio > 1 || innerWidth > 1300 ? 2048 : 1280}`);
  const scale = Math.max(width, height) < 700 ? 2 : 1; // small ones are hard to see at their own size
  const image = el("img", { alt: item.payload.caption || item.payload.name || "Picture" });
  image.style.setProperty("--width", `${width * scale || 2048}px`);
  image.style.setProperty("--ratio", String(width / height || 1));
  image.style.backgroundImage = `url("${item.links.thumbnail}")`; // shown at once, the large one replaces it
  image.addEventListener("load", () => (image.style.backgroundImage = ""));
  image.addEventListener("error", () => {
    if (current !== item.id || image.src.endsWith(item.links.thumbnail)) return;
    image.src = item.links.thumbnail; // the file has vanished: its thumbnail may be kept
    image.classList.add("small");
  });
  image.src = large;
  return image;
}

function arrow(side, label, by) {
  return el("button", { class: `round ${side}`, "aria-label": label, onclick: () => step(by) }, icon(side));
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
      : el("p", { class: "fine" }, "The file has vanished from its place."),
  );
}

function facts(item) {
  const it = item.payload;
  const when = (text) => new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  const rows = [
    ["Score", item.score !== undefined && `${item.score.toFixed(3)}${item.line === undefined ? "" : `, likely from ${item.line.toFixed(3)} on`}`],
    ["Name", it.name],
    ["Caption", it.title && it.caption],
    ["Size", it.width && `${number(it.width)} × ${number(it.height)}${it.size_bytes ? `, ${bytes(it.size_bytes)}` : ""}${it.format ? `, ${it.format.toUpperCase()}` : ""}`],
    ["Taken", it.taken && when(it.taken)],
    ["Changed", !it.taken && it.modified && when(it.modified)],
    ["Camera", it.camera],
    ["Place", it.latitude !== undefined && `${it.latitude.toFixed(5)}, ${it.longitude?.toFixed(5)}`],
    ["Folder", folder(item)],
    ...Object.entries(it).filter(([name]) => !KNOWN.has(name)).map(([name, value]) => [name.replaceAll("_", " "), Array.isArray(value) ? value.join(", ") : String(value)]),
    ["Copies", item.duplicates?.length && `${item.duplicates.length} near-duplicates folded into this one`],
  ];
  return el("dl", {}, rows.filter(([, value]) => value).map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
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
