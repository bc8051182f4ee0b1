// Draws the draft tree of one step. The accepted path and the model's next token are the first
// line, so that it reads as text; what was drafted in vain hangs below it.

import { SOURCES } from "./run.js";

const SVG = "http://www.w3.org/2000/svg";
const ROW = 28;
const BOX = 22;
const PAD = 6;
const GAP = 14;
const MARGIN = 8;
const MAX_LABEL = 28;
const pen = document.createElement("canvas").getContext("2d");

export function drawTree(step, font) {
  pen.font = font;
  const nodes = laidOut(step);
  const width = Math.max(...nodes.map((node) => node.x + node.width)) + MARGIN;
  const height = (Math.max(...nodes.map((node) => node.row)) + 1) * ROW + 2 * MARGIN;
  const svg = make("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  svg.setAttribute("aria-label", described(step));
  for (const node of nodes) if (node.parent) svg.append(edge(node));
  for (const node of nodes) svg.append(box(node));
  return svg;
}

export function described(step) {
  if (!step.tree) return `Step ${step.index}: no draft, the model chose “${step.own ?? ""}”.`;
  const path = step.tree.accepted.map((node) => step.tree.texts[node]).join("");
  return `Step ${step.index}: ${step.tree.texts.length} tokens drafted, `
    + `${step.tree.accepted.length} accepted: “${path}”.`;
}

function laidOut(step) {
  const root = { label: step.before.slice(-12), kind: "root", children: [] };
  grow(root, step);
  const nodes = [];
  let lastRow = 0;
  const place = (node, x, row) => {
    Object.assign(node, { x, row, label: visible(node.label) });
    node.width = pen.measureText(node.label).width + 2 * PAD;
    nodes.push(node);
    node.children.forEach((child, i) =>
      place(child, x + node.width + GAP, i === 0 ? row : ++lastRow));
  };
  place(root, MARGIN, 0);
  return nodes;
}

// Hangs the nodes under `root`, each one's accepted child or the model's own token first.
function grow(root, step) {
  const { texts = [], parents = [], probabilities = [], sources = [], accepted = [] } =
    step.tree ?? {};
  const onPath = new Set(accepted);
  const nodes = texts.map((label, i) => ({
    label, probability: probabilities[i], source: sources[i] ?? "unknown",
    kind: onPath.has(i) ? "accepted" : "refused", children: [],
  }));
  nodes.forEach((node, i) => hang(node, parents[i] < 0 ? root : nodes[parents[i]]));
  if (step.own !== null) {
    const end = accepted.length ? nodes[accepted.at(-1)] : root;
    hang({ label: step.own, kind: "own", children: [] }, end);
  }
  for (const node of [root, ...nodes]) node.children.sort((a, b) => rank(b) - rank(a));
}

function hang(node, parent) {
  node.parent = parent;
  parent.children.push(node);
}

function rank(node) {
  return node.kind === "refused" ? node.probability : 2;
}

function box(node) {
  const y = MARGIN + node.row * ROW;
  const group = make("g", { class: `node ${node.kind} ${node.source ?? ""}` });
  const tip = make("title", {});
  tip.textContent = tipText(node);
  const frame = make("rect", { x: node.x, y, width: node.width, height: BOX, rx: 4 });
  if (node.kind === "refused") frame.style.fillOpacity = 0.08 + 0.92 * node.probability;
  const text = make("text", { x: node.x + PAD, y: y + BOX / 2, "dominant-baseline": "central" });
  text.textContent = node.label;
  group.append(tip, frame, text);
  return group;
}

function tipText(node) {
  if (node.kind === "root") return "the text so far";
  if (node.kind === "own") return `“${node.label}”, the model's own next token`;
  const verdict = node.kind === "accepted" ? "accepted" : "not what the model says";
  return `“${node.label}”, ${SOURCES[node.source]}, promised ${percent(node.probability)}: ${verdict}`;
}

function edge(node) {
  const { parent } = node;
  const y = MARGIN + BOX / 2;
  const [x1, y1] = [parent.x + parent.width, y + parent.row * ROW];
  const [x2, y2] = [node.x, y + node.row * ROW];
  const bend = x1 + GAP / 2;
  const path = y1 === y2 ? `M${x1} ${y1}H${x2}`
    : `M${x1} ${y1}H${bend - 4}Q${bend} ${y1} ${bend} ${y1 + 4}V${y2 - 4}Q${bend} ${y2} ${bend + 4} ${y2}H${x2}`;
  return make("path", { d: path, class: `edge ${node.kind}` });
}

function make(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

// Spaces and line ends are tokens, too, and must be seen.
function visible(text) {
  const shown = text.replaceAll(" ", "·").replaceAll("\n", "↵").replaceAll("\t", "⇥");
  return shown.length > MAX_LABEL ? `${shown.slice(0, MAX_LABEL)}…` : shown || "…";
}

function percent(probability) {
  return `${Math.round(100 * probability)} %`;
}
