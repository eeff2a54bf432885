// The data's pages: histograms of signals, and the way back from weights once it is found.
import { element, get, root } from "./studio.js";
import "./row_plots.js";

const signals = document.querySelector("#signals");
if (signals) {
  try {
    const { html, plots } = await get(`/api/data/signals?data=${encodeURIComponent(signals.dataset.way)}`);
    signals.innerHTML = html; // the studio's own template, everything in it escaped
    for (const place of signals.querySelectorAll("bar-plot")) place.data = { ...plots[Number(place.dataset.number)], unit: "documents" };
  } catch (error) {
    signals.querySelector(".plots").replaceChildren(element("p", { className: "notice bad" }, error.message));
  }
  signals.setAttribute("aria-busy", "false");
}

document.querySelector("#trace-ask")?.addEventListener("submit", (event) => {
  event.preventDefault();
  location.assign(`${root}/data/trace/${encodeURIComponent(event.target.querySelector("input").value.trim())}`);
});

const trace = document.querySelector("#trace");
if (trace?.querySelector("#waiting")) {
  try {
    trace.innerHTML = (await get(`/api/data/trace/${encodeURIComponent(trace.dataset.version)}`)).tree; // the studio's own template
  } catch (error) {
    trace.querySelector("#waiting").textContent = error.message;
  }
}
