// Which model answers: the picker, and how each is.
import { keep, rememberedModel } from "./chat-settings.js";
import { element, get, toast } from "./studio.js";

const picker = document.querySelector("#model");
const WORDS = { down: " (down)", starting: " (starting)" };
let models = [];
let shown = "";

const chosen = () => models.find((one) => one.name === picker.value);
export const chosenModel = () => picker.value;

/** What to say of images in a message for the chosen model; "" where it may see them. */
export function sight() {
  const model = chosen();
  return model && !model.images ? `${model.name} does not support images: remove them, or choose another model.` : "";
}

function showSight() {
  for (const composer of document.querySelectorAll("message-composer")) composer.blind = sight();
}

function draw(last) {
  const now = JSON.stringify(models.map((one) => [one.name, one.state, one.images]));
  if (now === shown) return;
  shown = now;
  const wanted = picker.value || rememberedModel(last);
  const options = models.map((one) => element("option", { value: one.name, title: one.why }, one.name + (WORDS[one.state] ?? "")));
  picker.replaceChildren(...options);
  const well = models.find((one) => one.state !== "down") ?? models[0];
  picker.value = models.some((one) => one.name === wanted) ? wanted : well?.name ?? "";
  picker.hidden = !models.length;
  showSight();
}

/** Follow the models from now on. `seen` tells whether the conversation holds images, `last` is the model
    that has answered in it last. */
export function followModels(first, seen, last) {
  models = first;
  draw(last);
  picker.addEventListener("change", () => {
    keep({ model: picker.value });
    showSight();
    if (sight() && seen()) toast(`${picker.value} does not support images, but this conversation has some; it may refuse to continue.`);
  });
  setInterval(async () => {
    if (document.hidden || document.activeElement === picker) return;
    models = (await get("/api/models").catch(() => ({ models }))).models;
    draw();
  }, 5000);
}
