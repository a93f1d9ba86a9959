// PersonalQ's page in ComfyUI's settings. What concerns the server (folders, the LLM) is shown, not
// set: it comes from ComfyUI's own configuration and from a file on the server.

import { fetchStatus } from "./library_api.js";
import { el } from "./panel.js";
import { AS_COMFYUI, LANGUAGES, LANGUAGE_SETTING, t } from "./text.js";

export const ASK_SETTING = "personalq.ask";

export const SETTINGS = [
  {
    id: LANGUAGE_SETTING,
    category: ["PersonalQ", "Page", "Language"],
    name: "Language of PersonalQ's panels (after a reload)",
    type: "combo",
    options: [{ text: "as ComfyUI", value: AS_COMFYUI }, ...Object.entries(LANGUAGES).map(([value, text]) => ({ text, value }))],
    defaultValue: AS_COMFYUI,
  },
  {
    id: ASK_SETTING,
    category: ["PersonalQ", "Check-in", "Ask"],
    name: "How readily new Check-in nodes ask",
    type: "combo",
    options: ["rarely", "normally", "often"],
    defaultValue: "normally",
  },
  {
    id: "personalq.status",
    category: ["PersonalQ", "Server", "Status"],
    name: "On this server",
    type: () => status(),
    defaultValue: "",
  },
];

/** Folders in use, size of the library, and whether an LLM helps. */
function status() {
  const list = el("dl", { class: "fact-list settings" });
  fetchStatus().then(({ folders, cards, llm, notices }) => {
    const rows = [
      ...folders.map(({ kind, path }) => [t("Folder"), `${kind}: ${path}`]),
      [t("Models"), cards ?? t("not read yet")],
      [t("LLM"), llm || t("none; PersonalQ works without")],
      ...notices.map((text) => [t("Note"), text]),
    ];
    list.replaceChildren(...rows.flatMap(([name, value]) => [el("dt", { text: name }), el("dd", { text: value })]));
  }).catch((error) => { list.textContent = error.message; });
  return list;
}
