// What the library shows where there is nothing to show: what to do about it.

import { fetchStatus } from "./library_api.js";
import { button, el } from "./panel.js";
import { t } from "./text.js";

/** No model in any folder: which folders these are. */
export function noModels() {
  const folders = el("ul", { class: "folders" });
  fetchStatus().then((status) => {
    folders.replaceChildren(...status.folders.map(({ kind, path }) =>
      el("li", {}, el("span", { class: "quiet", text: kind }), " ", el("code", { text: path }))));
  }).catch((error) => { folders.textContent = error.message; });
  return el("div", { class: "empty" },
    el("div", { class: "title", text: t("No models yet") }),
    el("div", { text: t("Put your LoRAs and checkpoints (.safetensors) into one of these folders, then press rescan.") }),
    folders);
}

/** None that fits what was asked for. */
export function noneFits(clear) {
  return el("div", { class: "empty" },
    el("div", { class: "title", text: t("No model fits") }),
    el("div", { text: t("Fewer words or other filters find more.") }),
    button(t("show all"), clear));
}
