// Which words of a request gave way to which: the shortest list of changes.

const MOST_WORDS = 400; // the table below grows with the square

/** [["same" | "gone" | "added", text], ...] that lead from one text to the other. */
export function changes(before, after) {
  const [a, b] = [words(before), words(after)];
  if (!before || a.length > MOST_WORDS || b.length > MOST_WORDS) return [["same", after]];
  const common = commonLengths(a, b);
  const parts = [];
  const push = (kind, text) => {
    if (parts.at(-1)?.[0] === kind) parts.at(-1)[1] += text;
    else parts.push([kind, text]);
  };
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && a[i] === b[j]) { push("same", a[i++]); j++; }
    else if (j === b.length || (i < a.length && common[i + 1][j] >= common[i][j + 1])) push("gone", a[i++]);
    else push("added", b[j++]);
  }
  return gathered(parts);
}

/** What went and what came side by side, where only spaces stand between changes. */
function gathered(parts) {
  const result = [];
  let [gone, added] = ["", ""];
  const flush = () => {
    const marked = added.trimEnd();
    if (gone.trim()) result.push(["gone", gone.trim()]);
    if (marked) result.push(["added", marked]);
    if (marked !== added) result.push(["same", added.slice(marked.length)]);
    [gone, added] = ["", ""];
  };
  for (const [kind, text] of parts) {
    if (kind !== "added" && (kind === "gone" || ((gone || added) && !text.trim()))) gone += text;
    if (kind === "added" || (kind === "same" && (gone || added) && !text.trim())) added += text;
    if (kind === "same" && text.trim()) {
      flush();
      result.push([kind, text]);
    }
  }
  flush();
  return result;
}

const words = (text) => text.split(/(?<=\s)|(?=\s)|(?<=[^\p{L}\p{N}_])|(?=[^\p{L}\p{N}_])/u).filter(Boolean);

/** table[i][j]: how many words the rests from a[i] and b[j] have in common, in order. */
function commonLengths(a, b) {
  const table = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      table[i][j] = a[i] === b[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
    }
  }
  return table;
}
