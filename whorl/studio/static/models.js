// The models' page: cards that follow each model's health, joining and leaving.
import { ask, attempt, confirmed, del, element, get, post, toast } from "./studio.js";

const grid = document.querySelector("#models");
const WORDS = { idle: ["not started", ""], starting: ["starting", "warn"], ready: ["ready", "good"], down: ["down", "bad"] };

function fact(list, word, value) {
  if (value) list.append(element("dt", {}, word), element("dd", { className: "mono" }, String(value)));
}

function card(model) {
  const [word, kind] = WORDS[model.state];
  const made = element("article", { className: "card model", "data-name": model.name });
  made.append(element("h2", {}, element("span", {}, model.name), element("span", { className: `badge ${kind}` }, word)));
  if (model.why) made.append(element("p", { className: "why" }, model.why));
  const facts = element("dl");
  fact(facts, model.directory ? "folder" : "server", model.address);
  fact(facts, "weights", model.weight_version);
  fact(facts, "context", model.context && `${model.context.toLocaleString("en")} tokens`);
  fact(facts, "computes in", model.dtype);
  if (model.directory) fact(facts, "sees images", model.images ? "yes" : "no");
  made.append(facts);
  const row = element("div", { className: "row" });
  if (grid.dataset.admin && (model.state === "idle" || model.state === "down")) {
    const start = element("button", { className: "slim", type: "button" }, model.state === "down" ? "Try again" : "Start");
    start.addEventListener("click", async () => {
      const waiting = attempt(() => post(`/api/models/start?name=${encodeURIComponent(model.name)}`), start);
      setTimeout(refresh, 150);
      await waiting;
      refresh();
    });
    row.append(start);
  }
  if (grid.dataset.admin) {
    const leave = element("button", { className: "slim quiet danger", type: "button" }, "Remove");
    leave.addEventListener("click", async () => {
      if (!(await confirmed(`Remove ${model.name}? Its votes and conversations stay.`, { yes: "Remove", danger: true }))) return;
      await attempt(() => del(`/api/models?name=${encodeURIComponent(model.name)}`), leave);
      refresh();
    });
    row.append(leave);
  }
  made.append(row);
  return made;
}

let shown = "";
function show(models) {
  const now = JSON.stringify(models);
  if (now === shown) return; // nothing has changed: focus and selection stay where they are
  shown = now;
  const place = document.activeElement?.closest?.(".model")?.dataset.name;
  const word = place && document.activeElement.textContent;
  grid.replaceChildren(...models.map(card));
  document.querySelector("#none").hidden = models.length > 0;
  if (place) {
    const buttons = [...grid.querySelectorAll(".model")].find((one) => one.dataset.name === place)?.querySelectorAll("button") ?? [];
    ([...buttons].find((one) => one.textContent === word) ?? buttons[0])?.focus();
  }
}

async function refresh() {
  try {
    show((await get("/api/models")).models);
  } catch {
    // it is asked again in a moment
  }
}

show(JSON.parse(grid.dataset.models));
setInterval(() => document.hidden || refresh(), 3000);

const dialog = document.querySelector("#join");
const field = (name) => dialog.querySelector(`#${name}`);
document.querySelector("#open-join")?.addEventListener("click", () => dialog.showModal());
field("cancel").addEventListener("click", () => dialog.close());
dialog.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const wanted = { address: field("address").value, name: field("name").value, served_as: field("served-as").value, api_key: field("key").value };
  const joined = await attempt(async () => toast(`${(await ask("POST", "/api/models", wanted)).name} has joined.`), event.submitter);
  if (!joined) return;
  dialog.querySelector("form").reset();
  dialog.close();
  refresh();
});
