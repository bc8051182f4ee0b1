// Writes an answer, coloured by where its tokens came from, behind the end of its prompt.

import { SOURCES } from "./run.js";

const CONTEXT_LINES = 2;

export class Answer {
  constructor(element, onStep = null) {
    this.element = element;
    if (!onStep) return;
    element.addEventListener("click", (event) => {
      const piece = event.target.closest("[data-step]");
      if (piece) onStep(Number(piece.dataset.step));
    });
  }

  start(prompt) {
    const end = prompt.split("\n").slice(-CONTEXT_LINES).join("\n");
    const cut = end.length < prompt.length ? "…\n" : "";
    this.element.replaceChildren(span(cut + end, "context"));
    this.element.scrollTop = 0;
  }

  add(pieces, step) {
    const atEnd = this.#isAtEnd();
    for (const { text, source } of pieces) {
      const piece = span(text, `piece ${source}`);
      piece.dataset.step = step;
      piece.title = `step ${step}: ${SOURCES[source]}`;
      this.element.append(piece);
    }
    if (atEnd) this.element.scrollTop = this.element.scrollHeight;
  }

  mark(step) {
    for (const piece of this.element.querySelectorAll(".shown")) piece.classList.remove("shown");
    for (const piece of this.element.querySelectorAll(`[data-step="${step}"]`)) {
      piece.classList.add("shown");
    }
  }

  #isAtEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.element;
    return scrollHeight - scrollTop - clientHeight < 40;
  }
}

function span(text, className) {
  const element = document.createElement("span");
  element.className = className;
  element.textContent = text;
  return element;
}
