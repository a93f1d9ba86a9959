// The pack's own routes; docs/api.md describes them.

import { api } from "../../scripts/api.js";

/** One page of cards: {total, cards, kinds, bases, by_meaning}. */
export const fetchCards = (query, signal) => ask(`cards?${new URLSearchParams(query)}`, { signal });

/** A card with its facts' sources. */
export const fetchCard = (id) => ask(`card?${new URLSearchParams({ id })}`);

export const fetchStatus = () => ask("status");
export const rescan = () => ask("rescan", post({}));

/** Keep the user's own title, trigger or note of a card; returns the card as it is now. */
export const saveNote = (id, note) => ask("note", post({ id, note }));

const post = (body) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
});

/** The JSON answer; raises an Error with the server's own message. */
async function ask(path, options) {
  const answer = await api.fetchApi(`/personalq/${path}`, options);
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(content.error ?? `${answer.status} ${answer.statusText}`);
  return content;
}
