// One generation as it arrives: its steps, its text by source, what it took. No page in here.

export const SOURCES = {
  local: "from the prompt",
  namespace: "from memory",
  successors: "from successors",
  constraint: "from the form",
  unknown: "drafted",
  own: "the model's own",
};

export class Run {
  constructor(prompt) {
    this.prompt = prompt;
    this.text = "";  // as the model wrote it
    this.said = "";  // without calls of tools
    this.calls = [];
    this.steps = [];
    this.numTokens = 0;
    this.counts = {};  // tokens by source
    this.finishReason = null;
    this.summary = null;  // the server's, at the end
    this.firstTime = 0;
    this.lastTime = 0;
  }

  // Takes one event; returns the coloured pieces of text that it adds.
  take(event, time) {
    const choice = event.choices[0];
    if (!choice) {
      this.summary = event.lookahead;
      this.numTokens = event.usage.completion_tokens;
      return [];
    }
    this.finishReason = choice.finish_reason ?? this.finishReason;
    this.said += choice.text ?? choice.delta.content ?? "";
    for (const part of choice.delta?.tool_calls ?? []) this.#addToCall(part);
    const text = event.lookahead?.text ?? choice.text ?? choice.delta.content ?? "";
    const before = this.text;
    this.text += text;
    if (!event.lookahead) return text ? [{ text, source: "own" }] : [];
    return this.#keep(event.lookahead, text, before, time);
  }

  get tokenIds() {
    return this.steps.flatMap((step) => step.tokenIds);
  }

  // The server's figure once it is there. The first token comes with the prompt and is not counted.
  get tokensPerSecond() {
    if (this.summary) return this.summary.tokens_per_second;
    return ratio(1000 * (this.numTokens - 1), this.lastTime - this.firstTime);
  }

  get tokensPerStep() {
    return this.summary ? this.summary.tokens_per_step
      : ratio(this.numTokens - 1, this.steps.length - 1);
  }

  get numAccepted() {
    return this.numTokens - (this.counts.own ?? 0);
  }

  get numDrafted() {
    return this.steps.reduce((sum, step) => sum + (step.tree ? step.tree.texts.length : 0), 0);
  }

  #addToCall({ index, id, function: { name, arguments: text } }) {
    if (id) this.calls[index] = { id, name, text: "" };
    this.calls[index].text += text;
  }

  #keep(shown, text, before, time) {
    const sources = Array.from({ length: shown.num_drafted },
      (_, i) => shown.draft_sources[i] ?? "unknown");
    const pieces = split(text, shown, sources);
    this.steps.push({
      index: this.steps.length,
      tokenIds: shown.token_ids,
      firstIndex: shown.first_index,
      numDrafted: shown.num_drafted,
      tree: shown.draft_tree,
      before: (this.prompt + before).slice(-24),
      pieces,
      own: shown.token_ids.length > shown.num_drafted
        ? Array.from(text).slice(shown.drafted_text_len).join("") : null,
    });
    this.#count(sources, shown.token_ids.length - shown.num_drafted, time);
    return pieces;
  }

  #count(sources, numOwn, time) {
    for (const source of sources) this.counts[source] = (this.counts[source] ?? 0) + 1;
    this.counts.own = (this.counts.own ?? 0) + numOwn;
    this.numTokens += sources.length + numOwn;
    this.firstTime ||= time;
    this.lastTime = time;
  }
}

// Parts a step's text by where its tokens came from. Lengths count characters, not UTF-16 units.
function split(text, shown, sources) {
  const characters = Array.from(text);
  const drafted = characters.slice(0, shown.drafted_text_len);
  const own = characters.slice(shown.drafted_text_len).join("");
  const texts = (shown.draft_tree?.accepted ?? []).map((node) => shown.draft_tree.texts[node]);
  const pieces = [];
  sources.forEach((source, i) => {
    const isLast = i === sources.length - 1;
    const length = isLast ? drafted.length : Array.from(texts[i] ?? "").length;
    add(pieces, drafted.splice(0, length).join(""), source);
  });
  add(pieces, own, "own");
  return pieces;
}

function add(pieces, text, source) {
  const last = pieces.at(-1);
  if (last?.source === source) last.text += text;
  else if (text) pieces.push({ text, source });
}

export function ratio(part, whole) {
  return whole > 0 ? part / whole : 0;
}
