// A conversation's turns as the tree they are, and which branch is looked at.

/** Turns as the studio tells them. The branch that was last looked at is remembered in this browser. */
export class Tree {
  #turns = new Map();
  #branches = new Map(); // what stands behind a turn (0: at the beginning) → the turns that may come next
  #chosen = {};
  #key;

  constructor(conversation, turns) {
    this.#key = `branches:${conversation}`;
    try {
      this.#chosen = JSON.parse(localStorage.getItem(this.#key)) ?? {};
    } catch {
      this.#chosen = {}; // someone else wrote there
    }
    for (const turn of turns) this.#put(turn);
  }

  get(id) { return this.#turns.get(id); }

  /** A turn that is new, or told again. A new one is what is looked at from now on. */
  add(turn) {
    const known = this.#turns.has(turn.id);
    this.#put(known ? { ...this.#turns.get(turn.id), ...turn } : turn);
    if (!known) this.choose(turn.id);
  }

  /** The turns that are looked at, from the first to the last; system prompts are not among them. */
  path() {
    const found = [];
    let behind = 0;
    for (;;) {
      const branches = this.#branches.get(behind);
      if (!branches) return found;
      const id = branches.includes(this.#chosen[behind]) ? this.#chosen[behind] : branches.at(-1);
      found.push(this.#turns.get(id));
      behind = id;
    }
  }

  /** What stands in a turn's place on other branches, itself among them, oldest first. */
  siblings(turn) { return this.#branches.get(this.#before(turn)) ?? []; }

  /** Look at the branch that holds this turn. */
  choose(id) {
    for (let turn = this.#turns.get(id); turn; turn = this.#turns.get(this.#before(turn))) {
      if (turn.role !== "system") this.#chosen[this.#before(turn)] = turn.id;
    }
    localStorage.setItem(this.#key, JSON.stringify(this.#chosen));
  }

  /** The system prompt above a turn. */
  system(turn) {
    for (let one = turn; one; one = this.#turns.get(one.parent)) if (one.role === "system") return one.text;
    return "";
  }

  all() { return [...this.#turns.values()]; }

  #put(turn) {
    this.#turns.set(turn.id, turn);
    if (turn.role === "system") return;
    const behind = this.#before(turn);
    const branches = this.#branches.get(behind) ?? [];
    if (!branches.includes(turn.id)) this.#branches.set(behind, [...branches, turn.id].sort((a, b) => a - b));
  }

  /** The turn before, system prompts passed over: another one is another beginning of the same talk. */
  #before(turn) {
    let parent = this.#turns.get(turn.parent);
    while (parent?.role === "system") parent = this.#turns.get(parent.parent);
    return parent?.id ?? 0;
  }
}
