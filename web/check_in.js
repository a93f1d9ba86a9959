// The Check-in Selector's panel. Nothing ever waits: a run that has a question ends, the panel
// shows it, a click writes the answer into the node's `selection` and runs the graph again.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { pauseAutoQueue } from "./auto_queue.js";
import { VIEWS, restored } from "./check_in_views.js";
import { checked, shareable } from "./decision.js";
import { fetchCard, saveNote } from "./library_api.js";
import { addPanel, after, isThis, keep, note, saveState } from "./panel.js";
import { t } from "./text.js";

const NO_MODEL = "none"; // the `selection` that means: none of these, plain prompt
const IN_WORDS = "answer:"; // begins a `selection` that is an answer in the user's own words
const KEPT = "personalq"; // the node's property with what it showed last
const ALWAYS = "personalq_always_ask";

export function addCheckIn(node) {
  const show = addPanel(node, t("PersonalQ check-in"));
  const widget = (name) => node.widgets.find((candidate) => candidate.name === name);
  const selection = widget("selection");
  hide(selection);
  let resumeAutoQueue = null;
  let question = null; // the last one, to come back to

  function render(decision) {
    const isOpen = decision.status === "ask";
    if (isOpen) resumeAutoQueue ??= pauseAutoQueue();
    else resume();
    if (isOpen) question = decision;
    show(...earlier(decision), ...VIEWS[decision.status](decision, actions));
  }

  /** A run may end after its request was edited. */
  function earlier({ request }) {
    const slot = node.inputs?.findIndex(({ name }) => name === "request") ?? -1;
    const isLinked = slot >= 0 && node.isInputConnected(slot);
    const isOld = request && !isLinked && request !== widget("request").value;
    return isOld ? [note(t("For: {request}", { request }))] : [];
  }

  function resume() {
    resumeAutoQueue?.();
    resumeAutoQueue = null;
  }

  function select(value) {
    selection.value = value;
    selection.callback?.(value);
  }

  async function answer(value) {
    select(value);
    resume();
    show(note(t("Running again ...")));
    saveState();
    await app.queuePrompt(0, 1);
    if (node.properties[ALWAYS]) select("");
  }

  const actions = {
    answer,
    say: (words) => answer(IN_WORDS + words),
    forget: () => { select(""); keep(node, KEPT, undefined); show(); },
    change: (decision) => {
      const asked = [question, decision].find((d) => d?.request === decision.request && d.candidates.length > 1);
      if (asked) show(...VIEWS.ask({ ...asked, status: "ask", question: t("Which one instead?") }, actions));
      else answer("");
    },
    isAnswered: () => selection.value !== "",
    isAlways: () => Boolean(node.properties[ALWAYS]),
    setAlways: (on) => {
      if (on) {
        select("");
        const ask = widget("ask");
        if (ask) ask.value = "often";
        widget("when_unsure").value = "ask";
      }
      keep(node, ALWAYS, on || undefined);
    },
    groupsOf: async ({ kind, name }) => (await fetchCard(`${kind}:${name}`).catch(() => null))?.trigger_groups ?? [],
    makeCanonical: async ({ kind, name, selection: chosen }, trigger) => {
      await saveNote(`${kind}:${name}`, { trigger });
      answer(chosen);
    },
  };

  after(node, "onExecuted", (output) => {
    const decision = checked(output?.personalq?.[0]);
    if (!decision) return;
    // An answer in words is kept as the model it led to: the same again, whatever comes to be added.
    if (selection.value.startsWith(IN_WORDS) && decision.choice) select(decision.choice.selection);
    render(decision);
    keep(node, KEPT, shareable(decision));
  });

  after(node, "onConfigure", () => {
    const decision = checked(node.properties[KEPT]);
    const answered = selection.value;
    if (decision && fits(decision, answered)) render(decision);
    else if (answered) show(...restored(modelOf(answered), actions));
    else show();
  });

  const onError = ({ detail }) => {
    if (isThis(node, detail.node_id)) render({ status: "error", reason: String(detail.exception_message) });
  };
  api.addEventListener("execution_error", onError);
  after(node, "onRemoved", () => {
    api.removeEventListener("execution_error", onError);
    resume();
  });
}

/** Is this what the node showed for this answer? */
function fits({ status, choice }, answered) {
  if (status === "ask") return answered === "";
  return answered === "" || answered === (choice?.selection ?? NO_MODEL);
}

function hide(widget) {
  widget.hidden = true;
  widget.options.hidden = true;
}

/** "lora:sub/bear_v4.safetensors#0123456789" -> its kind, name and title; else a title alone. */
function modelOf(selection) {
  const [, kind, name] = selection.match(/^(\w+):(.+)#[0-9a-f]*$/) ?? [];
  if (name) return { kind, name, title: name.replace(/^.*[\\/]|\.safetensors$/g, "") };
  return { title: selection === NO_MODEL ? t("no personal model") : selection.replace(IN_WORDS, "") };
}
