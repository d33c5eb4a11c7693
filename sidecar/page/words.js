// What the agent says as words and elements. Everything becomes text nodes and attributes, never markup.
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
  const there = new Date(at * 1000);
  const made = make("time", { datetime: Number.isNaN(there.getTime()) ? "" : there.toISOString(), title: clock(at), "data-at": at });
  made.textContent = agoText(at);
  return made;
}

function agoText(at) {
  const seconds = Date.now() / 1000 - at;
  return Math.abs(seconds) < 1 ? "just now" : seconds > 0 ? `${span(seconds)} ago` : `in ${span(-seconds)}`;
}

function plural(number, word) {
  return `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
}

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
