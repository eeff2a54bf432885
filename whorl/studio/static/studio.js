// What every page's script stands on: requests, streams, messages, dialogs. No state of its own.

export const root = document.documentElement.dataset.root;

/** A request's failure as the studio words it; `status` is HTTP's, 0 where the studio did not answer. */
export class Refusal extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** JSON from `path`; with `body` it is sent as JSON. Throws `Refusal` with one line to show. */
export async function ask(method, path, body) {
  let answer;
  try {
    answer = await fetch(root + path, {
      method,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Refusal("The studio does not answer; is it still running?", 0);
  }
  if (answer.status === 204) return null;
  const value = await answer.json().catch(() => null);
  if (answer.ok) return value;
  if (answer.status === 401) location.assign(`${root}/sign-in?next=${encodeURIComponent(location.pathname.slice(root.length) + location.search)}`);
  throw new Refusal(value?.error?.message ?? `The studio answered ${answer.status}.`, answer.status);
}
export const get = (path) => ask("GET", path);
export const post = (path, body = {}) => ask("POST", path, body);
export const del = (path) => ask("DELETE", path);

const AWAY = [0, 502, 503, 504]; // nobody there, or a proxy says so in the studio's place
const [SOON, LATEST] = [700, 8000];

/** JSON from `path`, asked for until the studio is back that is being started anew. */
export async function regain(path) {
  for (let pause = SOON; ; pause = Math.min(1.5 * pause, LATEST)) {
    try {
      return await get(path);
    } catch (error) {
      if (!AWAY.includes(error.status)) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

/** Server-sent events until the log's end: `listeners` maps an event's name to a function of its data.
    The browser reconnects by itself and is given what it missed. With `rests` a page that nobody sees gives
    its connection back, of which a browser has few, and goes on where it was. Returns a function that stops. */
export function listen(path, listeners, { lost, rests = false } = {}) {
  let source = null;
  let seen = "";
  function stop() {
    document.removeEventListener("visibilitychange", turned);
    source?.close();
  }
  function open() {
    const place = seen && `${path.includes("?") ? "&" : "?"}after=${seen}`;
    const mine = source = new EventSource(root + path + place);
    for (const [name, listener] of Object.entries({ end: () => {}, ...listeners })) {
      mine.addEventListener(name, (event) => {
        seen = event.lastEventId || seen;
        if (name === "end") stop();
        listener(JSON.parse(event.data));
      });
    }
    mine.addEventListener("error", () => {
      if (mine.readyState !== EventSource.CLOSED || mine !== source) return;
      stop();
      lost?.();
    });
  }
  function turned() {
    source?.close();
    source = null;
    if (!document.hidden) open();
  }
  if (rests) document.addEventListener("visibilitychange", turned);
  if (!rests || !document.hidden) open();
  return stop;
}

/** A line for the person, read out by screen readers; a failure stays until it is closed. */
export function toast(text, { bad = false } = {}) {
  const holder = document.querySelector(".toasts");
  const line = element("div", { className: `toast${bad ? " bad" : ""}` }, element("span", {}, text));
  const close = element("button", { type: "button", title: "Close" }, icon("close"), element("span", { className: "unseen" }, "Close"));
  close.addEventListener("click", () => line.remove());
  line.append(close);
  holder.append(line);
  if (!bad) setTimeout(() => line.remove(), 4500);
}

/** A refusal, to stand where what was asked for would, with a button that asks again. */
export function failed(error, again) {
  if (!(error instanceof Refusal)) throw error;
  const button = element("button", { type: "button", className: "slim" }, "Try again");
  button.addEventListener("click", () => {
    button.disabled = true;
    again();
  });
  return element("span", { role: "alert" }, `${error.message} `, button);
}

/** Runs what a button does: the button waits meanwhile, a refusal is shown. True where it went well. */
export async function attempt(work, button) {
  if (button) button.disabled = true;
  try {
    await work();
    return true;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    toast(error.message, { bad: true });
    return false;
  } finally {
    if (button) button.disabled = false;
  }
}

/** An element: properties (or `data-…`/`aria-…` attributes), then children as nodes or text. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role" || name === "for") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `${root}/static/icons.svg#${name}`);
  svg.append(use);
  return svg;
}

/** Yes or no in a dialog; the page behind it waits. */
export function confirmed(question, { yes = "Yes", danger = false } = {}) {
  const dialog = element("dialog", { "aria-label": question });
  const form = element("form", { method: "dialog" }, element("p", {}, question));
  const row = element("div", { className: "row" });
  row.append(
    element("button", { value: "no", className: "quiet" }, "Cancel"),
    element("button", { value: "yes", className: danger ? "danger" : "primary" }, yes),
  );
  form.append(row);
  dialog.append(form);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => {
    dialog.remove();
    resolve(dialog.returnValue === "yes");
  }));
}

// -- the shell's own two buttons ---------------------------------------------------------------------
const theme = document.querySelector("#theme");
theme?.addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", document.documentElement.dataset.theme);
});
const leave = document.querySelector("#leave");
leave?.addEventListener("click", () => attempt(async () => {
  await post("/api/sign-out");
  location.assign(`${root}/sign-in`);
}, leave));
