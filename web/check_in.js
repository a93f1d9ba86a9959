// The Check-in Selector's panel. Nothing ever waits: a run that has a question ends, the panel
// shows it, a click writes the answer into the node's `selection` and runs the graph again.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { addPanel, after, el } from "./panel.js";
import { pauseAutoQueue } from "./auto_queue.js";

const NO_MODEL = "none"; // the `selection` that means: none of these, plain prompt

export function addCheckIn(node) {
  const show = addPanel(node, "PersonalQ check-in");
  const selection = node.widgets.find((widget) => widget.name === "selection");
  hide(selection);
  let resumeAutoQueue = null;

  function answer(value) {
    selection.value = value;
    selection.callback?.(value);
    resume();
    show(...(value ? restored(value, actions) : [note("Running again ...")]));
    app.queuePrompt(0, 1);
  }

  function resume() {
    resumeAutoQueue?.();
    resumeAutoQueue = null;
  }

  function render(decision) {
    const isOpen = decision.status === "ask";
    if (isOpen) resumeAutoQueue ??= pauseAutoQueue();
    else resume();
    show(...VIEWS[decision.status](decision, actions));
  }

  const actions = {
    answer,
    chooseAgain: (decision) =>
      show(...VIEWS.ask({ ...decision, question: "Which one instead?" }, actions)),
  };

  after(node, "onExecuted", (output) => {
    const decision = output?.personalq?.[0];
    if (decision) render(decision);
  });
  after(node, "onConfigure", () => show(...restored(selection.value, actions)));

  const onError = ({ detail }) => {
    if (isAbout(detail, node)) render({ status: "error", reason: detail.exception_message });
  };
  api.addEventListener("execution_error", onError);
  after(node, "onRemoved", () => {
    api.removeEventListener("execution_error", onError);
    resume();
  });
}

/** Inside a subgraph the server knows a node as "outer:inner". */
function isAbout({ node_id }, node) {
  const path = String(node_id).split(":");
  return path.at(-1) === String(node.id) && (path.length === 1) === (node.graph?.isRootGraph ?? true);
}

function hide(widget) {
  widget.hidden = true;
  widget.options.hidden = true;
}

/** Before the first run after a reload only the saved answer is known. */
function restored(selection, { answer }) {
  if (!selection) return [];
  const name = selection === NO_MODEL ? "no personal model" : nameOf(selection);
  return [
    el("div", { class: "row" },
      el("span", { class: "grow quiet", text: `Your choice: ${name}` }),
      button("change", () => answer(""))),
  ];
}

const nameOf = (selection) =>
  selection.replace(/^\w+:/, "").replace(/#[0-9a-f]*$/, "").replace(/^.*[\\/]|\.safetensors$/g, "");

const VIEWS = {
  ask: (decision, { answer }) => {
    const none = button("None of these", () => answer(NO_MODEL));
    return [
      el("div", { class: "question", text: decision.question, role: "status" }),
      options(decision.candidates, answer, none),
    ];
  },

  chosen: (decision, { answer, chooseAgain }) => {
    const { choice } = decision;
    const others = decision.candidates.length > 1;
    return [
      el("div", { class: "row", role: "status" },
        badge(choice),
        el("div", { class: "grow" },
          el("div", { class: "title", text: choice.title }),
          facts(choice, decision.strength)),
        button("change", () => (others ? chooseAgain(decision) : answer("")))),
      evidence(choice.evidence.length ? choice.evidence : [decision.reason]),
      prompt(decision.prompt, decision.trigger),
      ...notices(decision),
    ];
  },

  none: (decision, { answer }) => [
    el("div", { class: "question", text: decision.reason, role: "status" }),
    decision.candidates.length ? el("div", { class: "quiet", text: "Nearest in your library:" }) : null,
    decision.candidates.length ? options(decision.candidates, answer) : null,
    prompt(decision.prompt, ""),
    ...notices(decision),
  ],

  error: ({ reason }, { answer }) => [
    el("div", { class: "error", text: reason.trim(), role: "alert" }),
    el("div", { class: "row" }, el("span", { class: "grow" }), button("choose again", () => answer(""))),
  ],
};

/** Cards to choose from; arrow keys walk through them. */
function options(candidates, answer, last = null) {
  const cards = candidates.map((candidate) =>
    el("button", { class: "card", type: "button", onclick: () => answer(candidate.selection) },
      badge(candidate),
      el("div", { class: "grow" },
        el("div", { class: "title", text: candidate.title }),
        candidate.difference ? el("div", { class: "difference", text: candidate.difference }) : null,
        facts(candidate),
        evidence(candidate.evidence))));
  const group = el("div", { class: "options", role: "group", "aria-label": "Options" }, ...cards, last);
  group.addEventListener("keydown", (event) => walk(event, [...group.children]));
  return group;
}

const STEPS = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 };

function walk(event, buttons) {
  const step = STEPS[event.key];
  const isOurs = step || ["Enter", " ", "Delete", "Backspace", "Escape"].includes(event.key);
  if (!isOurs || event.ctrlKey || event.metaKey) return;
  event.stopPropagation(); // else the canvas moves or deletes the node
  if (event.key === "Escape") document.activeElement?.blur();
  if (!step) return;
  event.preventDefault();
  const here = buttons.indexOf(document.activeElement);
  buttons[(here + step + buttons.length) % buttons.length].focus();
}

/** The first letter on a colour of its own: tells entries apart at a glance, also zoomed out. */
function badge({ title, name }) {
  const hash = [...name].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 9973, 7);
  const hue = (hash * 137) % 360; // neighbours in the alphabet are far apart in colour
  const letter = ([...(title || name)][0] ?? "?").toUpperCase();
  return el("div", { class: "badge", text: letter, style: `--personalq-hue: ${hue}`, "aria-hidden": true });
}

function facts({ trigger, version, created_at, base_family }, strength) {
  const day = created_at?.slice(0, 10);
  const weight = strength === undefined ? null : `strength ${Number(strength.toFixed(2))}`;
  return el("div", { class: "facts" },
    trigger ? el("span", { class: "trigger", text: trigger, title: "trigger" }) : null,
    ...[version, day, base_family, weight].filter(Boolean).map((text) => el("span", { text })));
}

function evidence(lines) {
  if (!lines.length) return null;
  return el("ul", { class: "evidence" }, ...lines.slice(0, 4).map((text) => el("li", { text })));
}

/** The rewritten prompt, its trigger marked. */
function prompt(text, trigger) {
  if (!text) return null;
  const at = trigger ? text.indexOf(trigger) : -1;
  if (at < 0) return el("div", { class: "prompt", text });
  return el("div", { class: "prompt" },
    text.slice(0, at), el("mark", { text: trigger }), text.slice(at + trigger.length));
}

const notices = (decision) => decision.notices.map(note);
const note = (text) => el("div", { class: "quiet", text, role: "status" });
const button = (text, onclick) => el("button", { class: "button", type: "button", text, onclick });
