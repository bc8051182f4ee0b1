// The run without drafts beside the one with them: the same words, and how fast each came.

import { figure } from "./meters.js";

const [section, verdict, bars] =
  ["comparison", "verdict", "bars"].map((id) => document.getElementById(id));

export function hideComparison() {
  section.hidden = true;
}

export function showComparison(drafted, plain) {
  section.hidden = false;
  verdict.className = "";
  verdict.textContent = plain.summary ? found(drafted, plain) : "running…";
  if (plain.summary) verdict.className = isSame(drafted, plain) ? "good" : "bad";
  const fastest = Math.max(drafted.tokensPerSecond, plain.tokensPerSecond);
  bars.replaceChildren(bar("with drafts", drafted, fastest), bar("without", plain, fastest));
}

function found(drafted, plain) {
  const speedup = drafted.tokensPerSecond / plain.tokensPerSecond;
  const faster = Number.isFinite(speedup) ? `, ${speedup.toFixed(2)}× as fast with drafts` : "";
  if (isSame(drafted, plain)) return `identical: ${plain.numTokens} tokens${faster}`;
  const ids = drafted.tokenIds;
  const at = plain.tokenIds.findIndex((id, i) => id !== ids[i]);
  return `differs at token ${at < 0 ? Math.min(ids.length, plain.numTokens) : at}${faster}`;
}

function isSame(drafted, plain) {
  return drafted.text === plain.text && String(drafted.tokenIds) === String(plain.tokenIds);
}

function bar(name, run, fastest) {
  const row = document.createElement("div");
  const [label, track, value] = ["span", "span", "b"].map((tag) => document.createElement(tag));
  const fill = document.createElement("i");
  label.textContent = name;
  value.textContent = `${figure(run.tokensPerSecond, 1)} tokens/s`;
  fill.style.width = `${fastest > 0 ? (100 * run.tokensPerSecond) / fastest : 0}%`;
  track.append(fill);
  row.append(label, track, value);
  return row;
}
