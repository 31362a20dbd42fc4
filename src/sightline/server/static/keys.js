// The keyboard: everything that the mouse can do.

import { $, el, icon } from "./dom.js";
import { render } from "./render.js";
import { addPicture, clear } from "./searchbox.js";
import { state } from "./state.js";

const KEYS = [
  ["a … z", "Go to the search box: what is typed anywhere is searched"],
  ["Enter", "In the box: search; “- fruit” takes fruit away, “+ 2:snow” adds snow twice"],
  ["↓", "From the box into the results"],
  ["← → ↑ ↓", "From picture to picture; Home and End to the first and last"],
  ["Enter", "Open the picture large"],
  ["+ −", "More or less of the picture"],
  ["z", "On a large picture: closer, and back; double click and the wheel too"],
  ["f", "On a large picture: full screen"],
  ["Esc", "One step back: the zoom, the picture, the results, the words, the query"],
  ["?", "This list"],
];

export function startKeys({ grid }) {
  $("help").addEventListener("click", (event) => event.target === $("help") && $("help").close());
  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]")) return;
    const field = event.target.closest?.("input, select, textarea");
    if (field) return inField(event, field, grid);
    const act = actions(event.key, grid(), event);
    if (act) {
      if (act() !== false) event.preventDefault();
    } else if (event.key.length === 1 && event.key !== " ") $("words").focus(); // the letter goes there, too
    return undefined;
  });
}

function actions(key, grid, event) {
  if (key.startsWith("Arrow")) return () => step(grid, event);
  const isOnPicture = grid?.current && document.activeElement?.classList.contains("tile");
  const onPicture = (act) => (isOnPicture ? act : undefined);
  return {
    "/": () => $("words").focus(),
    "+": onPicture(() => addPicture(grid.current.id, 1)),
    "-": onPicture(() => addPicture(grid.current.id, -1)),
    Home: onPicture(() => grid.select(0)),
    End: onPicture(() => grid.select(grid.items.length - 1)),
    "?": help,
    Escape: () => (isOnPicture ? $("words").focus() : clear()),
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
    event.preventDefault(); // the box would empty itself, and nothing would bring the words back
    if (field !== $("words")) field.blur();
    else if (field.value) clear({ terms: state.terms });
    else if (state.terms.length) clear();
    else field.blur();
  } else if (event.key === "ArrowDown" && field === $("words") && grid()?.items.length) {
    event.preventDefault();
    grid().select(Math.max(0, grid().selected));
  }
}

function help() {
  const close = el("form", { method: "dialog" }, el("button", { class: "round", "aria-label": "Close" }, icon("x")));
  const rows = KEYS.map(([key, text]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, text)]);
  render($("help"), el("div", { class: "head" }, el("h2", { id: "help-title" }, "Keys"), close), el("dl", {}, rows));
  $("help").showModal();
}
