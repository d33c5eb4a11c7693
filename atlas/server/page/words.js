// What is in the map as words and elements. Everything becomes text nodes and attributes, never markup.
"use strict";

function make(tag, properties, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") made.className = value; else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 100) return `${whole} s`;
  const minutes = Math.round(whole / 60);
  if (minutes < 100) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return `${Math.round(whole / 86400)} days`;
}

function clock(at) {
  const there = new Date(at * 1000);
  const time = there.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  return there.toDateString() === new Date().toDateString() ? time : `${there.toLocaleDateString()} ${time}`;
}

/** A time that tells its age and keeps telling it. */
function ago(at) {
  const made = make("time", { datetime: iso(at), title: clock(at), "data-at": at });
  made.textContent = agoText(at);
  return made;
}

function iso(at) {
  const there = new Date(at * 1000);
  return Number.isNaN(there.getTime()) ? "" : there.toISOString();
}

function agoText(at) {
  const seconds = Date.now() / 1000 - at;
  return Math.abs(seconds) < 1 ? "just now" : seconds > 0 ? `${span(seconds)} ago` : `in ${span(-seconds)}`;
}

function plural(number, word) {
  return `${number} ${word}${number === 1 ? "" : "s"}`;
}

function rulingParts(ruling) {
  const parts = [];
  if (ruling.state && ruling.state !== "enabled") parts.push(ruling.state);
  if (typeof ruling.weight === "number") parts.push(`${parts.length ? ", " : ""}weight ${ruling.weight}`);
  if (ruling.author) parts.push(` by ${ruling.author}`);
  if (ruling.at) parts.push(" ", ago(ruling.at));
  if (ruling.reason) parts.push(`: ${ruling.reason}`);
  if (ruling.expires_at) parts.push(`, until ${clock(ruling.expires_at)}`);
  return parts;
}

function shown(override) {
  if (!override) return "unset";
  if (override.secret || override.hidden) return override.secret ? "(secret)" : "(not shown)";
  return cut(JSON.stringify(override.value === undefined ? null : override.value));
}

function cut(text) {
  return text.length > 200 ? `${text.slice(0, 200)}\u2026 (${text.length} characters)` : text;
}

function editText(edit) {
  const key = edit.key.replace("/", " ");
  const { before, after } = edit;
  switch (edit.kind) {
    case "override":
      if (!after) return `${key} unset (was ${shown(before)})`;
      return before ? `${key} = ${shown(after)} (was ${shown(before)})` : `${key} = ${shown(after)}`;
    case "ruling":
      if (!after) return `${key} enabled again`;
      return `${key} ${rulingText(after)}`;
    case "service":
      return `${key} ${after ? (before ? "changed" : "added") : "removed"}`;
    case "token":
      return `token ${key} ${after ? "made" : "revoked"}`;
    default:
      return `${edit.kind} ${key} changed`;
  }
}

function rulingText(ruling) {
  let told = ruling.state || "enabled";
  if (typeof ruling.weight === "number") told += `, weight ${ruling.weight}`;
  if (ruling.reason) told += `: ${ruling.reason}`;
  if (ruling.expires_at) told += `, until ${clock(ruling.expires_at)}`;
  return told;
}
