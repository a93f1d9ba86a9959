// A grid of thousands of cards, of which only those in sight exist.

import { cardTile } from "./card_tile.js";
import { el } from "./panel.js";

const TILE = { width: 136, height: 174 }; // at least so wide, exactly so high, gaps included
const PAGE = 100;
const ROWS_AHEAD = 2;
const SETTLED_MS = 90; // pictures are asked for when the scrolling pauses so long
const TOP = { scrollTop: 0, focused: 0 };

/**
 * A scrolling grid.
 *
 * load(offset, limit, signal): promise of {total, cards}; open(card): a card was chosen;
 * drag(card, event): one is being dragged; fail(error): cards could not be loaded.
 */
export function cardGrid({ label, load, open, drag, fail }) {
  const sheet = el("div", { class: "sheet", role: "list", "aria-label": label });
  const root = el("div", { class: "grid" }, sheet);
  const tiles = new Map(); // number -> tile
  let made = []; // all tiles, in the order of the page
  let spare = []; // those that may show another card
  let cards = [];
  let total = 0;
  // Kept here, because to ask the page may make it lay out everything anew.
  let size = { width: 0, height: 0 };
  let { scrollTop, focused } = TOP;
  let columns = 1;
  let requests = new AbortController();
  let asked = new Set(); // pages
  let frame = 0;
  let settled = 0;

  root.addEventListener("scroll", () => {
    scrollTop = root.scrollTop;
    frame ||= requestAnimationFrame(() => { frame = 0; draw(); });
  }, { passive: true });
  sheet.addEventListener("keydown", walk);
  const observer = new ResizeObserver(([{ contentRect: { width, height } }]) => {
    if (!width) return; // taken out of the page for a while
    size = { width, height };
    const fitting = Math.max(1, Math.floor(width / TILE.width));
    if (fitting !== columns) layOut(fitting);
    draw();
  });
  observer.observe(root);

  /** Load anew and go to a place; what is shown stays until the new cards are there. */
  async function reset(place = TOP) {
    requests.abort();
    requests = new AbortController();
    const found = await fetchPage(0);
    if (!found) return;
    const hadFocus = sheet.contains(document.activeElement);
    cards = [];
    asked = new Set([0]);
    total = found.total;
    focused = Math.max(0, Math.min(place.focused, total - 1));
    scrollTop = place.scrollTop;
    layOut(columns);
    take(0, found);
    if (hadFocus) focus(focused);
  }

  async function fetchMore(page) {
    if (asked.has(page)) return;
    asked.add(page);
    const found = await fetchPage(page);
    if (found) take(page, found);
    else asked.delete(page);
  }

  /** A page of cards; null where it cannot be had, or another list has begun meanwhile. */
  async function fetchPage(page) {
    const { signal } = requests;
    try {
      const found = await load(page * PAGE, PAGE, signal);
      return signal.aborted ? null : found;
    } catch (error) {
      if (!signal.aborted) fail(error);
      return null;
    }
  }

  function take(page, found) {
    found.cards.forEach((card, i) => { cards[page * PAGE + i] = card; });
    draw();
  }

  /** Put all tiles at other places; the first card in sight stays in sight. */
  function layOut(fitting) {
    const first = Math.floor(scrollTop / TILE.height) * columns;
    if (fitting !== columns) scrollTop = Math.floor(first / fitting) * TILE.height;
    columns = fitting;
    sheet.style.height = `${Math.ceil(total / columns) * TILE.height}px`;
    root.scrollTop = scrollTop;
    tiles.clear();
    spare = [...made];
  }

  /** Show the tiles in sight and a little more, each in an element that another one has left. */
  function draw() {
    if (!size.width) return;
    const rows = Math.ceil(size.height / TILE.height) + 2 * ROWS_AHEAD + 1;
    const lastAbove = Math.max(0, Math.ceil(total / columns) - rows);
    const above = Math.min(lastAbove, Math.max(0, Math.floor(scrollTop / TILE.height) - ROWS_AHEAD));
    const from = above * columns;
    const to = Math.min(total, from + rows * columns);
    for (const [number, tile] of tiles) {
      if ((number >= from && number < to) || tile.button === document.activeElement) continue;
      tiles.delete(number);
      spare.push(tile);
    }
    for (let number = from; number < to; number++) {
      if (!cards[number]) fetchMore(Math.floor(number / PAGE));
      if (!tiles.has(number)) place(number);
      else if (tiles.get(number).card !== cards[number]) tiles.get(number).show(cards[number]);
    }
    for (const { root: unused } of spare) unused.remove();
    made = made.filter((tile) => !spare.includes(tile));
    spare = [];
    clearTimeout(settled);
    settled = setTimeout(() => tiles.forEach((tile) => tile.loadPicture()), SETTLED_MS);
  }

  function place(number) {
    const tile = spare.shift() ?? make();
    const width = 100 / columns;
    tile.show(cards[number]);
    tile.moveTo(number, total, { left: (number % columns) * width, top: topOf(number), width });
    tile.button.tabIndex = number === focused ? 0 : -1;
    tiles.set(number, tile);
  }

  function make() {
    const tile = cardTile({ open, drag, focus: reached });
    made.push(tile);
    sheet.append(tile.root);
    return tile;
  }

  const topOf = (number) => Math.floor(number / columns) * TILE.height;

  function focus(number) {
    const top = topOf(number);
    const bottom = top + TILE.height;
    if (top < scrollTop) root.scrollTop = scrollTop = top;
    if (bottom > scrollTop + size.height) root.scrollTop = scrollTop = bottom - size.height;
    draw();
    tiles.get(number)?.button.focus({ preventScroll: true });
  }

  /** One tile alone can be reached by the tab key: the last one that was. */
  function reached(number) {
    const before = tiles.get(focused);
    if (before) before.button.tabIndex = -1;
    focused = number;
    tiles.get(number).button.tabIndex = 0;
  }

  function walk(event) {
    const page = Math.max(1, Math.floor(size.height / TILE.height)) * columns;
    const next = {
      ArrowRight: focused + 1, ArrowLeft: focused - 1,
      ArrowDown: focused + columns, ArrowUp: focused - columns,
      PageDown: Math.min(focused + page, total - 1), PageUp: Math.max(focused - page, 0),
      Home: 0, End: total - 1,
    }[event.key];
    if (next === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    if (next >= 0 && next < total) focus(next);
  }

  /** Put back into the page: at the same place, on the same tile. */
  function comeBack() {
    root.scrollTop = scrollTop;
    focus(focused);
  }

  const destroy = () => {
    requests.abort();
    observer.disconnect();
    cancelAnimationFrame(frame);
    clearTimeout(settled);
  };
  return { root, reset, comeBack, here: () => ({ scrollTop, focused }), destroy };
}
