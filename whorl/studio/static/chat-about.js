// What a person may do with a whole conversation: name it, say what may be done with it, erase it.
import { putFirst } from "./chat-list.js";
import { attempt, confirmed, del, element, post, root } from "./studio.js";

const MEANS = {
  none: "Not used for training or rating.",
  rate: "It may be used to judge models, never to train them.",
  train: "Messages, thumbs and better replies may be used to train the next model.",
};
const at = (name) => document.querySelector(`#${name}`);
const consent = at("consent");
let talk = null;

/** The conversation that the page is about now; null before its first message. */
export function about(one) {
  talk = one;
  if (talk) {
    at("title").textContent = talk.title;
    document.title = `${talk.title} · Whorl`;
  }
  for (const button of document.querySelectorAll(".of-talk")) button.hidden = !talk;
  consent.value = talk?.consent ?? "none";
  showConsent();
}
export const chosenConsent = () => consent.value;

function showConsent() { at("consent-means").textContent = MEANS[consent.value]; }

consent.addEventListener("change", async () => {
  const kept = !talk || await attempt(() => post(`/api/chat/${talk.id}/consent`, { consent: consent.value }));
  if (!kept) consent.value = talk.consent;
  else if (talk) talk.consent = consent.value;
  showConsent();
});

at("rename").addEventListener("click", () => {
  const input = element("input", { value: talk.title, maxLength: 200, id: "new-title", required: true });
  const cancel = element("button", { type: "button", className: "quiet" }, "Cancel");
  const form = element("form", {}, element("label", { for: "new-title" }, "Title"), input,
    element("div", { className: "row" }, cancel, element("button", { className: "primary" }, "Rename")));
  const dialog = element("dialog", { "aria-label": "Rename" }, form);
  document.body.append(dialog);
  dialog.addEventListener("close", () => dialog.remove());
  cancel.addEventListener("click", () => dialog.close());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(async () => {
      talk.title = (await post(`/api/chat/${talk.id}/title`, { title: input.value })).title;
      about(talk);
      putFirst({ id: talk.id, title: talk.title });
      dialog.close();
    }, event.submitter);
  });
  dialog.showModal();
  input.select();
});

at("erase").addEventListener("click", async () => {
  const question = "Erase this conversation permanently? Its texts are removed from the store and its files right away and cannot be recovered. Earlier backups still contain them.";
  if (!(await confirmed(question, { yes: "Erase", danger: true }))) return;
  await attempt(async () => {
    await del(`/api/chat/${talk.id}`);
    location.assign(`${root}/chat`);
  }, at("erase"));
});
