// Elements, ages and counts, for the pages of Atlas and of a sidecar. Everything becomes text nodes and attributes, never markup.
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
  return `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
}

function tableOf(caption, titles, rowsOfCells) {
  const head = make("tr", {}, ...titles.map((title) => make("th", { scope: "col" }, title)));
  const body = rowsOfCells.map((cells) =>
    make("tr", {}, ...cells.map((cell, column) => make("td", { "data-title": titles[column] }, cell))));
  return make("table", {}, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}, ...body));
}
