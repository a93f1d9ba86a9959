// One card of the library: its facts, where each came from, and the user's own notes on it.

import { saveNote } from "./library_api.js";
import { picture } from "./model_card.js";
import { button, el } from "./panel.js";
import { t } from "./text.js";

const SHOWN = ["title", "name", "kind", "base_family", "version", "author", "created_at", "triggers", "tags", "strength", "description"];

const LONG = 300; // letters: what is longer may scroll, and does so by keys too

/** A view of a card; actions: back(), saved(card), add(). */
export function cardDetails(card, { back, saved, add }) {
  const facts = el("dl", { class: "fact-list" });
  const said = el("div", { class: "quiet", role: "status" });
  fillFacts(facts, card);

  const title = field(t("Title"), el("input", { class: "words", type: "text", maxlength: 400 }));
  const trigger = field(t("Trigger to use"), el("input", { class: "words", type: "text", maxlength: 400, list: "personalq-triggers" }));
  const own = field(t("Your note"), el("textarea", { class: "words", rows: 3, maxlength: 4000 }));
  const triggers = el("datalist", { id: "personalq-triggers" }, ...card.triggers.map((word) => el("option", { value: word })));
  show(card);

  function show(now) {
    title.input.value = now.note.title ?? "";
    title.input.placeholder = now.title;
    trigger.input.value = now.note.trigger ?? "";
    trigger.input.placeholder = now.trigger || t("none");
    own.input.value = now.note.note ?? "";
  }

  async function save(note) {
    try {
      const now = await saveNote(card.id, note);
      fillFacts(facts, now);
      show(now);
      said.textContent = t("Saved in PersonalQ's own file; the model's files stay as they are.");
      saved(now);
    } catch (error) {
      said.textContent = error.message;
    }
  }

  const submit = (event) => {
    event.preventDefault();
    save({ title: title.input.value, trigger: trigger.input.value, note: own.input.value });
  };
  const root = el("div", { class: "details", onkeydown: (event) => {
    if (event.key === "Escape") back();
    event.stopPropagation(); // else the canvas takes Delete and letters as commands
  } },
  el("div", { class: "row" },
    button(t("back"), back), el("span", { class: "grow" }),
    button(t("add to graph"), add, { title: t("Or drag its tile to the canvas") })),
  el("div", { class: "row" }, picture(card), el("div", { class: "title grow", text: card.title })),
  facts,
  el("form", { class: "notes", onsubmit: submit, "aria-label": t("Your notes") },
    title.label, trigger.label, own.label, triggers,
    el("div", { class: "row" },
      el("button", { class: "button", type: "submit", text: t("save") }),
      button(t("take notes back"), () => save({ title: null, trigger: null, note: null })))),
  said);
  return root;
}

function field(name, input) {
  return { input, label: el("label", { class: "field" }, el("span", { class: "quiet", text: name }), input) };
}

function fillFacts(list, card) {
  const names = {
    title: t("Title"), name: t("File"), kind: t("Kind"), base_family: t("Base"), version: t("Version"),
    author: t("Author"), created_at: t("Made"), triggers: t("Triggers"), tags: t("Tags"), strength: t("Strength"), description: t("Description"),
  };
  const rows = SHOWN.map((name) => [name, words(name, card[name])]).filter(([, value]) => value !== "");
  list.replaceChildren(...rows.flatMap(([name, value]) => [
    el("dt", { text: names[name] }),
    el("dd", {}, el("span", { class: "fact", text: value, tabindex: value.length > LONG ? 0 : null }),
      card.sources[name] ? el("span", { class: "source", text: card.sources[name], title: t("where this comes from") }) : null),
  ]));
}

function words(name, value) {
  if (name === "created_at") return (value ?? "").slice(0, 16).replace("T", " ");
  return Array.isArray(value) ? value.join(", ") : String(value ?? "");
}
