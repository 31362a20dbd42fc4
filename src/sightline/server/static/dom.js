// Small pieces of the page made from values.

import { handle, render } from "./render.js";

export const $ = (id) => document.getElementById(id);

/** An element with attributes; `on*` are listeners, children are nodes or text. Text never becomes markup. */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) continue;
    if (key.startsWith("on")) handle(element, { [key.slice(2)]: value });
    else if (key === "key" || (key in element && typeof value !== "string")) element[key] = value;
    else if (value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

export const number = (value) => Number(value).toLocaleString("en");

export function bytes(size) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let at = 0;
  for (; size >= 1000 && at < units.length - 1; at += 1) size /= 1000;
  return `${size >= 10 || at === 0 ? Math.round(size) : size.toFixed(1)} ${units[at]}`;
}

export function plural(count, noun) {
  return `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** Where a picture is, as a person writes it: a path for a file. */
export function pathOf(uri) {
  if (!uri.startsWith("file:///")) return uri;
  try {
    return decodeURIComponent(uri.slice(7));
  } catch {
    return uri.slice(7);
  }
}

/** A path that may be broken after its slashes, not in the middle of a name. */
export function breakable(path) {
  return path.split("/").flatMap((part, at) => (at ? ["/", el("wbr"), part] : [part]));
}

/** The first of several captions, as text. */
export const first = (text) => String((Array.isArray(text) ? text[0] : text) ?? "");

let hiding = 0;

/** A short message above everything. One that matters stays until it is dismissed; `action` is a label and what it does. */
export function toast(text, { stays = false, action = null } = {}) {
  const place = $("toast");
  const act = action && el("button", { class: "link", onclick: () => (hideToast(), action[1]()) }, action[0]);
  render(place, el("span", {}, text), act, stays && el("button", { class: "away", "aria-label": "Dismiss", onclick: hideToast }, icon("x")));
  raise(place);
  clearTimeout(hiding);
  if (!stays) hiding = setTimeout(hideToast, action ? 8000 : 2600);
}

export function hideToast() {
  if ($("toast").matches(":popover-open")) $("toast").hidePopover();
}

/** Above the dialog that is open, and within it: what lies outside of one cannot be clicked. */
export function raise(place) {
  if (place.matches(":popover-open")) place.hidePopover();
  place.key = "guest";
  const dialog = [...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body;
  if (place.parentElement !== dialog) dialog.append(place);
  place.showPopover();
}

document.addEventListener("close", () => $("toast").matches(":popover-open") && raise($("toast")), true); // its dialog is gone
document.addEventListener("keydown", (event) => event.key === "Escape" && hideToast(), true);
