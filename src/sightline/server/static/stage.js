// The picture in the large view: closer with wheel, pinch, double click and keys, moved about, swiped to the next.

const CLOSEST = 8;
const SWIPE = 60; // pixels
const pointers = new Map(); // those that are down, where they are
let view = { scale: 1, x: 0, y: 0 }; // of the picture, from the middle of the stage
let began = null; // of a gesture: where and how far apart the pointers were

const stage = () => document.querySelector("#detail .stage");
export const isCloser = () => view.scale > 1;

export function startStage(place, onSwipe) {
  const onStage = (listener) => (event) => event.target.closest(".stage") && !event.target.closest("button") && listener(event);
  place.addEventListener("wheel", onStage((event) => {
    event.preventDefault();
    zoom(view.scale * Math.exp(-event.deltaY / (event.ctrlKey ? 100 : 400)), event);
  }), { passive: false });
  place.addEventListener("dblclick", onStage((event) => toggleZoom(event)));
  place.addEventListener("pointerdown", onStage((event) => {
    stage().setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event);
    begin();
  }));
  place.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    pointers.set(event.pointerId, event);
    follow();
  });
  for (const name of ["pointerup", "pointercancel"]) {
    place.addEventListener(name, (event) => {
      if (!pointers.delete(event.pointerId)) return;
      const moved = event.clientX - began.middle.clientX;
      if (name === "pointerup" && !pointers.size && began.count === 1 && !isCloser() && Math.abs(moved) > SWIPE) onSwipe(moved < 0 ? 1 : -1);
      begin();
    });
  }
}

/** Another picture, or the same one drawn again. */
export function settle({ isNew }) {
  if (isNew) view = { scale: 1, x: 0, y: 0 };
  apply();
}

export function toggleZoom(at = middleOf(stage().getBoundingClientRect())) {
  zoom(isCloser() ? 1 : 2.5, at);
}

export function move(x, y) {
  view = { ...view, x: view.x + x, y: view.y + y };
  apply();
}

function begin() {
  const [one, other] = [...pointers.values()];
  if (one) began = { count: pointers.size, middle: other ? between(one, other) : one, apart: other && apart(one, other), view };
}

function follow() {
  const [one, other] = [...pointers.values()];
  const middle = other ? between(one, other) : one;
  if (other) {
    view = began.view;
    zoom((began.view.scale * apart(one, other)) / began.apart, began.middle);
  } else if (!isCloser()) return;
  else view = began.view;
  move(middle.clientX - began.middle.clientX, middle.clientY - began.middle.clientY);
}

/** So close, the point of the picture under the pointer staying there. */
function zoom(wanted, { clientX, clientY }) {
  const scale = Math.min(CLOSEST, Math.max(1, wanted));
  const middle = middleOf(stage().getBoundingClientRect());
  const [x, y] = [clientX - middle.clientX, clientY - middle.clientY];
  const by = scale / view.scale;
  view = { scale, x: x - (x - view.x) * by, y: y - (y - view.y) * by };
  apply();
}

function apply() {
  const image = stage()?.querySelector("img");
  if (!image) return;
  const most = (picture, room) => Math.max(0, (picture * view.scale - room) / 2);
  const [x, y] = [most(image.offsetWidth, stage().clientWidth), most(image.offsetHeight, stage().clientHeight)];
  view.x = Math.min(x, Math.max(-x, view.x));
  view.y = Math.min(y, Math.max(-y, view.y));
  image.style.transform = isCloser() ? `translate(${view.x}px, ${view.y}px) scale(${view.scale})` : "";
  stage().classList.toggle("closer", isCloser());
}

const middleOf = ({ left, top, width, height }) => ({ clientX: left + width / 2, clientY: top + height / 2 });
const between = (one, other) => ({ clientX: (one.clientX + other.clientX) / 2, clientY: (one.clientY + other.clientY) / 2 });
const apart = (one, other) => Math.max(1, Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY));
