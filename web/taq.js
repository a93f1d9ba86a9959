// TAQ Quantize's panel: what the model weighed and what it weighs now, by kind of layer; how finely
// the trigger is read; how far a run is.

import { addPanel, after, el, isThis, keep, listen, note } from "./panel.js";
import { t } from "./text.js";

const KEPT = "personalq_taq"; // the node's property with what it showed last
const MAX_KINDS = 8;
const AS_LOADED = "16 bits"; // what the report calls layers that are not packed
const LORA_LOADERS = /lora|PersonalQLoadSelected/i;
const ENDS = ["execution_success", "execution_error", "execution_interrupted"];

export function addTaq(node) {
  const show = addPanel(node, t("Model size before and after TAQ"));
  let sizes = null;
  let isRunning = false;

  function render(found = sizes) {
    sizes = found;
    isRunning = false;
    show(...(sizes ? view(sizes, isFollowedByLora(node)) : []));
  }

  after(node, "onExecuted", (output) => {
    const found = checked(output?.personalq_taq?.[0]);
    if (!found) return;
    render(found);
    keep(node, KEPT, found);
  });
  after(node, "onConfigure", () => render(checked(node.properties[KEPT])));
  after(node, "onConnectionsChange", () => { if (!isRunning) render(); });

  listen(node, {
    progress: ({ detail }) => {
      if (!isThis(node, detail.node)) return;
      isRunning = true;
      show(...progress(detail));
    },
    ...Object.fromEntries(ENDS.map((name) => [name, () => { if (isRunning) render(); }])),
  });
}

/** Only numbers and short texts, whatever a foreign workflow holds; null where there are none. */
function checked(sizes) {
  const count = (value) => (Number.isFinite(value) && value >= 0 ? value : null);
  const [before, after] = [count(sizes?.before_bytes), count(sizes?.after_bytes)];
  if (before === null || after === null) return null;
  const entries = (value) => Object.entries(value ?? {}).slice(0, MAX_KINDS);
  const kinds = entries(sizes.kinds).filter(([, kind]) =>
    count(kind?.before_bytes) !== null && count(kind?.after_bytes) !== null);
  const formats = entries(sizes.text_layers).filter(([, number]) => count(number) !== null);
  return {
    before_bytes: before,
    after_bytes: after,
    trigger: String(sizes.trigger ?? "").slice(0, 200),
    how: String(sizes.how ?? "").slice(0, 300),
    text_layers: Object.fromEntries(formats.map(([name, number]) => [name.slice(0, 40), number])),
    kinds: Object.fromEntries(kinds.map(([name, kind]) => [
      name.slice(0, 80), { before_bytes: kind.before_bytes, after_bytes: kind.after_bytes }])),
  };
}

function view(sizes, followedByLora) {
  const { before_bytes, after_bytes, kinds } = sizes;
  const percent = Math.round(100 * (before_bytes ? after_bytes / before_bytes : 1));
  const names = Object.keys(kinds);
  return [
    el("div", { class: "row" },
      el("span", { class: "quiet grow", text: t("{size} before", { size: size(before_bytes) }) }),
      el("span", { class: "title", text: t("{size} now", { size: size(after_bytes) }) }),
      el("span", { class: "quiet", text: `${percent} %` })),
    el("div", { class: "bar", role: "img", "aria-label": t("{percent} % of the size before", { percent }) },
      ...names.map((name, number) => el("div", {
        class: `filled kind-${number % 4}`, title: name,
        style: `width: ${((100 * kinds[name].after_bytes) / (before_bytes || 1)).toFixed(2)}%`,
      }))),
    el("ul", { class: "kinds" }, ...names.map((name, number) => el("li", {},
      el("span", { class: `dot kind-${number % 4}` }),
      el("span", { class: "grow", text: name }),
      el("span", { class: "line", text: `${size(kinds[name].before_bytes)} → ${size(kinds[name].after_bytes)}` })))),
    ...readBy(sizes),
    followedByLora ? note(t("The LoRA after this node stays beside the packed weights at 16 bits: right, but a little slower in each step.")) : null,
  ];
}

/** The trigger, how finely the layers that read it are stored, and what it changed. */
function readBy({ trigger, text_layers: formats, how }) {
  if (!trigger) return [];
  return [
    el("div", { class: "facts" }, el("span", { text: t("trigger") }), el("span", { class: "trigger", text: trigger })),
    ...Object.entries(formats).map(([format, count]) => note(format === AS_LOADED
      ? t("the {count} layers that read the prompt stay at 16 bits", { count })
      : t("the {count} layers that read the prompt are stored as {format}", { count, format }))),
    how ? note(how) : null,
  ];
}

function progress({ value, max }) {
  const text = t("Fitting and packing: {value} of {max}", { value, max });
  const done = el("div", { class: "filled kind-0", style: `width: ${((100 * value) / (max || 1)).toFixed(1)}%` });
  return [note(text), el("div", {
    class: "bar progress", role: "progressbar", "aria-label": text, "aria-valuenow": value, "aria-valuemax": max,
  }, done)];
}

/** Does a LoRA loader take the MODEL this node gives, be it through other nodes? */
function isFollowedByLora(node) {
  const seen = new Set([node]);
  for (const here of seen) {
    if (here !== node && LORA_LOADERS.test(here.type)) return true;
    (here.outputs ?? []).forEach(({ type }, slot) => {
      if (type === "MODEL" && here.graph) (here.getOutputNodes(slot) ?? []).forEach((taker) => seen.add(taker));
    });
  }
  return false;
}

function size(bytes) {
  const megabytes = bytes / 1e6;
  return megabytes < 1000 ? `${megabytes.toFixed(1)} MB` : `${(megabytes / 1000).toFixed(2)} GB`;
}
