// The leaderboard: drawn from what the page brought, and again as votes come in.
import { failed, get, listen } from "./studio.js";
import "./line_plot.js";
import "./row_plots.js";

const holder = document.querySelector("#board");
const first = JSON.parse(holder.dataset.values);
const find = (id) => document.querySelector(`#${id}`);
const ask = (path) => get(`${path}${first.query ? `?${first.query}` : ""}`);

function ratings(rows) {
  const best = rows.slice(0, 40);
  const all = rows.length > best.length ? ` (the first ${best.length} of ${rows.length})` : "";
  find("ratings").data = {
    title: `Ratings with intervals${all}`,
    rows: best.map((row) => ({ name: row.model, value: row.rating, low: row.low ?? -Infinity, high: row.high ?? Infinity, rank: row.rank, note: `${row.battles.toLocaleString("en")} votes` })),
  };
}

async function more() {
  let answer;
  try {
    answer = await ask("/api/board/more");
  } catch (error) {
    delete shown.flips;
    find("piece-flips").replaceChildren(failed(error, more));
    return;
  }
  const drawn = answer.timeline.moments > 1;
  find("timeline").hidden = !drawn;
  find("timeline-note").hidden = drawn;
  if (drawn) find("timeline").data = { title: "Rating over time", x: "time", series: answer.timeline.series, marks: [] };
  put("flips", answer.flips);
}

const shown = {};
function put(name, html) {
  if (shown[name] === html) return;
  shown[name] = html;
  const place = find(`piece-${name}`);
  const box = place.querySelector("[tabindex]");
  const [left, focused] = [box?.scrollLeft ?? 0, box && box === document.activeElement];
  place.innerHTML = html; // the studio's own template, everything in it escaped
  const fresh = place.querySelector("[tabindex]");
  if (fresh) fresh.scrollLeft = left;
  if (focused) fresh?.focus({ preventScroll: true });
}

function categories(names) {
  const select = find("category");
  const known = new Set([...select.options].map((one) => one.value));
  for (const name of names) if (!known.has(name)) select.append(new Option(name, name));
}

async function moved() {
  let answer;
  try {
    answer = await ask("/api/board");
  } catch (error) {
    find("reading").hidden = false;
    find("reading").replaceChildren(failed(error, moved));
    return;
  }
  find("reading").hidden = true;
  if (!answer.rows.length) {
    find("none").hidden = find("board").hidden === false;
    return;
  }
  for (const id of ["board", "files", "choices"]) find(id).hidden = false;
  find("none").hidden = true;
  ratings(answer.rows);
  categories(answer.categories);
  for (const [name, html] of Object.entries(answer.pieces)) put(name, html);
  await more();
}

const choices = find("choices");
choices.addEventListener("change", () => {
  const wanted = new URLSearchParams([...new FormData(choices)].filter(([name, value]) => value && !(name === "interval" && value === "sandwich")));
  location.search = wanted.toString();
});

if (first.reading) {
  find("choices").hidden = true;
  moved();
} else if (first.rows.length) {
  ratings(first.rows);
  more();
}

// A browser has few connections to a place: a page that nobody sees gives its one back.
let seen = first.seq;
let stop = null;
function follow() {
  stop = listen(`/api/board/stream?after=${seen}`, {
    board: ({ seq }) => {
      seen = seq;
      moved();
    },
  });
}
document.addEventListener("visibilitychange", () => {
  stop?.();
  if (!document.hidden) follow();
});
follow();
