// One tile of the library's grid. A tile that leaves the sight shows another model next: scrolling
// through thousands makes no new elements.

import { pictureBox } from "./model_card.js";
import { el } from "./panel.js";

const NOTHING = { title: "", name: "", preview: false };

/** A tile; open(card), drag(card, event) and focus(number) tell what is done with what it shows. */
export function cardTile({ open, drag, focus }) {
  const picture = pictureBox();
  const title = el("span", { class: "title" });
  const version = el("span");
  const base = el("span");
  const button = el("button", {
    class: "tile", type: "button", draggable: "true", tabindex: -1,
    onclick: () => tile.card && open(tile.card),
    onfocus: () => focus(tile.number),
    ondragstart: (event) => (tile.card ? drag(tile.card, event) : event.preventDefault()),
  }, picture.root, title, el("span", { class: "facts" }, version, base));
  const root = el("div", { class: "cell", role: "listitem" }, button);
  const tile = { root, button, show, moveTo, loadPicture, card: null, number: -1 };
  let isLoaded = true;

  /** Show a card; without one, a blank until it comes. */
  function show(card) {
    tile.card = card;
    const { title: name, version: edition, base_family: family, preview } = card ?? NOTHING;
    isLoaded = !preview;
    picture.show(card ?? NOTHING);
    title.textContent = name;
    version.textContent = edition ?? "";
    base.textContent = family ?? "";
  }

  /** Be number `number` of `total`, at a place in {left: %, top: px, width: %}. */
  function moveTo(number, total, { left, top, width }) {
    tile.number = number;
    root.setAttribute("aria-posinset", number + 1);
    root.setAttribute("aria-setsize", total);
    Object.assign(root.style, { left: `${left}%`, top: `${top}px`, width: `${width}%` });
  }

  function loadPicture() {
    if (isLoaded) return;
    isLoaded = true;
    picture.load();
  }

  return tile;
}
