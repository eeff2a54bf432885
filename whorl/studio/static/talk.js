// Messages as elements, for the chat and for a battle. HTML that comes here was rendered and sanitised by
// the studio (web/markdown.py); nothing else is ever taken as HTML.
import { element, icon, toast } from "./studio.js";

/** What a person wrote: {text, images: addresses or data URIs}. */
export function personSaid({ text, images = [] }) {
  const made = element("article", { className: "said person" }, element("h2", { className: "unseen" }, "You"));
  if (images.length) {
    made.append(element("div", { className: "pictures" }, ...images.map((one, place) => element("img", { src: one, alt: `image ${place + 1}`, loading: "lazy" }))));
  }
  if (text) made.append(element("div", { className: "words" }, text));
  return made;
}

/** A reply: its parts are there from the start, so that nothing jumps. `who` names it. */
export function modelSaid(who) {
  const made = element("article", { className: "said model" });
  made.append(
    element("h2", { className: "who" }, who),
    element("details", { className: "thinking", hidden: true }, element("summary", {}, "Thinking"), element("div", { className: "prose" })),
    element("div", { className: "prose answer" }),
  );
  return made;
}

/** The text so far, or all of it: {html, reasoning}, both rendered by the studio. */
export function showText(made, { html, reasoning = "" }) {
  const thinking = made.querySelector(".thinking");
  thinking.hidden = !reasoning;
  if (reasoning) setHtml(thinking.querySelector(".prose"), reasoning);
  setHtml(made.querySelector(".answer"), html);
}

/** Three dots while nothing has come yet. */
export function showWaiting(made, waiting) {
  made.querySelector(".waiting")?.remove();
  if (!waiting) return;
  const dots = element("span", { className: "waiting" }, element("i"), element("i"), element("i"));
  dots.append(element("span", { className: "unseen" }, "The model is answering"));
  made.querySelector(".answer").after(dots);
}

/** A tool call: {name, arguments (an object), result (text, or undefined while it has none)}. */
export function toolCall({ name, arguments: given, result }) {
  const made = element("div", { className: "call" });
  made.append(element("p", { className: "head" }, icon("tool"), element("span", {}, name)));
  made.append(element("pre", { tabIndex: 0, role: "group", "aria-label": `What ${name} is given` }, short(given)));
  if (result !== undefined) {
    made.append(element("p", { className: "word" }, "answered"), element("pre", { tabIndex: 0, role: "group", "aria-label": `What ${name} answered` }, result));
  }
  return made;
}

/** A call's arguments: in a line where they fit into one. */
function short(given) {
  const line = JSON.stringify(given);
  return line.length < 72 ? line : JSON.stringify(given, null, 2);
}

/** A line that says what went wrong, where it went wrong. */
export function fault(text) {
  return element("p", { className: "fault", role: "alert" }, text);
}

/** Rendered HTML into its place, with what scrolls reachable by keyboard. Unchanged HTML is left alone:
    a selection in it stays. */
export function setHtml(place, html) {
  if (place.shown === html) return;
  place.shown = html;
  place.innerHTML = html;
  for (const one of place.querySelectorAll("pre, table")) {
    one.tabIndex = 0;
    one.setAttribute("role", "group");
    one.setAttribute("aria-label", one.tagName === "PRE" ? "Code" : "Table");
  }
}

/** The clipboard, or why not. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied.");
  } catch {
    toast("The browser does not allow copying here; select the text instead.", { bad: true });
  }
}

/** A copy button on each block of code; for text that changes no more. */
export function copyable(place) {
  for (const block of place.querySelectorAll("pre")) {
    const button = element("button", { type: "button", className: "slim square", title: "Copy the code" }, icon("copy"), element("span", { className: "unseen" }, "Copy the code"));
    button.addEventListener("click", () => copy(block.textContent));
    const holder = element("div", { className: "code" });
    block.replaceWith(holder);
    holder.append(block, button);
  }
}
