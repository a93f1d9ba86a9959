// A card dragged or sent to the canvas becomes nodes that use it.

import { app } from "../../scripts/app.js";
import { saveState } from "./panel.js";

const CHECK_IN = "PersonalQCheckInSelector";
const LOAD = "PersonalQLoadSelected";
const LOADERS = { checkpoint: "CheckpointLoaderSimple", diffusion_model: "UNETLoader" };
const APART = 60;

/** Let a card be dropped on the canvas while this drag lasts. */
export function dragToCanvas(card, event) {
  event.dataTransfer.setData("text/plain", card.title);
  event.dataTransfer.effectAllowed = "copy";
  const over = new AbortController();
  const isCanvas = ({ target }) => target.closest?.("#graph-canvas, #graph-canvas-container, .graph-canvas-container");
  const listen = (name, hear) => document.addEventListener(name, hear, { capture: true, signal: over.signal });
  listen("dragover", (moved) => {
    if (isCanvas(moved)) moved.preventDefault();
  });
  listen("drop", (dropped) => {
    if (!isCanvas(dropped)) return;
    dropped.preventDefault();
    dropped.stopPropagation();
    over.abort();
    addToGraph(card, app.clientPosToCanvasPos([dropped.clientX, dropped.clientY]));
  });
  listen("dragend", () => over.abort());
}

/** Put a card into the graph that is open, at a place on its canvas; its middle by default. */
export function addToGraph(card, place = middle()) {
  const { graph } = app.canvas;
  graph.beforeChange?.();
  const selector = graph.nodes.find((node) => node.type === CHECK_IN && contains(node, place));
  if (selector) choose(selector, card);
  else if (card.kind in LOADERS) addLoader(graph, card, place);
  else addSelector(graph, card, place);
  graph.afterChange?.();
  graph.setDirtyCanvas(true, true);
  saveState();
}

const middle = () => {
  const { left, top, width, height } = app.canvas.canvas.getBoundingClientRect();
  return app.clientPosToCanvasPos([left + width / 2, top + height / 3]);
};

function contains(node, [x, y]) {
  const [left, top] = node.pos;
  return x >= left && x <= left + node.size[0] && y >= top - 30 && y <= top + node.size[1];
}

function choose(selector, card) {
  set(selector, "selection", card.selection);
  selector.onConfigure?.(selector.serialize());
}

/** Check-in with this answer and the loader it feeds, wired to the model there is, if it is one. */
function addSelector(graph, card, [x, y]) {
  const selector = add(graph, CHECK_IN, [x, y]);
  const load = add(graph, LOAD, [x + selector.size[0] + APART, y]);
  set(selector, "request", card.trigger || card.title); // a title may hold brackets, which weigh
  choose(selector, card);
  connect(selector, "decision", load, "decision");
  const sources = graph.nodes.filter((node) => hasOutput(node, "MODEL") && hasOutput(node, "CLIP") && node !== load);
  if (sources.length !== 1) return;
  connect(sources[0], "MODEL", selector, "model");
  connect(sources[0], "MODEL", load, "model");
  connect(sources[0], "CLIP", load, "clip");
  connect(sources[0], "VAE", load, "vae");
}

function addLoader(graph, card, place) {
  const node = add(graph, LOADERS[card.kind], place);
  const names = node.widgets[0].options.values ?? [];
  const name = names.find((listed) => listed.replaceAll("\\", "/") === card.name);
  set(node, node.widgets[0].name, name ?? card.name); // one it does not list, ComfyUI refuses by name
}

function add(graph, type, pos) {
  const node = globalThis.LiteGraph.createNode(type);
  node.pos = pos;
  graph.add(node);
  return node;
}

function set(node, name, value) {
  const widget = node.widgets.find((candidate) => candidate.name === name);
  widget.value = value;
  widget.callback?.(value);
}

const hasOutput = (node, type) => node.outputs?.some((output) => output.type === type);

function connect(from, output, to, input) {
  const out = from.outputs.findIndex(({ name, type }) => name === output || type === output);
  const into = to.inputs.findIndex(({ name }) => name === input);
  if (out >= 0 && into >= 0) from.connect(out, to, into);
}
