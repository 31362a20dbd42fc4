// Pictures laid out in rows of equal height that keep their proportions; only the rows in sight are in the document.
// A heading may part them: for the ear and for Tab there are two lists then, with the heading between them.

import { el, first, icon } from "./dom.js";

const GAP = 4;
const AHEAD = 900; // pixels above and below the window that are ready

export class Grid {
  /** `onOpen(item)`, `onMore()` when the end comes near, `onMark(item, grade)` if pictures can be judged. */
  constructor(place, { onOpen, onMore = () => {}, onMark = null, marks = () => undefined }) {
    this.place = place;
    this.onOpen = onOpen;
    this.onMore = onMore;
    this.onMark = onMark;
    this.marks = marks;
    this.heading = el("h2", { class: "parting", hidden: true });
    this.lists = [el("div", { role: "list", "aria-label": "Pictures" }), el("div", { role: "list", "aria-label": "Pictures below the line", hidden: true })];
    this.list = el("div", { class: "grid" }, this.lists[0], this.heading, this.lists[1]);
    place.append(this.list);
    this.items = [];
    this.line = -1; // the position that the heading stands before
    this.rows = [];
    this.shown = new Map(); // position -> element
    this.selected = -1;
    this.redraw = () => this.draw();
    addEventListener("scroll", this.redraw, { passive: true });
    this.sizes = new ResizeObserver(() => this.width !== this.list.clientWidth && this.layOut());
    this.sizes.observe(this.list);
  }

  destroy() {
    removeEventListener("scroll", this.redraw);
    this.sizes.disconnect();
    this.list.remove();
  }

  /** Show other pictures, with a heading before the one at `line` if there is one. */
  set(items, total = items.length, { line = -1, heading = "" } = {}) {
    this.items = items;
    this.total = total;
    this.part(line, heading);
    this.layOut();
  }

  /** More pictures at the end; a heading that was not there yet stands among them. */
  add(items, { line = -1, heading = "" } = {}) {
    this.items = this.items.concat(items);
    if (line !== this.line) this.part(line, heading);
    const last = this.rows.pop(); // it may not have been full
    this.fill(last ? last.first : 0, last ? last.from : 0);
    this.draw();
  }

  part(line, heading) {
    this.line = line;
    this.heading.textContent = heading;
    this.heading.hidden = this.lists[1].hidden = line < 0;
    this.lists[0].hidden = line === 0;
  }

  layOut() {
    this.width = this.list.clientWidth;
    this.rows = [];
    this.fill(0, 0);
    const hadFocus = this.list.contains(document.activeElement);
    for (const element of this.shown.values()) element.remove();
    this.shown.clear();
    this.draw();
    if (hadFocus) this.select(Math.min(this.selected, this.items.length - 1));
  }

  fill(first, top) {
    const wanted = this.width < 520 ? 128 : this.width < 1000 ? 190 : 232;
    let row = [];
    let ratios = 0;
    const finish = (height) => {
      const from = top;
      if (first - row.length === this.line) top += this.placeHeading(top);
      this.rows.push({ first: first - row.length, count: row.length, from, top, height, ratios: row });
      top += height + GAP;
      row = [];
      ratios = 0;
    };
    const finishShort = () => finish(Math.min(wanted, (this.width - GAP * (row.length - 1)) / ratios));
    for (; first < this.items.length; first += 1) {
      if (first === this.line && row.length) finishShort();
      const ratio = ratioOf(this.items[first]);
      row.push(ratio);
      ratios += ratio;
      const height = (this.width - GAP * (row.length - 1)) / ratios;
      if (height <= wanted) {
        first += 1;
        finish(Math.max(height, 60));
        first -= 1;
      }
    }
    if (row.length) finishShort();
    this.list.style.height = `${Math.max(0, top - GAP)}px`;
  }

  /** Put the heading at that height; gives how much it takes. */
  placeHeading(top) {
    this.heading.style.top = `${top}px`;
    return this.heading.getBoundingClientRect().height;
  }

  draw() {
    if (!this.rows.length) {
      for (const element of this.shown.values()) element.remove();
      this.shown.clear();
      return;
    }
    const above = this.list.getBoundingClientRect().top;
    const from = this.rowAt(-above - AHEAD);
    const to = this.rowAt(-above + innerHeight + AHEAD);
    const wanted = new Set();
    for (let at = from; at <= to; at += 1) this.drawRow(this.rows[at], wanted);
    for (const [position, element] of this.shown) {
      if (wanted.has(position) || element.contains(document.activeElement)) continue;
      element.remove();
      this.shown.delete(position);
    }
    if (to >= this.rows.length - 2) this.onMore();
  }

  drawRow(row, wanted) {
    let left = 0;
    row.ratios.forEach((ratio, at) => {
      const position = row.first + at;
      const width = ratio * row.height;
      wanted.add(position);
      let element = this.shown.get(position);
      if (!element) {
        element = this.tile(this.items[position], position, row.height);
        this.shown.set(position, element);
        this.insert(element, position);
      }
      element.style.cssText = `left:${left}px;top:${row.top}px;width:${width}px;height:${row.height}px`;
      left += width + GAP;
    });
  }

  /** In the order of the pictures, for who reads the page by ear or by Tab. */
  insert(element, position) {
    const list = this.lists[this.line >= 0 && position >= this.line ? 1 : 0];
    let next = null;
    for (const other of list.children) {
      if (Number(other.dataset.position) > position) {
        next = other;
        break;
      }
    }
    list.insertBefore(element, next);
  }

  tile(item, position, height) {
    const name = first(item.payload.caption) || first(item.payload.title) || item.payload.name || "picture";
    const score = item.score === undefined ? "" : item.score.toFixed(3);
    const image = el("img", { alt: "", decoding: "async", draggable: false });
    image.addEventListener("load", () => image.classList.add("here"));
    image.addEventListener("error", () => image.replaceWith(el("span", { class: "gone" }, "not available")));
    image.src = sharp(item, height);
    if (image.complete) image.classList.add("here");
    const facts = [name.slice(0, 120), score && `score ${score}`, item.gone && "file not available"].filter(Boolean).join(", ");
    const button = el(
      "button",
      { class: "tile", title: name, "aria-label": facts, tabIndex: position === Math.max(0, this.selected) ? 0 : -1 },
      image,
      el("span", { class: "over" }, el("b", {}, score), el("span", { dir: "auto" }, name)),
      item.gone ? el("span", { class: "badge" }, "file gone") : null,
      item.duplicates?.length ? el("span", { class: "badge right" }, `+${item.duplicates.length}`) : null,
    );
    button.addEventListener("click", () => this.onOpen(item));
    button.addEventListener("focus", () => this.select(position, { focus: false }));
    const of = { "aria-setsize": String(this.total ?? -1), "aria-posinset": String(position + 1) };
    const element = el("div", { class: "cell", role: "listitem", "data-position": String(position), ...of }, button);
    if (this.onMark) element.append(this.judge(item));
    return element;
  }

  judge(item) {
    const make = (grade, name, label) =>
      el(
        "button",
        {
          class: `mark-${name}`,
          "aria-label": `${label}: ${item.payload.name ?? item.id}`,
          "aria-pressed": String(this.marks(item) === grade),
          onclick: ({ currentTarget }) => {
            this.onMark(item, grade);
            for (const each of currentTarget.parentElement.children) {
              each.setAttribute("aria-pressed", String(each === currentTarget && this.marks(item) === grade));
            }
          },
        },
        icon(name),
      );
    return el("span", { class: "judge" }, make(1, "good", "Good"), make(0, "bad", "Bad"));
  }

  /** The item the keyboard is at. */
  get current() {
    return this.items[this.selected];
  }

  select(position, { focus = true } = {}) {
    if (position < 0 || position >= this.items.length) return;
    this.shown.get(this.selected)?.firstChild.setAttribute("tabindex", "-1");
    this.selected = position;
    const row = this.rows.find((each) => position < each.first + each.count);
    if (focus && row) this.reveal(row);
    const button = this.shown.get(position)?.firstChild;
    button?.setAttribute("tabindex", "0");
    if (focus) button?.focus({ preventScroll: true });
  }

  /** The keyboard's steps: one to the left or right, or to the row above or below at the same place. */
  step(key) {
    if (this.selected < 0) return this.select(0);
    if (key === "ArrowLeft" || key === "ArrowRight") return this.select(this.selected + (key === "ArrowLeft" ? -1 : 1));
    const at = this.rows.findIndex((row) => this.selected < row.first + row.count);
    const other = this.rows[at + (key === "ArrowUp" ? -1 : 1)];
    if (!other) return undefined;
    const centre = middle(this.rows[at], this.selected);
    let best = other.first;
    for (let each = other.first; each < other.first + other.count; each += 1) {
      if (Math.abs(middle(other, each) - centre) < Math.abs(middle(other, best) - centre)) best = each;
    }
    return this.select(best);
  }

  reveal(row) {
    const top = this.list.getBoundingClientRect().top + row.top;
    const head = document.querySelector("header").offsetHeight + 56;
    if (top < head) scrollBy(0, top - head);
    else if (top + row.height > innerHeight) scrollBy(0, top + row.height - innerHeight + 8);
    this.draw();
  }

  rowAt(y) {
    let low = 0;
    let high = this.rows.length - 1;
    while (low < high) {
      const centre = (low + high + 1) >> 1;
      if (this.rows[centre].top <= y) low = centre;
      else high = centre - 1;
    }
    return low;
  }
}

/** A thumbnail with a pixel for each of the screen's, or nearly; its size is that of the longer side. */
function sharp(item, height) {
  const { width: w, height: h } = item.payload;
  const longer = w > 0 && h > 0 ? height * Math.max(1, w / h) : height * 1.5;
  const size = [320, 640, 1280].find((each) => each >= 0.8 * longer * devicePixelRatio) ?? 1280;
  return item.links.thumbnail.replace("size=320", `size=${size}`);
}

function ratioOf(item) {
  const { width, height } = item.payload;
  const ratio = width > 0 && height > 0 ? width / height : 1;
  return Math.min(3, Math.max(0.4, ratio)); // panoramas and strips are cropped here, and whole when opened
}

function middle(row, position) {
  const before = row.ratios.slice(0, position - row.first).reduce((sum, ratio) => sum + ratio, 0);
  return (before + row.ratios[position - row.first] / 2) * row.height;
}
