// In an auto-queue mode the page runs the graph again as soon as a run ends. While a question is
// open that would ask it over and over: the mode is switched off, and on again with the answer.

import { app } from "../../scripts/app.js";

const OFF = "disabled";
let saved = null;
let openQuestions = 0;

/** Stop auto-queueing; returns the function that ends this pause. */
export function pauseAutoQueue() {
  const queue = app.extensionManager?.queueSettings;
  if (!queue) return () => {};
  if (openQuestions++ === 0 && queue.mode !== OFF) {
    saved = queue.mode;
    queue.mode = OFF;
  }
  return () => {
    if (--openQuestions > 0 || saved === null) return;
    queue.mode = saved;
    saved = null;
  };
}
