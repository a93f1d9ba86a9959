// The library in the side bar: everything PersonalQ knows of your models.

import { addToGraph, dragToCanvas } from "./add_to_graph.js";
import { cardDetails } from "./card_details.js";
import { cardGrid } from "./card_grid.js";
import { fetchCard, fetchCards, fetchStatus, rescan } from "./library_api.js";
import { button, el } from "./panel.js";
import { t } from "./text.js";

const PAUSE_MS = 60; // between the last key and the search
const LOOK_AGAIN_MS = 400;

const seen = { q: "", kind: "", base: "", scrollTop: 0 }; // kept while the tab is closed

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
  });
  search.value = seen.q;
  const kinds = filter(t("Kind"), t("all kinds"), "kind");
  const bases = filter(t("Base"), t("all bases"), "base");
  const state = el("div", { class: "quiet", role: "status" });
  const body = el("div", { class: "library-body" });
  const root = el("div", { class: "library", role: "region", "aria-label": t("PersonalQ library") },
    el("div", { class: "row" }, search, button(t("rescan"), () => look(), { title: t("Look for new and changed models") })),
    el("div", { class: "row" }, kinds, bases),
    state, body);
  container.classList.add("personalq-host");
  container.replaceChildren(root);

  const grid = cardGrid({
    label: t("Models"),
    load: async (offset, limit, signal) => {
      const found = await fetchCards({ q: seen.q, kind: seen.kind, base: seen.base, offset, limit }, signal);
      fill(kinds, found.kinds, seen.kind);
      fill(bases, found.bases, seen.base);
      say(found.total);
      return found;
    },
    open: show,
    drag: dragToCanvas,
  });
  grid.root.addEventListener("scroll", () => { seen.scrollTop = grid.root.scrollTop; }, { passive: true });
  body.append(grid.root);

  let timer = 0;
  search.addEventListener("input", () => {
    clearTimeout(timer);
    const start = performance.now();
    timer = setTimeout(async () => {
      seen.q = search.value.trim();
      await refresh();
      measure("personalq search", start);
    }, PAUSE_MS);
  });

  function filter(label, all, name) {
    const select = el("select", { class: "words grow", "aria-label": label, onchange: () => {
      seen[name] = select.value;
      refresh();
    } }, el("option", { value: "", text: all }));
    return select;
  }

  const say = (total) => {
    state.textContent = total ? t("{count} models", { count: total.toLocaleString() }) : t("No model fits. Fewer words find more.");
  };

  const refresh = (scrollTop = 0) => grid.reset(scrollTop).catch(fail);
  const fail = (error) => { state.textContent = error.message; };

  async function show(card) {
    const details = await fetchCard(card.id);
    if (!details) return;
    const back = () => {
      body.replaceChildren(grid.root);
      grid.root.scrollTop = seen.scrollTop;
      grid.focusAgain();
    };
    const saved = () => refresh(seen.scrollTop);
    body.replaceChildren(cardDetails(details, { back, saved, add: () => addToGraph(card) }));
    body.querySelector("button").focus();
  }

  /** Read what changed on disk, saying how far it is; then show it. */
  async function look() {
    const done = new AbortController();
    follow(done.signal);
    try {
      const { changed } = await rescan();
      done.abort();
      if (changed) await refresh(seen.scrollTop);
    } catch (error) {
      done.abort();
      fail(error);
    }
  }

  async function follow(signal) {
    while (!signal.aborted && root.isConnected) {
      await new Promise((resume) => { setTimeout(resume, LOOK_AGAIN_MS); });
      const { scan } = signal.aborted ? {} : await fetchStatus().catch(() => ({}));
      if (scan?.total && !signal.aborted) state.textContent = t("Reading {done} of {total} files ...", scan);
    }
  }

  const begun = new AbortController();
  follow(begun.signal);
  refresh(seen.scrollTop).then(() => {
    begun.abort();
    measure("personalq library open", opened);
    return look();
  });

  return () => {
    begun.abort();
    clearTimeout(timer);
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
