// After the vote: who they were, how the board moved, what it earned.
import { element, icon } from "./studio.js";

const SAID = { left: "You preferred the left model.", right: "You preferred the right model.", tie: "You called it a tie.", bad: "You found both bad." };
const SVG = "http://www.w3.org/2000/svg";

function drawn(tag, properties) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(properties)) made.setAttribute(name, value);
  return made;
}

/** "759 to 1241"; who only ever won or lost has no upper or lower end. */
function range({ low, high }) {
  if (low === null && high === null) return "open at both ends";
  if (low === null) return `below ${Math.round(high)}`;
  return high === null ? `above ${Math.round(low)}` : `${Math.round(low)} to ${Math.round(high)}`;
}

/** Rating and interval before (above, faint) and now, on one scale for both models. */
function interval(rows, [from, to]) {
  const x = (value) => 4 + 192 * Math.min(1, Math.max(0, (value - from) / (to - from)));
  const svg = drawn("svg", { class: "interval", viewBox: "0 0 200 34", preserveAspectRatio: "none", "aria-hidden": "true" });
  svg.append(drawn("line", { x1: 4, x2: 196, y1: 33, y2: 33, class: "axis" }));
  rows.forEach((row, place) => {
    if (!row) return;
    const y = place === 0 ? 9 : 21;
    const group = drawn("g", { class: place === 0 ? "was" : "is" });
    group.append(drawn("line", { x1: x(row.low ?? from), x2: x(row.high ?? to), y1: y, y2: y, "vector-effect": "non-scaling-stroke" }));
    group.append(drawn("line", { x1: x(row.rating), x2: x(row.rating), y1: y - 4, y2: y + 4, "vector-effect": "non-scaling-stroke" }));
    svg.append(group);
  });
  return svg;
}

function scale(sides) {
  const ends = sides.flatMap(({ before, after }) => [before, after]).filter(Boolean)
    .flatMap((row) => [row.rating - 50, row.rating + 50, row.low ?? row.rating - 400, row.high ?? row.rating + 400]);
  return [Math.min(...ends), Math.max(...ends)];
}

function change({ before, after }) {
  const by = before ? Math.round(after.rating) - Math.round(before.rating) : 0;
  if (!before) return element("span", { className: "soft" }, "new on the board");
  if (by === 0) return element("span", { className: "soft" }, "unchanged");
  return element("span", { className: by > 0 ? "up" : "down" }, `${by > 0 ? "▲" : "▼"} ${Math.abs(by)} `, element("span", { className: "unseen" }, by > 0 ? "points up" : "points down"));
}

function move(side, ends) {
  const made = element("div", { className: "card move" }, element("h3", {}, side.model));
  if (!side.after) return made.append(element("p", { className: "soft" }, "Not on the board yet.")), made;
  const figure = element("p", { className: "figure" });
  if (side.before) figure.append(element("span", { className: "soft" }, `${Math.round(side.before.rating)} →`));
  figure.append(element("span", { className: "now" }, String(Math.round(side.after.rating))), change(side));
  made.append(figure, interval([side.before, side.after], ends));
  made.append(element("p", { className: "soft small" }, `95 % interval: ${range(side.after)}${side.before ? `, before ${range(side.before)}` : ""}; rank ${side.after.rank}, ${side.after.battles} vote${side.after.battles === 1 ? "" : "s"}`));
  return made;
}

/** What is known at once: the choice, and whether it counts. */
export function showChoice(place, vote) {
  const counts = vote.rated ? "Your vote counts on the board." : `Your vote is stored but does not count on the board: ${vote.reason}.`;
  place.replaceChildren(
    element("h2", { id: "outcome-title" }, SAID[vote.winner]),
    element("p", { className: vote.rated ? "soft" : "notice warn" }, counts),
  );
}

/** What came of it, once the board has the vote. */
export function showMoves(place, outcome) {
  const sides = [outcome.left, outcome.right];
  if (sides.some((side) => side.after)) {
    const ends = scale(sides);
    place.append(element("div", { className: "moves" }, ...sides.map((side) => move(side, ends))));
  }
  if (outcome.rated && outcome.votes > 1) place.append(element("p", { className: "soft small" }, `The board moved by ${outcome.votes} votes that came in at once, yours among them.`));
  const gains = outcome.gains.filter((gain) => gain.points > 0);
  if (gains.length) {
    const list = element("p", { className: "gains", "aria-label": "Points earned" });
    for (const gain of gains) list.append(element("span", { className: "badge accent" }, `+${gain.points} ${gain.what}`));
    place.append(list);
  }
}

/** What to do next. */
export function nextSteps({ fresh, again }) {
  const one = element("button", { type: "button", className: "primary" }, icon("plus"), "New battle");
  const other = element("button", { type: "button" }, icon("retry"), "Same prompt, another pair");
  one.addEventListener("click", fresh);
  other.addEventListener("click", () => again(other));
  return element("div", { className: "row" }, one, other);
}
