// The query's answer from one index, fetched page by page as the reader scrolls.

import { ask, cancel, post, Problem, wasCancelled } from "./api.js";
import { el, icon, number } from "./dom.js";
import { Grid } from "./grid.js";
import { gradeOf, mark } from "./marks.js";
import { apiQuery, apiWhere, hasFilters, hasQuery, state } from "./state.js";

const FIRST = 60; // fills a large screen
const NEXT = 200;
const [TAIL, FEW] = [1 / 4, 1 / 10]; // the line is reached when of the last quarter of a page not a tenth is likely

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
    this.fetching = null;
    this.forget();
  }

  destroy() {
    cancel(this.purpose);
    this.grid.destroy();
    this.place.replaceChildren();
  }

  forget() {
    this.above = []; // the likely ones
    this.below = []; // the others; they are shown when the line is reached, or nothing likely would be in its place
    this.isJudged = false;
    this.isOpen = false; // more likely ones may come
    this.isTooDeep = false; // so many are likely that the server does not judge them all
    this.next = null;
  }

  get items() {
    return this.above.concat(this.below);
  }

  async load() {
    if ((state.words.trim() || state.terms.some((term) => term.kind === "text")) && !this.events.knowsWords(this.index)) return this.refuseWords();
    this.place.classList.add("busy");
    try {
      const answer = await this.fetch(0, FIRST);
      this.took = answer.took_ms?.total;
      this.total = answer.total_estimate;
      this.forget();
      this.take(answer.hits, answer);
      this.note(answer.note ? el("p", { class: "doubt" }, answer.note) : null);
      this.cut();
      this.events.onLoaded(this, answer);
    } catch (error) {
      if (wasCancelled(error)) return;
      if (error instanceof Problem) {
        this.forget();
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
    this.forget();
    this.grid.set([]);
    this.note([el("h2", {}, "This model has no text encoder"), el("p", {}, "Paste, drop or choose a picture to search by it.")]);
    this.events.onLoaded(this, { total_estimate: 1 });
  }

  /** Fetch the next page. Who asks while one is on its way waits for that one. */
  more() {
    if (this.next === null || this.isCut) return undefined;
    return (this.fetching ??= this.fetchMore().finally(() => {
      this.fetching = null;
      if (this.isOpen) this.grid.draw(); // few may have been added: it asks for more if its end is near
    }));
  }

  async fetchMore() {
    try {
      const answer = await this.fetch(this.next, NEXT);
      const [before, shown] = [this.likelyText, this.shown];
      const known = new Set(this.items.map((item) => item.id));
      const fresh = answer.hits.filter((item) => !known.has(item.id)); // the index may have grown meanwhile
      this.take(fresh, answer);
      this.total = Math.max(this.total, this.items.length);
      this.grid.total = this.total;
      this.grid.add(this.shown.slice(shown.length), this.line);
      if (this.likelyText !== before) this.events.onCounted(this);
    } catch (error) {
      if (!wasCancelled(error)) setTimeout(() => this.grid.draw(), 3000);
    }
  }

  /**
   * Sort more hits in. Until the line is reached, likely ones go above it and others wait: nothing moves that is in
   * sight. Later ones go below it in the order of their scores, the few likely ones among them too.
   */
  take(hits, { likely = null, next_offset: next }) {
    if (!this.above.length && !this.below.length) this.isJudged = this.isOpen = likely !== null;
    const above = this.isOpen ? hits.filter((hit) => hit.is_likely) : [];
    const tail = hits.slice(-Math.ceil(hits.length * TAIL));
    this.isTooDeep ||= this.isOpen && likely === null && hits.length > 0;
    this.isOpen &&= next !== null && likely !== null && tail.filter((hit) => hit.is_likely).length >= tail.length * FEW;
    this.above = this.above.concat(above);
    this.below = this.below.concat(hits.filter((hit) => !above.includes(hit)));
    this.next = next;
  }

  /** Whether the threshold takes some away: hits come best first, so that no page to come reaches it then. */
  get isCut() {
    return !this.items.every(passes);
  }

  get shown() {
    return (this.isOpen && !this.isCut ? this.above : this.items).filter(passes);
  }

  /** Where the heading stands among the pictures that are shown, and what it says. */
  get line() {
    const line = this.above.filter(passes).length;
    if (!this.isJudged || line === this.shown.length) return {};
    if (!this.above.length) return { line, heading: "No confident match. Closest results:" };
    return { line, heading: this.isTooDeep ? "Low confidence, or not rated" : "Low confidence" };
  }

  /** How many of the pictures are likely, `60+` where more may follow; empty where that is not known. */
  get likelyText() {
    if (!this.isJudged) return "";
    const count = this.above.filter(passes).length;
    const mayFollow = this.isTooDeep || (this.isOpen && !this.isCut);
    return count ? `${number(count)}${mayFollow ? "+" : ""} likely` : "none likely";
  }

  /** Show what reaches the threshold. */
  cut() {
    const { shown, isCut } = this;
    this.grid.set(shown, isCut ? shown.length : this.total, this.line);
    if (!shown.length) this.note(nothing(this.items.length > 0));
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
      const body = { ...apiQuery(), where, k, offset, by: state.by, group_duplicates: state.fold > 0, ...(state.fold && { duplicate_score: state.fold }) };
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

