// PersonalQ in the graph: one panel in the Check-in Selector, one in TAQ Quantize.

import { app } from "../../scripts/app.js";
import { addCheckIn } from "./check_in.js";
import { addTaq } from "./taq.js";

const PANELS = {
  PersonalQCheckInSelector: addCheckIn,
  PersonalQTAQQuantize: addTaq,
};

const style = document.createElement("link");
style.rel = "stylesheet";
style.href = new URL("./personalq.css", import.meta.url).href;
document.head.append(style);

app.registerExtension({
  name: "personalq",
  nodeCreated(node) {
    PANELS[node.comfyClass]?.(node);
  },
});
