// <message-composer>: where a person writes. The text grows with what is in it, Enter sends, Shift+Enter
// breaks the line; images come by button, paste and drop.
//
// Attributes: `label`, `placeholder`, `limit` (characters), `draft` (a key: what is written is kept in this
// tab until it is sent), `wide` (what is dropped anywhere on the page is meant for it). Properties: `busy` (the send button stops instead), `text`, `images` (data URIs),
// `blind` (a line to say while images are there that the model cannot see; nothing is sent then).
// Events: `send` with detail {text, images}, `stop`. The host calls `clear()` once the message was taken, so
// that a refused one is still there.
import { element, icon, toast } from "./studio.js";

const KINDS = ["image/png", "image/jpeg", "image/webp", "image/gif"];
const MOST = 8;
const MEGABYTE = 1024 * 1024;
const LARGEST = 4 * MEGABYTE;
const ALL = 16 * MEGABYTE; // what a request may hold, base64 and text aside

const read = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.addEventListener("load", () => resolve(reader.result));
  reader.addEventListener("error", () => reject(reader.error));
  reader.readAsDataURL(file);
});

let made = 0;

class MessageComposer extends HTMLElement {
  #images = [];
  #busy = false;
  #blind = "";

  connectedCallback() {
    if (this.area) return;
    const id = `composer-${++made}`;
    this.area = element("textarea", { id, rows: 1, placeholder: this.getAttribute("placeholder") ?? "", "aria-describedby": `${id}-note`, enterKeyHint: "send" });
    this.thumbs = element("ul", { className: "thumbs", "aria-label": "Images to send", hidden: true });
    this.note = element("p", { id: `${id}-note`, className: "composer-note small", role: "status" });
    this.picker = element("input", { type: "file", accept: KINDS.join(), multiple: true, hidden: true, tabIndex: -1 });
    this.picker.setAttribute("aria-hidden", "true");
    this.add = this.#button("image", "Add images", "quiet square");
    this.go = this.#button("send", "Send", "primary square");
    const row = element("div", { className: "composer-row" }, this.add, this.area, this.go);
    this.append(
      element("label", { className: "unseen", for: id }, this.getAttribute("label") ?? "Message"),
      this.thumbs, row, this.note, this.picker,
    );
    this.#listen();
    this.text = this.#draft() ?? "";
  }

  get text() { return this.area.value; }
  set text(value) {
    this.area.value = value;
    this.#changed();
  }

  get images() { return this.#images.map((one) => one.uri); }
  set images(uris) {
    this.#images = uris.map((uri) => ({ uri, name: "image" }));
    this.#showImages();
  }

  get busy() { return this.#busy; }
  set busy(value) {
    this.#busy = Boolean(value);
    this.go.replaceChildren(icon(value ? "stop" : "send"), element("span", { className: "unseen" }, value ? "Stop" : "Send"));
    this.go.title = value ? "Stop (Esc)" : "Send (Enter)";
    this.#changed();
  }

  get blind() { return this.#blind; }
  set blind(line) {
    this.#blind = line;
    this.#changed();
  }

  clear() {
    this.#images = [];
    this.#showImages();
    this.text = "";
  }

  focus() { this.area.focus(); }

  /** At a page's start: not from who has begun elsewhere meanwhile, nor on a phone, where it opens the keyboard. */
  focusFirst() {
    if (document.activeElement === document.body && matchMedia("(hover: hover)").matches) this.focus();
  }

  #button(name, word, kind) {
    const button = element("button", { type: "button", className: kind, title: word });
    button.append(icon(name), element("span", { className: "unseen" }, word));
    return button;
  }

  #listen() {
    this.area.addEventListener("input", () => this.#changed());
    this.area.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.#busy) this.#stop();
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return; // composing: the word is not chosen yet
      event.preventDefault();
      if (!this.#busy) this.#send();
    });
    this.go.addEventListener("click", () => (this.#busy ? this.#stop() : this.#send()));
    this.add.addEventListener("click", () => this.picker.click());
    this.picker.addEventListener("change", () => {
      this.#take([...this.picker.files]);
      this.picker.value = ""; // the same file may be chosen again
    });
    this.area.addEventListener("paste", (event) => {
      const files = [...event.clipboardData.files];
      if (!files.length) return;
      event.preventDefault();
      this.#take(files);
    });
    this.#catch(this.hasAttribute("wide") ? document.querySelector("main") : this);
  }

  /** Files that are dropped on `zone`; one composer may lie within another's. */
  #catch(zone) {
    zone.addEventListener("dragover", (event) => {
      if (event.defaultPrevented || ![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault(); // else the browser would leave the page for the picture
      this.classList.toggle("over", !this.hidden);
    });
    zone.addEventListener("dragleave", (event) => zone.contains(event.relatedTarget) || this.classList.remove("over"));
    zone.addEventListener("drop", (event) => {
      this.classList.remove("over");
      if (event.defaultPrevented || !event.dataTransfer.files.length) return;
      event.preventDefault();
      if (!this.hidden) this.#take([...event.dataTransfer.files]);
    });
  }

  #send() {
    const text = this.text.trim();
    if (this.go.disabled || (!text && !this.#images.length)) return;
    this.dispatchEvent(new CustomEvent("send", { detail: { text: this.text.trimEnd(), images: this.images } }));
  }

  #stop() { this.dispatchEvent(new CustomEvent("stop")); }

  /** Images among `files`; what is none, or too large, is said and left out. */
  async #take(files) {
    for (const file of files) {
      if (!KINDS.includes(file.type)) toast(`${file.name} is not a PNG, JPEG, WebP or GIF.`, { bad: true });
      else if (file.size > LARGEST) toast(`${file.name} has ${(file.size / MEGABYTE).toFixed(1)} MB; the limit per image is ${LARGEST / MEGABYTE} MB.`, { bad: true });
      else if (this.#images.length >= MOST) return toast(`The limit is ${MOST} images per message.`, { bad: true });
      else if (this.#images.reduce((sum, one) => sum + one.uri.length * 0.75, file.size) > ALL) {
        return toast(`The images of a message may total at most ${ALL / MEGABYTE} MB.`, { bad: true });
      } else {
        this.#images.push({ uri: await read(file), name: file.name || "pasted image" });
        this.#showImages();
      }
    }
    this.focus();
  }

  #showImages() {
    this.thumbs.hidden = !this.#images.length;
    this.thumbs.replaceChildren(...this.#images.map((one, place) => {
      const remove = element("button", { type: "button", className: "remove", title: `Remove ${one.name}` });
      remove.append(icon("close"), element("span", { className: "unseen" }, `Remove ${one.name}`));
      remove.addEventListener("click", () => {
        this.#images.splice(place, 1);
        this.#showImages();
        (this.thumbs.querySelector("button") ?? this.area).focus();
      });
      return element("li", {}, element("img", { src: one.uri, alt: one.name }), remove);
    }));
    this.#changed();
  }

  #changed() {
    const limit = Number(this.getAttribute("limit")) || Infinity;
    const left = limit - this.area.value.length;
    const blind = this.#blind && this.#images.length ? this.#blind : "";
    let note = blind;
    if (left < 0) note = `${(-left).toLocaleString("en")} characters too many; the limit is ${limit.toLocaleString("en")}.`;
    else if (left < limit / 10 && !note) note = `${left.toLocaleString("en")} characters left`;
    if (this.note.textContent !== note) this.note.textContent = note;
    this.note.classList.toggle("bad", Boolean(blind) || left < 0);
    const empty = !this.area.value.trim() && !this.#images.length;
    this.go.disabled = !this.#busy && (empty || left < 0 || Boolean(blind));
    this.area.style.height = "auto"; // measured anew, so that it shrinks too
    this.area.style.height = `${this.area.scrollHeight + 2}px`;
    const key = this.getAttribute("draft");
    if (key) sessionStorage.setItem(`draft:${key}`, this.area.value.slice(0, 100000));
  }

  #draft() {
    const key = this.getAttribute("draft");
    return key ? sessionStorage.getItem(`draft:${key}`) : null;
  }
}

customElements.define("message-composer", MessageComposer);
