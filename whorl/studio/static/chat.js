// The chat's page: one conversation as a tree, its exchanges as they happen, and the settings around it.
import "./composer.js";
import { about, chosenConsent } from "./chat-about.js";
import { putFirst, showList } from "./chat-list.js";
import { chosenModel, followModels, sight } from "./chat-models.js";
import { adopt, chosenSampling, chosenTools, showSettings, systemPrompt } from "./chat-settings.js";
import { Tree } from "./chat-tree.js";
import { modelTurn, personTurn } from "./chat-turn.js";
import { attempt, element, icon, listen, post, regain, root, toast } from "./studio.js";
import { fault, modelSaid, showText, showWaiting } from "./talk.js";

const page = document.querySelector("#main");
const data = JSON.parse(page.dataset.chat);
const at = (name) => document.querySelector(`#${name}`);
const [place, scroller, composer] = ["talk", "scroller", "composer"].map(at);

let talk = data.talk; // the conversation, null before its first message
let tree = new Tree(talk?.id ?? "", talk?.turns ?? []);
let running = null; // the exchange that goes on
let live = null; // the reply that is being made: {parent, element}
let failure = null; // a reply that did not come: {parent, ending, error}
let calls = { turn: 0, states: {} };
let editing = 0; // the turn that is edited
let hangUp = () => {};
const LONG = 5000; // milliseconds of silence after which it is explained

// -- drawing -------------------------------------------------------------------------------------------

const articles = new Map(); // a turn's number → {element, told: what it was drawn from}

function article(turn, results, path) {
  const siblings = tree.siblings(turn);
  const states = calls.turn === turn.id ? calls.states : {};
  const about = { talk: talk.id, siblings, results, states, documents: data.documents, editing: editing === turn.id };
  const told = JSON.stringify([turn, about]);
  const known = articles.get(turn.id);
  if (known?.told === told) return known.element;
  const made = turn.role === "user" ? personTurn(turn, about, acts) : modelTurn(turn, about, acts);
  made.id = `turn-${turn.id}`;
  const before = path.slice(0, path.indexOf(turn)).findLast((one) => one.role !== "tool");
  made.classList.toggle("goes-on", before?.role === "assistant" && before.model === turn.model);
  articles.set(turn.id, { element: made, told });
  return made;
}

function draw() {
  const follow = atEnd;
  const path = tree.path();
  const items = [];
  path.forEach((turn, number) => {
    if (turn.role === "tool") return;
    const results = [];
    for (let next = number + 1; path[next]?.role === "tool"; next++) results.push(path[next].text);
    items.push(article(turn, results, path));
  });
  const last = path.at(-1);
  if (live && live.parent === last?.id) items.push(live.element);
  else if (last && !running) items.push(...unanswered(last));
  lay(items);
  for (const one of place.querySelectorAll("[data-action=retry], [data-action=edit]")) one.disabled = Boolean(running);
  at("empty").hidden = Boolean(talk);
  if (follow) toEnd();
}

/** The items into their places; what is there already is not touched, so that focus and selection stay. */
function lay(items) {
  const focused = document.activeElement?.closest?.("[data-action]");
  const [name, holder] = [focused?.dataset.action, focused?.closest("article")?.id];
  items.forEach((item, number) => {
    if (place.children[number] === item) return;
    place.insertBefore(item, place.children[number] ?? null);
    item.ready?.();
  });
  while (place.children.length > items.length) place.lastElementChild.remove();
  if (name && !focused.isConnected) document.getElementById(holder)?.querySelector(`[data-action="${name}"]`)?.focus();
}

/** Where the talk ends without an answer: why, and the way on. */
function unanswered(last) {
  const open = last.role === "assistant" && last.calls.length > 0;
  if (last.role === "assistant" && !open && failure?.parent !== last.id) return [];
  const why = failure?.parent === last.id ? failure : { ending: "none", error: "" };
  const again = element("button", { type: "button", className: "slim", "data-action": "again" }, icon("retry"), open ? "Continue" : "Try again");
  again.addEventListener("click", () => acts.retry(last.id));
  const words = {
    failed: () => fault(`No reply: ${why.error}`),
    stopped: () => element("p", { className: "note" }, "Stopped before the reply began."),
    none: () => element("p", { className: "note" }, open ? "It was interrupted here." : "This has no reply yet."),
  };
  return [element("article", { className: "said model" }, words[why.ending](), element("div", { className: "under" }, again))];
}

/** Where a search has led: to `#turn-N`, on whichever branch that is. */
function goTo(hash) {
  const turn = tree.get(Number(/^#turn-(\d+)$/.exec(hash)?.[1]));
  if (!turn) return false;
  tree.choose(turn.id);
  draw();
  document.querySelectorAll(".said.found").forEach((one) => one.classList.remove("found"));
  const found = articles.get(turn.id)?.element ?? articles.get(turn.parent)?.element; // a tool's result is in its reply
  found?.classList.add("found");
  atEnd = false;
  found?.scrollIntoView({ block: "center" });
  return true;
}

const nearEnd = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 90;
// Whether the end is to stay in sight: as its person has scrolled, whatever grows above (images that load).
let atEnd = true;
function toEnd() {
  atEnd = true;
  scroller.scrollTop = scroller.scrollHeight;
}
scroller.addEventListener("scroll", () => {
  atEnd = nearEnd();
  at("to-end").hidden = atEnd;
}, { passive: true });
at("to-end").addEventListener("click", () => {
  toEnd();
  composer.focus();
});
new ResizeObserver(() => {
  if (atEnd) toEnd();
  at("to-end").hidden = nearEnd();
}).observe(place);
const speak = (text) => { at("spoken").textContent = text; };

// -- an exchange as it happens ----------------------------------------------------------------------------

function hear(exchange) {
  hangUp();
  running = exchange;
  failure = null;
  calls = { turn: 0, states: {} };
  composer.busy = true;
  hangUp = listen(`/api/chat/${talk.id}/stream?exchange=${exchange}`, {
    begin({ parent, model }) {
      live = { parent, model, element: modelSaid(model) };
      live.element.setAttribute("aria-busy", "true");
      const under = element("div", { className: "under" });
      live.element.append(under);
      setTimeout(() => under.parentElement?.querySelector(".waiting") && under.append(element("span", {}, "The model may have to be started first …")), LONG);
      showWaiting(live.element, true);
      speak(`${model} is answering.`);
      draw();
    },
    text(told) {
      if (live?.parent !== told.parent || (!told.html && !told.reasoning)) return;
      const follow = atEnd;
      live.element.querySelector(".under").replaceChildren();
      showWaiting(live.element, !told.html); // it may still be thinking
      showText(live.element, told);
      if (follow) toEnd();
    },
    turn(turn) {
      tree.add(turn);
      live = null;
      if (turn.role === "assistant") speak(`${turn.model}: ${turn.text.slice(0, 600)} ${turn.ending === "failed" ? "It stopped early." : ""}`);
      draw();
    },
    calls(told) {
      calls = told;
      const asking = Object.entries(told.states).filter(([, state]) => state === "asking");
      const turn = tree.get(told.turn);
      if (asking.length && turn) speak(`${turn.model} wants to use ${asking.map(([number]) => turn.calls[number].name).join(", ")}: allow or refuse.`);
      draw();
    },
    fault(told) {
      failure = told;
      live = null;
      draw();
    },
    done() {
      ended();
      draw();
    },
  }, { lost: again, rests: true });
}

function ended() {
  running = live = null;
  calls = { turn: 0, states: {} };
  composer.busy = false;
}

/** The thread was lost (the studio was started anew): what it has kept is shown. */
function again() {
  return attempt(async () => {
    const whole = await regain(`/api/chat/${talk.id}/whole`);
    ended();
    for (const turn of whole.turns) tree.add(turn);
    if (whole.exchange) hear(whole.exchange);
    draw();
  });
}

// -- what a person does -----------------------------------------------------------------------------------

const acts = {
  limit: composer.getAttribute("limit"),
  sight,
  article: (id) => articles.get(id).element,
  way: (turn, what) => `/api/chat/${talk.id}/turns/${turn.id}/${what}`,
  async decide(turn, index, decision) {
    await post(`/api/chat/${talk.id}/calls`, { turn, index, decision });
    composer.focus(); // the buttons go
  },
  judge(turn, told) {
    tree.add({ ...turn, ...told });
    draw();
  },
  choose(id, side) {
    tree.choose(id);
    draw();
    const buttons = articles.get(id)?.element.querySelectorAll(".branch button") ?? [];
    ([...buttons].find((one) => one.dataset.action === side && !one.disabled) ?? [...buttons].find((one) => !one.disabled))?.focus();
  },
  edit(turn) {
    editing = turn.id;
    draw();
  },
  cancelEdit(turn) {
    editing = 0;
    draw();
    articles.get(turn.id)?.element.querySelector("[data-action=edit]")?.focus();
  },
  resend(turn, said, box) {
    return say(said, parentOf(turn), box, () => { editing = 0; });
  },
  retry(parent) {
    return attempt(async () => {
      const told = await post(`/api/chat/${talk.id}/retry`, { parent, model: chosenModel(), sampling: chosenSampling() });
      hear(told.exchange);
      draw();
    });
  },
};

/** What a message in this turn's place stands behind; 0 is the beginning, under the system prompt. */
function parentOf(turn) {
  return !turn.parent || tree.get(turn.parent).role === "system" ? 0 : turn.parent;
}

let sending = false;
async function say(said, parent, box, then = () => {}) {
  if (sending) return;
  sending = true;
  await attempt(async () => {
    const asked = { ...said, parent, model: chosenModel(), system: systemPrompt(), sampling: chosenSampling() };
    const told = await post(`/api/chat/${talk.id}`, asked);
    then();
    box.clear();
    for (const turn of told.turns) tree.add(turn);
    hear(told.exchange);
    draw();
    toEnd();
    composer.focus();
  });
  sending = false;
}

async function begin(said) {
  if (sending) return;
  sending = true;
  await attempt(async () => {
    const asked = { ...said, model: chosenModel(), system: systemPrompt(), tools: chosenTools(), consent: chosenConsent(), sampling: chosenSampling() };
    talk = await post("/api/chat", asked);
    composer.clear();
    composer.setAttribute("draft", `chat:${talk.id}`);
    tree = new Tree(talk.id, talk.turns);
    adopt(talk, asked.model);
    history.pushState(null, "", `${root}/chat/${talk.id}`);
    putFirst({ id: talk.id, title: talk.title, started: Date.now() / 1000 });
    about(talk);
    showSettings(data.tools, talk, systemPrompt());
    hear(talk.exchange);
    draw();
  });
  sending = false;
}

composer.addEventListener("send", ({ detail }) => {
  if (!chosenModel()) toast("There are no models yet; add one on the Models page.", { bad: true });
  else if (!talk) begin(detail);
  else say(detail, tree.path().at(-1)?.id ?? 0, composer);
});
composer.addEventListener("stop", () => attempt(() => post(`/api/chat/${talk.id}/stop`)));
composer.addEventListener("keydown", (event) => {
  if (event.key !== "ArrowUp" || composer.text || running) return;
  const mine = tree.path().findLast((turn) => turn.role === "user"); // as in a terminal: the last line again
  if (!mine) return;
  event.preventDefault();
  acts.edit(mine);
});

// -- the first look ---------------------------------------------------------------------------------------

const hello = data.models.length
  ? [element("h2", {}, "What would you like to talk about?"), element("p", {}, "Write below. Attach images by button, paste or drag-and-drop; tools and sampling are in the settings.")]
  : [element("h2", {}, "No models yet"), element("p", {}, "Train one with whorl quickstart, or add one."), element("a", { className: "button", href: `${root}/models` }, "Go to the models")];
at("empty").replaceChildren(...hello);
const first = tree.path().find((turn) => turn.role === "user");
showSettings(data.tools, talk, first ? tree.system(first) : "");
showList(data, talk?.id ?? null);
about(talk);
followModels(data.models, () => tree.path().some((turn) => turn.images), tree.path().findLast((turn) => turn.model)?.model);
composer.busy = false;
if (talk?.exchange) hear(talk.exchange);
draw();
if (!goTo(location.hash)) {
  toEnd();
  composer.focusFirst();
}
addEventListener("hashchange", () => goTo(location.hash));
addEventListener("popstate", () => location.hash || location.reload());
