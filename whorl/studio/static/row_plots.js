// <dot-plot>: a rating with its interval a row. <bar-plot>: a histogram.
//   dot-plot data: {title, rows: [{name, value, low, high (null: open), rank?, note?, group?}]}
//   bar-plot data: {title, edges: [n + 1], counts: [n], unit?, total?}
import { look, Plot, shape, straight, words } from "./plot.js";
import { exact, insideTicks, roundTicks, scale, tickWords } from "./scale.js";

const ROW = 28;
const [NARROW, TALL] = [560, 46]; // where there is less room than this, a name stands above its row
const LETTER = 7.4; // about the width of one at 13 px

class DotPlot extends Plot {
  #frame = null;
  #gap = [];
  #row = ROW;

  get places() {
    return this.data.rows.length;
  }

  height(width) {
    this.#row = width < NARROW ? TALL : ROW;
    // A gap between groups that never met: they must not be compared.
    this.#gap = [];
    let extra = 0;
    for (const [place, row] of this.data.rows.entries()) {
      if (place && (row.group ?? 0) !== (this.data.rows[place - 1].group ?? 0)) extra += 18;
      this.#gap.push(extra);
    }
    return this.#row * Math.max(this.places, 1) + extra + 30;
  }

  draw(svg, width, height) {
    const { rows } = this.data;
    const finite = rows.flatMap((row) => [row.value, row.low, row.high]).filter((value) => Number.isFinite(value));
    let [low, high] = finite.length ? [Math.min(...finite), Math.max(...finite)] : [0, 1];
    if (high - low < 1) [low, high] = [low - 1, high + 1];
    const narrow = this.#row === TALL;
    const letters = Math.max(...rows.map((row) => row.name.length), 1);
    const left = narrow ? 8 : Math.min(letters * LETTER + 44, width * 0.45);
    const fits = Math.max(Math.floor((narrow ? width - 36 - 60 : left - 44) / LETTER), 4);
    const right = narrow ? width - 8 : width - 52;
    const x = scale([low, high], [left + 8, right]); // from end to end: no room is lost to round numbers
    const ticks = insideTicks(low, high, Math.max(Math.floor((right - left) / 90), 2));
    this.#frame = { x, width };
    for (const [place, text] of tickWords(ticks).entries()) {
      const at = x.at(ticks[place]);
      svg.append(straight("plot-grid", at, 0, at, height - 24), words(at, height - 6, "middle", text));
    }
    this.back = rows.map((_, place) => svg.appendChild(shape("rect", { class: "plot-row", x: 0, y: this.#top(place), width, height: this.#row, rx: 6 })));
    for (const [place, row] of rows.entries()) {
      const y = this.#top(place) + (narrow ? TALL - 13 : ROW / 2);
      const base = narrow ? this.#top(place) + 17 : y + 4.5;
      const { stroke } = look(row.group ?? 0);
      const name = row.name.length > fits ? `${row.name.slice(0, fits - 1)}…` : row.name;
      svg.append(words(26, base, "end", row.rank === undefined ? "" : String(row.rank)), words(36, base, "start", name, "plot-name"));
      for (const [end, open] of [[row.low, left + 8], [row.high, right]]) {
        const known = Number.isFinite(end);
        svg.append(straight(known ? "plot-whisker" : "plot-open", x.at(row.value), y, known ? x.at(end) : open, y, { stroke }));
      }
      svg.append(shape("circle", { class: "plot-spot", cx: x.at(row.value), cy: y, r: narrow ? 4 : 5.5, fill: stroke }), words(width - 4, base, "end", Math.round(row.value).toLocaleString("en"), "plot-value"));
    }
  }

  #top(place) {
    return this.#row * place + this.#gap[place];
  }

  placeAt(_, py) {
    return this.data.rows.findIndex((_row, place) => py >= this.#top(place) && py < this.#top(place) + this.#row);
  }

  show(place) {
    this.back?.forEach((one, here) => one.classList.toggle("here", here === place));
  }

  values(place) {
    const row = this.data.rows[place];
    const end = (value, none) => (Number.isFinite(value) ? exact(value) : none);
    const lines = [{ name: "rating", value: exact(row.value) }, { name: "interval", value: `${end(row.low, "−∞")} – ${end(row.high, "∞")}` }];
    if (row.note) lines.push({ name: row.note, value: "" });
    return { at: row.rank === undefined ? row.name : `${row.rank}. ${row.name}`, lines, x: this.#frame.x.at(row.value), y: this.#top(place) + this.#row + 2 };
  }

  table() {
    const end = (value, none) => (Number.isFinite(value) ? exact(value) : none);
    return { columns: ["model", "rating", "low", "high"], rows: this.data.rows.map((row) => [row.name, exact(row.value), end(row.low, "−∞"), end(row.high, "∞")]) };
  }
}

class BarPlot extends Plot {
  #frame = null;

  get places() {
    return this.data.counts.length;
  }

  height() {
    return 170;
  }

  draw(svg, width, height) {
    const { edges, counts } = this.data;
    const most = Math.max(...counts, 1);
    const ticks = roundTicks(0, most, 3);
    const told = tickWords(ticks);
    const left = 12 + 7 * Math.max(...told.map((text) => text.length));
    const x = scale([edges[0], edges.at(-1)], [left, width - 8]);
    const y = scale([0, ticks.at(-1)], [height - 24, 10]);
    this.#frame = { x };
    for (const [place, tick] of ticks.entries()) svg.append(straight("plot-grid", left, y.at(tick), width - 8, y.at(tick)), words(left - 7, y.at(tick) + 4, "end", told[place]));
    const below = insideTicks(edges[0], edges.at(-1), Math.max(Math.floor(width / 80), 3));
    for (const [place, text] of tickWords(below).entries()) svg.append(words(x.at(below[place]), height - 6, "middle", text));
    this.bars = counts.map((count, place) => {
      const [from, to] = [x.at(edges[place]), x.at(edges[place + 1])];
      return svg.appendChild(shape("rect", { class: "plot-bar", x: from + 0.5, width: Math.max(to - from - 1, 0.5), y: y.at(count), height: Math.max(y.at(0) - y.at(count), 0), rx: 1 }));
    });
  }

  placeAt(px) {
    const at = this.#frame.x.from(px);
    const place = this.data.edges.findIndex((edge) => edge > at);
    return place < 0 ? this.places - 1 : Math.max(place - 1, 0);
  }

  show(place) {
    this.bars?.forEach((bar, here) => bar.classList.toggle("here", here === place));
  }

  values(place) {
    const { edges, counts } = this.data;
    const total = counts.reduce((sum, count) => sum + count, 0) || 1;
    const lines = [{ name: this.data.unit ?? "documents", value: counts[place].toLocaleString("en"), note: `${((100 * counts[place]) / total).toFixed(1)} %` }];
    return { at: `${exact(edges[place])} to ${exact(edges[place + 1])}`, lines, x: this.#frame.x.at((edges[place] + edges[place + 1]) / 2) };
  }

  table() {
    const { edges, counts } = this.data;
    return { columns: ["from", "to", this.data.unit ?? "documents"], rows: counts.map((count, place) => [exact(edges[place]), exact(edges[place + 1]), count.toLocaleString("en")]) };
  }
}

customElements.define("dot-plot", DotPlot);
customElements.define("bar-plot", BarPlot);
