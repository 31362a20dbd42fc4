// The box: words as they are typed, and the other parts of the query as chips with weights.

import { addressOf, ask } from "./api.js";
import { $, el, icon, raise, toast } from "./dom.js";
import { render } from "./render.js";
import { change, state } from "./state.js";

const TYPING_MS = 130;
let typing = 0;

let onFiles = () => false;

/** `takeFiles` may take dropped files, for an index that is empty, say. */
export function start(takeFiles) {
  onFiles = takeFiles;
  const words = $("words");
  words.value = state.words;
  words.addEventListener("input", () => {
    clearTimeout(typing);
    showClear();
    typing = setTimeout(() => commit({ replace: Boolean(state.words) }), TYPING_MS);
  });
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(typing);
    if (!chipFromWords()) commit();
  });
  words.addEventListener("keydown", (event) => {
    if (event.key === "Backspace" && !words.value && state.terms.length) remove(state.terms.length - 1);
  });
  $("clear").addEventListener("click", () => clear());
  $("pick").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    if ($("file").files[0]) searchByFile($("file").files[0]);
    $("file").value = "";
  });
  addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    searchByFile(file);
  });
  startDropping();
  show();
}

/** Take the words away, or all parts; it can be undone. */
export function clear({ terms = [] } = {}) {
  const { words, terms: known, least } = state;
  clearTimeout(typing);
  $("words").value = "";
  change({ words: "", terms, least: null });
  $("words").focus();
  if (words || known.length > terms.length) toast("Query cleared", { action: ["Undo", () => change({ words, terms: known, least })] });
}

/** Add a picture of the index to the query, with + or -; once more takes it further. */
export function addPicture(id, weight) {
  const at = state.terms.findIndex((term) => term.kind === "id" && term.value === id);
  if (at < 0) return change({ terms: [...state.terms, { kind: "id", value: id, weight }], open: "" });
  const sum = state.terms[at].weight + weight;
  return sum ? replace(at, { weight: sum }, { open: "" }) : remove(at);
}

/** Search by a picture of the index alone. */
export function likeThis(id) {
  change({ words: "", terms: [{ kind: "id", value: id, weight: 1 }], least: null, open: "" });
}

export async function searchByFile(file) {
  const form = new FormData();
  form.append("image", file);
  try {
    const kept = await ask("/api/query-pictures", { method: "POST", body: form, purpose: "query picture" });
    change({ terms: [...state.terms, { kind: "id", value: kept.id, weight: 1 }], open: "" });
  } catch (error) {
    toast(error.message, { stays: true });
  }
}

/** Bring the box in line with the state. */
export function show() {
  const words = $("words");
  if (document.activeElement !== words || words.value.trim() !== state.words.trim()) words.value = state.words;
  render($("chips"), state.terms.map(chip));
  words.placeholder = words.dataset.only ? "Paste or drop a picture" : state.terms.length ? "and words" : "Search your pictures";
  showClear();
}

function showClear() {
  $("clear").hidden = !$("words").value && !state.terms.length;
}

function commit({ replace: isStep = false } = {}) {
  if (/^[+-]\s*\S*$/.test($("words").value.trim())) return; // a part is being typed: Enter makes it a chip
  change({ words: $("words").value, least: null }, { replace: isStep });
}

/** `- fruit` and `+ 2:snow` become chips. */
function chipFromWords() {
  const [, words, sign, weight, text] =
    $("words").value.match(/^(|.*?\s)([+-])\s+(?:(\d+(?:\.\d+)?):)?(\S.*)$/s) ??
    $("words").value.match(/^()([+-])(?:(\d+(?:\.\d+)?):)?(\S.*)$/s) ?? [];
  if (!text) return false;
  const term = { kind: "text", value: text.trim(), weight: (sign === "-" ? -1 : 1) * (Number(weight) || 1) };
  $("words").value = words.trim();
  change({ words: words.trim(), terms: [...state.terms, term], least: null });
  return true;
}

function remove(at) {
  change({ terms: state.terms.filter((_, position) => position !== at) });
  $("words").focus();
}

function replace(at, some, more = {}) {
  change({ terms: state.terms.map((term, position) => (position === at ? { ...term, ...some } : term)), ...more });
}

function chip(term, at) {
  const name = term.kind === "id" ? "picture" : term.value;
  const weight = el("input", {
    type: "number", step: "0.5", min: "-10", max: "10", value: String(term.weight), "aria-label": `Weight of ${name}`, title: "Weight: negative takes it away",
    onchange: (event) => replace(at, { weight: Number(event.target.value) || 1 }),
  });
  const body =
    term.kind === "id"
      ? el("img", { src: picture(term.value), alt: "A picture" })
      : el("input", {
          type: "text", value: term.value, "aria-label": "Words of this part", size: String(Math.min(24, Math.max(3, term.value.length))),
          onchange: (event) => (event.target.value.trim() ? replace(at, { value: event.target.value.trim() }) : remove(at)),
        });
  const away = el("button", { type: "button", class: "away", "aria-label": `Remove ${name} from the query`, onclick: () => remove(at) }, icon("x"));
  const key = `${term.kind} ${at} ${term.kind === "id" ? term.value : ""}`;
  return el("span", { key, class: `chip${term.weight < 0 ? " minus" : ""}` }, weight, body, away);
}

function picture(id) {
  return addressOf(id.startsWith("q-") ? `/api/query-pictures/${id}` : `/api/images/${encodeURIComponent(id)}/thumbnail?size=160`);
}

function startDropping() {
  let depth = 0;
  const hideDrop = () => $("drop").matches(":popover-open") && $("drop").hidePopover();
  const isPicture = (event) => [...(event.dataTransfer?.items ?? [])].some((item) => item.kind === "file");
  addEventListener("dragenter", (event) => {
    if (!isPicture(event)) return;
    depth += 1;
    if (depth === 1) raise($("drop"));
  });
  addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    if (!depth) hideDrop();
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    hideDrop();
    const files = [...(event.dataTransfer?.files ?? [])];
    if (!files.length) return toast("That is a link: drop a picture file, or paste the picture itself", { stays: true });
    if (onFiles(files)) return undefined;
    if (files.length > 1) toast(`Searching by ${files[0].name}, the first of ${files.length} files`, { stays: true });
    return searchByFile(files[0]);
  });
}
