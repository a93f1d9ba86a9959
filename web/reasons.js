// Check-in's engine says in English what speaks for and against a model: the shell, the log and an
// LLM read it too. Here its sentences get the page's language; what they quote of cards stays.

import { t } from "./text.js";

// The first that fits is it, so the more general ones come last.
const SENTENCES = [
  sentence("you selected it"),
  sentence("nearest in meaning"),
  sentence("its trigger {trigger} is in the request"),
  sentence("the newest of {count} ({date})"),
  sentence("the oldest of {count} ({date})"),
  sentence("the second newest of {count} ({date})"),
  sentence("the second oldest of {count} ({date})"),
  sentence("version {asked} asked, this is {version}"),
  sentence("made {date}, outside the time asked for"),
  sentence("made for {base}"),
  sentence("made by {author}"),
  sentence("made {date}"),
  sentence("the LLM says yes by {chance}"),
  sentence("says nothing of {words}"),
  sentence("says {words}"),
  sentence("you said not {words}"),
  sentence("{title} is named too, but it is for {base}, and {choice} for {family}."),
  sentence("{count} models fit {words}; this is {title}."),
  sentence("Version {asked} was asked for; this is {own}."),
  sentence("Several models fit; this is the best match."),
  sentence("Your saved choice; nothing in the request names it."),
  sentence("{own}, not {wanted}"),
];

function sentence(english) {
  const pattern = english.replace(/[().]/g, "\\$&").replace(/\{(\w+)\}/g, "(?<$1>.+)");
  return { english, pattern: new RegExp(`^${pattern}$`, "s") };
}

/** A reason in the page's language; as it is where no sentence fits. */
export function reason(line) {
  for (const { english, pattern } of SENTENCES) {
    const found = pattern.exec(line);
    if (found) return t(english, found.groups);
  }
  return line;
}
