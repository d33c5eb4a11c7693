// What operators said and what changed, as words.
"use strict";

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
