// What is shown, as one value that lives in the address of the page: back, reload and sharing work.

const LISTENERS = new Set();
const EMPTY = {
  words: "", // typed into the box
  terms: [], // chips: { kind: "text" | "id", value, weight }
  from: "",
  to: "",
  folder: "",
  pixels: 0, // least longer side
  facets: {}, // field -> values, any of which will do
  least: null, // score
  fold: 0, // the score from which near-duplicates become one; 0 shows all
  by: "both", // what words are looked for in: "meaning", "text", or both
  compare: false,
  open: "", // id of the picture shown large
  view: "", // "status"
  panel: false, // the filters are shown
};

export let state = read();

export const hasQuery = (it = state) => Boolean(it.words.trim() || it.terms.length);
export const hasFilters = (it = state) =>
  Boolean(it.from || it.to || it.folder || it.pixels || Object.keys(it.facets).length);

/** Change some of it. `replace` keeps the number of steps back: for typing and sliding. */
export function change(some, { replace = false } = {}) {
  const before = state;
  state = { ...state, ...some };
  const address = write(state);
  if (address === write(before)) return;
  if (!replace) keepPlace();
  history[replace ? "replaceState" : "pushState"](replace ? history.state : null, "", address);
  tell(before);
}

export function onChange(listener) {
  LISTENERS.add(listener);
}

/** The query as the API takes it; the words are read there as everywhere: `beach -people` takes people away. */
export function apiQuery(it = state) {
  const words = it.words.trim();
  return { ...(words && { text: words }), terms: it.terms.map(({ kind, value, weight }) => ({ [kind === "id" ? "image_id" : "text"]: value, weight })) };
}

/** The filter as the API takes it. `dates` names the field that tells when a picture was made. */
export function apiWhere(dates, it = state) {
  const parts = [];
  if (it.from) parts.push({ [dates]: { $gte: `${it.from}T00:00:00Z` } });
  if (it.to) parts.push({ [dates]: { $lte: `${it.to}T23:59:59Z` } });
  if (it.folder) parts.push({ folders: it.folder });
  if (it.pixels) parts.push({ $or: [{ width: { $gte: it.pixels } }, { height: { $gte: it.pixels } }] });
  for (const [field, values] of Object.entries(it.facets)) parts.push({ [field]: { $in: values } });
  return parts.length ? { $and: parts } : null;
}

/** The query in words, for judgements and the title. */
export function describe(it = state) {
  const parts = it.terms.map((term) => {
    const weight = Math.abs(term.weight) === 1 ? "" : `${Math.abs(term.weight)}:`;
    return `${term.weight < 0 ? "- " : "+ "}${weight}${term.kind === "id" ? "a picture" : term.value}`;
  });
  return [it.words.trim(), ...parts].filter(Boolean).join(" ").replace(/^\+ /, "");
}

function write(it) {
  const found = new URLSearchParams();
  if (it.words.trim()) found.set("q", it.words.trim());
  for (const term of it.terms) found.append("t", `${term.weight}:${term.kind}:${term.value}`);
  for (const name of ["from", "to", "folder", "open"]) if (it[name]) found.set(name, it[name]);
  if (it.pixels) found.set("pixels", it.pixels);
  for (const [field, values] of Object.entries(it.facets)) {
    for (const value of values) found.append(`f.${field}`, JSON.stringify(value));
  }
  if (it.least !== null) found.set("least", it.least);
  if (it.fold) found.set("fold", it.fold);
  if (it.by !== EMPTY.by) found.set("by", it.by);
  if (it.compare) found.set("compare", 1);
  if (it.view) found.set("view", it.view);
  if (it.panel) found.set("panel", 1);
  const text = found.toString();
  return text ? `${location.pathname}?${text}` : location.pathname;
}

function read() {
  const given = new URLSearchParams(location.search);
  const facets = {};
  for (const [name, value] of given) {
    if (!name.startsWith("f.")) continue;
    try {
      (facets[name.slice(2)] ??= []).push(JSON.parse(value));
    } catch {
      continue; // somebody edited the address
    }
  }
  const least = Number.parseFloat(given.get("least"));
  const fold = Number.parseFloat(given.get("fold"));
  return {
    ...EMPTY,
    words: given.get("q") ?? "",
    terms: given.getAll("t").map(readTerm).filter(Boolean),
    from: given.get("from") ?? "",
    to: given.get("to") ?? "",
    folder: given.get("folder") ?? "",
    pixels: Number.parseInt(given.get("pixels"), 10) || 0,
    facets,
    least: Number.isFinite(least) ? least : null,
    by: ["meaning", "text"].includes(given.get("by")) ? given.get("by") : EMPTY.by,
    fold: fold >= 0.5 && fold <= 1 ? fold : 0,
    compare: given.has("compare"),
    view: given.get("view") === "status" ? "status" : "",
    panel: given.has("panel"),
    open: given.get("open") ?? "",
  };
}

function readTerm(text) {
  const [, weight, kind, value] = text.match(/^(-?[\d.]+):(text|id):(.+)$/s) ?? [];
  return value ? { kind, value, weight: Number(weight) || 1 } : null;
}

function tell(before, top = 0) {
  for (const listener of LISTENERS) listener(state, before, top);
}

// Results come page by page, so the browser cannot find the place again that the reader left: it is kept here.
history.scrollRestoration = "manual";
const keepPlace = () => history.replaceState({ top: scrollY }, "");
addEventListener("pagehide", keepPlace);
addEventListener("popstate", (event) => {
  const before = state;
  state = read();
  tell(before, event.state?.top ?? 0);
});
