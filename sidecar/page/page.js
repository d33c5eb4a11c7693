// One host's sidecar, live: asked every two seconds, the routes only when they changed. Elements are made when they are needed.
"use strict";

const EVERY = 2000;
const RATES_EVERY_WHEN_MANY = 10000;
const MANY = 200;
const WINDOW_SECONDS = 15;
const STATES = ["in", "backup", "held", "draining", "out", "quarantined"];
const find = (id) => document.getElementById(id);

let status = null;
let services = new Map();
let routesVersion = "";
let rates = {};
let ratesAt = 0;
let awaySince = null;
let heardAt = null;

// -- services -------------------------------------------------------------------------------------------------------

const rows = new Map();

function render(document_) {
  services = new Map(document_.services.map((service) => [service.service, service]));
  for (const [name, row] of rows) {
    if (!services.has(name)) {
      row.element.remove();
      rows.delete(name);
    }
  }
  const list = find("service-list");
  let next = list.firstElementChild;
  for (const [name, service] of services) {
    let row = rows.get(name);
    if (!row) {
      row = newRow(name);
      rows.set(name, row);
    }
    const key = JSON.stringify(service);
    if (row.key !== key) {
      row.key = key;
      refresh(row);
    }
    if (row.element === next) next = next.nextElementSibling;
    else list.insertBefore(row.element, next);
  }
  applyFilter();
}

function newRow(name) {
  const summary = make("summary");
  const inside = make("div", { class: "inside" });
  const details = make("details", { class: "row" }, summary, inside);
  const flow = make("span", { class: "quiet flow" });
  const element = make("li", { id: `service-${name}`, "data-service": name }, details);
  const row = { name, element, details, summary, inside, flow, text: "", key: "", samples: [] };
  details.addEventListener("toggle", () => (details.open ? fill(row) : inside.replaceChildren()));
  return row;
}

function refresh(row) {
  const service = services.get(row.name);
  row.summary.replaceChildren(
    make("span", { class: "name" }, row.name),
    statesElement(service),
    make("span", { class: "quiet versions" }, tallyVersions(service.instances)),
    row.flow,
  );
  const words = [row.name, service.quarantined ? "quarantined" : "", service.guard ? "guard" : ""];
  for (const one of service.instances) words.push(one.address, one.version || "", one.zone || "", one.standing, one.reason, one.condition || "");
  row.text = words.join(" ").toLowerCase();
  if (row.details.open) fill(row);
}

function tally(words) {
  const counts = new Map();
  for (const word of words) counts.set(word, (counts.get(word) || 0) + 1);
  return counts;
}

function tallyVersions(instances) {
  const ordered = [...tally(instances.map((one) => one.version || "?"))].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]));
  return ordered.map(([version, number]) => (number > 1 ? `${version} (${number})` : version)).join(", ");
}

function statesElement(service) {
  const counts = tally(service.instances.map((one) => one.standing));
  const told = STATES.filter((state) => counts.has(state)).map((state) =>
    make("span", { class: "state", "data-state": state }, `${counts.get(state)} ${state}`));
  if (service.quarantined) told.unshift(make("span", { class: "state", "data-state": "quarantined" }, "quarantined"));
  return make("span", { class: "states" }, ...(told.length ? told : [make("span", { class: "late" }, "no instance: 503")]));
}

function fill(row) {
  const service = services.get(row.name);
  const flow = rates[row.name] || {};
  const parts = [];
  if (service.quarantined) parts.push(make("p", { class: "late" }, service.quarantined));
  if (service.guard) parts.push(make("p", {}, service.guard));
  const facts = [
    `a call may take ${service.timeout_ms / 1000} s`, service.repeatable ? "reads are repeated when no answer came" : "nothing is repeated",
    service.callers ? `callers: ${service.callers.join(", ") || "nobody"}` : "",
    service.split ? `split at ${service.split.join(" %, ")} % of the callers` : "",
  ];
  if (service.timeout_ms) parts.push(make("p", { class: "quiet" }, facts.filter(Boolean).join(" \u00b7 ")));
  if (service.instances.length) {
    parts.push(tableOf(`Instances of ${row.name}`, ["instance", "state", "decided by", "since", "weight", "version", "zone", "rate", "errors", "why"],
      service.instances.map((one) => instanceCells(one, (flow.servers || {})[one.address]))));
  }
  parts.push(make("p", { class: "hint" }, "On this host: ", make("code", {}, `sidecar why ${row.name}`)));
  row.inside.replaceChildren(...parts);
}

function instanceCells(one, flow) {
  const condition = one.condition && one.condition !== "drain" ? ` (${one.condition})` : "";
  return [
    make("span", { class: "address" }, one.address), make("span", { class: "state", "data-state": one.standing }, one.standing + condition),
    DECIDED_BY[one.reason] || one.reason, one.since ? ago(one.since) : "", String(one.weight), one.version || "", one.zone || "",
    flow ? `${figure(flow.rate)}/s` : "", flow && flow.errors ? make("span", { class: "late" }, figure(flow.errors)) : flow ? "0" : "",
    make("span", { class: "quiet" }, one.standing === "in" && one.reason === "map" ? "" : one.says,
      one.until ? ` Tried again ${agoText(one.until)}.` : ""),
  ];
}

function tableOf(caption, titles, rowsOfCells) {
  const head = make("tr", {}, ...titles.map((title) => make("th", { scope: "col" }, title)));
  const body = rowsOfCells.map((cells) =>
    make("tr", {}, ...cells.map((cell, column) => make("td", { "data-title": titles[column] }, cell))));
  return make("table", {}, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}, ...body));
}

/** What passes through each service: requests now, and errors over the last seconds, which HAProxy only counts. */
function renderRates(answer) {
  rates = answer.services;
  ratesAt = Date.now();
  let all = 0;
  for (const row of rows.values()) {
    const flow = rates[row.name];
    all += flow ? flow.rate : 0;
    const text = flow ? flowText(row, flow) : "";
    if (row.flow.textContent !== text) row.flow.textContent = text;
    if (row.details.open && flow) fill(row);
  }
  find("number-rate").textContent = figure(all);
}

function flowText(row, flow) {
  const now = Date.now() / 1000;
  const last = row.samples[row.samples.length - 1];
  if (last && flow.errors < last.errors) row.samples = []; // HAProxy was loaded anew and counts from zero.
  row.samples.push({ at: now, errors: flow.errors });
  while (row.samples.length > 2 && now - row.samples[0].at > WINDOW_SECONDS) row.samples.shift();
  const first = row.samples[0];
  const perSecond = now > first.at ? (flow.errors - first.errors) / (now - first.at) : 0;
  row.flow.classList.toggle("late", perSecond > 0);
  row.flow.classList.toggle("quiet", !(perSecond > 0));
  return perSecond > 0 ? `${figure(flow.rate)}/s, ${figure(perSecond)} errors/s` : `${figure(flow.rate)}/s`;
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
    : rows.size ? "" : "The map has no service: atlas service add NAME, or start one.";
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

// -- the rest -------------------------------------------------------------------------------------------------------

function renderStatus() {
  find("who").textContent = [status.realm, status.host, status.zone ? `zone ${status.zone}` : ""].filter(Boolean).join(" \u00b7 ");
  document.title = `${status.state === "well" ? "" : status.state === "wrong" ? "\u25cf " : "\u25cb "}Sidecar: ${status.realm} ${status.host}`;
  const state = find("state");
  state.dataset.state = status.state;
  if (state.dataset.says !== status.says) {
    state.dataset.says = status.says;
    state.replaceChildren(...sentence(status.says));
  }
  for (const name of ["services", "instances", "in", "held", "ejected"]) {
    const element = find(`number-${name}`);
    element.textContent = status.numbers[name].toLocaleString("en");
    element.parentElement.dataset.some = status.numbers[name] ? "yes" : "no";
  }
  renderTrouble();
  renderOwn();
  renderFacts();
}

let troubleKey = "";

function renderTrouble() {
  const key = JSON.stringify(status.troubles);
  if (key === troubleKey) return; // The viewer may be selecting a command to copy.
  troubleKey = key;
  const told = status.troubles.map((one) => make("li", { "data-level": one.level, "data-topic": one.topic },
    make("span", {}, ...sentence(one.says), one.service && services.has(one.service) ? make("span", {}, " ", make("a", { href: `#service-${one.service}` }, "show")) : ""),
    one.advice ? make("span", { class: "advice quiet" }, ...sentence(one.advice)) : ""));
  if (status.more_troubles) told.push(make("li", {}, `and ${status.more_troubles} more: sidecar status`));
  find("trouble").hidden = !told.length;
  find("trouble-list").replaceChildren(...told);
}

function renderOwn() {
  const ready = status.own.filter((one) => one.state === "ready").length;
  find("own-summary").textContent = status.own.length ? `${status.own.length}, ${ready} ready` : "none is announced here";
  if (!find("own").open) return find("own-list").replaceChildren();
  const cells = status.own.map((one) => [
    one.service, make("span", { class: "address" }, one.address),
    make("span", { class: "state", "data-state": one.state === "ready" ? "in" : "held" }, one.state), one.since ? ago(one.since) : "", one.reason,
  ]);
  return find("own-list").replaceChildren(cells.length ? tableOf("Instances of this host", ["service", "instance", "state", "since", "why"], cells)
    : make("p", { class: "quiet" }, "A service that starts announces itself; any other program: ", make("code", {}, "sidecar register NAME PORT")));
}

function renderFacts() {
  const { proxy, map, reloads, listens } = status;
  const source = { atlas: "from Atlas", disk: "kept on disk", none: "none yet" }[map.from];
  const facts = [
    ["calls", [[listens.url, listens.socket].filter(Boolean).join(" and "), listens.tokens ? ", with a token each" : ""]],
    ["HAProxy", proxy.running ? [`${proxy.version}, process ${proxy.pid}, for ${span(proxy.uptime_seconds)}`] : ["does not run"]],
    ["map", [source, map.age_seconds === null ? "" : `, ${span(map.age_seconds)} old`, `, revision ${status.wanted.split(".")[1]}`,
      status.position === status.wanted ? ", applied" : `; applied is ${status.position}`, map.failure ? `; ${map.failure}` : ""]],
    ["changes", [`${plural(status.changes, "change")} applied, ${status.refusals.count} refused, ${status.drift.count} times put right`,
      status.applied_at ? ", the last one " : "", status.applied_at ? ago(status.applied_at) : ""]],
    ["reloads", [String(reloads.count), reloads.last_at ? ", the last one " : "", reloads.last_at ? ago(reloads.last_at) : "",
      reloads.last_reason ? ` (${reloads.last_reason})` : "", status.pending ? `; changes wait: ${status.pending}` : ""]],
    ["agent", [`version ${status.version}, process ${status.pid}, started `, ago(status.started_at)]],
  ];
  find("fact-list").replaceChildren(...facts.flatMap(([name, parts]) => [make("dt", {}, name), make("dd", {}, ...parts)]));
}

// -- asking ---------------------------------------------------------------------------------------------------------

async function ask(path, seconds) {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), seconds * 1000);
  try {
    const answer = await fetch(path, { signal: stop.signal, cache: "no-store", credentials: "omit" });
    if (!answer.ok) throw new Error(`it answered ${answer.status}`);
    return await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw new Error(`no answer within ${seconds} s`);
    if (error instanceof TypeError) throw new Error("it cannot be reached");
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

async function look() {
  status = await ask("v1/status", 5);
  if (status.routes_version !== routesVersion) {
    const isFirst = !routesVersion;
    const version = status.routes_version;
    render(await ask("v1/routes", 20));
    routesVersion = version;
    troubleKey = "";
    if (isFirst) {
      find("content").hidden = false;
      openNamed();
    }
  }
  tellLive();
  renderStatus();
  const every = rows.size > MANY ? RATES_EVERY_WHEN_MANY : EVERY;
  if (Date.now() - ratesAt >= every - 100) {
    try {
      renderRates(await ask("v1/rates", 5));
    } catch {
      find("number-rate").textContent = "\u2013"; // HAProxy is away; the sentence above says so.
    }
  }
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

function tellAway(why) {
  awaySince = awaySince || Date.now();
  const since = clock(awaySince / 1000);
  const connection = find("connection");
  connection.dataset.state = "away";
  connection.textContent = `away since ${since}`;
  const kept = heardAt ? ` What is shown is what was known at ${clock(heardAt / 1000)}.` : "";
  const text = `The agent is away since ${since} (${why}). HAProxy goes on with what it knew.${kept} On a terminal: sidecar status`;
  const banner = find("away");
  if (banner.textContent !== text) banner.textContent = text;
  banner.hidden = false;
}

let wake = () => {};

async function follow() {
  for (;;) {
    try {
      if (!document.hidden) await look();
    } catch (error) {
      tellAway(error.message);
    }
    await new Promise((done) => {
      wake = done;
      setTimeout(done, EVERY);
    });
  }
}

// -- beginning ------------------------------------------------------------------------------------------------------

let drawing = 0;
find("filter").addEventListener("input", () => {
  cancelAnimationFrame(drawing);
  drawing = requestAnimationFrame(applyFilter);
});
window.addEventListener("hashchange", openNamed);
document.addEventListener("visibilitychange", () => !document.hidden && wake());
find("own").addEventListener("toggle", () => status && renderOwn());
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
follow();
