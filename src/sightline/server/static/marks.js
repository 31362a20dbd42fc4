// Good and bad per query and picture, kept in this browser, exported as judgements for `sightline evaluate`.

import { pathOf, toast } from "./dom.js";
import { describe, state } from "./state.js";

const KEY = "sightline.marks";
let marks = load(); // query -> uri -> 1 or 0

export const gradeOf = (item) => marks[describe()]?.[item.uri];

export function mark(item, grade) {
  const query = describe();
  if (!query) return toast("Search for something first: a mark belongs to a query");
  if (state.terms.length) return toast("Marks belong to words alone, which sightline evaluate can ask again");
  const found = (marks[query] ??= {});
  if (found[item.uri] === grade) delete found[item.uri];
  else found[item.uri] = grade;
  if (!Object.keys(found).length) delete marks[query];
  save();
  return undefined;
}

export const count = () => Object.values(marks).reduce((sum, found) => sum + Object.keys(found).length, 0);

/** A table with the columns query, image and grade. */
export function download() {
  const clean = (text) => text.replace(/[\t\r\n]+/g, " ");
  const rows = Object.entries(marks).flatMap(([query, found]) =>
    Object.entries(found).map(([uri, grade]) => [clean(query), clean(pathOf(uri)), grade].join("\t")),
  );
  const blob = new Blob([["query\timage\tgrade", ...rows, ""].join("\n")], { type: "text/tab-separated-values" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = "judgements.tsv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

export function forget() {
  marks = {};
  save();
}

function load() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}

function save() {
  try {
    localStorage.setItem(KEY, JSON.stringify(marks));
  } catch {
    toast("This browser keeps no marks: export them before you leave");
  }
}
