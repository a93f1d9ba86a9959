// The pack's own words in the page's language. The English text is the key; the others stand in
// locales/<language>/main.json, which the server sends with everybody's.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

export const LANGUAGES = { en: "English", zh: "中文", ja: "日本語", es: "Español", de: "Deutsch", fr: "Français" };
export const LANGUAGE_SETTING = "personalq.language";
export const AS_COMFYUI = "auto"; // the settings page shows no name for an empty value

let words = {};

/** English text, with {names} for values, in the language of the page. */
export function t(english, values = {}) {
  return (words[english] ?? english).replace(/\{(\w+)\}/g, (all, name) => String(values[name] ?? all));
}

/** Read the words once; without them the page speaks English. */
export async function loadWords() {
  const setting = (id) => app.extensionManager.setting.get(id);
  const wanted = setting(LANGUAGE_SETTING);
  const language = (wanted in LANGUAGES ? wanted : setting("Comfy.Locale")) || "en";
  try {
    words = (await api.getCustomNodesI18n())[language]?.personalq ?? {};
  } catch {
    words = {};
  }
}
