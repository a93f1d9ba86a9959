// What the Check-in Selector's panel shows in each state. Views only draw; what a click does comes
// in as `actions`.

import { button, el, note } from "./panel.js";
import { facts, picture, walkable } from "./model_card.js";
import { changes } from "./prompt_changes.js";
import { reason } from "./reasons.js";
import { t } from "./text.js";

const NEAREST = 3;

export const VIEWS = {
  ask: (decision, actions) => [
    el("div", { class: "question", text: decision.question, role: "status" }),
    options(decision.candidates, actions, decision.question, [
      button(t("None of these"), () => actions.answer("none")),
      ownWords(actions),
    ]),
    alwaysAsk(actions),
    ...notices(decision),
  ],

  chosen: (decision, actions) => {
    const { choice } = decision;
    return [
      el("div", { class: "row", role: "status" },
        picture(choice),
        el("div", { class: "grow" },
          el("div", { class: "title", text: choice.title }),
          facts({ ...choice, trigger: "" }, decision.strength),
          chips(choice, actions),
          evidence(choice.evidence.length ? choice.evidence : ["nearest in meaning"]))),
      ...decision.beside.map((other) => el("div", { class: "row" },
        picture(other),
        el("div", { class: "grow" },
          el("div", { class: "title", text: other.title }), facts(other), evidence(other.evidence)))),
      prompt(decision),
      el("div", { class: "row" },
        button(t("change"), () => actions.change(decision)),
        actions.isAnswered() ? button(t("forget"), actions.forget, { title: t("Decide anew at the next run") }) : null,
        el("span", { class: "grow" }),
        alwaysAsk(actions)),
      ...notices(decision),
    ];
  },

  none: (decision, actions) => {
    const nearest = decision.candidates.slice(0, NEAREST);
    return [
      el("div", { class: "question", text: decision.reason, role: "status" }),
      nearest.length ? note(t("Nearest in your library:")) : null,
      nearest.length ? options(nearest, actions, t("Nearest in your library:")) : null,
      prompt(decision),
      actions.isAnswered() ? button(t("change"), () => actions.change(decision)) : null,
      ...notices(decision),
    ];
  },

  error: ({ reason }, actions) => [
    el("div", { class: "error", text: reason.trim(), role: "alert" }),
    el("div", { class: "row" }, button(t("choose again"), () => actions.answer(""))),
  ],
};

/** Known is only the saved answer, as in a workflow or a picture whose run is not over. */
export function restored(model, actions) {
  return [
    el("div", { class: "row", role: "status" },
      model.name ? picture(model) : null,
      el("div", { class: "title grow", text: t("Your choice: {name}", { name: model.title }) }),
      button(t("change"), () => actions.answer(""))),
  ];
}

/** Cards to choose from; arrow keys walk through them. */
function options(candidates, { answer }, label, otherAnswers = []) {
  return walkable(el("div", { class: "options", role: "group", "aria-label": label },
    ...candidates.map((candidate) =>
      el("button", { class: "card", type: "button", onclick: () => answer(candidate.selection) },
        picture(candidate),
        el("div", { class: "grow" },
          el("div", { class: "title", text: candidate.title }),
          candidate.difference ? el("div", { class: "difference", text: reason(candidate.difference) }) : null,
          facts(candidate),
          evidence(candidate.evidence)))),
    ...otherAnswers));
}

function ownWords({ say }) {
  const words = el("input", {
    class: "words grow", type: "text", maxlength: 300,
    placeholder: t("or say it in your own words"), "aria-label": t("Answer in your own words"),
  });
  const submit = (event) => {
    event.preventDefault();
    if (words.value.trim()) say(words.value.trim());
  };
  return el("form", { class: "row", onsubmit: submit },
    words, el("button", { class: "button", type: "submit", text: t("answer") }));
}

/** A choice's triggers: a click copies; another group of its author's takes the first one's place. */
function chips(choice, { groupsOf, makeCanonical }) {
  const row = el("div", { class: "facts" });
  const copied = (event) => {
    navigator.clipboard?.writeText(choice.trigger);
    event.target.textContent = t("copied");
    setTimeout(() => { event.target.textContent = choice.trigger; }, 900);
  };
  if (choice.trigger) {
    row.append(el("button", {
      class: "chip trigger", type: "button", text: choice.trigger, onclick: copied, title: t("Click to copy the trigger"),
    }));
  }
  groupsOf(choice).then((groups) => {
    const others = groups.filter((group) => group[0] && group[0] !== choice.trigger).slice(0, 4);
    row.append(...others.map((group) => el("button", {
      class: "chip", type: "button", text: group[0], onclick: () => makeCanonical(choice, group[0]),
      title: t("Click to use this trigger instead"),
    })));
  });
  return row;
}

function alwaysAsk({ isAlways, setAlways }) {
  const box = el("input", { type: "checkbox", onchange: () => setAlways(box.checked) });
  box.checked = isAlways();
  return el("label", { class: "quiet", title: t("An answer holds for one run only") }, box, t("always ask here"));
}

const notices = (decision) => decision.notices.map((line) => note(reason(line)));

function evidence(lines) {
  if (!lines.length) return null;
  return el("ul", { class: "evidence" }, ...lines.slice(0, 4).map((line) => {
    const text = line.replace(/^against: /, "");
    return el("li", { text: reason(text), class: text === line ? "" : "against" });
  }));
}

const MARKS = { gone: "del", added: "mark" };

/** The prompt as it runs, with what was changed of the request. */
function prompt({ request, prompt: text }) {
  if (!text) return null;
  return el("div", { class: "prompt", "aria-label": t("prompt") },
    ...changes(request, text).map(([kind, part]) => (MARKS[kind] ? el(MARKS[kind], { text: part }) : part)));
}
