// The list of runs: it follows what goes on, and keeps what was marked for comparison.
import { element, get, root } from "./studio.js";

const STATE_WORDS = { going: "running", left: "interrupted" };
const body = document.querySelector("#runs");
const compare = document.querySelector("#compare");
const way = (text) => text.split("/").map(encodeURIComponent).join("/");

function count() {
  const marked = body.querySelectorAll("input:checked").length;
  compare.disabled = marked < 2 || marked > 8;
  compare.classList.toggle("primary", !compare.disabled);
  compare.querySelector("span").textContent = marked > 8 ? "Compare at most 8" : marked > 1 ? `Compare ${marked}` : "Compare";
}

function row(one) {
  const made = element("tr", { "data-way": one.way, className: one.above ? "inner" : "" });
  const box = one.trouble ? "" : element("input", { type: "checkbox", name: "run", value: one.way, "aria-label": `Compare ${one.way}` });
  const name = element("td", { className: "name" }, element("a", { href: `${root}/runs/${way(one.way)}` }, ...(one.above ? [element("span", { className: "unseen" }, `${one.above}/`), one.way.slice(one.above.length + 1)] : [one.way])));
  if (one.trouble) name.append(element("p", { className: "trouble small" }, one.trouble));
  made.append(element("td", {}, box), name, element("td"), ...["wide soft", "number wide", "number", "number"].map((className) => element("td", { className })));
  return made;
}

/** Only what has changed is touched: marks, focus and selection stay. */
function show(runs) {
  document.querySelector("#runs-card").hidden = !runs.length;
  document.querySelector("#none").hidden = runs.length > 0;
  const known = new Map([...body.rows].map((one) => [one.dataset.way, one]));
  runs.forEach((one, place) => {
    let line = known.get(one.way);
    if (!line || Boolean(one.trouble) === Boolean(line.querySelector("input"))) {
      const fresh = row(one);
      line?.replaceWith(fresh);
      line = fresh;
    }
    known.delete(one.way);
    if (body.rows[place] !== line) body.insertBefore(line, body.rows[place] ?? null);
    const word = STATE_WORDS[one.state] ?? one.state;
    const badge = element("span", { className: `badge ${one.badge}` }, word);
    if (line.cells[2].textContent !== word) line.cells[2].replaceChildren(badge);
    [one.started, one.lasted, one.steps, one.loss].forEach((text, cell) => {
      if (line.cells[cell + 3].textContent !== (text ?? "")) line.cells[cell + 3].textContent = text ?? "";
    });
  });
  for (const gone of known.values()) gone.remove();
  count();
}

body.addEventListener("change", count);
addEventListener("pageshow", count);
setInterval(async () => {
  if (document.hidden) return;
  const answer = await get("/api/runs").catch(() => null); // it is asked again in a moment
  if (answer) show(answer.runs);
}, 3000);
