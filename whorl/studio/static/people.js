// The admin's page of people: adding them, and new tokens.
import { attempt, confirmed, element, post } from "./studio.js";

const told = document.querySelector("#token");
function show(name, token) {
  told.hidden = false;
  told.replaceChildren(`Token of ${name}, shown this once: `, element("code", {}, token));
}

const form = document.querySelector("#add");
form.addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    const [name, role] = [form.querySelector("#name"), form.querySelector("#role")];
    const made = await post("/api/people", { name: name.value, role: role.value });
    const button = element("button", { className: "slim", type: "button", "data-token": made.id, "data-name": made.name }, "New token");
    const row = element("tr", {}, element("td", {}, made.name), element("td", {}, role.value), element("td", { className: "right" }, button));
    document.querySelector("#people").append(row);
    show(made.name, made.token);
    name.value = "";
    name.focus();
  }, form.querySelector("button"));
});

document.querySelector("#people").addEventListener("click", async (event) => {
  const button = event.target.closest("[data-token]");
  if (!button || !(await confirmed(`A new token for ${button.dataset.name}? The old one ends.`, { yes: "New token" }))) return;
  attempt(async () => show(button.dataset.name, (await post(`/api/people/${button.dataset.token}/token`)).token), button);
});
