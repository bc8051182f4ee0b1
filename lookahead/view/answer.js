// Writes an answer, coloured by where its tokens came from, behind the end of its prompt or behind
// the conversation so far.

import { called } from "./conversation.js";
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

  start({ prompt, messages }) {
    this.element.replaceChildren(...(messages?.map(turn) ?? [span(endOf(prompt), "context")]));
    this.element.scrollTop = messages ? this.element.scrollHeight : 0;
  }

  showCalls(calls) {
    for (const call of calls) this.element.append(block(`calls ${called(call)}`, "call"));
    if (calls.length) this.element.scrollTop = this.element.scrollHeight;
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

function endOf(prompt) {
  const end = prompt.split("\n").slice(-CONTEXT_LINES).join("\n");
  return end.length < prompt.length ? `…\n${end.trimStart()}` : end;
}

function turn({ role, content, tool_calls = [] }) {
  const element = block(role === "user" ? endOf(content) : content, `turn ${role}`);
  for (const { function: { name, arguments: text } } of tool_calls) {
    element.append(block(`calls ${called({ name, text })}`, "call"));
  }
  return element;
}

function block(text, className) {
  const element = document.createElement("div");
  element.className = className;
  element.textContent = text;
  return element;
}

function span(text, className) {
  const element = document.createElement("span");
  element.className = className;
  element.textContent = text;
  return element;
}
