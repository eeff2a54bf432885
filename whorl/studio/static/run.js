// A run, or several beside each other: curves that grow while the training goes on, and what happened.
import { element, failed, get, listen, root } from "./studio.js";
import "./line_plot.js";

const place = document.querySelector("#curves");
const first = JSON.parse(place.dataset.values);
const single = document.querySelector("#state");
const query = (ways) => ways.map((way) => `run=${encodeURIComponent(way)}`).join("&");
const BADGES = { going: "accent", done: "good", fault: "bad", left: "warn", stopped: "warn" };
const STATE_WORDS = { going: "running", left: "interrupted" };

const plots = new Map(); // section and title → its element
let values = null;
let stop = null;

/** Draw all sections; a plot that is there keeps its element, its focus and its scale. */
function show(now) {
  values = now;
  place.replaceChildren(...now.sections.filter((section) => section.plots.length).map((section) => {
    const grid = element("div", { className: "plots" });
    for (const data of section.plots) {
      const key = `${section.way}\n${data.title}`;
      const plot = plots.get(key) ?? document.createElement("line-plot");
      plots.set(key, plot);
      plot.data = { x: "step", ...data };
      grid.append(plot.parentElement ?? element("div", { className: "card plot-place drawn" }, plot));
    }
    return element("section", {}, element("h2", {}, `${section.name || "Metrics"} by step`), grid);
  }));
}

/** The plots that show a run's metric: [data, series, element]. In a comparison a curve has the run's name. */
function* drawn(run, metric) {
  for (const section of values.sections) {
    if (section.way && section.way !== run) continue;
    for (const data of section.plots) {
      for (const series of data.series) {
        if (metric !== null && series.metric !== metric) continue;
        if (section.way || series.name === run) yield [plots.get(`${section.way}\n${data.title}`), series, data];
      }
    }
  }
}

/** `values` null: the run went back to that step, and what came after it is superseded. */
function points({ run, points: fresh }) {
  const touched = new Set();
  let unknown = false;
  for (const [step, each] of fresh) {
    if (each === null) {
      for (const [plot, series] of drawn(run, null)) {
        cut(series, step);
        touched.add(plot);
      }
      continue;
    }
    for (const [metric, value] of Object.entries(each)) {
      let found = false;
      for (const [plot, series] of drawn(run, metric)) {
        series.x.push(step);
        series.y.push(value);
        touched.add(plot);
        found = true;
      }
      unknown ||= !found;
    }
  }
  for (const plot of touched) plot.grown();
  if (unknown) again();
  refresh();
}

function cut(series, step) {
  const keep = series.x.findIndex((x) => x > step);
  if (keep < 0) return;
  series.x.length = keep;
  series.y.length = keep;
}

function happened({ run, marks }) {
  if (single && marks.length) {
    for (const section of values.sections.filter((one) => one.way === run)) {
      for (const data of section.plots) {
        data.marks.push(...marks);
        plots.get(`${section.way}\n${data.title}`).redraw();
      }
    }
  }
  refresh();
}

function state({ run, state: now }) {
  const badge = single ? (run === values.ways[0] ? single : null) : document.querySelector(`[data-state="${CSS.escape(run)}"]`);
  const word = STATE_WORDS[now] ?? now;
  if (!badge || badge.textContent === word) return;
  badge.textContent = word;
  badge.className = `badge ${BADGES[now] ?? ""}`;
  refresh();
}

const line = document.querySelector("#trouble");
function trouble({ message }) {
  line.textContent = message;
  line.hidden = false;
}

/** What could not be asked for, until a next try goes well: each try of `again` has a place in the line. */
const failures = new Map();
function asked(again, error) {
  failures.get(again)?.remove();
  failures.delete(again);
  if (error) {
    failures.set(again, failed(error, again));
    line.append(failures.get(again));
  }
  line.hidden = !line.childNodes.length;
}

// -- the rest of the page: rendered by the studio, put in its place where it has changed ---------------
let due = null;
function refresh() {
  if (!single || due) return;
  due = setTimeout(async () => {
    const answer = await get(`/api/runs/pieces?${query([values.ways[0]])}`).catch((error) => asked(refresh, error));
    due = null;
    if (!answer) return;
    asked(refresh);
    for (const [name, html] of Object.entries(answer.pieces)) piece(name, html);
    if (answer.runs !== values.ways.length) again(); // a run has begun inside this one
  }, 1500);
}

const shown = {};
function piece(name, html) {
  const holder = document.querySelector(`#piece-${name}`);
  if (shown[name] === html) return;
  shown[name] = html;
  const box = holder.querySelector("[tabindex]");
  const [scrolled, focused] = [box?.scrollTop ?? 0, box && box === document.activeElement];
  holder.innerHTML = html; // the studio's own template, everything in it escaped
  const fresh = holder.querySelector("[tabindex]");
  if (fresh) fresh.scrollTop = scrolled;
  if (focused) fresh?.focus({ preventScroll: true });
  tidy();
}

const kind = document.querySelector("#kind");
function tidy() {
  for (const link of document.querySelectorAll("a[data-way]")) link.href = root + link.dataset.way;
  if (!kind) return;
  const rows = [...document.querySelectorAll("#piece-timeline [data-kind]")];
  const kinds = new Set(rows.map((one) => one.dataset.kind));
  for (const option of kind.options) kinds.delete(option.value);
  for (const name of [...kinds].sort()) kind.append(element("option", { value: name }, name));
  for (const one of rows) one.hidden = Boolean(kind.value) && one.dataset.kind !== kind.value;
}
kind?.addEventListener("change", tidy);

async function again() {
  stop?.();
  const answer = await get(`/api/runs/curves?${query(single ? [values.ways[0]] : values.ways)}`).catch((error) => asked(again, error));
  if (!answer) return;
  asked(again);
  follow(answer);
}

function follow(now) {
  stop?.();
  show(now);
  stop = listen(`/api/runs/stream?${query(now.ways)}&after=${now.after}`, { points, happened, state, trouble, anew: again });
}

// A browser has few connections to a place: a page that nobody sees gives its one back.
document.addEventListener("visibilitychange", () => {
  if (!values.live) return;
  if (document.hidden) stop?.();
  else again();
});

tidy();
if (first.live) follow(first);
else show(first);
