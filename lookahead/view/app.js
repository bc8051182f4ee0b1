// The page: reads the form, runs what it asks for, hands what comes to the parts that show it.

import { Answer } from "./answer.js";
import { hideComparison, showComparison } from "./comparison.js";
import { Meters } from "./meters.js";
import { Run } from "./run.js";
import { Stage } from "./stage.js";
import { ServerError, events, getJson, getText } from "./stream.js";

const SAMPLES = { "Answers": "lighthouse", "Minutes": "minutes", "JSON": "stock" };
const at = (id) => document.getElementById(id);
const form = at("ask");
const meters = new Meters();
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
  for (const [label, name] of Object.entries(SAMPLES)) at("samples").append(sampleButton(label, name));
  meters.show(new Run(""));
  await Promise.all([showServer(), at("samples").firstChild.onclick()]).catch(explain);
}

function sampleButton(label, name) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = label;
  button.onclick = async (click) => {
    const text = await getText(`/view/prompts/${name}.txt`);
    if (!click && at("prompt").value) return;  // the reader was faster than the first sample
    at("prompt").value = text;
    at("prompt").scrollTop = at("prompt").scrollHeight;
    for (const other of at("samples").children) other.setAttribute("aria-pressed", other === button);
  };
  return button;
}

async function showServer() {
  const model = (await getJson("/v1/models")).data[0];
  const { device, drafter_connected, has_chat_template } = model.lookahead;
  const drafter = drafter_connected ? "drafter connected" : "no drafter: plain decoding";
  at("server").textContent = `${model.id} · ${device} · ${drafter}`;
  at("kind").lastElementChild.disabled = !has_chat_template;
}

function onKey(event) {
  if (event.key === "Escape") running?.abort();
  else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
}

async function generate() {
  if (running || !form.reportValidity()) return;
  const wanted = requested();
  const run = new Run(wanted.prompt);
  last = null;
  hideComparison();
  answer.start(wanted.prompt);
  stage.start(run);
  meters.show(run);
  const show = onceAFrame(() => { meters.show(run); if (run.steps.length) stage.update(); });
  const isDone = await stream(wanted, run, answer, show);
  if (isDone) last = { wanted, run };
  at("again").disabled = !isDone || wanted.body.lookahead.mode === "off";
}

async function repeatWithoutDrafts() {
  if (running || !last) return;
  const { wanted, run } = last;
  const body = { ...wanted.body, seed: run.summary.seed };
  body.lookahead = { ...body.lookahead, mode: "off", learn: "none" };
  const plain = new Run(wanted.prompt);
  plainAnswer.start(wanted.prompt);
  const show = onceAFrame(() => showComparison(run, plain));
  at("comparison").scrollIntoView({ block: "nearest" });
  await stream({ ...wanted, body }, plain, plainAnswer, show);
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

function requested() {
  const prompt = at("prompt").value;
  const isChat = at("kind").value === "chat";
  const body = {
    ...(isChat ? { messages: [{ role: "user", content: prompt }] } : { prompt }),
    max_tokens: Number(at("max-tokens").value),
    temperature: Number(at("temperature").value),
    stream: true,
    stream_options: { include_usage: true },
    lookahead: { mode: at("mode").value },
  };
  if (at("seed").value) body.seed = Number(at("seed").value);
  if (at("namespace").value) body.lookahead.namespace = at("namespace").value;
  return { prompt, body, path: isChat ? "/v1/chat/completions" : "/v1/completions" };
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
  const reason = { stop: "the model ended it", length: "the limit of tokens ended it" };
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
