// What was said so far, and what the next request says: a message, or the result of a call.

export class Conversation {
  constructor() {
    this.messages = [];
  }

  reset() {
    this.messages = [];
  }

  // The calls of the last answer, which nobody has answered yet.
  get openCalls() {
    return this.messages.at(-1)?.tool_calls ?? [];
  }

  // All messages with one more; the same text answers every open call.
  with(text) {
    const calls = this.openCalls;
    const added = calls.length
      ? calls.map(({ id }) => ({ role: "tool", tool_call_id: id, content: text }))
      : [{ role: "user", content: text }];
    return [...this.messages, ...added];
  }

  keep(messages, run) {
    const answer = { role: "assistant", content: run.said };
    if (run.calls.length) answer.tool_calls = run.calls.map(asMessage);
    this.messages = [...messages, answer];
  }
}

function asMessage({ id, name, text }) {
  return { id, type: "function", function: { name, arguments: text } };
}

// A call as code reads; arguments that were cut off as they are.
export function called({ name, text }) {
  try {
    const written = Object.entries(JSON.parse(text)).map(([key, value]) => `${key}=${JSON.stringify(value)}`);
    return `${name}(${written.join(", ")})`;
  } catch {
    return `${name}(${text}…`;
  }
}
