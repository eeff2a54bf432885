// A battle: both replies as they grow, the vote, and what came of it. Who the two are is not known here
// until the vote is kept.
import { attempt, element, get, icon, listen, post, regain, root } from "./studio.js";
import "./composer.js";
import { modelSaid, personSaid, showText, showWaiting } from "./talk.js";
import { nextSteps, showChoice, showMoves } from "./arena_outcome.js";
import { questList, tally } from "./quests.js";

const SIDES = ["left", "right"];
const NAMES = { left: "Left", right: "Right" };
const KEYS = { 1: "left", ArrowLeft: "left", 2: "right", ArrowRight: "right", 3: "tie", 4: "bad" };
const LATE_SECONDS = 12;

const arena = document.querySelector("#arena");
const narrow = matchMedia("(max-width: 760px)"); // the replies are swiped there, and by keys scrolled
const part = (name) => arena.querySelector(`#${name}`);
const composer = arena.querySelector("message-composer");
const votes = part("votes");
let battle = null;
let close = () => {};
let late = [];

// -- what is shown -----------------------------------------------------------------------------------

function side(word, said) {
  const made = modelSaid(NAMES[word]);
  made.classList.add("card");
  made.dataset.side = word;
  if (said) fill(made, said);
  return made;
}

function fill(made, said) {
  showWaiting(made, false);
  showText(made, said);
  made.querySelector(".late")?.remove();
  made.querySelector(".note")?.remove();
  made.querySelector(".cut")?.remove();
  if (said.cut) made.append(element("p", { className: "cut" }, element("span", { className: "badge warn" }, said.cut)));
}

function exchange({ asked, left, right }) {
  const sides = element("div", { className: "sides", role: "group", tabIndex: narrow.matches ? 0 : -1, "aria-label": "Both replies" }, side("left", left), side("right", right));
  sides.addEventListener("scroll", () => together(sides), { passive: true });
  const made = element("div", { className: "exchange" }, personSaid(asked), sides);
  if (left && right) quiet(made);
  return made;
}

/** On a phone one swipes between the two: all of a battle's replies go along. */
function together(moved) {
  for (const other of part("talk").querySelectorAll(".sides")) {
    if (other !== moved && Math.abs(other.scrollLeft - moved.scrollLeft) > 2) other.scrollLeft = moved.scrollLeft;
  }
}

/** A reply without a word says so. */
function quiet(made) {
  for (const one of made.querySelectorAll(".sides > .said")) {
    if (one.querySelector(".prose.answer").textContent.trim() || one.querySelector(".note")) continue;
    one.append(element("p", { className: "note" }, "This model returned an empty reply."));
  }
}

const last = (word) => part("talk").lastElementChild?.querySelector(`[data-side="${word}"]`);
const tell = (text) => (part("news").textContent = text);

/** The whole page anew, for another battle or none. */
function show(next) {
  close();
  battle = next;
  part("talk").replaceChildren(...(battle?.exchanges ?? []).map(exchange));
  part("outcome").replaceChildren();
  settle();
  if (battle?.state === "answering") follow();
  if (battle?.state === "voted") reveal();
}

/** What depends on how far it is. */
function settle() {
  const state = battle?.state ?? "none";
  const few = !battle && Number(arena.dataset.models) < 2;
  part("few").hidden = !few;
  part("start").hidden = Boolean(battle) || few;
  part("quests").hidden = Boolean(battle) || few;
  part("talk").hidden = !battle;
  part("outcome").hidden = state !== "voted";
  part("dock").hidden = few || state === "voted";
  votes.hidden = !["answering", "open"].includes(state);
  for (const button of votes.querySelectorAll("button")) button.disabled = state !== "open";
  composer.hidden = state === "over" || Boolean(battle?.again);
  composer.busy = state === "answering";
  composer.area.placeholder = battle ? "Continue with both" : "Ask both models";
  const told = part("told");
  const stopped = state === "open" && battle.exchanges.some((one) => SIDES.some((word) => one[word]?.cut === "stopped"));
  told.hidden = state !== "over" && !stopped;
  if (state === "over") told.replaceChildren(element("span", { role: "alert" }, battle.why), againButton("Start again with another pair"));
  if (stopped) told.replaceChildren("An answer was stopped: your vote is stored but does not count on the board.", againButton("Start again with another pair"));
  arena.toggleAttribute("data-going", Boolean(battle));
  document.title = `${battle ? "Battle" : "Arena"} · Whorl`;
}

function againButton(words) {
  const button = element("button", { type: "button", className: "primary" }, icon("retry"), words);
  button.addEventListener("click", () => again(button));
  return button;
}

function showStanding(standing) {
  part("tally").querySelector("span").textContent = tally(standing);
  part("quests").replaceChildren(part("quests-title") ?? element("h2", { id: "quests-title" }, "Today's quests"), questList(standing.quests, look));
}

// -- talking -----------------------------------------------------------------------------------------

function follow() {
  late = SIDES.map((word) => {
    const place = last(word);
    if (!place.querySelector(".answer").textContent) showWaiting(place, true);
    return setTimeout(() => {
      if (!place.querySelector(".waiting")) return;
      place.append(element("div", { className: "late row" }, `The ${word} model is taking a while.`, againButton("Another pair")));
    }, LATE_SECONDS * 1000);
  });
  const stop = listen(`/api/arena/${battle.id}/stream`, {
    "text-left": (said) => grow("left", said),
    "text-right": (said) => grow("right", said),
    turn: ended,
    end: () => battle.state === "answering" && found(),
  }, { lost: found, rests: true });
  close = () => {
    late.forEach(clearTimeout);
    stop();
    close = () => {};
  };
}

/** The thread was lost (the studio was started anew): what it has kept is shown. */
async function found() {
  const { id } = battle;
  await attempt(async () => {
    const kept = await regain(`/api/arena/${id}`);
    if (battle?.id === id) show(kept);
  });
}

function grow(word, said) {
  if (!said.html && !said.reasoning) return; // nothing yet: the dots stay
  fill(last(word), said);
}

function ended({ state, why, cut }) {
  close();
  for (const word of SIDES) showWaiting(last(word), false);
  for (const one of part("talk").querySelectorAll(".late")) one.remove();
  const idle = composer.contains(document.activeElement) || document.activeElement === document.body;
  Object.assign(battle, { state, why });
  for (const word of SIDES) {
    if (!cut?.[word]) continue;
    battle.exchanges.at(-1)[word] = { cut: cut[word] };
    last(word).append(element("p", { className: "cut" }, element("span", { className: "badge warn" }, cut[word])));
  }
  settle();
  if (state === "over" && idle) part("told").querySelector("button").focus({ preventScroll: true });
  if (state !== "open") return;
  quiet(part("talk").lastElementChild);
  // Focus stays where it is: a vote is for good, and who begins to write more must not cast one.
  tell("Both have answered. The vote buttons are before the message box; keys there: 1 left, 2 right, 3 tie, 4 both bad.");
}

composer.addEventListener("send", ({ detail }) => attempt(async () => {
  if (battle) {
    const next = await post(`/api/arena/${battle.id}/say`, detail);
    battle = next;
    part("talk").append(exchange(next.exchanges.at(-1)));
    settle();
    follow();
  } else {
    const consent = part("start").querySelector("input:checked").value;
    localStorage.setItem("arena-consent", consent);
    enter(await post("/api/arena", { ...detail, consent }));
  }
  composer.clear();
  part("talk").lastElementChild.scrollIntoView({ block: "start", behavior: "smooth" });
}));
composer.addEventListener("stop", () => attempt(() => post(`/api/arena/${battle.id}/stop`)));

/** Go to a battle, with an address of its own. */
function enter(next) {
  history.pushState({}, "", `${root}/arena/${next.id}`);
  show(next);
}

function again(button) {
  attempt(async () => enter(await post(`/api/arena/${battle.id}/again`)), button);
}

/** A battle of one's own with the sides swapped. */
function look(button) {
  attempt(async () => {
    enter(await post("/api/arena/second-look"));
    part("talk").focus({ preventScroll: true });
    tell("Both answers are here. The vote buttons are below them; keys there: 1 left, 2 right, 3 tie, 4 both bad.");
  }, button);
}

function fresh() {
  history.pushState({}, "", `${root}/arena`);
  show(null);
  scrollTo(0, 0);
  composer.focus();
}

addEventListener("popstate", () => location.reload());

// -- voting ------------------------------------------------------------------------------------------

async function vote(winner) {
  if (battle?.state !== "open" || votes.dataset.busy) return;
  votes.dataset.busy = "yes";
  const kept = await attempt(async () => {
    battle = await post(`/api/arena/${battle.id}/vote`, { winner });
  });
  delete votes.dataset.busy;
  if (!kept) battle = await get(`/api/arena/${battle.id}`); // it may have been kept all the same
  settle();
  if (battle.state === "voted") reveal({ focus: true });
}

/** Names first, for they are known; the board follows when it has the vote. */
async function reveal({ focus = false } = {}) {
  const place = part("outcome");
  const { vote: cast } = battle;
  if (!cast) return;
  showChoice(place, cast);
  for (const word of SIDES) {
    for (const said of part("talk").querySelectorAll(`[data-side="${word}"]`)) {
      const weights = cast[word].weights.map((one) => one.slice(0, 12)).join(", ");
      said.querySelector(".who").replaceChildren(element("span", { className: "named" }, cast[word].model), element("span", { className: "mono", title: cast[word].weights.join(", ") }, weights));
      said.classList.toggle("won", cast.winner === word);
    }
  }
  const steps = nextSteps({ fresh, again });
  place.append(steps);
  if (focus) {
    place.focus({ preventScroll: true });
    place.scrollIntoView({ block: "nearest" });
    tell(`The left model was ${cast.left.model}, the right one ${cast.right.model}.`);
  }
  const shown = battle.id;
  await attempt(async () => {
    const outcome = await get(`/api/arena/${battle.id}/outcome`);
    if (battle?.id !== shown) return;
    showMoves(place, outcome);
    place.append(steps);
    showStanding(outcome.standing);
    if (focus) place.scrollIntoView({ block: "nearest" });
  });
}

votes.addEventListener("click", (event) => {
  const button = event.target.closest("[data-vote]");
  if (button) vote(button.dataset.vote);
});

/** Keys vote where the vote has the focus, and only there. */
votes.addEventListener("keydown", (event) => {
  const word = KEYS[event.key];
  if (!word || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || event.repeat) return;
  if (battle?.state !== "open") return;
  event.preventDefault();
  vote(word);
});

// -- the beginning -----------------------------------------------------------------------------------

const remembered = localStorage.getItem("arena-consent");
for (const one of part("start").querySelectorAll("input")) one.checked = one.value === (remembered ?? "rate");
showStanding(JSON.parse(arena.dataset.standing));
show(JSON.parse(arena.dataset.battle));
if (!battle) composer.focusFirst();
