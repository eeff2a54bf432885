// What every plot is made of: a title, its keys, a picture drawn anew at each size, the values at one place
// (by pointer, or by arrow keys: to a screen reader the picture is a slider that reads them out), a table.
import { element } from "./studio.js";

const SVG = "http://www.w3.org/2000/svg";
let number = 0;

/** An SVG element with these attributes. */
export function shape(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function words(x, y, anchor, text, kind = "plot-tick") {
  return shape("text", { class: kind, x: x.toFixed(1), y: y.toFixed(1), "text-anchor": anchor }, text);
}

export const straight = (kind, x1, y1, x2, y2, more = {}) => shape("line", { class: kind, x1, y1, x2, y2, ...more });

/** How the n-th series looks: four colours, then the same ones dashed, then dotted. */
export function look(index) {
  return { stroke: `var(--series-${(index % 4) + 1})`, "stroke-dasharray": ["", "7 4", "2 4"][Math.floor(index / 4) % 3] };
}

export function swatch(index) {
  return shape("svg", { viewBox: "0 0 18 8", "aria-hidden": "true" }, straight("plot-line", 1, 4, 17, 4, look(index)));
}

/** A plot as a custom element. Set `data` (its `title` and what the kind of plot needs) to draw it; until
    then the attribute `heading` says what will be there; `level` is the heading's element, h3 else.

    A kind of plot has: `height(width)`, `draw(svg, width, height)`; `places`, how many there are to stop
    at; `placeAt(x, y)`; `values(place)` → {at, lines: [{name, value, series?, note?, event?}], x}; `show(place)`
    marks it in the picture; `table()` → {columns, rows, said?}. */
export class Plot extends HTMLElement {
  #data = null;
  #place = null;
  #due = false;
  #width = 0;

  connectedCallback() {
    if (this.stage) return;
    const name = `plot-${(number += 1)}`;
    this.heading = element(this.getAttribute("level") ?? "h3", { id: name }, this.getAttribute("heading") ?? "Plot");
    this.tools = element("div", { className: "row" });
    this.key = element("div", { className: "plot-key", role: "group", "aria-label": "Curves" });
    this.svg = shape("svg", { "aria-hidden": "true" });
    this.tip = element("div", { className: "plot-tip", hidden: true });
    this.none = element("div", { className: "plot-none", hidden: true }, "no values yet");
    this.stage = element("div", { className: "plot-stage", tabIndex: 0, role: "slider", "aria-labelledby": name, "aria-roledescription": "plot", "aria-valuenow": 0, "aria-valuemin": 0, "aria-valuemax": 0 }, this.svg, this.none, this.tip);
    this.holder = element("div", { className: "plot-table", hidden: true, tabIndex: 0, role: "region" });
    this.replaceChildren(element("div", { className: "plot-head" }, this.heading, this.tools), this.key, this.stage, this.holder);
    this.tableButton = this.tool("Table", () => this.#showTable(this.holder.hidden));
    this.#listen();
    new ResizeObserver(() => {
      if (this.stage.clientWidth !== this.#width) this.redraw();
    }).observe(this.stage);
    if (this.#data) this.redraw();
  }

  get data() {
    return this.#data;
  }

  set data(data) {
    this.#data = data;
    this.taken?.();
    this.redraw();
  }

  /** A small button in the plot's head; `pressed` makes it one that stays down. */
  tool(text, action, pressed) {
    const button = element("button", { type: "button", className: "slim quiet" }, text);
    if (pressed !== undefined) button.setAttribute("aria-pressed", pressed);
    button.addEventListener("click", action);
    this.tools.append(button);
    return button;
  }

  /** Draw at the next frame, however often it is asked for until then. */
  redraw() {
    if (this.#due || !this.stage || !this.#data) return;
    this.#due = true;
    requestAnimationFrame(() => {
      this.#due = false;
      this.#draw();
    });
  }

  #draw() {
    this.heading.textContent = this.#data.title;
    const width = (this.#width = this.stage.clientWidth);
    if (!width) return;
    const height = this.height(width);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.style.height = `${height}px`;
    this.svg.replaceChildren();
    this.draw(this.svg, width, height);
    this.none.hidden = this.places > 0;
    this.stage.setAttribute("aria-valuemin", 0);
    this.stage.setAttribute("aria-valuemax", Math.max(this.places - 1, 0));
    if (this.#place !== null) this.#stop(Math.min(this.#place, this.places - 1));
    else this.#read();
    if (!this.holder.hidden) this.#fillTable();
  }

  #listen() {
    const { stage } = this;
    stage.addEventListener("pointermove", (event) => this.#stop(this.#under(event)));
    stage.addEventListener("pointerdown", (event) => this.#stop(this.#under(event)));
    stage.addEventListener("pointerleave", () => this.#stop(null));
    stage.addEventListener("blur", () => this.#stop(null));
    stage.addEventListener("keydown", (event) => {
      const wide = Math.max(Math.round(this.places / 10), 1);
      const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -wide, PageDown: wide };
      let to;
      if (event.key in steps) to = this.#place === null ? (steps[event.key] > 0 ? 0 : this.places - 1) : this.#place + steps[event.key];
      else if (event.key === "Home") to = 0;
      else if (event.key === "End") to = this.places - 1;
      else if (event.key === "Escape" && this.#place !== null) to = null;
      else return;
      event.preventDefault();
      this.#stop(to === null ? null : Math.min(Math.max(to, 0), this.places - 1));
    });
  }

  #under(event) {
    const box = this.svg.getBoundingClientRect();
    return this.places ? this.placeAt(event.clientX - box.left, event.clientY - box.top) : null;
  }

  #stop(place) {
    this.#place = place !== null && place >= 0 && this.places > 0 ? place : null;
    this.show(this.#place);
    this.tip.hidden = this.#place === null;
    this.#read();
    if (this.#place === null) return;
    const { at, lines, x, y } = this.values(this.#place);
    this.tip.replaceChildren(element("strong", {}, at), ...lines.map((line) => {
      const row = element("p", { className: line.event ? "event" : "curve" });
      if (line.series !== undefined) row.append(swatch(line.series));
      const said = element("span", {}, line.value);
      if (line.note) said.append(" ", element("span", { className: "soft" }, line.note));
      row.append(element("span", {}, line.name), said);
      return row;
    }));
    const [wide, room] = [this.tip.offsetWidth, this.stage.clientWidth];
    const left = x + 14 + wide < room ? x + 14 : x - 14 - wide;
    this.tip.style.left = `${Math.min(Math.max(left, 0), Math.max(room - wide, 0))}px`;
    // Where the page goes on below the window, the values stay inside of it.
    const below = innerHeight - 8 - this.stage.getBoundingClientRect().top - this.tip.offsetHeight;
    this.tip.style.top = `${Math.max(Math.min(y ?? 4, below), -this.tip.offsetHeight)}px`;
  }

  /** What a screen reader says of where the slider stands. */
  #read() {
    this.stage.setAttribute("aria-valuenow", this.#place ?? 0);
    const all = this.places ? "arrow keys read the values" : "no values yet";
    if (this.#place === null) return this.stage.setAttribute("aria-valuetext", all);
    const { at, lines } = this.values(this.#place);
    this.stage.setAttribute("aria-valuetext", `${at}: ${lines.map((line) => `${line.name} ${line.value}`).join(", ")}`);
  }

  #showTable(open) {
    this.holder.hidden = !open;
    this.tableButton.setAttribute("aria-expanded", open);
    if (open) this.#fillTable();
  }

  #fillTable() {
    const { columns, rows, said } = this.table();
    this.holder.setAttribute("aria-label", `${this.#data.title}, as a table`);
    const head = element("tr", {}, ...columns.map((name, place) => element("th", { scope: "col", className: place ? "number" : "" }, name)));
    const body = rows.map((row) => element("tr", {}, ...row.map((cell, place) => element("td", { className: place ? "number" : "" }, cell))));
    const table = element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
    this.holder.replaceChildren(...(said ? [element("p", { className: "hint" }, said)] : []), table);
  }
}
