// A DOM widget that is only looked at: what a node shows of its last run. It is as tall as its
// content and never part of `widgets_values`, which are positional. What it shows is kept in the
// node's properties, so that reload, undo, copies and shared workflows show it again.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

/** Make an element. Text from model files and requests is set as text, never parsed as HTML. */
export function el(tag, { class: names, text, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  if (names) element.className = names.replace(/\S+/g, "personalq-$&");
  if (text !== undefined) element.textContent = String(text);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

export const button = (text, onclick, attributes = {}) =>
  el("button", { class: "button", type: "button", text, onclick, ...attributes });

export const note = (text) => el("div", { class: "quiet", text });

const MARGIN = 10; // LiteGraph keeps this much free around a DOM widget
const FAR = 0.6; // below this zoom only what matters is shown, larger

/** Put a panel at the end of a node; returns a function that shows elements in it. */
export function addPanel(node, label) {
  const content = el("div", { class: "content" });
  const root = el("div", { class: "panel", role: "region", "aria-label": label, tabindex: -1 }, content);
  let height = 0;

  const widget = node.addDOMWidget("personalq", "personalq", root, {
    serialize: false,
    hideOnZoom: false,
    margin: MARGIN,
    getMinHeight: () => height,
    getMaxHeight: () => height,
  });
  widget.serialize = false;

  const fit = () => {
    // Seen from afar it shows less and stays as tall: zooming must not change a node's size.
    if (!isFar()) content.style.setProperty("--pq-near", `${content.offsetHeight}px`);
    const wanted = content.childElementCount ? content.offsetHeight + 2 * MARGIN : 0;
    if (!root.isConnected || Math.abs(wanted - height) < 1) return;
    const spare = node.size[1] - node.computeSize()[1]; // room the user gave it on purpose
    height = wanted;
    node.setSize([node.size[0], node.computeSize()[1] + Math.max(spare, 0)]);
    node.graph?.setDirtyCanvas(true, true);
  };
  const observer = new ResizeObserver(fit);
  observer.observe(content);
  after(node, "onRemoved", () => observer.disconnect());

  return (...children) => {
    const hadFocus = root.contains(document.activeElement);
    content.replaceChildren(...children.filter((child) => child != null));
    content.style.removeProperty("--pq-near");
    if (hadFocus) root.focus({ preventScroll: true }); // the next Tab goes on from here
    fit();
  };
}

const isFar = () => document.body.classList.contains("personalq-far");

/** Let the style sheet know when the canvas is looked at from afar. */
export function watchZoom() {
  after(app.canvas, "onDrawForeground", () => {
    document.body.classList.toggle("personalq-far", app.canvas.ds.scale < FAR);
  });
}

/** Keep what a node shows; the page then saves it, as it saves a change made by hand. */
export function keep(node, name, value) {
  if (JSON.stringify(node.properties[name]) === JSON.stringify(value)) return;
  node.properties[name] = value;
  saveState();
}

/** Tell the page that the graph changed, for undo and for the draft it restores on reload. */
export function saveState() {
  const tracker = app.extensionManager.workflow?.activeWorkflow?.changeTracker;
  if (tracker?.captureCanvasState) tracker.captureCanvasState();
  else tracker?.checkState?.();
}

/** Call `hook` after a node's own callback `name`. */
export function after(node, name, hook) {
  const before = node[name];
  node[name] = function (...values) {
    const result = before?.apply(this, values);
    hook.apply(this, values);
    return result;
  };
}

/** Hear the server's events, {name: hear}, as long as the node is there. */
export function listen(node, events) {
  for (const [name, hear] of Object.entries(events)) api.addEventListener(name, hear);
  after(node, "onRemoved", () => {
    for (const [name, hear] of Object.entries(events)) api.removeEventListener(name, hear);
  });
}

/**
 * Is this the node that the server calls `id`? Inside subgraphs it is "outer:inner". The run may be
 * of another graph than the one that is open, so its type counts too, where an event tells it.
 */
export function isThis(node, id, type = node.comfyClass) {
  const outer = String(id).split(":");
  const own = outer.pop();
  let graph = node.graph?.rootGraph;
  for (const step of outer) graph = graph?.getNodeById(step)?.subgraph;
  return graph === node.graph && own === String(node.id) && type === node.comfyClass;
}

/** Does an input get its value by a link, not from the widget of its name? */
export function isLinked(node, name) {
  const slot = node.inputs?.findIndex((input) => input.name === name) ?? -1;
  return slot >= 0 && node.isInputConnected(slot);
}

/** Hide a widget, or show it again, in both ways of drawing nodes. */
export function setHidden(widget, isHidden) {
  widget.hidden = isHidden;
  widget.options.hidden = isHidden;
}

const COPIES_WIDGETS = /^1\.([12]?\d|3[0-5])\./; // versions of the page, before 1.36

/**
 * Let Nodes 2.0 look again at which of a node's widgets are hidden: it looks where their list moves.
 * Its first versions look only when a node is added, and keep a copy.
 */
export function showWidgetsAnew(node) {
  node.widgets.reverse().reverse();
  const isCopied = globalThis.LiteGraph.vueNodesMode && COPIES_WIDGETS.test(window.__COMFYUI_FRONTEND_VERSION__);
  if (isCopied) node.graph?.onNodeAdded?.(node);
}
