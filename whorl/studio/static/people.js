// The admin's page of people: adding them, roles, new tokens, removal.
import { ask, attempt, confirmed, del, element, post, toast } from "./studio.js";

const told = document.querySelector("#token");
const people = document.querySelector("#people");
function show(name, token) {
  told.hidden = false;
  told.replaceChildren(`Token of ${name}, shown only once: `, element("code", {}, token));
}

function row({ id, name, role }) {
  const made = element("tr", { "data-id": String(id), "data-name": name });
  const select = element("select", { className: "small-select", "aria-label": `Role of ${name}` }, ...["voter", "admin"].map((one) => new Option(one, one, one === role, one === role)));
  const button = (does, words, kind) => element("button", { className: kind, type: "button", "data-does": does }, words, element("span", { className: "unseen" }, ` for ${name}`));
  made.append(element("td", {}, name), element("td", {}, select), element("td", { className: "right" }, button("token", "New token", "slim"), " ", button("remove", "Remove", "slim quiet danger")));
  return made;
}

const form = document.querySelector("#add");
form.addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    const [name, role] = [form.querySelector("#name"), form.querySelector("#role")];
    const made = await post("/api/people", { name: name.value, role: role.value });
    people.append(row(made));
    show(made.name, made.token);
    name.value = "";
    name.focus();
  }, form.querySelector("button"));
});

people.addEventListener("change", async ({ target }) => {
  const { id, name } = target.closest("tr").dataset;
  const kept = await attempt(async () => {
    await ask("POST", `/api/people/${id}/role`, { role: target.value });
    toast(`${name} is ${target.value} now.`);
  });
  if (!kept) target.value = target.value === "admin" ? "voter" : "admin";
});

const DOES = {
  async token(line, { id, name }, button) {
    if (!(await confirmed(`A new token for ${name}? The old one stops working, and anyone signed in with it is signed out.`, { yes: "New token" }))) return;
    attempt(async () => show(name, (await post(`/api/people/${id}/token`)).token), button);
  },
  async remove(line, { id, name }, button) {
    const question = `Remove ${name}? The name, the token and all conversations are erased permanently; votes stay on the board, without the texts. To keep the conversations, give a new token instead.`;
    if (!(await confirmed(question, { yes: "Remove", danger: true }))) return;
    attempt(async () => {
      await del(`/api/people/${id}`);
      line.remove();
      toast(`${name} is removed.`);
    }, button);
  },
};
people.addEventListener("click", ({ target }) => {
  const button = target.closest("[data-does]");
  const line = target.closest("tr");
  if (button) DOES[button.dataset.does](line, line.dataset, button);
});

people.append(...JSON.parse(people.dataset.people).map(row));
