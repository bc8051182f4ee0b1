// The figures of a run, and the legend that counts its tokens by source.

import { SOURCES, ratio } from "./run.js";

const ALWAYS = ["local", "namespace", "successors", "own"];

export class Meters {
  constructor() {
    this.legend = element("legend");
  }

  show(run) {
    const { gain } = run.summary ?? {};
    const drafted = run.summary?.num_draft_tokens ?? run.numDrafted;
    const accepted = run.summary?.num_accepted_tokens ?? run.numAccepted;
    element("speed").textContent = figure(run.tokensPerSecond, 1);
    element("per-step").textContent = figure(run.tokensPerStep, 2);
    element("gain").textContent = gain ? `${gain.toFixed(2)}×` : "–";
    element("accepted").textContent = drafted
      ? `${accepted} of ${drafted}` : run.steps.length ? "none drafted" : "–";
    this.#count(run);
  }

  #count(run) {
    const names = Object.keys(SOURCES).filter((name) => ALWAYS.includes(name) || run.counts[name]);
    this.legend.replaceChildren(...names.map((name) => entry(name, run)));
  }
}

function entry(name, run) {
  const item = document.createElement("li");
  const sample = document.createElement("span");
  const count = document.createElement("b");
  sample.className = `piece ${name}`;
  sample.textContent = SOURCES[name];
  count.textContent = run.counts[name] ?? 0;
  count.title = `${Math.round(100 * ratio(run.counts[name] ?? 0, run.numTokens))} % of the tokens`;
  item.append(sample, count);
  return item;
}

export function figure(value, digits) {
  return value > 0 ? value.toFixed(digits) : "–";
}

function element(id) {
  return document.getElementById(id);
}
