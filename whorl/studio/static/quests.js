// Points, days in a row and today's quests, on the arena's page and on one's own.
import { element, icon } from "./studio.js";

const many = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

/** "42 points · 3 days in a row". */
export function tally({ points, streak }) {
  return streak > 1 ? `${many(points, "point")} · ${streak} days in a row` : many(points, "point");
}

/** Today's quests as a list; `look` begins a second look. */
export function questList(quests, look) {
  return element("ul", { className: "quests" }, ...quests.map((quest) => {
    const mark = quest.whole ? icon("check") : element("span", { className: "open" });
    const far = quest.of > 1 ? ` (${quest.done} of ${quest.of})` : "";
    const said = element("span", {}, quest.words + far);
    if (quest.where && !quest.whole) said.append(element("span", { className: "soft" }, `: ${quest.where}`));
    if (quest.name === "again" && !quest.whole) {
      const button = element("button", { type: "button", className: "slim quiet" }, "Take a second look");
      button.addEventListener("click", () => look(button));
      said.append(" ", button);
    }
    if (quest.whole) said.append(element("span", { className: "unseen" }, ", done"));
    return element("li", { className: quest.whole ? "whole" : "" }, mark, said, element("span", { className: "badge" }, `+${quest.points}`));
  }));
}
