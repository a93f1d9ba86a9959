// TAQ Quantize's panel: what the model weighed, and what it weighs now.

import { addPanel, after, el } from "./panel.js";

export function addTaq(node) {
  const show = addPanel(node, "Model size before and after TAQ");
  after(node, "onExecuted", (output) => {
    const sizes = output?.personalq_taq?.[0];
    if (sizes) show(...view(sizes));
  });
}

function view({ before_bytes, after_bytes }) {
  const share = before_bytes ? after_bytes / before_bytes : 1;
  const percent = Math.round(share * 100);
  return [
    el("div", { class: "row" },
      el("span", { class: "quiet grow", text: `${size(before_bytes)} before` }),
      el("span", { class: "title", text: `${size(after_bytes)} now` }),
      el("span", { class: "quiet", text: `${percent} %` })),
    el("div", { class: "bar", role: "img", "aria-label": `${percent} % of the size before` },
      el("div", { class: "filled", style: `width: ${Math.min(100, share * 100).toFixed(1)}%` })),
  ];
}

function size(bytes) {
  const megabytes = bytes / 1e6;
  return megabytes < 1000 ? `${megabytes.toFixed(1)} MB` : `${(megabytes / 1000).toFixed(2)} GB`;
}
