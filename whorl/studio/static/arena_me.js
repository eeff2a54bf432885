// One's own votes: the quests as a list with their buttons.
import { attempt, post, root } from "./studio.js";
import { questList } from "./quests.js";

const place = document.querySelector("#quests-list");
place.replaceChildren(questList(JSON.parse(place.dataset.quests), (button) => attempt(async () => {
  location.assign(`${root}/arena/${(await post("/api/arena/second-look")).id}`);
}, button)));
