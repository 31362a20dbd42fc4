// The keyboard: everything that the mouse can do.

import { $, el, icon } from "./dom.js";
import { addPicture, clear } from "./searchbox.js";

const KEYS = [
  ["/", "Go to the search box"],
  ["Enter", "In the box: search; “- fruit” takes fruit away, “+ 2:snow” adds snow twice"],
  ["↓", "From the box into the results"],
  ["← → ↑ ↓", "From picture to picture"],
  ["Enter", "Open the picture large"],
  ["+ −", "More or less of the picture"],
  ["f", "Filters"],
  ["c", "Compare indexes"],
  ["s", "Status"],
  ["Esc", "Close, leave the box, or clear the query"],
  ["?", "This list"],
];

export function startKeys({ grid, togglePanel, openStatus, compare }) {
  $("help").addEventListener("click", (event) => event.target === $("help") && $("help").close());
  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]")) return;
    const field = event.target.closest?.("input, select, textarea");
    if (field) return inField(event, field, grid);
    const act = actions(event.key, { grid, togglePanel, openStatus, compare, event });
    if (act && act() !== false) event.preventDefault();
    return undefined;
  });
}

function actions(key, { grid, togglePanel, openStatus, compare, event }) {
  if (key.startsWith("Arrow")) return () => step(grid(), event);
  const picture = grid()?.current;
  const isOnPicture = picture && document.activeElement?.classList.contains("tile");
  return {
    "/": () => $("words").focus(),
    "+": () => isOnPicture && addPicture(picture.id, 1),
    "-": () => isOnPicture && addPicture(picture.id, -1),
    f: togglePanel,
    c: compare,
    s: openStatus,
    "?": help,
    Escape: clear,
  }[key];
}

function step(grid, event) {
  const isInGrid = document.activeElement?.classList.contains("tile");
  if (!isInGrid && document.activeElement !== document.body && document.activeElement !== $("results")) return false;
  grid?.step(event.key);
  return true;
}

function inField(event, field, grid) {
  if (event.key === "Escape") {
    if (field === $("words") && field.value) return; // the box empties itself first
    field.blur();
  } else if (event.key === "ArrowDown" && field === $("words") && grid()?.items.length) {
    event.preventDefault();
    grid().select(Math.max(0, grid().selected));
  }
}

function help() {
  const close = el("form", { method: "dialog" }, el("button", { class: "round", "aria-label": "Close" }, icon("x")));
  const rows = KEYS.map(([key, text]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, text)]);
  $("help").replaceChildren(el("div", { class: "head" }, el("h2", { id: "help-title" }, "Keys"), close), el("dl", {}, rows));
  $("help").showModal();
}
