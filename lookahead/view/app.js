// The page: reads the form, runs what it asks for, hands what comes to the parts that show it.

import { Answer } from "./answer.js";
import { hideComparison, showComparison } from "./comparison.js";
import { Conversation } from "./conversation.js";
import { Meters } from "./meters.js";
import { Run } from "./run.js";
import { Stage } from "./stage.js";
import { ServerError, events, getJson, getText } from "./stream.js";

const TEXTS = { "Answers": "lighthouse", "Minutes": "minutes", "JSON": "stock" };
const at = (id) => document.getElementById(id);
const form = at("ask");
const meters = new Meters();
const conversation = new Conversation();
const answer = new Answer(at("answer"), (step) => stage.hold(step));
const plainAnswer = new Answer(at("plain"));
const stage = new Stage((step) => answer.mark(step));
let last = null;  // the finished request with drafts: what it asked for and its run
let running = null;  // aborts the request that runs
let showsDrafts = true;  // until the gateway refuses to

start();

async function start() {
  form.addEventListener("submit", (event) => { event.preventDefault(); generate(); });
  at("stop").addEventListener("click", () => running?.abort());
  at("again").addEventListener("click", repeatWithoutDrafts);
  document.addEventListener("keydown", onKey);
  at("prompt").addEventListener("input", () => delete at("prompt").dataset.sample);
  at("fresh").addEventListener("click", () => forget(""));
  at("kind").addEventListener("change", showKind);
  meters.show(new Run(""));
  await showServer().catch(explain);
  await showKind().catch(explain);
}

async function showServer() {
  const model = (await getJson("/v1/models")).data[0];
  const { device, drafter_connected, has_chat_template } = model.lookahead;
  const drafter = drafter_connected ? "drafter connected" : "no drafter: plain decoding";
  at("server").textContent = `${model.id} · ${device} · ${drafter}`;
  at("kind").firstElementChild.disabled = !has_chat_template;
  if (!has_chat_template) at("kind").value = "text";
}

// Samples for what is sent now: conversations, or texts to continue.
async function showKind() {
  const samples = isChat() ? await getJson("/view/prompts/chats.json") : await texts();
  at("prompt-label").textContent = isChat() ? "Message" : "Prompt";
  at("more").hidden = !isChat();
  showTurn();
  at("samples").replaceChildren(...samples.map(sampleButton));
  if (conversation.messages.length) return;
  if (!at("prompt").value || at("prompt").dataset.sample) at("samples").firstChild.click();
}

async function texts() {
  return Promise.all(Object.entries(TEXTS).map(async ([name, file]) => ({
    name, messages: [{ content: await getText(`/view/prompts/${file}.txt`) }],
  })));
}

function sampleButton({ name, messages, tools, tool_choice, response_format }) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = name;
  button.onclick = () => {
    forget(messages.at(-1).content);
    at("prompt").dataset.sample = name;
    at("prompt").scrollTop = at("prompt").scrollHeight;
    at("tools").value = written(tools);
    at("tool-choice").value = tool_choice ?? "auto";
    at("form").value = written(response_format?.json_schema.schema);
    at("more").open = Boolean(tools || response_format);
    for (const other of at("samples").children) other.setAttribute("aria-pressed", other === button);
  };
  return button;
}

function written(value) {
  return value ? JSON.stringify(value, null, 1) : "";
}

// Begins a new conversation.
function forget(text) {
  conversation.reset();
  at("prompt").value = text;
  showTurn();
}

// Says what the next message is.
function showTurn() {
  const [call] = conversation.openCalls;
  at("prompt").placeholder = call ? `What ${call.function.name} returns` : "";
  at("fresh").hidden = !isChat() || !conversation.messages.length;
}

function onKey(event) {
  if (event.key === "Escape") running?.abort();
  else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
}

async function generate() {
  if (running || !form.reportValidity()) return;
  const wanted = readForm();
  if (!wanted) return;
  const run = new Run(wanted.prompt);
  last = null;
  hideComparison();
  answer.start(wanted);
  stage.start(run);
  meters.show(run);
  const show = onceAFrame(() => { meters.show(run); if (run.steps.length) stage.update(); });
  const isDone = await stream(wanted, run, answer, show);
  if (isDone) last = { wanted, run };
  if (isDone && wanted.messages) goOn(wanted.messages, run);
  at("again").disabled = !isDone || wanted.body.lookahead.mode === "off";
}

function goOn(messages, run) {
  conversation.keep(messages, run);
  answer.showCalls(run.calls);
  at("prompt").value = "";
  showTurn();
}

async function repeatWithoutDrafts() {
  if (running || !last) return;
  const { wanted, run } = last;
  const body = { ...wanted.body, seed: run.summary.seed };
  body.lookahead = { ...body.lookahead, mode: "off", learn: "none" };
  const plain = new Run(wanted.prompt);
  plainAnswer.start(wanted);
  const show = onceAFrame(() => showComparison(run, plain));
  at("comparison").scrollIntoView({ block: "nearest" });
  await stream({ ...wanted, body }, plain, plainAnswer, show);
  plainAnswer.showCalls(plain.calls);
}

// Runs one request; says whether it came to its end.
async function stream(wanted, run, shownIn, show) {
  running = new AbortController();
  setRunning(true, "running…");
  try {
    for await (const event of answered(wanted, running.signal)) {
      const pieces = run.take(event, performance.now());
      if (pieces.length) shownIn.add(pieces, run.steps.length - 1);
      show();
    }
    setRunning(false, ending(run));
  } catch (error) {
    setRunning(false, running.signal.aborted ? "stopped" : "failed");
    if (!running.signal.aborted) explain(error);
  } finally {
    running = null;
    show();
  }
  return run.summary !== null;
}

// The events of an answer; without drafts where this gateway shows them to nobody.
async function* answered({ path, body }, signal) {
  const asked = () => ({ ...body, lookahead: { ...body.lookahead, draft_trees: showsDrafts } });
  try {
    yield* events(path, asked(), signal);
  } catch (error) {
    if (error.param !== "lookahead.draft_trees") throw error;
    showsDrafts = false;
    stage.refuse("this gateway does not show drafts");
    yield* events(path, asked(), signal);
  }
}

function isChat() {
  return at("kind").value === "chat";
}

// What the form asks for; null where a part of it is no JSON.
function readForm() {
  const prompt = at("prompt").value;
  const body = {
    max_tokens: Number(at("max-tokens").value),
    temperature: Number(at("temperature").value),
    stream: true,
    stream_options: { include_usage: true },
    lookahead: { mode: at("mode").value },
  };
  if (at("seed").value) body.seed = Number(at("seed").value);
  if (at("namespace").value) body.lookahead.namespace = at("namespace").value;
  if (!isChat()) return { prompt, body: { ...body, prompt }, path: "/v1/completions" };
  const isResult = conversation.openCalls.length > 0;
  const messages = conversation.with(prompt);
  try {
    Object.assign(body, { messages }, readTools(isResult), isResult ? {} : readAnswerForm());
  } catch (error) {
    explain(error);
    return null;
  }
  return { prompt, messages, body, path: "/v1/chat/completions" };
}

function readTools(isResult) {
  const tools = parsed("tools", "Tools");
  if (!tools) return {};
  // Who has got a result is not made to call again.
  const choice = isResult ? "auto" : at("tool-choice").value;
  return { tools, tool_choice: choice, parallel_tool_calls: false };
}

function readAnswerForm() {
  const schema = parsed("form", "Form of the answer");
  if (!schema) return {};
  return { response_format: { type: "json_schema", json_schema: { name: "answer", schema } } };
}

function parsed(id, label) {
  const text = at(id).value.trim();
  if (!text) return null;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new ServerError({ message: `${label}: not JSON: ${error.message}` });
  }
}

function setRunning(isRunning, state) {
  at("state").textContent = state;
  at("run").disabled = isRunning;
  at("stop").disabled = !isRunning;
  at("again").disabled = isRunning || !last;
  if (isRunning) at("error").hidden = true;
  document.body.classList.toggle("running", isRunning);
}

function ending(run) {
  const reason = {
    stop: "the model ended it",
    length: "the limit of tokens ended it",
    tool_calls: "it calls a tool: say what it returns",
  };
  return `${run.numTokens} tokens, ${reason[run.finishReason] ?? run.finishReason}`;
}

function explain(error) {
  at("error").hidden = false;
  at("error").textContent = error instanceof ServerError ? error.message : String(error);
  if (error.kind) at("error").textContent += ` (${error.kind})`;
}

// However many events come between two frames, the page is drawn once.
function onceAFrame(draw) {
  let isDue = false;
  return () => {
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(() => { isDue = false; draw(); });
  };
}
