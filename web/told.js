// A node that says in a line or two what its last run did.

import { addPanel, after, keep, note } from "./panel.js";
import { t } from "./text.js";

const KEPT = "personalq_told"; // the node's property with what it showed last
const MOST = 6;

export function addTold(node) {
  const show = addPanel(node, t("What the last run did"));
  const render = (lines) => show(...lines.map(note));
  after(node, "onExecuted", (output) => {
    const lines = checked(output?.text);
    render(lines);
    keep(node, KEPT, lines);
  });
  after(node, "onConfigure", () => render(checked(node.properties[KEPT])));
}

/** Only short texts, whatever a foreign workflow holds. */
const checked = (lines) =>
  (Array.isArray(lines) ? lines : []).filter((line) => typeof line === "string").slice(0, MOST).map((line) => line.slice(0, 200));
