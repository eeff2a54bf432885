// The list of one's conversations, and the search in them.
import { attempt, element, get, root } from "./studio.js";

const list = document.querySelector("#list");
const words = document.querySelector("#words");
const day = (seconds) => {
  const midnight = new Date().setHours(0, 0, 0, 0);
  const time = seconds * 1000;
  if (time >= midnight) return "Today";
  if (time >= midnight - 86400000) return "Yesterday";
  return time >= midnight - 6 * 86400000 ? "Previous 7 days" : new Date(time).toLocaleDateString("en", { month: "long", year: "numeric" });
};

let entries = [];
let more = false;
let current = null;

function link(entry, ...rest) {
  const made = element("a", { href: `${root}/chat/${entry.id}${entry.turn ? `#turn-${entry.turn}` : ""}`, title: entry.title }, entry.title, ...rest);
  if (entry.id === current && !entry.turn) made.setAttribute("aria-current", "page");
  return element("li", {}, made);
}

function draw() {
  list.replaceChildren();
  let held = "";
  let group;
  for (const entry of entries) {
    if (day(entry.started) !== held) {
      held = day(entry.started);
      group = element("ul");
      list.append(element("h2", {}, held), group);
    }
    group.append(link(entry));
  }
  if (!entries.length) list.append(element("p", { className: "hint" }, "Your conversations will appear here."));
  if (more) {
    const button = element("button", { type: "button", className: "quiet slim" }, "Show earlier");
    button.addEventListener("click", () => attempt(async () => {
      const next = await get(`/api/chat?before=${entries.at(-1).id}`);
      const place = entries.length;
      entries.push(...next.conversations);
      more = next.more;
      draw();
      list.querySelectorAll("a")[place]?.focus();
    }, button));
    list.append(button);
  }
}

export function showList(first, id) {
  entries = first.conversations;
  more = first.more;
  current = id;
  draw();
}

/** A conversation that has just begun, or has another name now. */
export function putFirst(entry) {
  current = entry.id;
  const known = entries.find((one) => one.id === entry.id);
  if (known) known.title = entry.title;
  else entries.unshift(entry);
  if (!words.value.trim()) draw();
}

let asked = 0;
async function search() {
  const wanted = words.value.trim();
  const number = ++asked;
  if (!wanted) return draw();
  await attempt(async () => {
    const { found } = await get(`/api/chat/search?words=${encodeURIComponent(wanted)}`);
    if (number !== asked) return; // more was typed meanwhile
    const group = element("ul", {}, ...found.map((one) => link(one, element("small", {}, one.said))));
    const count = found.length === 1 ? "1 conversation" : `${found.length} conversations`;
    list.replaceChildren(element("h2", {}, count), group);
    document.querySelector("#spoken").textContent = `Found in ${count}.`;
  });
}

let waiting;
words.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(search, 200);
});
document.querySelector("#search").addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(waiting);
  search();
});
if (words.value) search(); // typed before this script was there, or kept by the browser
