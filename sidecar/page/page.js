// One host's sidecar, live: asked every two seconds, the routes only when they changed. Elements are made when they are needed.
"use strict";

const EVERY = 2000;
const RATES_EVERY_WHEN_MANY = 10000;
const MANY = 200;
const WINDOW_SECONDS = 15;
const STATES = ["in", "backup", "held", "draining", "out", "quarantined"];

let status = null;
let services = new Map();
let routesVersion = "";
let rates = {};
let ratesAt = 0;

// -- services -------------------------------------------------------------------------------------------------------

function render(document_) {
  services = new Map(document_.services.map((service) => [service.service, service]));
  placeRows([...services.keys()], (row) => {
    const known = row.key;
    row.key = JSON.stringify(services.get(row.name));
    return row.key !== known;
  });
  applyFilter();
}

function refresh(row) {
  row.flow = row.flow || make("span", { class: "quiet flow" });
  row.samples = row.samples || [];
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

/** What passes through each service: requests now, and errors over the last seconds, which HAProxy only counts. */
function renderRates(answer) {
  rates = answer.services;
  ratesAt = Date.now();
  let all = 0;
  let errors = 0;
  for (const row of rows.values()) {
    const flow = rates[row.name];
    all += flow ? flow.rate : 0;
    const text = flow ? flowText(row, flow) : "";
    errors += flow ? row.errorsPerSecond : 0;
    if (row.flow.textContent !== text) row.flow.textContent = text;
    if (row.details.open && flow) fill(row);
  }
  find("number-rate").textContent = figure(all);
  find("number-errors").textContent = figure(errors);
  find("number-errors").parentElement.dataset.some = errors ? "yes" : "no";
}

function flowText(row, flow) {
  const now = Date.now() / 1000;
  const last = row.samples[row.samples.length - 1];
  if (last && flow.errors < last.errors) row.samples = []; // HAProxy was loaded anew and counts from zero.
  row.samples.push({ at: now, errors: flow.errors });
  while (row.samples.length > 2 && now - row.samples[0].at > WINDOW_SECONDS) row.samples.shift();
  const first = row.samples[0];
  const perSecond = now > first.at ? (flow.errors - first.errors) / (now - first.at) : 0;
  row.errorsPerSecond = perSecond;
  row.flow.classList.toggle("late", perSecond > 0);
  row.flow.classList.toggle("quiet", !(perSecond > 0));
  return perSecond > 0 ? `${figure(flow.rate)}/s, ${figure(perSecond)} errors/s` : `${figure(flow.rate)}/s`;
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
  for (const name of ["instances", "in", "held", "ejected"]) {
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

// -- words ----------------------------------------------------------------------------------------------------------

/** 0.25, 3.4, 1,204: as exact as anybody needs to know. */
function figure(number) {
  const digits = number >= 100 || Number.isInteger(number) ? 0 : number >= 1 ? 1 : 2;
  return number.toLocaleString("en", { maximumFractionDigits: digits });
}

const DECIDED_BY = {
  map: "the map", ruling: "an operator\u2019s word", drain: "the instance itself", weight: "its weight",
  version: "version policy or split", zone: "zones: near ones first", damping: "damping", guard: "the guard",
  ejected: "HAProxy: bad answers", check: "its host\u2019s check", invalid: "unusable in the map",
};

/** A sentence in which `words between backticks` are commands. */
function sentence(text) {
  return text.split("`").map((part, index) => (index % 2 ? make("code", {}, part) : part));
}

// -- asking ---------------------------------------------------------------------------------------------------------

function ask(path, seconds) {
  return askWithin(seconds, path, {}, (answer) => {
    if (!answer.ok) throw new Error(`it answered ${answer.status}`);
    return answer.json();
  });
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
      for (const name of ["rate", "errors"]) find(`number-${name}`).textContent = "\u2013"; // HAProxy is away; the sentence above says so.
    }
  }
}

async function follow() {
  for (;;) {
    try {
      if (!document.hidden) await look();
    } catch (error) {
      tellAway((since, heard) => {
        const kept = heard ? ` What is shown is what was known at ${heard}.` : "";
        return `The agent is away since ${since} (${error.message}). HAProxy goes on with what it knew.${kept} On a terminal: sidecar status`;
      });
    }
    await pause(EVERY / 1000);
  }
}

// -- beginning ------------------------------------------------------------------------------------------------------

find("own").addEventListener("toggle", () => status && renderOwn());
follow();
