// PersonalQ in the page: a panel in each of its nodes that has something to show, the library in
// the side bar, its settings.

import { app } from "../../scripts/app.js";
import { addCheckIn } from "./check_in.js";
import { libraryTab } from "./library.js";
import { watchZoom } from "./panel.js";
import { ASK_SETTING, SETTINGS } from "./settings.js";
import { addTaq } from "./taq.js";
import { addPaperInputs } from "./paper_inputs.js";
import { loadWords } from "./text.js";
import { addTold } from "./told.js";

const PANELS = {
  PersonalQCheckInSelector: addCheckIn,
  PersonalQLoadSelected: addTold,
  PersonalQMarkTrigger: addTold,
  PersonalQTAQQuantize: addTaqQuantize,
  PersonalQSaveTAQModel: addTold,
  PersonalQLoadTAQModel: addTaq,
  PersonalQTAQCompare: addPaperInputs,
};

function addTaqQuantize(node) {
  addTaq(node);
  addPaperInputs(node); // last: it fits the node to all that shows
}

const style = document.createElement("link");
style.rel = "stylesheet";
style.href = new URL("./personalq.css", import.meta.url).href;
document.head.append(style);

app.registerExtension({
  name: "personalq",
  settings: SETTINGS,
  async setup() {
    await loadWords();
    watchZoom();
    app.extensionManager.registerSidebarTab(libraryTab());
  },
  nodeCreated(node) {
    const ask = node.widgets?.find((widget) => widget.name === "ask");
    if (ask && node.comfyClass in PANELS) ask.value = app.extensionManager.setting.get(ASK_SETTING) ?? ask.value;
    PANELS[node.comfyClass]?.(node);
  },
});
