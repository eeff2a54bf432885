// The sheet of settings: system prompt, tools, how replies are sampled. Sampling and model are kept in this
// browser, for each conversation and for new ones.
import { element } from "./studio.js";

// [name, word, default, lowest, highest, step, hint]
const FIELDS = [
  ["temperature", "Temperature", 0.7, 0, 2, 0.05, "0 is greedy"],
  ["max_tokens", "Max tokens", 1024, 1, 131072, 1, "tokens"],
  ["top_p", "Top-p", 1, 0.01, 1, 0.01, "1: no limit"],
  ["top_k", "Top-k", 0, 0, 100000, 1, "0: no limit"],
  ["min_p", "Min-p", 0, 0, 1, 0.01, "0: no limit"],
  ["repetition_penalty", "Repetition penalty", 1, 0.1, 10, 0.05, "1: none"],
  ["presence_penalty", "Presence penalty", 0, -2, 2, 0.1, "0: none"],
  ["frequency_penalty", "Frequency penalty", 0, -2, 2, 0.1, "0: none"],
  ["seed", "Seed", "", 0, 2147483647, 1, "empty: a new one each time"],
];
const NEW = "chat:new";
const system = document.querySelector("#system");
const tools = document.querySelector("#tools");
const sampling = document.querySelector("#sampling");
let key = NEW;

const held = (name) => {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? {};
  } catch {
    return {}; // someone else wrote there
  }
};
const inputs = Object.fromEntries(FIELDS.map(([name, word, , min, max, step, hint]) => {
  const input = element("input", { type: "number", id: `sampling-${name}`, min, max, step: "any", inputMode: "decimal", "aria-describedby": `sampling-${name}-hint` });
  if (step === 1) input.step = 1;
  sampling.append(element("div", {},
    element("label", { for: input.id }, word), input, element("p", { className: "hint", id: `sampling-${name}-hint` }, hint)));
  input.addEventListener("change", () => {
    if (!input.checkValidity()) input.reportValidity();
    else keep();
  });
  return [name, input];
}));

/** What is set, as the studio takes it: an empty field is the default. */
export function chosenSampling() {
  const found = {};
  for (const [name] of FIELDS) {
    const input = inputs[name];
    if (input.value !== "" && input.checkValidity()) found[name] = Number(input.value);
  }
  return found;
}
export const chosenTools = () => [...tools.querySelectorAll("input:checked")].map((one) => one.value);
export const systemPrompt = () => system.value;
/** The model this conversation was last asked with, or `last`, or the one new ones are. */
export const rememberedModel = (last) => held(key).model ?? last ?? held(NEW).model;

/** What is set now is kept: for this conversation, and for those to come. */
export function keep(more = {}) {
  const now = { ...held(key), sampling: chosenSampling(), ...more };
  if (key === NEW) now.tools = chosenTools();
  localStorage.setItem(key, JSON.stringify(now));
  if (more.model) localStorage.setItem(NEW, JSON.stringify({ ...held(NEW), model: more.model }));
}

function fill(values) {
  for (const [name, , initial] of FIELDS) inputs[name].value = values[name] ?? initial;
}

/** The sheet for a conversation, or for a new one (`talk` null). */
export function showSettings(words, talk, prompt = "") {
  key = talk ? `chat:${talk.id}` : NEW;
  const kept = held(key);
  fill(kept.sampling ?? {});
  const offered = talk ? talk.tools : kept.tools ?? [];
  tools.replaceChildren(tools.firstElementChild, ...Object.entries(words).map(([name, says]) => {
    const box = element("input", { type: "checkbox", value: name, id: `tool-${name}`, checked: offered.includes(name), disabled: Boolean(talk) });
    box.addEventListener("change", () => keep());
    return element("label", { className: "choice", for: box.id }, box, element("span", {}, name, " ", element("span", { className: "hint" }, says)));
  }));
  if (talk) tools.append(element("p", { className: "hint" }, "The tools offered to the model, chosen when a conversation starts. A model trained with a tool may call it anyway; you are always asked first."));
  system.value = prompt;
  document.querySelector("#system-hint").textContent = talk
    ? "This conversation uses this system prompt. To change it, write another here and edit the first message, which starts a new branch."
    : "Given to the model before everything else.";
}

/** A new conversation takes over what was set for it. */
export function adopt(talk, model) {
  const now = { sampling: chosenSampling(), model };
  key = `chat:${talk.id}`;
  localStorage.setItem(key, JSON.stringify(now));
}

document.querySelector("#reset").addEventListener("click", () => {
  fill({});
  keep();
});
