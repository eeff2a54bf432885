// <line-plot>: curves over steps or time, with events on them; grows while it is looked at.
//   data: {title, x: "step" | "time", log: bool (may be shown so), zero: bool,
//          series: [{name, x: [ascending], y: [number | null], smooth, low?, high?, hidden?}],
//          marks: [{x, kind, text, bad}]}
import { element } from "./studio.js";
import { look, Plot, shape, straight, swatch, words } from "./plot.js";
import { exact, insideTicks, logTicks, nearest, roundTicks, runningMean, scale, short, tickWords } from "./scale.js";

const [RIGHT, TOP, BOTTOM] = [14, 12, 26];
const LETTER = 7; // about the width of a digit at 12 px
const TABLE_ROWS = 200;
const BANDS = 3; // curves whose intervals are drawn; those of more would hide each other, and are in the values
const KEYS = 8; // curves whose names stand above the picture at once; the others are folded away
const TOLD = 8; // curves whose values are told at a place: those nearest to the pointer
const LINES = new Set(["resume", "fault", "signal", "damaged"]); // events that cut the run: a line through the picture
const DAY = 86400;
const SECONDS = [1, 5, 15, 30, 60, 300, 900, 1800, 3600, 10800, 21600, 43200, DAY, 2 * DAY, 7 * DAY, 14 * DAY, 30 * DAY, 60 * DAY, 90 * DAY, 180 * DAY, 365 * DAY];

class LinePlot extends Plot {
  #xs = [];
  #log = false;
  #logButton = null;
  #off = new Set();
  #known = new Set();
  #frame = null;
  #pointer = null; // its height in the picture; null where the place was chosen by keys
  #unfolded = false;

  /** New data has come: the places to stop at are those of all curves that are shown. */
  taken() {
    for (const one of this.data.series) {
      if (!this.#known.has(one.name) && one.hidden) this.#off.add(one.name);
      this.#known.add(one.name);
    }
    this.grown();
  }

  /** Points were added to the series in place. */
  grown() {
    const shown = this.#shown();
    this.#xs = shown.length === 1 ? shown[0].x : [...new Set(shown.flatMap((one) => one.x))].sort((a, b) => a - b);
    this.redraw();
  }

  #shown() {
    return this.data.series.map((one, index) => ({ ...one, index })).filter((one) => !this.#off.has(one.name));
  }

  /** The ends of the interval that is drawn, if any. */
  #band(one, shown) {
    return one.low && shown.length <= BANDS ? [one.low, one.high] : [];
  }

  get places() {
    return this.#xs.length;
  }

  height(width) {
    return Math.round(Math.min(Math.max(width * 0.42, 190), 300));
  }

  draw(svg, width, height) {
    this.#keys();
    this.#logTool();
    const shown = this.#shown();
    const [low, high] = this.#range(shown);
    const ticks = this.#log ? logTicks(low, high) : roundTicks(low, high, height > 220 ? 5 : 4);
    const bottom = Math.min(low, ticks[0]);
    const top = Math.max(high, ticks.at(-1));
    const told = tickWords(ticks);
    const left = 14 + LETTER * Math.max(...told.map((text) => text.length));
    const first = this.#xs[0] ?? 0;
    const last = Math.max(this.#xs.at(-1) ?? 1, first + (this.data.x === "time" ? 1e-3 : 1));
    const x = scale([first, last], [left, width - RIGHT]);
    const y = scale([bottom, top], [height - BOTTOM, TOP], this.#log);
    this.#frame = { x, y, height, shown, width };
    for (const [place, tick] of ticks.entries()) {
      svg.append(straight("plot-grid", left, y.at(tick), width - RIGHT, y.at(tick)), words(left - 8, y.at(tick) + 4, "end", told[place]));
    }
    for (const [tick, text] of this.#xTicks(first, last, width - left - RIGHT)) svg.append(words(x.at(tick), height - 6, "middle", text));
    this.#marks(svg, first, last);
    const clip = (value) => Math.min(Math.max(y.at(value), TOP - 3), height - BOTTOM + 3);
    for (const one of shown) this.#curve(svg, one, x.at, clip);
    this.cross = svg.appendChild(shape("g"));
  }

  #range(shown) {
    const values = shown.flatMap((one) => [...one.y, ...this.#band(one, shown).flat()]).filter((value) => Number.isFinite(value) && (!this.#log || value > 0));
    if (!values.length) return this.#log ? [0.1, 1] : [0, 1];
    values.sort((a, b) => a - b);
    let [low, high] = [values[0], values.at(-1)];
    // A first step's spike must not flatten the rest: the top 1 % may leave the picture.
    const cut = values[Math.min(values.length - 1, Math.floor(values.length * 0.99))];
    if (!this.#log && values.length > 50 && high > 3 * Math.max(Math.abs(cut), 1e-12)) high = cut;
    if (this.data.zero) low = Math.min(low, 0);
    if (high - low < 1e-9 * Math.max(Math.abs(high), 1e-9)) {
      return this.#log ? [low * 0.9, high * 1.1] : [low - Math.max(Math.abs(low), 1) * 0.05, high + Math.max(Math.abs(high), 1) * 0.05];
    }
    return [low, high];
  }

  #xTicks(first, last, room) {
    const about = Math.max(Math.min(Math.floor(room / 90), 6), 2);
    if (this.data.x !== "time") return insideTicks(first, last, about, true).map((tick) => [tick, short(tick)]);
    // The widest step that leaves three ticks, of those that are not too many.
    const fit = SECONDS.findIndex((one) => (last - first) / one <= about);
    let ticks = [];
    for (let place = fit < 0 ? SECONDS.length - 1 : fit; place >= 0 && ticks.length < 3; place -= 1) ticks = timeTicks(first, last, SECONDS[place]);
    return ticks.length > about + 3 ? ticks.filter((_, place) => place % 2 === 0) : ticks;
  }

  #curve(svg, one, x, y) {
    const style = look(one.index);
    if (this.#band(one, this.#frame.shown).length) {
      const solid = one.x.map((_, place) => place).filter((place) => Number.isFinite(one.low[place]) && Number.isFinite(one.high[place]));
      const way = [...solid.map((place) => [place, one.high]), ...solid.reverse().map((place) => [place, one.low])];
      if (way.length) svg.append(shape("path", { class: "plot-band", fill: style.stroke, d: `M${way.map(([place, ends]) => `${x(one.x[place]).toFixed(1)} ${y(ends[place]).toFixed(1)}`).join("L")}Z` }));
    }
    let values = one.y;
    if (one.smooth && one.x.length > 20) {
      svg.append(shape("path", { class: "plot-raw", stroke: style.stroke, d: this.#path(one.x, values, x, y) }));
      values = runningMean(values);
    }
    svg.append(shape("path", { class: "plot-line", ...style, d: this.#path(one.x, values, x, y) }));
  }

  /** Where there are more points than pixels, each pixel's lowest and highest stand for the rest. */
  #path(xs, values, x, y) {
    const kept = xs.length > 2 * this.#frame.width ? thinned(xs, values, x) : xs.keys();
    const parts = [];
    let down = false;
    for (const place of kept) {
      const value = values[place];
      if (!Number.isFinite(value) || (this.#log && value <= 0)) {
        down = false;
        continue;
      }
      parts.push(`${down ? "L" : "M"}${x(xs[place]).toFixed(1)} ${y(value).toFixed(1)}`);
      down = true;
    }
    return parts.length === 1 ? `${parts[0]}h0` : parts.join(""); // a single point has no length: a round dot
  }

  #marks(svg, first, last) {
    const { x, height } = this.#frame;
    for (const mark of this.data.marks ?? []) {
      if (mark.x < first || mark.x > last) continue;
      const at = x.at(mark.x);
      const kind = mark.bad ? " bad" : "";
      if (LINES.has(mark.kind)) svg.append(straight(`plot-mark${kind}`, at, TOP, at, height - BOTTOM));
      else svg.append(shape("path", { class: `plot-pin${kind}`, d: `M${at.toFixed(1)} ${height - BOTTOM - 1}l-3.5 6h7z` }));
    }
  }

  placeAt(px, py) {
    this.#pointer = py;
    return nearest(this.#xs, this.#frame.x.from(px));
  }

  show(place) {
    if (!this.cross) return;
    if (place === null) this.#pointer = null;
    this.cross.replaceChildren();
    if (place === null || !this.#frame) return;
    const { x, y, height, shown } = this.#frame;
    const at = x.at(this.#xs[place]);
    this.cross.append(straight("plot-cross", at, TOP, at, height - BOTTOM));
    for (const one of shown) {
      const value = one.y[nearest(one.x, this.#xs[place])];
      if (one.x.length && Number.isFinite(value) && (!this.#log || value > 0)) {
        const near = one.x[nearest(one.x, this.#xs[place])];
        this.cross.append(shape("circle", { class: "plot-spot", cx: x.at(near), cy: Math.max(y.at(value), TOP - 3), r: 4, fill: look(one.index).stroke }));
      }
    }
  }

  values(place) {
    const at = this.#xs[place];
    const all = this.#frame.shown.filter((one) => one.x.length);
    const told = this.#nearestCurves(all, at);
    const lines = told.map((one) => {
      const near = nearest(one.x, at);
      const span = one.low && Number.isFinite(one.low[near]) ? `${exact(one.low[near])} – ${exact(one.high[near])}` : "";
      const elsewhere = one.x[near] === at ? "" : `at ${this.#at(one.x[near])}`;
      return { name: one.name, value: exact(one.y[near]), series: one.index, note: [span, elsewhere].filter(Boolean).join(" ") };
    });
    if (told.length < all.length) lines.push({ name: `${all.length - told.length} more`, value: "", event: true });
    for (const mark of this.data.marks ?? []) if (nearest(this.#xs, mark.x) === place) lines.push({ name: mark.kind, value: mark.text, event: true });
    return { at: this.#at(at), lines, x: this.#frame.x.at(at) };
  }

  /** Of many curves those that pass nearest to the pointer, in their own order. */
  #nearestCurves(all, at) {
    if (all.length <= TOLD || this.#pointer === null) return all.slice(0, TOLD);
    const far = (one) => {
      const value = one.y[nearest(one.x, at)];
      return Number.isFinite(value) ? Math.abs(this.#frame.y.at(value) - this.#pointer) : Infinity;
    };
    const kept = new Set([...all].sort((one, other) => far(one) - far(other)).slice(0, TOLD));
    return all.filter((one) => kept.has(one));
  }

  #at(x) {
    if (this.data.x === "time") return new Date(x * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
    return `step ${x.toLocaleString("en")}`;
  }

  table() {
    const shown = this.#shown();
    const every = Math.ceil(this.#xs.length / TABLE_ROWS);
    const rows = this.#xs.filter((_, place) => place % every === 0 || place === this.#xs.length - 1).map((x) => [this.#at(x), ...shown.map((one) => {
      const place = one.x.length ? nearest(one.x, x) : 0;
      return one.x[place] === x ? exact(one.y[place]) : "";
    })]);
    return { columns: [this.data.x === "time" ? "time" : "step", ...shown.map((one) => one.name)], rows, said: every > 1 ? `Every ${every}th of ${this.#xs.length.toLocaleString("en")} points.` : "" };
  }

  #keys() {
    const { series } = this.data;
    this.key.hidden = series.length < 2;
    if (this.key.hidden || this.key.dataset.names === JSON.stringify(series.map((one) => one.name))) return;
    this.key.dataset.names = JSON.stringify(series.map((one) => one.name));
    const buttons = series.map((one, index) => {
      const button = element("button", { type: "button", "aria-pressed": !this.#off.has(one.name) }, swatch(index), one.name);
      button.addEventListener("click", () => {
        if (!this.#off.delete(one.name)) this.#off.add(one.name);
        button.setAttribute("aria-pressed", !this.#off.has(one.name));
        this.grown();
      });
      return button;
    });
    this.key.replaceChildren(...buttons);
    const folded = buttons.filter((_, index) => series[index].hidden || index >= KEYS);
    if (folded.length < 2) return;
    const fold = element("button", { type: "button", className: "plot-fold" });
    const show = () => {
      for (const button of folded) button.hidden = !this.#unfolded;
      fold.textContent = this.#unfolded ? "Fewer" : `${folded.length} more`;
      fold.setAttribute("aria-expanded", this.#unfolded);
    };
    fold.addEventListener("click", () => {
      this.#unfolded = !this.#unfolded;
      show();
    });
    this.key.append(fold);
    show();
  }

  #logTool() {
    if (!this.data.log || this.#logButton) return;
    this.#logButton = this.tool("Log scale", () => {
      this.#log = !this.#log;
      this.#logButton.setAttribute("aria-pressed", this.#log);
      this.redraw();
    }, false);
    this.tools.prepend(this.#logButton);
  }
}

/** Ticks of a time axis, at round times of where one is. */
function timeTicks(first, last, step) {
  const shift = new Date(first * 1000).getTimezoneOffset() * 60;
  const form = step < 60 ? { hour: "2-digit", minute: "2-digit", second: "2-digit" } : step < DAY ? { hour: "2-digit", minute: "2-digit" } : { month: "short", day: "numeric" };
  const ticks = [];
  for (let tick = Math.ceil((first - shift) / step) * step + shift; tick <= last; tick += step) ticks.push([tick, new Date(tick * 1000).toLocaleString("en-GB", form)]);
  return ticks;
}

function thinned(xs, values, x) {
  const kept = [];
  let [column, low, high] = [null, -1, -1];
  const close = () => {
    if (low >= 0) kept.push(...(low === high ? [low] : [Math.min(low, high), Math.max(low, high)]));
  };
  for (let place = 0; place < xs.length; place += 1) {
    const here = Math.floor(x(xs[place]));
    if (here !== column) {
      close();
      [column, low, high] = [here, -1, -1];
    }
    if (!Number.isFinite(values[place])) continue;
    if (low < 0 || values[place] < values[low]) low = place;
    if (high < 0 || values[place] > values[high]) high = place;
  }
  close();
  return kept;
}

customElements.define("line-plot", LinePlot);
