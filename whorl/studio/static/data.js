// The data's pages: histograms of signals, and the way back from weights once it is found.
import { get, root } from "./studio.js";
import "./row_plots.js";

const signals = document.querySelector("#signals");
if (signals) {
  const plots = JSON.parse(signals.dataset.plots);
  for (const place of signals.querySelectorAll("bar-plot")) place.data = { ...plots[Number(place.dataset.number)], unit: "documents" };
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
