"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#0a7ac4", "#e08a00", "#0c9b74", "#c85b9c", "#7a6bd6", "#d4481c", "#4aa8d8", "#8a8f2a"];
const canvas = document.getElementById("map"), context = canvas.getContext("2d"), near = document.getElementById("near");
const count = data.places.length, perSheet = data.across * data.across;
const sheets = data.sheets.map(address => { const image = new Image(); image.onload = draw; image.src = address; return image; });
let view = { x: 0.5, y: 0.5, zoom: 1 }, field = Object.keys(data.colours)[0] || "", only = null, hovered = -1, waiting = false;

const base = () => Math.min(innerWidth, innerHeight) * 0.86;
const scale = () => base() * view.zoom;
const screen = ([x, y]) => [innerWidth / 2 + (x - view.x) * scale(), innerHeight / 2 + (y - view.y) * scale()];
const side = () => Math.min(96, 26 * Math.sqrt(view.zoom) + 6);
const group = at => field ? data.colours[field].of[at] : -1;
const shown = at => only === null || group(at) === only;
const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colour = number => number < 0 ? style("--rest") : COLOURS[number % COLOURS.length];

function tile(target, at, x, y, size) {
  const sheet = sheets[Math.floor(at / perSheet)], place = at % perSheet;
  if (!sheet.complete || !sheet.naturalWidth) return;
  target.drawImage(sheet, place % data.across * data.tile, Math.floor(place / data.across) * data.tile, data.tile, data.tile, x, y, size, size);
}

function draw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; paint(); });
}

let placed = [];  // what can be pointed at: [number, x, y, size], the topmost last
function paint() {
  const dense = devicePixelRatio || 1, width = innerWidth, height = innerHeight, size = side(), rest = style("--rest");
  if (canvas.width !== Math.round(width * dense) || canvas.height !== Math.round(height * dense)) {
    canvas.width = Math.round(width * dense); canvas.height = Math.round(height * dense);
  }
  context.setTransform(dense, 0, 0, dense, 0, 0);
  context.clearRect(0, 0, width, height);
  const cells = new Set(), dots = [], tiles = [], [left0, top0] = screen([0, 0]);  // cells move with the map
  for (let at = 0; at < count; at++) {
    const [x, y] = screen(data.places[at]);
    if (x < -size || y < -size || x > width + size || y > height + size) continue;
    if (!shown(at)) { dots.push([at, x, y, true]); continue; }
    const column = Math.floor((x - left0) / size), row = Math.floor((y - top0) / size), key = column + "," + row;  // one thumbnail in each cell, dots for the others
    if (cells.has(key)) dots.push([at, x, y, false]); else { cells.add(key); tiles.push([at, left0 + (column + 0.5) * size, top0 + (row + 0.5) * size]); }
  }
  placed = [];
  for (const [at, x, y, faded] of dots) {
    context.globalAlpha = faded ? 0.25 : 0.8; context.fillStyle = faded ? rest : colour(group(at));
    context.beginPath(); context.arc(x, y, 2.5, 0, 7); context.fill();
    if (!faded) placed.push([at, x - 3, y - 3, 6]);
  }
  context.globalAlpha = 1;
  const edge = Math.max(2, size / 16), inner = size - 2;
  for (const [at, x, y] of tiles) {
    const left = x - inner / 2, top = y - inner / 2;
    context.fillStyle = colour(group(at)); context.fillRect(left, top, inner, inner);
    const border = field ? edge : 0;
    tile(context, at, left + border, top + border, inner - 2 * border);
    placed.push([at, left, top, inner]);
  }
}

const closest = data.places.slice(0, 400).map(([x, y], at) => data.places.reduce((least, [a, b], other) => other === at ? least : Math.min(least, Math.hypot(a - x, b - y)), 1)).sort((a, b) => a - b);
const largest = () => Math.max(4, Math.min(200, 110 / (base() * closest[closest.length >> 1])));  // half of the pictures lie beside their neighbour: beyond is only emptiness
function hold() {  // some picture stays near the middle
  let near = [view.x, view.y], least = Infinity;
  data.places.forEach(([x, y], at) => { const far = Math.hypot(x - view.x, y - view.y); if (far < least && shown(at)) { least = far; near = [x, y]; } });
  const reach = [innerWidth, innerHeight].map(length => length / 3 / scale());
  view.x = Math.max(near[0] - reach[0], Math.min(near[0] + reach[0], view.x)); view.y = Math.max(near[1] - reach[1], Math.min(near[1] + reach[1], view.y));
}
function zoomAt(x, y, factor) {
  const zoom = Math.max(0.5, Math.min(largest(), view.zoom * factor)), before = scale();
  const at = [view.x + (x - innerWidth / 2) / before, view.y + (y - innerHeight / 2) / before];
  view.zoom = zoom;
  view.x = at[0] - (x - innerWidth / 2) / scale(); view.y = at[1] - (y - innerHeight / 2) / scale();
  hold(); draw();
}
const centre = factor => zoomAt(innerWidth / 2, innerHeight / 2, factor);
const move = (x, y) => { view.x += x / scale(); view.y += y / scale(); hold(); draw(); };
const all = () => { view = { x: 0.5, y: 0.5, zoom: 1 }; draw(); };

function pointAt(x, y) {
  let found = -1;
  for (let i = placed.length - 1; i >= 0 && found < 0; i--) { const [at, left, top, size] = placed[i]; if (x >= left && x <= left + size && y >= top && y <= top + size) found = at; }
  canvas.style.cursor = found < 0 ? "" : "pointer";
  if (found !== hovered) {
    hovered = found;
    near.style.display = found < 0 ? "none" : "block";
    if (found >= 0) {
      const large = near.querySelector("canvas").getContext("2d"), text = near.querySelector("p");
      large.clearRect(0, 0, 128, 128); tile(large, found, 0, 0, 128);
      text.textContent = data.names[found];
      const names = Object.values(data.colours).map(values => values.names[values.of[found]]).filter(Boolean);
      if (names.length) { const small = document.createElement("small"); small.textContent = names.join(", "); text.append(document.createElement("br"), small); }
    }
  }
  if (found >= 0) {
    const box = near.getBoundingClientRect();
    near.style.left = Math.min(x + 16, innerWidth - box.width - 8) + "px"; near.style.top = Math.min(y + 16, innerHeight - box.height - 8) + "px";
  }
}

const pointers = new Map();
let travelled = 0;
canvas.addEventListener("pointerdown", event => { canvas.setPointerCapture(event.pointerId); pointers.set(event.pointerId, [event.clientX, event.clientY]); travelled = 0; canvas.classList.add("moving"); });
canvas.addEventListener("pointermove", event => {
  const last = pointers.get(event.pointerId);
  if (!last) return pointAt(event.clientX, event.clientY);
  const now = [event.clientX, event.clientY], other = [...pointers].find(([id]) => id !== event.pointerId);
  if (other) {
    const far = from => Math.hypot(from[0] - other[1][0], from[1] - other[1][1]);
    zoomAt((now[0] + other[1][0]) / 2, (now[1] + other[1][1]) / 2, far(now) / Math.max(1, far(last)));
  } else move(last[0] - now[0], last[1] - now[1]);
  travelled += Math.hypot(last[0] - now[0], last[1] - now[1]);
  pointers.set(event.pointerId, now);
});
const release = event => { pointers.delete(event.pointerId); if (!pointers.size) canvas.classList.remove("moving"); };
canvas.addEventListener("pointerup", event => { release(event); if (travelled < 4) { pointAt(event.clientX, event.clientY); if (hovered >= 0 && data.uris[hovered] && event.pointerType === "mouse") open(data.uris[hovered], "_blank", "noopener"); } });
canvas.addEventListener("pointercancel", release);
canvas.addEventListener("pointerleave", () => pointAt(-1e6, -1e6));
canvas.addEventListener("wheel", event => { event.preventDefault(); zoomAt(event.clientX, event.clientY, Math.exp(-event.deltaY / 400)); }, { passive: false });
canvas.addEventListener("keydown", event => {
  const steps = { ArrowLeft: [-60, 0], ArrowRight: [60, 0], ArrowUp: [0, -60], ArrowDown: [0, 60] };
  if (steps[event.key]) move(...steps[event.key]); else if ("+=".includes(event.key)) centre(1.5); else if (event.key === "-") centre(1 / 1.5); else if (event.key === "0") all(); else return;
  event.preventDefault();
});
document.getElementById("in").onclick = () => centre(1.6); document.getElementById("out").onclick = () => centre(1 / 1.6); document.getElementById("all").onclick = all;
addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { legend(); draw(); });

function legend() {
  const by = document.getElementById("by"), list = document.getElementById("legend");
  by.replaceChildren(...[...Object.keys(data.colours), ""].map(name => {
    const button = document.createElement("button"); button.textContent = name || "none"; button.setAttribute("aria-pressed", name === field);
    button.onclick = () => { field = name; only = null; legend(); draw(); }; return button;
  }));
  const values = field ? data.colours[field] : { names: [], of: [] }, rows = values.names.map((name, number) => [name, number]);
  const others = values.of.filter(number => number < 0).length;
  if (others) rows.push([field === "tag" ? "other or none" : "other", -1]);
  list.replaceChildren(...rows.map(([name, number]) => {
    const item = document.createElement("li"), button = document.createElement("button"), spot = document.createElement("i"), text = document.createElement("span"), small = document.createElement("small");
    spot.style.background = colour(number); text.textContent = name; small.textContent = values.of.filter(one => one === number).length.toLocaleString("en");
    button.setAttribute("aria-pressed", only === number); button.append(spot, text, small);
    button.onclick = () => { only = only === number ? null : number; legend(); draw(); }; item.append(button); return item;
  }));
}
document.querySelector("h1").textContent = data.title;
document.querySelector("#about p").textContent = count.toLocaleString("en") + (count === 1 ? " picture" : " pictures") + "; near means alike";
legend(); draw();
