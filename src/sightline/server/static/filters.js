// Filters made of the fields that the pictures have.

import { ask } from "./api.js";
import { $, el, icon, number, pathOf } from "./dom.js";
import { render } from "./render.js";
import { change, hasFilters, state } from "./state.js";

const SIZES = [[0, "Any size"], [1000, "1,000 pixels or more"], [2000, "2,000 pixels or more"], [4000, "4,000 pixels or more"]];
const APART = new Set(["folders", "width", "height", "size_bytes", "taken", "modified", "latitude", "longitude"]);
const NAMES = { format: "Format", camera: "Camera" };
let facets = [];

/** The field that tells when a picture was made: of most pictures their camera, else their file. */
export function dates() {
  const taken = facets.find((facet) => facet.field === "taken");
  const all = Math.max(0, ...facets.map((facet) => facet.count));
  return taken && taken.count > all / 2 ? "taken" : "modified";
}

export async function load() {
  try {
    const answer = await ask("/api/facets", { purpose: "facets" });
    facets = answer.facets;
    if (!answer.is_complete) setTimeout(load, 1500);
    show();
  } catch {
    facets = [];
  }
}

export function clear() {
  change({ from: "", to: "", folder: "", pixels: 0, facets: {} });
}

/** Bring the panel in line with the state, and where it is closed the filters in use, each with a way to drop it. */
export function show() {
  $("filters").hidden = !state.panel;
  $("show-filters").setAttribute("aria-expanded", String(state.panel));
  $("show-filters").querySelector(".dot").hidden = !hasFilters();
  render($("active"), state.panel ? [] : inUse());
  if (state.panel) render($("filters"), time(), folders(), size(), rest(), away());
}

function inUse() {
  const drop = (text, some) => el("button", { class: "pill", "aria-label": `Drop the filter ${text}`, onclick: () => change(some) }, text, icon("x"));
  const dates = [state.from && `from ${state.from}`, state.to && `to ${state.to}`].filter(Boolean).join(" ");
  return [
    dates && drop(dates, { from: "", to: "" }),
    state.folder && drop(pathOf(state.folder).split("/").at(-1), { folder: "" }),
    state.pixels && drop(`${number(state.pixels)} pixels or more`, { pixels: 0 }),
    ...Object.entries(state.facets).map(([field, values]) => drop(values.join(" or "), { facets: without(field) })),
  ].filter(Boolean);
}

const without = (field) => Object.fromEntries(Object.entries(state.facets).filter(([name]) => name !== field));

function time() {
  const field = facets.find((facet) => facet.field === dates());
  const day = (text) => (text ? String(text).slice(0, 10) : "");
  const make = (name, label) =>
    el("input", { type: "date", value: state[name], min: day(field?.least), max: day(field?.most), "aria-label": label, onchange: (event) => change({ [name]: event.target.value }) });
  return group(dates() === "taken" ? "Taken" : "File date", make("from", "From"), el("span", { class: "fine" }, "to"), make("to", "To"));
}

function folders() {
  const facet = facets.find((each) => each.field === "folders");
  if (!facet) return null;
  // Folders that hold every picture tell nothing apart.
  const useful = facet.values.filter((each) => each.count < facet.count).sort((a, b) => (a.value < b.value ? -1 : 1));
  if (!useful.length) return null;
  const shortest = Math.min(...useful.map((each) => pathOf(each.value).split("/").length));
  const label = ({ value, count }) => {
    const parts = pathOf(value).split("/");
    return `${"\u2003".repeat(parts.length - shortest)}${parts.at(-1)} (${number(count)})`;
  };
  const options = useful.map((each) => el("option", { value: each.value, selected: each.value === state.folder }, label(each)));
  return group("Folder", el("select", { "aria-label": "Folder", onchange: (event) => change({ folder: event.target.value }) }, el("option", { value: "" }, "All folders"), options));
}

function size() {
  const options = SIZES.map(([pixels, text]) => el("option", { value: String(pixels), selected: pixels === state.pixels }, text));
  return group("Longer side", el("select", { "aria-label": "Longer side", onchange: (event) => change({ pixels: Number(event.target.value) }) }, options));
}

function rest() {
  return facets
    .filter((facet) => !APART.has(facet.field) && !isProse(facet) && facet.values.length > 1 && facet.values.length <= 40)
    .map((facet) => {
      const chosen = state.facets[facet.field] ?? [];
      const buttons = facet.values.slice(0, 12).map(({ value, count }) =>
        el("button", { key: String(value), class: "pill", dir: "auto", title: String(value), "aria-pressed": String(chosen.includes(value)), onclick: () => choose(facet.field, value) }, `${value} `, el("small", {}, number(count))),
      );
      return group(NAMES[facet.field] ?? facet.field.replaceAll("_", " "), buttons);
    });
}

/** Captions and descriptions are no values to choose from. */
const isProse = (facet) => facet.values.reduce((sum, { value }) => sum + String(value).length, 0) > 28 * facet.values.length;

function choose(field, value) {
  const chosen = state.facets[field] ?? [];
  const values = chosen.includes(value) ? chosen.filter((each) => each !== value) : [...chosen, value];
  const others = without(field);
  change({ facets: values.length ? { ...others, [field]: values } : others });
}

function away() {
  return hasFilters() ? el("button", { class: "plain", onclick: clear }, "Clear") : null;
}

function group(name, ...content) {
  return el("div", { key: name, class: "group", role: "group", "aria-label": name }, el("span", { class: "label" }, name), content);
}
