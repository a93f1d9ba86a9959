// A decision as a node keeps it in the saved workflow. Workflows come from strangers too: whatever
// is read back has the shape below, or is left out.

export const LONGEST_REQUEST = 4000; // letters; of a longer one the rest is not kept

const STATES = ["ask", "chosen", "none"];
const CANDIDATE = ["selection", "kind", "title", "name", "trigger", "version", "created_at", "base_family", "difference"];

/** The decision with only the fields and lengths a panel shows; null where it is none. */
export function checked(decision) {
  if (!STATES.includes(decision?.status)) return null;
  const choice = decision.status === "chosen" ? candidate(decision.choice) : null;
  if (decision.status === "chosen" && !choice) return null;
  return {
    status: decision.status,
    request: text(decision.request, LONGEST_REQUEST),
    question: text(decision.question),
    prompt: text(decision.prompt, LONGEST_REQUEST),
    trigger: text(decision.trigger),
    strength: Number.isFinite(decision.strength) ? decision.strength : 1,
    reason: text(decision.reason, 1000),
    notices: texts(decision.notices),
    choice,
    beside: list(decision.beside).map(candidate).filter(Boolean),
    candidates: list(decision.candidates).map(candidate).filter(Boolean),
  };
}

/**
 * For the saved workflow: of a library nothing is told but what the choice needs, and nothing that
 * notices say of the server, its folders and its LLM.
 */
export const shareable = (decision) => ({
  ...decision,
  notices: [],
  candidates: decision.status === "chosen" ? [] : decision.candidates,
});

function candidate(value) {
  if (typeof value?.selection !== "string" || typeof value.name !== "string") return null;
  const fields = CANDIDATE.map((name) => [name, text(value[name])]);
  return { ...Object.fromEntries(fields), evidence: texts(value.evidence) };
}

const list = (value) => (Array.isArray(value) ? value.slice(0, 5) : []);
const texts = (value) => list(value).map((line) => text(line)).filter(Boolean);
const text = (value, limit = 400) => (typeof value === "string" ? value.slice(0, limit) : "");
