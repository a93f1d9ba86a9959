// A grid of thousands of cards, of which only those in sight exist.

import { picture } from "./model_card.js";
import { el } from "./panel.js";

const CELL = { width: 128, height: 166, gap: 8 };
const PAGE = 100;
const ROWS_AHEAD = 2;

/**
 * A scrolling grid.
 *
 * load(offset, limit, signal): promise of {total, cards}; open(card): a card was chosen;
 * drag(card, event): one is being dragged.
 */
export function cardGrid({ label, load, open, drag }) {
  const sheet = el("div", { class: "sheet", role: "list", "aria-label": label });
  const root = el("div", { class: "grid" }, sheet);
  const cells = new Map(); // number -> element in sight
  let cards = [];
  let total = 0;
  let columns = 1;
  let drawnWidth = 0;
  let focused = 0;
  let requests = new AbortController();
  let asked = new Set(); // pages

  root.addEventListener("scroll", schedule, { passive: true });
  sheet.addEventListener("keydown", walk);
  const observer = new ResizeObserver(() => {
    // Also heard when the grid is taken out and put back: the same width keeps cells and focus.
    if (root.clientWidth && root.clientWidth !== drawnWidth) empty();
    draw();
  });
  observer.observe(root);

  /** Load anew; what is shown stays until the new cards are there. */
  async function reset(scrollTop = 0) {
    requests.abort();
    requests = new AbortController();
    asked = new Set();
    if (await loadPage(0, true)) root.scrollTop = scrollTop;
  }

  async function loadPage(page, isFirst = false) {
    if (asked.has(page)) return false;
    asked.add(page);
    const { signal } = requests;
    try {
      const found = await load(page * PAGE, PAGE, signal);
      if (signal.aborted) return false;
      if (isFirst) {
        cards = [];
        empty();
        focused = 0;
      }
      total = found.total;
      found.cards.forEach((card, i) => { cards[page * PAGE + i] = card; });
      draw();
      return true;
    } catch (error) {
      if (signal.aborted) return false;
      asked.delete(page);
      throw error;
    }
  }

  function empty() {
    cells.forEach((cell) => cell.remove());
    cells.clear();
  }

  let scheduled = 0;
  function schedule() {
    scheduled ||= requestAnimationFrame(() => { scheduled = 0; draw(); });
  }

  const step = CELL.height + CELL.gap;
  const firstNumber = (scrollTop) => Math.floor(scrollTop / step) * columns;

  function draw() {
    const width = root.clientWidth;
    if (!width) return;
    drawnWidth = width;
    columns = Math.max(1, Math.floor((width + CELL.gap) / (CELL.width + CELL.gap)));
    sheet.style.height = `${Math.ceil(total / columns) * step}px`;
    const from = Math.max(0, firstNumber(root.scrollTop) - ROWS_AHEAD * columns);
    const rows = Math.ceil(root.clientHeight / step) + 2 * ROWS_AHEAD + 1;
    const to = Math.min(total, from + rows * columns);
    for (const [number, cell] of cells) {
      if ((number < from || number >= to) && !cell.contains(document.activeElement)) {
        cell.remove();
        cells.delete(number);
      }
    }
    for (let number = from; number < to; number++) {
      if (!cards[number]) loadPage(Math.floor(number / PAGE)).catch(() => {});
      else if (!cells.has(number)) place(number);
    }
  }

  function place(number) {
    const card = cards[number];
    const across = (root.clientWidth - (columns - 1) * CELL.gap) / columns;
    const left = (number % columns) * (across + CELL.gap);
    const top = Math.floor(number / columns) * step;
    const inner = el("button", {
      class: "tile", type: "button", draggable: "true", tabindex: number === focused ? 0 : -1,
      onclick: () => { focus(number); open(card); },
      ondragstart: (event) => drag(card, event),
    },
    picture(card),
    el("span", { class: "title", text: card.title }),
    el("span", { class: "facts" },
      ...[card.version, card.base_family].filter(Boolean).map((text) => el("span", { text }))));
    const cell = el("div", {
      class: "cell", role: "listitem", "aria-posinset": number + 1, "aria-setsize": total,
      style: `width: ${across}px; height: ${CELL.height}px; transform: translate(${left}px, ${top}px)`,
    }, inner);
    cells.set(number, cell);
    sheet.append(cell);
  }

  function focus(number) {
    cells.get(focused)?.firstChild.setAttribute("tabindex", -1);
    focused = number;
    const top = Math.floor(number / columns) * step;
    if (top < root.scrollTop) root.scrollTop = top;
    if (top + step > root.scrollTop + root.clientHeight) root.scrollTop = top + step - root.clientHeight;
    draw();
    const inner = cells.get(number)?.firstChild;
    inner?.setAttribute("tabindex", 0);
    inner?.focus({ preventScroll: true });
  }

  function walk(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
    const move = steps[event.key];
    if (!move || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    const next = focused + move;
    if (next >= 0 && next < total) focus(next);
  }

  const destroy = () => {
    requests.abort();
    observer.disconnect();
    cancelAnimationFrame(scheduled);
  };
  return { root, reset, focusAgain: () => focus(focused), destroy };
}
