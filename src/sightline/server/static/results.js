// The query's answer from one index, fetched page by page as the reader scrolls.

import { ask, cancel, post, Problem, wasCancelled } from "./api.js";
import { el, icon } from "./dom.js";
import { Grid } from "./grid.js";
import { gradeOf, mark } from "./marks.js";
import { apiTerms, apiWhere, hasFilters, hasQuery, state } from "./state.js";

const FIRST = 60; // fills a large screen
const NEXT = 200;

export class Results {
  /** `index` is a name, or null for the first one; `events` has onOpen, onProblem and onLoaded. */
  constructor(place, index, events, { canMark = false } = {}) {
    this.index = index;
    this.events = events;
    this.purpose = `search ${index ?? ""}`;
    this.place = place;
    this.message = el("div", { class: "message", hidden: true });
    place.append(this.message);
    const onMark = canMark ? (item, grade) => (mark(item, grade), events.onMarked?.()) : null;
    this.grid = new Grid(place, { onOpen: (item) => events.onOpen(item, this), onMore: () => this.more(), onMark, marks: gradeOf });
    this.items = [];
    this.next = null;
  }

  destroy() {
    cancel(this.purpose);
    this.grid.destroy();
    this.place.replaceChildren();
  }

  async load() {
    if (apiTerms().some((term) => term.text !== undefined) && !this.events.knowsWords(this.index)) return this.refuseWords();
    this.place.classList.add("busy");
    try {
      const answer = await this.fetch(0, FIRST);
      this.took = answer.took_ms?.total;
      this.total = answer.total_estimate;
      this.items = answer.hits;
      this.next = answer.next_offset;
      this.note(null);
      this.cut();
      this.events.onLoaded(this, answer);
    } catch (error) {
      if (wasCancelled(error)) return;
      if (error instanceof Problem) {
        this.items = [];
        this.next = null;
        this.grid.set([]);
      } // else the server is gone: what was found stays in sight
      this.events.onProblem(error, this);
    } finally {
      this.place.classList.remove("busy");
    }
    return undefined;
  }

  refuseWords() {
    cancel(this.purpose);
    this.items = [];
    this.next = null;
    this.grid.set([]);
    this.note([el("h2", {}, "This model knows no words"), el("p", {}, "Paste, drop or choose a picture to search by it.")]);
    this.events.onLoaded(this, { total_estimate: 1 });
  }

  async more() {
    if (this.next === null || this.isFetching || this.isCut) return;
    this.isFetching = true;
    try {
      const answer = await this.fetch(this.next, NEXT);
      const known = new Set(this.items.map((item) => item.id));
      const fresh = answer.hits.filter((item) => !known.has(item.id)); // the index may have grown meanwhile
      this.items = this.items.concat(fresh);
      this.next = answer.next_offset;
      this.total = Math.max(this.total, this.items.length);
      const kept = fresh.filter(passes);
      this.isCut = kept.length < fresh.length;
      this.grid.total = this.total;
      this.grid.add(kept);
    } catch (error) {
      if (!wasCancelled(error)) setTimeout(() => this.grid.draw(), 3000);
    } finally {
      this.isFetching = false;
    }
  }

  /** Show what reaches the threshold: hits come best first, so one that does not ends them. */
  cut() {
    const kept = this.items.filter(passes);
    this.isCut = kept.length < this.items.length;
    this.grid.set(kept, this.isCut ? kept.length : this.total);
    if (!kept.length) this.note(nothing(this.items.length > 0));
  }

  note(content) {
    this.message.hidden = content === null;
    if (content !== null) this.message.replaceChildren(...[content].flat());
  }

  fetch(offset, k) {
    const where = apiWhere(this.events.dates());
    const purpose = offset ? `${this.purpose} more` : this.purpose;
    if (!offset) cancel(`${this.purpose} more`);
    if (hasQuery()) {
      const body = { terms: apiTerms(), where, k, offset, group_duplicates: state.fold > 0, ...(state.fold && { duplicate_score: state.fold }) };
      return post("/api/search", { ...body, ...(this.index && { index: this.index }) }, purpose);
    }
    const given = { k, offset, ...(where && { where: JSON.stringify(where) }), ...(this.index && { index: this.index }) };
    return ask(`/api/images?${new URLSearchParams(given)}`, { purpose });
  }
}

const passes = (item) => state.least === null || item.score === undefined || item.score >= state.least;

function nothing(isCut) {
  const advice = isCut
    ? "No picture scores that high. Lower the threshold to see the nearest ones."
    : hasFilters()
      ? "No picture passes these filters. Take one away, or widen the dates."
      : "Nothing here.";
  return [el("h2", {}, "No results"), el("p", {}, advice), el("button", { class: "plain", "data-do": isCut ? "all" : "unfilter" }, isCut ? "Show all results" : "Clear the filters")];
}

/** What a refused request says, in the server's words. */
export function trouble(reason) {
  const clear = hasFilters() ? el("button", { class: "plain", "data-do": "unfilter" }, "Clear the filters") : null;
  return [el("h2", {}, "That did not work"), el("p", {}, sentence(reason)), clear].filter(Boolean);
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** What an index without pictures says. */
export function emptyIndex(status, mayUpload) {
  const command = "sightline index ~/Pictures";
  return [
    icon("image"),
    el("h2", {}, "No pictures yet"),
    el("p", {}, "Index a folder, and this page fills while it runs:"),
    el("code", {}, command),
    mayUpload ? el("button", { class: "primary", "data-do": "upload" }, "Or add some pictures now") : null,
    status?.problem ? el("p", { class: "fine" }, sentence(status.problem)) : null,
  ].filter(Boolean);
}

