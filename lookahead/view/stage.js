// Shows one step's draft tree; goes with the run, or stands still where the reader put it.

import { described, drawTree } from "./tree.js";

const [tree, note, slider, previous, next, follow] =
  ["tree", "step-note", "step", "previous", "next", "follow"].map((id) => document.getElementById(id));

export class Stage {
  constructor(onShow) {
    this.run = null;
    this.isFollowing = true;
    this.onShow = onShow;
    slider.addEventListener("input", () => this.hold(Number(slider.value)));
    previous.addEventListener("click", () => this.hold(Number(slider.value) - 1));
    next.addEventListener("click", () => this.hold(Number(slider.value) + 1));
    follow.addEventListener("click", () => this.#setFollowing(!this.isFollowing));
  }

  start(run) {
    this.run = run;
    tree.style.minHeight = "";
    this.#setFollowing(true);
    this.show(0);
  }

  // Takes note of new steps.
  update() {
    if (this.isFollowing) this.show(this.run.steps.length - 1);
    else this.#setControls(Number(slider.value));
  }

  refuse(why) {
    note.textContent = why;
  }

  hold(index) {
    this.#setFollowing(false);
    this.show(index);
  }

  show(index) {
    const step = this.run.steps[Math.max(0, Math.min(index, this.run.steps.length - 1))];
    this.#setControls(step?.index ?? 0);
    tree.replaceChildren();
    note.textContent = step ? noteOf(step, this.run) : "";
    if (!step) return;
    tree.append(drawTree(step, getComputedStyle(tree).font));
    // Grows with the trees and does not shrink again, or the page would jump at each step.
    tree.style.minHeight = `${tree.offsetHeight}px`;
    this.onShow(step.index);
  }

  #setControls(index) {
    const last = Math.max(0, (this.run?.steps.length ?? 0) - 1);
    slider.max = last;
    slider.value = index;
    slider.disabled = last === 0;
    slider.setAttribute("aria-valuetext",
      this.run?.steps[index] ? described(this.run.steps[index]) : "none");
    previous.disabled = index === 0;
    next.disabled = index >= last;
  }

  #setFollowing(isFollowing) {
    this.isFollowing = isFollowing;
    follow.setAttribute("aria-pressed", String(isFollowing));
    if (isFollowing && this.run?.steps.length) this.show(this.run.steps.length - 1);
  }
}

function noteOf(step, run) {
  const where = `step ${step.index} of ${run.steps.length - 1}`;
  if (step.index === 0) return `${where}: the prompt's pass gives the first token`;
  if (!step.tree) return `${where}: nothing drafted`;
  return `${where}: ${step.numDrafted} of ${step.tree.texts.length} drafted tokens accepted`;
}
