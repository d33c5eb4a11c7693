// The map in memory: brought up to date with the answers of /v1/world, and read under the operator's word.
"use strict";

const STATES = ["enabled", "draining", "disabled"];
const TABLES = { service: "services", override: "overrides", ruling: "rulings", lease: "leases" };

let world = emptyWorld();
let status = {};
let reports = {};

function emptyWorld() {
  return { services: new Map(), overrides: new Map(), rulings: new Map(), leases: new Map(), instances: new Map() };
}

/** Bring the world up to date with one answer; gives the services that changed, or null for all of them. */
function take(update) {
  if (update.complete) {
    world = emptyWorld();
    for (const [kind, key, data] of update.items) put(kind, key, data);
    return null;
  }
  const changed = new Set();
  let all = false;
  for (const [kind, key, data] of update.edits) {
    put(kind, key, data);
    const name = key.split("/", 1)[0];
    if (name === "*") all = true;
    if (kind !== "lease" && kind !== "token") changed.add(name);
  }
  return all ? null : changed;
}

function put(kind, key, data) {
  if (kind === "instance") {
    const [name, address] = splitKey(key);
    const inner = world.instances.get(name) || new Map();
    if (data === null) inner.delete(address); else inner.set(address, data);
    if (inner.size) world.instances.set(name, inner); else world.instances.delete(name);
  } else if (TABLES[kind]) {
    const table = world[TABLES[kind]];
    if (data === null) table.delete(key); else table.set(key, data);
  }
}

function splitKey(key) {
  const slash = key.indexOf("/");
  return [key.slice(0, slash), key.slice(slash + 1)];
}

function names() {
  return [...new Set([...world.services.keys(), ...world.instances.keys()])].sort();
}

/** The instances of a service under the operator's word. */
function places(name) {
  const found = [];
  for (const [address, instance] of world.instances.get(name) || []) {
    const ruling = inForce(world.rulings.get(`${name}/${address}`));
    let state = ruling ? ruling.state || "enabled" : "enabled";
    if (state === "enabled" && instance.draining) state = "draining";
    const own = instance.weight === undefined ? 100 : instance.weight;
    const weight = ruling && typeof ruling.weight === "number" ? ruling.weight : own;
    found.push({ address, instance, ruling, state, weight });
  }
  return found.sort((a, b) => a.address.localeCompare(b.address, "en", { numeric: true }));
}

function inForce(ruling) {
  return ruling && (!ruling.expires_at || ruling.expires_at * 1000 > Date.now()) ? ruling : null;
}

function tally(found) {
  const counts = { enabled: 0, draining: 0, disabled: 0 };
  for (const place of found) counts[place.state] += 1;
  return counts;
}

function overdue() {
  return new Map((status.leases || []).filter((lease) => lease.overdue).map((lease) => [lease.id, lease]));
}

const PATIENCE = 1000; // Milliseconds that a sidecar may take to follow before it is called behind.
const behindSince = new Map();

/** Keep what the sidecars say; gives whether one of them has yet to follow. */
function takeReports(told, at) {
  reports = told;
  for (const lease of behindSince.keys()) if (!reports[lease]) behindSince.delete(lease);
  for (const [lease, report] of Object.entries(reports)) {
    if (hasApplied(report, at)) behindSince.delete(lease);
    else if (!behindSince.has(lease)) behindSince.set(lease, Date.now());
  }
  return [...behindSince.values()].some((since) => Date.now() - since < PATIENCE);
}

/** Whether a sidecar goes by the map at this position (`epoch.revision.presence`). */
function hasApplied(report, at) {
  const [epoch, revision] = at.split(".");
  return (!report.epoch || report.epoch === epoch) && (report.revision || 0) >= Number(revision);
}

/** The last report of each sidecar, with whether it is behind. */
function sidecars() {
  return Object.entries(reports).map(([lease, report]) => {
    const behind = behindSince.has(lease) && Date.now() - behindSince.get(lease) >= PATIENCE;
    return { lease, report, behind };
  }).sort((a, b) => a.lease.localeCompare(b.lease, "en", { numeric: true }));
}

/** Calls under way to an instance, through all sidecars. */
function underWay(key) {
  return Object.values(reports).reduce((sum, report) => sum + ((report.sessions || {})[key] || 0), 0);
}
