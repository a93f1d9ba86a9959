// The Check-in Selector's panel. Nothing ever waits: a run that has a question ends, the panel
// shows it, a click writes the answer into the node's `selection` and runs the graph again.

import { app } from "../../scripts/app.js";
import { pauseAutoQueue } from "./auto_queue.js";
import { VIEWS, restored } from "./check_in_views.js";
import { LONGEST_REQUEST, checked, shareable } from "./decision.js";
import { fetchCard, saveNote } from "./library_api.js";
import { addPanel, after, el, isLinked, isThis, keep, listen, note, saveState, setHidden } from "./panel.js";
import { t } from "./text.js";

const NO_MODEL = "none"; // the `selection` that means: none of these, plain prompt
const IN_WORDS = "answer:"; // begins a `selection` that is an answer in the user's own words
const KEPT = "personalq"; // the node's property with what it showed last
const ALWAYS = "personalq_always_ask";

export function addCheckIn(node) {
  const show = addPanel(node, t("PersonalQ check-in"));
  const widget = (name) => node.widgets.find((candidate) => candidate.name === name);
  const selection = widget("selection");
  setHidden(selection, true);
  let resumeAutoQueue = null;
  let question = null; // the last one, to come back to
  let shown = []; // by the panel, or until the answer whose run it waits for
  let isWaiting = false;
  let isQueued = false; // that answer was read and its run accepted
  let sent = null; // the request when the graph was read last

  function draw(...children) {
    isWaiting = false;
    shown = children;
    show(...children);
  }

  function render(decision) {
    const isOpen = decision.status === "ask";
    if (isOpen) resumeAutoQueue ??= pauseAutoQueue();
    else resume();
    if (isOpen) question = decision;
    draw(...earlier(decision), ...VIEWS[decision.status](decision, actions));
  }

  const request = () => String(widget("request").value ?? "").slice(0, LONGEST_REQUEST);

  /** A run may end after its request was edited. */
  function earlier({ request: asked }) {
    const isOld = asked && !isLinked(node, "request") && asked !== request();
    return isOld ? [note(t("For: {request}", { request: asked }))] : [];
  }

  /** Runs name a node by its number only, which a node of another tab's graph may have as well. */
  const isOwn = ({ request: asked }) => isLinked(node, "request") || [request(), sent].includes(asked);

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
    isWaiting = true;
    isQueued = false;
    show(note(t("Running again ...")));
    saveState();
    try {
      await app.queuePrompt(0, 1);
    } finally {
      if (!isQueued) takeBack();
    }
  }

  /** No result will come, or not for this: show again what was there, and the answer that is kept. */
  function takeBack() {
    if (!isWaiting) return;
    isWaiting = false;
    const { title } = modelOf(selection.value);
    show(title ? note(t("Your choice: {name}", { name: title })) : null, ...shown);
  }

  /** What a run leaves in `selection`. A question leaves it: an answer may be on its way already. */
  function settle({ status, choice }) {
    if (status === "ask") return;
    if (node.properties[ALWAYS]) select("");
    // An answer in words is kept as the model it led to: the same again, whatever comes to be added.
    else if (selection.value.startsWith(IN_WORDS) && choice) select(choice.selection);
  }

  function fail(reason) {
    settle({ status: "error" });
    render({ status: "error", reason });
  }

  const actions = {
    answer,
    say: (words) => answer(IN_WORDS + words),
    forget: () => { select(""); keep(node, KEPT, undefined); draw(); },
    change: (decision) => {
      const asked = [question, decision].find((d) => d?.request === decision.request && d.candidates.length > 1);
      if (asked) draw(...VIEWS.ask({ ...asked, status: "ask", question: t("Which one instead?") }, actions));
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
    makeCanonical: ({ kind, name, selection: chosen }, trigger) => saveNote(`${kind}:${name}`, { trigger }).then(
      () => answer(chosen),
      (error) => show(el("div", { class: "error", text: error.message, role: "alert" }), ...shown),
    ),
  };

  after(node, "onExecuted", (output) => {
    const decision = checked(output?.personalq?.[0]);
    if (!decision) return;
    const own = isOwn(decision);
    if (own) settle(decision);
    render(decision);
    if (own) keep(node, KEPT, shareable(decision));
  });

  after(node, "onConfigure", () => {
    const decision = checked(node.properties[KEPT]);
    const answered = selection.value;
    if (decision && fits(decision, answered)) render(decision);
    else if (answered) draw(...restored(modelOf(answered), actions));
    else draw();
  });

  after(selection, "beforeQueued", () => { sent = request(); });
  after(selection, "afterQueued", () => { isQueued = true; });
  listen(node, {
    execution_error: ({ detail }) => {
      if (isThis(node, detail.node_id, detail.node_type)) fail(String(detail.exception_message));
      else takeBack();
    },
    execution_interrupted: takeBack,
    // With nothing left to run there will be no result: this node's part was invalid, or taken out.
    status: ({ detail }) => {
      if (isQueued && detail?.exec_info?.queue_remaining === 0) takeBack();
    },
  });
  after(node, "onRemoved", resume);
}

/** Is this what the node showed for this answer? */
function fits({ status, choice }, answered) {
  if (status === "ask") return answered === "";
  return answered === "" || answered === (choice?.selection ?? NO_MODEL);
}

/** "lora:sub/bear_v4.safetensors#0123456789" -> its kind, name and title; else a title alone. */
function modelOf(selection) {
  const [, kind, name] = selection.match(/^(\w+):(.+)#[0-9a-f]*$/) ?? [];
  if (name) return { kind, name, title: name.replace(/^.*[\\/]|\.safetensors$/g, "") };
  return { title: selection === NO_MODEL ? t("no personal model") : selection.replace(IN_WORDS, "") };
}
