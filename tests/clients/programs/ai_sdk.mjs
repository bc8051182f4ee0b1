// Vercel's AI SDK with its provider for servers like OpenAI's, on Node.
// It comes from Node's input: packages are then found from the folder it is run in.
import assert from "node:assert/strict";

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, isStepCount, Output, streamText, tool } from "ai";
import { z } from "zod";

const [url, name] = process.argv.slice(2);
const provider = createOpenAICompatible({
  name: "lookahead",
  baseURL: `${url}/v1`,
  apiKey: "none",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const model = provider(name);
const prompt = "What is the capital of France?";
const brief = { model, temperature: 0, maxOutputTokens: 24 };
const longer = { model, temperature: 0, maxOutputTokens: 64 };
const checks = [];

function check(words, run) {
  checks.push([words, run]);
}

check("generateText", async () => {
  const { text, usage } = await generateText({ ...brief, prompt });
  assert.match(text, /Paris/);
  assert.ok(usage.outputTokens > 0 && usage.outputTokens <= 24);
});

check("streamText", async () => {
  const result = streamText({ ...brief, prompt });
  const pieces = [];
  for await (const piece of result.textStream) pieces.push(piece);
  assert.match(pieces.join(""), /Paris/);
  assert.equal(pieces.join(""), await result.text);
  assert.ok((await result.usage).outputTokens > 0);
});

check("structured output", async () => {
  const schema = z.object({ x: z.number().int(), y: z.number().int() });
  const request = { ...longer, output: Output.object({ schema }), prompt: "x is 3 and y is 4." };
  schema.parse((await generateText(request)).output);
});

check("tools, there and back", async () => {
  const asked = [];
  const weather = tool({
    description: "Tells the weather in a city.",
    inputSchema: z.object({ city: z.string().max(20) }),
    execute: async ({ city }) => {
      asked.push(city);
      return "It is sunny, 21 degrees.";
    },
  });
  const { steps, text } = await generateText({
    ...longer,
    prompt: "What is the weather in Rome?",
    tools: { weather },
    stopWhen: isStepCount(2),
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber ? "none" : "required" }),
  });
  assert.ok(asked.length > 0);
  assert.equal(steps[0].finishReason, "tool-calls");
  assert.equal(steps[0].toolResults[0].output, "It is sunny, 21 degrees.");
  assert.ok(text);
});

check("streamed tool call", async () => {
  const weather = tool({ inputSchema: z.object({ city: z.string().max(20) }) });
  const toolChoice = { type: "tool", toolName: "weather" };
  const request = { ...longer, prompt: "Weather in Rome?", tools: { weather }, toolChoice };
  const result = streamText(request);
  const kinds = [];
  for await (const part of result.fullStream) kinds.push(part.type);
  assert.ok(kinds.includes("tool-input-delta"), kinds.join(" "));
  assert.deepEqual(Object.keys((await result.toolCalls)[0].input), ["city"]);
});

for (const [words, run] of checks) {
  try {
    await run();
    console.log(`passed ${words}`);
  } catch (error) {
    console.log(error);
    console.log(`failed ${words}`);
    process.exitCode = 1;
  }
}
