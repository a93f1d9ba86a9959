// TAQ Quantize's panel: what the model weighed and what it weighs now, by kind of layer.

import { addPanel, after, el, keep, note } from "./panel.js";
import { t } from "./text.js";

const KEPT = "personalq_taq"; // the node's property with what it showed last
const MAX_KINDS = 8;
const LORA_LOADERS = /lora|PersonalQLoadSelected/i;

export function addTaq(node) {
  const show = addPanel(node, t("Model size before and after TAQ"));
  const render = (sizes) => show(...(sizes ? view(sizes, followedByLora(node)) : []));
  after(node, "onExecuted", (output) => {
    const sizes = checked(output?.personalq_taq?.[0]);
    if (!sizes) return;
    render(sizes);
    keep(node, KEPT, sizes);
  });
  after(node, "onConfigure", () => render(checked(node.properties[KEPT])));
}

/** Only numbers and short texts, whatever a foreign workflow holds; null where there are none. */
function checked(sizes) {
  const bytes = (value) => (Number.isFinite(value) && value >= 0 ? value : null);
  const [before, after] = [bytes(sizes?.before_bytes), bytes(sizes?.after_bytes)];
  if (before === null || after === null) return null;
  const kinds = Object.entries(sizes.kinds ?? {}).slice(0, MAX_KINDS).filter(([, kind]) =>
    bytes(kind?.before_bytes) !== null && bytes(kind?.after_bytes) !== null);
  return {
    before_bytes: before,
    after_bytes: after,
    trigger: String(sizes.trigger ?? "").slice(0, 200),
    kinds: Object.fromEntries(kinds.map(([name, kind]) => [
      name.slice(0, 80), { before_bytes: kind.before_bytes, after_bytes: kind.after_bytes }])),
  };
}

function view({ before_bytes, after_bytes, kinds, trigger }, isFollowedByLora) {
  const share = before_bytes ? after_bytes / before_bytes : 1;
  const percent = Math.round(share * 100);
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
      el("span", { text: `${size(kinds[name].before_bytes)} → ${size(kinds[name].after_bytes)}` })))),
    trigger ? el("div", { class: "facts" }, el("span", { text: t("trigger") }), el("span", { class: "trigger", text: trigger })) : null,
    isFollowedByLora ? note(t("The LoRA after this node stays beside the packed weights at 16 bits: right, but a little slower in each step.")) : null,
  ].filter(Boolean);
}

/** Does a LoRA loader take the MODEL this node gives? */
const followedByLora = (node) =>
  Boolean(node.graph) && (node.getOutputNodes(0) ?? []).some(({ type }) => LORA_LOADERS.test(type));

function size(bytes) {
  const megabytes = bytes / 1e6;
  return megabytes < 1000 ? `${megabytes.toFixed(1)} MB` : `${(megabytes / 1000).toFixed(2)} GB`;
}
