// One turn of a conversation as an element: what was said, and what its person can do about it.
// `acts` are the page's own doings: {retry, edit, cancelEdit, resend, choose, judge, decide, sight, limit, way, article}.
import { attempt, element, icon, post, root } from "./studio.js";
import { copy, copyable, modelSaid, personSaid, setHtml, showText, toolCall } from "./talk.js";

/** A small button with an icon; `word` is its name and its hint. */
function action(name, word, work, more = {}) {
  const made = element("button", { type: "button", className: "quiet square slim", title: word, "data-action": more.key ?? name, ...more.set }, icon(name), element("span", { className: "unseen" }, word));
  made.addEventListener("click", () => work(made));
  return made;
}

/** ‹ 2/3 › where a turn has siblings. */
function branches(turn, place, acts) {
  const [at, all] = [place.siblings.indexOf(turn.id), place.siblings];
  if (all.length < 2) return [];
  const step = (by) => acts.choose(all[at + by], by < 0 ? "left" : "right");
  const made = element("span", { className: "branch", role: "group", "aria-label": "Branches" },
    action("left", "Previous branch", () => step(-1), { set: { disabled: at === 0 } }),
    element("span", { className: "at" }, `${at + 1}/${all.length}`),
    action("right", "Next branch", () => step(1), { set: { disabled: at === all.length - 1 } }));
  return [made];
}

export function personTurn(turn, place, acts) {
  const images = Array.from({ length: turn.images }, (_, number) => `${root}/api/chat/${place.talk}/images/${turn.id}/${number}`);
  if (place.editing) return editor(turn, images, acts);
  const made = personSaid({ text: turn.text, images });
  const under = element("div", { className: "under" });
  under.append(...branches(turn, place, acts), action("copy", "Copy", () => copy(turn.text)), action("edit", "Edit", () => acts.edit(turn)));
  made.append(under);
  return made;
}

function editor(turn, images, acts) {
  const composer = element("message-composer");
  composer.setAttribute("label", "Edit the message");
  composer.setAttribute("limit", acts.limit);
  const cancel = element("button", { type: "button", className: "quiet slim" }, "Cancel");
  cancel.addEventListener("click", () => acts.cancelEdit(turn));
  const made = element("article", { className: "said person editing" });
  made.append(element("div", { className: "edit" }, composer, element("div", { className: "row" }, element("p", { className: "hint" }, "The old message stays on its own branch."), cancel)));
  composer.addEventListener("send", (event) => acts.resend(turn, event.detail, composer));
  composer.addEventListener("keydown", (event) => event.key === "Escape" && acts.cancelEdit(turn));
  made.ready = async () => {
    composer.text = turn.text;
    composer.blind = acts.sight();
    composer.focus();
    composer.images = await Promise.all(images.map(asUri));
  };
  return made;
}

async function asUri(address) {
  const blob = await (await fetch(address)).blob();
  return new Promise((resolve) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.readAsDataURL(blob);
  });
}

/** A reply, with its calls and their results. `place`: {talk, siblings, results, states, documents}. */
export function modelTurn(turn, place, acts) {
  const made = modelSaid(turn.model);
  showText(made, { html: turn.html, reasoning: turn.reasoning });
  copyable(made.querySelector(".answer"));
  turn.calls.forEach((call, number) => made.append(callCard(turn, call, number, place, acts)));
  if (turn.ending === "failed") made.append(element("p", { className: "fault" }, `It stopped early: ${turn.error || "no reason given"}`));
  if (turn.better) {
    const better = element("div", { className: "prose" });
    setHtml(better, turn.better_html);
    made.append(element("details", { className: "better", open: true }, element("summary", {}, "Your version"), better));
  }
  const under = element("div", { className: "under" });
  under.append(
    ...branches(turn, place, acts),
    action("copy", "Copy", () => copy(turn.text)),
    action("retry", "Regenerate", () => acts.retry(turn.parent)),
    thumb(turn, 1, made, acts), thumb(turn, -1, made, acts),
    action("edit", "Write a better reply", () => betterForm(turn, made, acts), { key: "better" }),
    facts(turn, place),
  );
  made.append(under);
  if (turn.reason) made.append(element("p", { className: "note" }, `Your reason: ${turn.reason}`));
  return made;
}

function facts(turn, place) {
  const made = element("span", { className: "facts" });
  if (turn.ending === "stopped") made.append(element("span", { className: "badge warn" }, "stopped"));
  if (turn.ending === "length") made.append(element("span", { className: "badge warn" }, "cut at max tokens"));
  if (turn.rate) made.append(element("span", { title: turn.counted ? `${turn.tokens} chunks; its server does not report tokens` : `${turn.tokens} tokens` }, `${turn.counted ? "≈ " : ""}${turn.rate} tokens/s`));
  if (turn.weights) {
    const [tag, more] = place.documents ? ["a", { href: `${root}/data/trace/${encodeURIComponent(turn.weights)}` }] : ["span", {}];
    const short = turn.weights.length > 14 ? `${turn.weights.slice(0, 12)}…` : turn.weights;
    made.append(element("span", {}, "weights ", element(tag, { ...more, className: "mono", title: turn.weights }, short)));
  }
  return made;
}

// -- tools ---------------------------------------------------------------------------------------------

function callCard(turn, call, number, place, acts) {
  const state = place.states?.[number];
  const result = place.results[number];
  const made = toolCall({ ...call, result });
  if (result !== undefined) return made;
  if (state === "asking") {
    const row = element("div", { className: "row" });
    for (const [word, decision, kind] of [["Allow once", "once", "primary slim"], ["Refuse", "refuse", "slim"], ["Allow all in this conversation", "all", "quiet slim"]]) {
      const button = element("button", { type: "button", className: kind, "data-action": decision }, word);
      button.addEventListener("click", () => attempt(() => acts.decide(turn.id, number, decision), button));
      row.append(button);
    }
    made.append(element("p", { className: "word" }, "Allow this tool call?"), row);
  } else {
    made.append(element("p", { className: "word" }, state === "running" ? "running …" : "not answered"));
  }
  return made;
}

// -- what its person thinks of it ----------------------------------------------------------------------

function thumb(turn, value, made, acts) {
  const on = turn.thumb === value;
  const [name, word] = value > 0 ? ["up", "Good reply"] : ["down", "Bad reply"];
  return action(name, word, async (button) => {
    const given = on ? 0 : value;
    const kept = await attempt(async () => {
      acts.judge(turn, await post(acts.way(turn, "thumb"), { value: given, reason: "" }));
    }, button);
    if (kept && given) reasonForm(turn, given, acts);
  }, { set: { "aria-pressed": String(on) } });
}

/** A line below the reply: why the thumb. It may be left empty. */
function reasonForm(turn, value, acts) {
  const made = acts.article(turn.id);
  const input = element("input", { maxLength: 2000, placeholder: value > 0 ? "What is good about it? (optional)" : "What is wrong with it? (optional)", "aria-label": "Your reason" });
  const form = element("form", { className: "reason-form" }, element("div", { className: "row" }, input, element("button", { className: "slim" }, "Save"), closing(() => form.remove(), made)));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(async () => {
      if (input.value.trim()) acts.judge(turn, await post(acts.way(turn, "thumb"), { value, reason: input.value }));
      form.remove();
    }, event.submitter);
  });
  made.querySelector(".reason-form, .better-form")?.remove();
  made.append(form);
  input.focus();
}

function betterForm(turn, made, acts) {
  made.querySelector(".reason-form, .better-form")?.remove();
  const text = turn.better ?? turn.text;
  const area = element("textarea", { value: text, rows: Math.min(14, 3 + text.split("\n").length + text.length / 90), "aria-label": "The reply as it should have been" });
  const form = element("form", { className: "better-form" }, area, element("p", { className: "hint" }, "If this chat may be used for training, the next model learns to prefer yours."),
    element("div", { className: "row" }, element("button", { className: "primary slim" }, "Save"), closing(() => form.remove(), made)));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(async () => acts.judge(turn, await post(acts.way(turn, "better"), { text: area.value })), event.submitter);
  });
  made.append(form);
  area.focus();
  area.setSelectionRange(0, 0);
  area.scrollTop = 0;
}

function closing(work, made) {
  const button = element("button", { type: "button", className: "quiet slim" }, "Cancel");
  button.addEventListener("click", () => {
    work();
    made.querySelector("[data-action=better]")?.focus();
  });
  return button;
}
