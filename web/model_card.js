// How a model looks, in the node and in the library: its picture, its facts.

import { api } from "../../scripts/api.js";
import { el } from "./panel.js";
import { t } from "./text.js";

/** A card's picture, drawn by the server; a letter on a colour of its own where it has none. */
export function picture({ title, name, kind }) {
  const hash = [...name].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 9973, 7);
  const hue = (hash * 137) % 360; // neighbours in the alphabet are far apart in colour
  const letter = ([...(title || name)][0] ?? "?").toUpperCase();
  const box = el("div", { class: "picture", text: letter, style: `--personalq-hue: ${hue}`, "aria-hidden": true });
  const image = el("img", { alt: "", draggable: "false", onload: () => box.replaceChildren(image) });
  image.src = api.apiURL(`/personalq/preview?${new URLSearchParams({ id: `${kind}:${name}` })}`);
  return box;
}

/** What tells versions of a thing apart: trigger, version, day, base; the strength where known. */
export function facts({ trigger, version, created_at, base_family }, strength) {
  const day = created_at?.slice(0, 10);
  const weight = strength === undefined ? null : t("strength {value}", { value: Number(strength.toFixed(2)) });
  return el("div", { class: "facts" },
    trigger ? el("span", { class: "trigger", text: trigger, title: t("trigger") }) : null,
    ...[version, day, base_family, weight].filter(Boolean).map((text) => el("span", { text })));
}

const STEPS = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 };
const OURS = ["Enter", " ", "Delete", "Backspace", "Escape"];

/** Arrow keys walk through a group's buttons, Escape leaves it; the canvas hears none of them. */
export function walkable(group) {
  group.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if ((!step && !OURS.includes(event.key)) || event.ctrlKey || event.metaKey) return;
    event.stopPropagation(); // else the canvas moves or deletes the node
    if (event.key === "Escape") document.activeElement?.blur();
    if (!step || event.target.matches("input, textarea")) return;
    event.preventDefault();
    const buttons = [...group.querySelectorAll("button")];
    const here = buttons.indexOf(document.activeElement);
    buttons[(here + step + buttons.length) % buttons.length].focus();
  });
  return group;
}
