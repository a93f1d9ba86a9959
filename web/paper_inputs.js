// Two inputs of the TAQ nodes are read by the paper's preset only. They show with that preset alone;
// their values and places in the saved workflow stay.

import { after, isLinked, setHidden, showWidgetsAnew } from "./panel.js";

const PAPER = "paper W8A8";
const OF_THE_PAPER = ["paper_variant", "protect"];

export function addPaperInputs(node) {
  const preset = node.widgets.find(({ name }) => name === "format");
  const inputs = node.widgets.filter(({ name }) => OF_THE_PAPER.includes(name));

  /** A preset that comes by a link is not known here, so that its inputs show. */
  const isWanted = ({ name }) => preset.value === PAPER || isLinked(node, "format") || isLinked(node, name);

  function choose() {
    const wrong = inputs.filter((widget) => Boolean(widget.hidden) === isWanted(widget));
    if (!wrong.length) return;
    for (const widget of wrong) setHidden(widget, !isWanted(widget));
    showWidgetsAnew(node);
    node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);
  }

  /** The node grows and shrinks with what it shows; room the user gave it stays. */
  function refit() {
    const spare = Math.max(node.size[1] - node.computeSize()[1], 0);
    choose();
    node.setSize([node.size[0], node.computeSize()[1] + spare]);
    node.graph?.setDirtyCanvas(true, true);
  }

  refit();
  after(preset, "callback", refit);
  after(node, "onConnectionsChange", choose);
  after(node, "onConfigure", choose); // the size that was saved has room for what shows
}
