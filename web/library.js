// The library in the side bar: everything PersonalQ knows of your models.

import { addToGraph, dragToCanvas } from "./add_to_graph.js";
import { cardDetails } from "./card_details.js";
import { cardGrid } from "./card_grid.js";
import { noModels, noneFits } from "./empty_library.js";
import { fetchCard, fetchCards, fetchStatus, rescan } from "./library_api.js";
import { button, el } from "./panel.js";
import { t } from "./text.js";

const PAUSE_MS = 60; // between the last key and the search
const LOOK_AGAIN_MS = 400;

const seen = { q: "", kind: "", base: "", place: undefined }; // kept while the tab is closed

/** The side bar's tab. */
export function libraryTab() {
  let close = () => {};
  return {
    id: "personalq",
    icon: "pi pi-book",
    title: "PersonalQ",
    tooltip: t("PersonalQ: your LoRAs and checkpoints"),
    type: "custom",
    render: (container) => {
      close();
      close = open(container);
    },
    destroy: () => close(),
  };
}

function open(container) {
  const opened = performance.now();
  const search = el("input", {
    class: "words", type: "search", placeholder: t("Search: my newest bear"), "aria-label": t("Search the library"),
    oninput: searchSoon,
  });
  search.value = seen.q;
  const kinds = filter(t("Kind"), t("all kinds"), "kind");
  const bases = filter(t("Base"), t("all bases"), "base");
  const again = button(t("rescan"), look, { title: t("Look for new and changed models") });
  const state = el("div", { class: "quiet grow", role: "status" });
  const bar = el("progress", { hidden: "", "aria-label": t("Reading models") });
  const body = el("div", { class: "library-body" });
  const root = el("div", { class: "library", role: "region", "aria-label": t("PersonalQ library") },
    el("div", { class: "row" }, search, again),
    el("div", { class: "row" }, kinds, bases),
    el("div", { class: "row" }, state, bar),
    body);
  container.classList.add("personalq-host");
  container.replaceChildren(root);

  const grid = cardGrid({ label: t("Models"), load, open: show, drag: dragToCanvas, fail });
  let view = grid.root; // what is shown where no card is open
  let count = ""; // what the last search found, in words
  let timer = 0;
  const following = new Set(); // timers
  body.append(view);

  async function load(offset, limit, signal) {
    const { q, kind, base } = seen;
    const found = await fetchCards({ q, kind, base, offset, limit }, signal);
    fill(kinds, found.kinds, kind);
    fill(bases, found.bases, base);
    count = t("{count} models", { count: found.total.toLocaleString() });
    if (q && !found.by_meaning) count += ` · ${t("by letters only, until all are learned")}`;
    state.textContent = count;
    if (found.total) see(grid.root);
    else see(q || kind || base ? noneFits(clear) : noModels());
    return found;
  }

  /** Exchange what is shown, unless a card is open. */
  function see(next) {
    if (view === next) return;
    if (view.isConnected) view.replaceWith(next);
    view = next;
  }

  function searchSoon() {
    clearTimeout(timer);
    const typed = performance.now();
    timer = setTimeout(async () => {
      const paused = performance.now();
      seen.q = search.value.trim();
      await grid.reset();
      measure("personalq search", paused);
      measure("personalq typed", typed);
    }, PAUSE_MS);
  }

  function filter(label, all, name) {
    const select = el("select", { class: "words grow", "aria-label": label, onchange: () => {
      seen[name] = select.value;
      grid.reset();
    } }, el("option", { value: "", text: all }));
    return select;
  }

  function clear() {
    Object.assign(seen, { q: "", kind: "", base: "" });
    search.value = kinds.value = bases.value = "";
    search.focus();
    grid.reset();
  }

  function fail(error) {
    state.textContent = error.message;
  }

  async function show(card) {
    const details = await fetchCard(card.id).catch(fail);
    if (!details) return;
    const back = () => {
      body.replaceChildren(view);
      grid.comeBack();
    };
    const saved = () => grid.reset(grid.here());
    body.replaceChildren(cardDetails(details, { back, saved, add: () => addToGraph(card) }));
    body.querySelector("button").focus();
  }

  /** Read what changed on disk, then show it. */
  async function look() {
    again.disabled = true;
    try {
      const { changed } = await followed(rescan());
      state.textContent = count;
      if (changed || !count) await grid.reset(grid.here());
    } catch (error) {
      fail(error);
    }
    again.disabled = false;
  }

  /** While something is waited for, show how far the scan behind it is. */
  async function followed(work) {
    const timer = setInterval(async () => {
      const { scan } = await fetchStatus().catch(() => ({}));
      if (scan?.total && following.has(timer)) tell(scan);
    }, LOOK_AGAIN_MS);
    following.add(timer);
    try {
      return await work;
    } finally {
      clearInterval(timer);
      following.delete(timer);
      bar.hidden = true;
    }
  }

  function tell({ done, total }) {
    Object.assign(bar, { max: total, value: done, hidden: false });
    state.textContent = t("Reading {done} of {total} files ...", { done, total });
  }

  followed(grid.reset(seen.place)).then(() => {
    if (count) measure("personalq library open", opened);
    return look();
  });

  return () => {
    clearTimeout(timer);
    following.forEach(clearInterval);
    seen.place = grid.here();
    grid.destroy();
    root.remove();
  };
}

/** A performance entry from `start` to the end of the frame that is drawn next. */
function measure(name, start) {
  requestAnimationFrame(() => setTimeout(() => performance.measure(name, { start })));
}

/** The choices of a filter, with how many cards each has. */
function fill(select, counts, chosen) {
  const names = Object.keys(counts);
  if (chosen && chosen !== "unknown" && !names.includes(chosen)) names.push(chosen);
  const key = JSON.stringify([counts, chosen]);
  if (select.dataset.counts === key) return;
  select.dataset.counts = key;
  select.replaceChildren(select.firstChild, ...names.map((name) =>
    el("option", { value: name || "unknown", text: `${name || t("unknown")} (${counts[name] ?? 0})` })));
  select.value = chosen;
}
