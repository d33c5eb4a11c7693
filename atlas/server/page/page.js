// The realm at a glance, live: one long poll that never ends, and elements that are made when they are needed.
"use strict";

const WAIT_SECONDS = 25;
const PAUSES = [0.5, 1, 2, 4];
const STATUS_EVERY = 10000;

let position = "";
let shownRevision = -1;

// -- services -------------------------------------------------------------------------------------------------------

function render(changed) {
  placeRows(names(), (row) => !changed || changed.has(row.name));
  renderNumbers();
  renderTrouble();
  applyFilter();
}

function refresh(row) {
  const found = places(row.name);
  const service = world.services.get(row.name);
  row.counts = tally(found);
  const versions = tallyVersions(found);
  const owner = service ? service.owner || "" : "not registered";
  row.summary.replaceChildren(
    make("span", { class: "name" }, row.name),
    statesElement(row.counts),
    make("span", { class: "quiet versions" }, versions),
    make("span", { class: "quiet owner" }, owner),
  );
  const words = [row.name, owner, service ? service.description || "" : ""];
  for (const { address, instance, state, ruling } of found) {
    words.push(address, instance.zone || "", instance.version || "", state, ruling ? ruling.reason || "" : "");
  }
  row.text = words.join(" ").toLowerCase();
  if (row.details.open) fill(row);
}

function tallyVersions(found) {
  const counts = new Map();
  for (const { instance } of found) counts.set(instance.version || "?", (counts.get(instance.version || "?") || 0) + 1);
  const ordered = [...counts].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]));
  return ordered.map(([version, number]) => (number > 1 ? `${version} (${number})` : version)).join(", ");
}

function statesElement(counts) {
  const told = STATES.filter((state) => counts[state]).map((state) =>
    make("span", { class: "state", "data-state": state }, `${counts[state]} ${state}`));
  return make("span", { class: "states" }, ...(told.length ? told : [make("span", { class: "quiet" }, "no instance")]));
}

function fill(row) {
  const service = world.services.get(row.name);
  const found = places(row.name);
  const late = overdue();
  const parts = [];
  if (service) {
    if (service.description) parts.push(make("p", {}, service.description));
    const facts = [
      service.port ? `port ${service.port}` : "", service.repository || "", service.owner ? `owner ${service.owner}` : "",
      `calls: ${service.timeout_seconds || 10} s, retries ${service.retry_class || "idempotent"}`,
      service.version_policy && service.version_policy !== "any" ? `versions ${service.version_policy}` : "",
      service.split ? `split ${service.split}` : "", service.callers ? `called by ${service.callers.split(",").join(", ")} only` : "",
    ];
    parts.push(make("p", { class: "quiet" }, facts.filter(Boolean).join(" \u00b7 ")));
  } else {
    parts.push(make("p", { class: "quiet" }, "It runs without being registered."));
  }
  if (found.length) {
    parts.push(tableOf(`Instances of ${row.name}`, ["instance", "state", "weight", "version", "zone", "notes"],
      found.map((place) => instanceCells(place, late))));
  }
  const overrides = [...world.overrides.values()].filter((one) => one.scope === row.name || one.scope === "*");
  if (overrides.length) {
    parts.push(tableOf(`Overrides of ${row.name}`, ["override", "value", "for", "set"], overrides.map((one) => [
      make("code", {}, one.key), make("code", { class: "long" }, shown(one)), one.scope === "*" ? "every service" : "this service",
      one.at ? make("span", { class: "quiet" }, ago(one.at), one.author ? ` by ${one.author}` : "") : "",
    ])));
  }
  row.inside.replaceChildren(...parts);
}

function instanceCells({ address, instance, ruling, state, weight }, late) {
  const notes = make("span", {}, ...(ruling ? rulingParts(ruling) : instance.draining ? ["about to stop"] : []));
  const calls = underWay(`${instance.service}/${address}`);
  if (calls) notes.append(`${notes.childNodes.length ? "; " : ""}${plural(calls, "call")} under way`);
  const lease = late.get(instance.lease);
  if (lease) notes.append(make("span", { class: "late" }, `${notes.childNodes.length ? "; " : ""}its lease is overdue`));
  return [
    make("span", { class: "address" }, address), make("span", { class: "state", "data-state": state }, state), String(weight),
    instance.version || "", instance.zone || "", notes.childNodes.length ? notes : "",
  ];
}

// -- the rest -------------------------------------------------------------------------------------------------------

function renderNumbers() {
  const counts = { enabled: 0, draining: 0, disabled: 0 };
  for (const row of rows.values()) for (const state of STATES) counts[state] += row.counts[state];
  const numbers = { services: rows.size, instances: counts.enabled + counts.draining + counts.disabled, ...counts, leases: world.leases.size };
  for (const [name, number] of Object.entries(numbers)) {
    const element = find(`number-${name}`);
    element.textContent = String(number);
    element.parentElement.dataset.some = number ? "yes" : "no";
  }
}

function renderTrouble() {
  const told = [];
  const late = overdue();
  const carried = new Map();
  for (const inner of world.instances.values()) {
    for (const instance of inner.values()) carried.set(instance.lease, (carried.get(instance.lease) || 0) + 1);
  }
  for (const [id, lease] of late) {
    const last = lease.renewed_at ? [", last sign of life ", ago(lease.renewed_at)] : [];
    told.push(["wrong", [`Lease ${id} is overdue`, ...last, `. It carries ${plural(carried.get(id) || 0, "instance")}.`]]);
  }
  if (status.held_back) {
    told.push(["wrong", ["More than half of all leases are overdue at once: nothing is given up, since the fault may be here."]]);
  }
  for (const row of rows.values()) {
    const number = STATES.reduce((sum, state) => sum + row.counts[state], 0);
    if (number && !row.counts.enabled) {
      const which = number === 1 ? "its only instance is not" : `none of its ${number} instances is`;
      told.push(["wrong", [linkTo(row.name), ` takes no calls: ${which} enabled.`]]);
    }
  }
  const absent = [...rows.values()].filter((row) => STATES.every((state) => !row.counts[state]));
  if (absent.length && status.server?.realm !== "local") {
    const links = absent.slice(0, 8).flatMap((row, index) => [index ? ", " : " ", linkTo(row.name)]);
    told.push(["note", ["No instance runs of", ...links, absent.length > 8 ? ` and ${absent.length - 8} more.` : "."]]);
  }
  for (const { report, behind } of sidecars()) {
    if (behind) told.push(["wrong", [`The sidecar of ${report.host} goes by revision ${report.revision || 0}.`]]);
    if (report.holding) told.push(["note", [`The sidecar of ${report.host} calls ${plural(report.holding, "instance")} that vanished all at once.`]]);
  }
  for (const [name, service] of [...world.services].sort()) {
    if (service.split) told.push(["note", [linkTo(name), ` is split: ${service.split} of its callers.`]]);
  }
  for (const [key, ruling] of [...world.rulings].sort()) {
    if (inForce(ruling) && ruling.state && ruling.state !== "enabled") {
      told.push(["note", [linkTo(splitKey(key)[0]), " ", make("span", { class: "address" }, splitKey(key)[1]), " ", ...rulingParts(ruling)]]);
    }
  }
  find("trouble").hidden = !told.length;
  find("trouble-list").replaceChildren(...told.slice(0, 50).map(([level, parts]) => make("li", { "data-level": level }, ...parts)),
    ...(told.length > 50 ? [make("li", {}, `and ${told.length - 50} more`)] : []));
}

function renderLeases() {
  const late = overdue();
  const number = world.leases.size;
  find("leases-summary").textContent = late.size ? `${number}, ${late.size} overdue` : number ? `${number}, none overdue` : "none";
  if (!find("leases").open) {
    find("lease-list").replaceChildren();
    return;
  }
  const carried = new Map();
  for (const [name, inner] of world.instances) {
    for (const instance of inner.values()) {
      if (!carried.has(instance.lease)) carried.set(instance.lease, []);
      carried.get(instance.lease).push(name);
    }
  }
  const cells = [...world.leases.values()].sort((a, b) => a.id.localeCompare(b.id)).slice(0, 2000).map((lease) => {
    const carries = carried.get(lease.id) || [];
    return [
      make("span", { class: "address" }, lease.id), late.has(lease.id) ? make("span", { class: "late" }, "overdue") : "renewed",
      lease.opened_at ? ago(lease.opened_at) : "", `${lease.ttl_seconds} s`,
      carries.length ? cut(`${carries.length}: ${[...new Set(carries)].join(", ")}`) : "nothing",
    ];
  });
  find("lease-list").replaceChildren(cells.length ? tableOf("Leases", ["lease", "state", "opened", "lasts", "carries"], cells) : "");
}

function renderSidecars() {
  const found = sidecars();
  const behind = found.filter((one) => one.behind).length;
  find("sidecars").hidden = !found.length;
  find("sidecars-summary").textContent = behind ? `${found.length}, ${behind} behind` : `${found.length}, all up to date`;
  if (!find("sidecars-row").open) {
    find("sidecar-list").replaceChildren();
    return;
  }
  const cells = found.slice(0, 2000).map(({ report, behind: late }) => [
    make("span", { class: "address" }, report.host),
    late ? make("span", { class: "late" }, `${report.revision || 0}, behind`) : String(report.revision || 0),
    ago(report.at), report.holding ? make("span", { class: "late" }, String(report.holding)) : "0",
    String(Object.values(report.sessions || {}).reduce((sum, number) => sum + number, 0)),
  ]);
  find("sidecar-list").replaceChildren(
    cells.length ? tableOf("Sidecars", ["host", "applied", "heard", "holds", "calls to leaving instances"], cells) : "");
}

function linkTo(name) {
  return make("a", { href: `#service-${name}` }, name);
}

function renderChanges(changes) {
  const made = changes.map((change) => {
    const edits = change.edits.slice(0, 5).map((edit) => make("span", { class: "what" }, editText(edit)));
    if (change.edits.length > 5) edits.push(make("span", { class: "what quiet" }, `and ${change.edits.length - 5} more`));
    const who = make("span", { class: "quiet" }, ago(change.at), ` by ${change.author || "somebody"}`, change.why ? `: ${change.why}` : "");
    return make("li", {}, ...edits, who);
  });
  find("change-list").replaceChildren(...(made.length ? made : [make("li", { class: "quiet" }, "Nothing has been changed yet.")]));
}

// -- asking ---------------------------------------------------------------------------------------------------------

class Refused extends Error {}

function ask(path, seconds) {
  const token = sessionStorage.getItem("atlas-token");
  return askWithin(seconds, path, token ? { Authorization: `Bearer ${token}` } : {}, async (answer) => {
    if (answer.status === 401 || answer.status === 403) throw new Refused(await reason(answer));
    if (answer.status === 204) return null;
    if (!answer.ok) throw new Error(`it answered ${answer.status}${await reason(answer, ": ")}`);
    return await answer.json();
  });
}

async function reason(answer, before = "") {
  try {
    const problem = await answer.json();
    return before + (problem.detail || problem.title || "");
  } catch {
    return "";
  }
}

async function follow() {
  let failures = 0;
  for (;;) {
    try {
      const wait = failures || !position ? 0 : WAIT_SECONDS; // After a failure whoever is there again says so at once.
      const path = position ? `v1/world?position=${encodeURIComponent(position)}&wait=${wait}` : "v1/world";
      const update = await ask(path, wait + 8);
      failures = 0;
      tellLive();
      if (update) {
        const isFirst = !position;
        position = update.position;
        render(take(update));
        if (isFirst) openNamed();
        renderLeases();
        lookAround();
      }
    } catch (error) {
      if (error instanceof Refused) {
        await enter(error.message);
        continue;
      }
      tellAway((since, heard) => {
        const kept = heard ? ` What is shown is what was known at ${heard}; the services go on with it too.` : "";
        return `Atlas is away since ${since} (${error.message}).${kept} It is asked again and again.`;
      });
      await pause(PAUSES[Math.min(failures, PAUSES.length - 1)] * (0.75 + Math.random() / 2));
      failures += 1;
    }
  }
}

/** Ask for a token, and come back when one was given. */
function enter(why) {
  const form = find("entrance");
  const field = find("token");
  const tried = sessionStorage.getItem("atlas-token") !== null;
  sessionStorage.removeItem("atlas-token");
  find("connection").dataset.state = "away";
  find("connection").textContent = "a token is needed";
  find("away").hidden = true;
  find("refused").hidden = !tried;
  find("refused").textContent = tried ? `This token is not accepted. ${why}` : "";
  form.hidden = false;
  field.value = "";
  field.focus();
  return new Promise((done) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem("atlas-token", field.value.trim());
      field.value = "";
      form.hidden = true;
      done();
    };
  });
}

/** The last changes; with the token of an operator all of them, with another one those of services and rulings. */
async function recentChanges() {
  try {
    return (await ask("v1/history?limit=20", 10)).changes;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
  }
  const byRevision = new Map();
  for (const kind of ["service", "ruling"]) {
    for (const change of (await ask(`v1/history?limit=20&kind=${kind}`, 10)).changes) {
      const known = byRevision.get(change.revision);
      if (known) known.edits.push(...change.edits);
      else byRevision.set(change.revision, change);
    }
  }
  return [...byRevision.values()].sort((one, other) => other.revision - one.revision).slice(0, 20);
}

let soon = 0;

/** Sidecars follow within a moment: look once more. */
function lookSoon() {
  clearTimeout(soon);
  soon = setTimeout(() => !document.hidden && awaySince === null && lookAround(), PATIENCE);
}

/** What does not come with the world: which leases are overdue, and the recent changes. A reader may lack the right. */
async function lookAround() {
  try {
    status = (await ask("v1/status", 10)) || {};
    const realm = (status.server && status.server.realm) || "";
    find("realm").textContent = realm;
    document.title = realm ? `Atlas: ${realm}` : "Atlas";
  } catch {
    status = {};
  }
  const before = JSON.stringify(Object.values(reports).map((report) => report.sessions));
  try {
    const told = (await ask("v1/reports", 10)).reports;
    if (takeReports(told, position)) lookSoon();
  } catch {
    takeReports({}, position); // What is not heard any more is not shown as if it were so.
  }
  if (before !== JSON.stringify(Object.values(reports).map((report) => report.sessions))) {
    for (const row of rows.values()) if (row.details.open) fill(row);
  }
  renderTrouble();
  renderSidecars();
  renderLeases();
  const revision = Number(position.split(".")[1]);
  if (revision === shownRevision) return;
  try {
    renderChanges(await recentChanges());
    shownRevision = revision;
  } catch {
    find("change-list").replaceChildren(make("li", { class: "quiet" }, "The recent changes cannot be read now."));
  }
}

// -- beginning ------------------------------------------------------------------------------------------------------

find("leases").addEventListener("toggle", renderLeases);
find("sidecars-row").addEventListener("toggle", renderSidecars);
setInterval(() => {
  if (!document.hidden && position && awaySince === null) lookAround();
}, STATUS_EVERY);
follow();
