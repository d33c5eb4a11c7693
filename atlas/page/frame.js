// What stays around the pages of Atlas and of a sidecar: rows of services, their filter, links to one, whether it is live.
// A page says what a row holds, with refresh(row) and fill(row).
"use strict";

const find = (id) => document.getElementById(id);
const rows = new Map();

let awaySince = null;
let heardAt = null;

// -- rows -----------------------------------------------------------------------------------------------------------

/** One row for each name, in their order; those that are new or stale are refreshed. */
function placeRows(names, isStale) {
  const present = new Set(names);
  for (const [name, row] of rows) {
    if (!present.has(name)) {
      row.element.remove();
      rows.delete(name);
    }
  }
  const list = find("service-list");
  let next = list.firstElementChild;
  for (const name of names) {
    const isNew = !rows.has(name);
    if (isNew) rows.set(name, newRow(name));
    const row = rows.get(name);
    if (isStale(row) || isNew) refresh(row);
    if (row.element === next) next = next.nextElementSibling;
    else list.insertBefore(row.element, next);
  }
}

function newRow(name) {
  const summary = make("summary");
  const inside = make("div", { class: "inside" });
  const details = make("details", { class: "row" }, summary, inside);
  const element = make("li", { id: `service-${name}`, "data-service": name }, details);
  const row = { name, element, details, summary, inside, text: "" };
  details.addEventListener("toggle", () => (details.open ? fill(row) : inside.replaceChildren()));
  return row;
}

function applyFilter() {
  const words = find("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let number = 0;
  for (const row of rows.values()) {
    const fits = words.every((word) => row.text.includes(word));
    if (row.element.hidden === fits) row.element.hidden = !fits;
    if (fits) number += 1;
  }
  find("filtered").textContent = words.length ? `${number} of ${plural(rows.size, "service")}`
    : rows.size ? "" : find("filtered").dataset.empty;
}

/** Open the service that the address names, `#service-identity`, and go there. */
function openNamed() {
  const row = location.hash.startsWith("#service-") ? rows.get(location.hash.slice("#service-".length)) : null;
  if (!row) return;
  if (row.element.hidden) {
    find("filter").value = "";
    applyFilter();
  }
  row.details.open = true;
  row.element.scrollIntoView({ block: "center" });
  row.summary.focus({ preventScroll: true });
}

// -- asking ---------------------------------------------------------------------------------------------------------

/** What `read` makes of an answer that comes within the seconds. */
async function askWithin(seconds, path, headers, read) {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), seconds * 1000);
  try {
    return await read(await fetch(path, { headers, signal: stop.signal, cache: "no-store", credentials: "omit" }));
  } catch (error) {
    if (error.name === "AbortError") throw new Error(`no answer within ${seconds} s`);
    if (error instanceof TypeError) throw new Error("it cannot be reached");
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

let wake = () => {};

/** Wait, but not longer than until the network or the viewer is back. */
function pause(seconds) {
  return new Promise((done) => {
    wake = done;
    setTimeout(done, seconds * 1000);
  });
}

function tellLive() {
  heardAt = Date.now();
  awaySince = null;
  find("away").hidden = true;
  find("content").hidden = false;
  const connection = find("connection");
  connection.dataset.state = "live";
  if (connection.textContent !== "live") connection.textContent = "live";
}

/** Say that nobody answers, with the page's sentence for it: since when, and when it was last heard, if ever. */
function tellAway(sentenceOf) {
  awaySince = awaySince || Date.now();
  const since = clock(awaySince / 1000);
  const connection = find("connection");
  connection.dataset.state = "away";
  connection.textContent = `away since ${since}`;
  const text = sentenceOf(since, heardAt && clock(heardAt / 1000));
  const banner = find("away");
  if (banner.textContent !== text) banner.textContent = text;
  banner.hidden = false;
}

// -- beginning ------------------------------------------------------------------------------------------------------

let drawing = 0;
find("filter").addEventListener("input", () => {
  cancelAnimationFrame(drawing);
  drawing = requestAnimationFrame(applyFilter);
});
window.addEventListener("hashchange", openNamed);
window.addEventListener("online", () => wake());
document.addEventListener("visibilitychange", () => !document.hidden && wake());
document.addEventListener("keydown", (event) => {
  const filter = find("filter");
  if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName)) {
    event.preventDefault();
    filter.focus();
  } else if (event.key === "Escape" && document.activeElement === filter) {
    filter.value = "";
    applyFilter();
  }
});
setInterval(() => {
  for (const element of document.querySelectorAll("time[data-at]")) {
    const text = agoText(Number(element.dataset.at));
    if (element.textContent !== text) element.textContent = text;
  }
}, 1000);
