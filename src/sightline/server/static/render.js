// Brings a part of the page in line with new content in place: what stays keeps its focus, its text and its scroll.

const HANDLERS = Symbol("handlers");
const isKept = (node) => node.key === "guest"; // another part of the page put it there

/** Show exactly these nodes in `place`. Nodes match by their `key`, others by their kind and order. */
export function render(place, ...content) {
  const nodes = content.flat(Infinity).filter((node) => node !== null && node !== undefined && node !== false);
  patchChildren(place, nodes.map((node) => (node instanceof Node ? node : document.createTextNode(node))));
}

/** Listen as `on` says, until another render says otherwise. */
export function handle(element, on) {
  element[HANDLERS] ??= {};
  for (const name of Object.keys(on)) {
    if (!(name in element[HANDLERS])) element.addEventListener(name, call);
    element[HANDLERS][name] = on[name];
  }
}

function call(event) {
  return this[HANDLERS][event.type]?.call(this, event);
}

function patchChildren(place, fresh) {
  const keyed = new Map([...place.childNodes].filter((node) => node.key !== undefined).map((node) => [node.key, node]));
  const next = (node) => {
    while (node && isKept(node)) node = node.nextSibling;
    return node;
  };
  let at = next(place.firstChild);
  for (const node of fresh) {
    const old = node.key === undefined ? at : keyed.get(node.key);
    if (!old || !isAlike(old, node)) {
      place.insertBefore(node, at);
      continue;
    }
    keyed.delete(node.key);
    if (old === at) at = next(at.nextSibling);
    else place.insertBefore(old, at);
    patch(old, node);
  }
  while (at) {
    const gone = at;
    at = next(at.nextSibling);
    gone.remove();
  }
}

const isAlike = (old, fresh) => old.nodeName === fresh.nodeName && old.key === fresh.key;

function patch(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name); // what the reader unfolded stays so
  }
  for (const { name, value } of fresh.attributes) {
    if (name === "style") old.style.cssText = value; // the page's policy forbids the attribute
    else if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const silent = Object.fromEntries(Object.keys(old[HANDLERS] ?? {}).map((name) => [name, undefined]));
  handle(old, { ...silent, ...fresh[HANDLERS] });
  patchChildren(old, [...fresh.childNodes]);
  if ("value" in old && old.value !== fresh.value && old !== document.activeElement) old.value = fresh.value;
}
