// How a model looks, in the node and in the library: its picture, its facts.

import { api } from "../../scripts/api.js";
import { el } from "./panel.js";
import { t } from "./text.js";

/** A card's picture, drawn by the server; a letter on a colour of its own where it has none. */
export function picture(card) {
  const box = pictureBox();
  box.show(card);
  box.load();
  return box.root;
}

/** A box for one picture after the other: `show` a card's letter at once, `load` its picture. */
export function pictureBox() {
  const letter = el("span");
  const image = el("img", { alt: "", draggable: "false", decoding: "async", onload: () => { image.hidden = false; } });
  const root = el("div", { class: "picture", "aria-hidden": true }, letter, image);
  let shown = null;

  function show(card) {
    shown = card;
    image.hidden = true;
    image.removeAttribute("src"); // also ends a request that nobody waits for any more
    letter.textContent = ([...(card.title || card.name)][0] ?? "").toUpperCase();
    const hash = [...card.name].reduce((sum, sign) => (sum * 31 + sign.codePointAt(0)) % 9973, 7);
    // Neighbours in the alphabet are far apart in colour.
    root.style.setProperty("--personalq-hue", (hash * 137) % 360);
  }

  function load() {
    const { kind, name } = shown;
    image.src = api.apiURL(`/personalq/preview?${new URLSearchParams({ id: `${kind}:${name}` })}`);
  }
  return { root, show, load };
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
