"use strict";
const $ = id => document.getElementById(id);
const SHOWN = 120; // seconds of a sparkline

function make(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made && key !== "list") made[key] = value; else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// Only what has changed is written: screen readers and selections are left alone.
function say(element, text) { if (element.textContent !== text) element.textContent = text; }
function dress(element, name) { if (element.className !== name) element.className = name; }

function announce(text) { say($("announced"), text); }

// Lists and tables keep the elements of what they show already, by key, so that focus and scroll positions stay.
function keep(parent, items, keyOf, create, update) {
  const old = new Map([...parent.children].map(child => [child.dataset.key, child]));
  let next = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = old.get(key);
    if (child) old.delete(key);
    else { child = create(item); child.dataset.key = key; }
    if (child === next) next = next.nextElementSibling; else parent.insertBefore(child, next);
    update(child, item);
  }
  for (const child of old.values()) child.remove();
}

// Rows of text: each cell is a text, or [text, class].
function rows(body, items, keyOf, cellsOf, classOf = () => "") {
  keep(body, items, keyOf, item => {
    const row = make("tr");
    cellsOf(item).forEach((_, number) => row.append(number ? make("td") : make("th", { scope: "row" })));
    return row;
  }, (row, item) => {
    dress(row, classOf(item));
    cellsOf(item).forEach((cell, number) => {
      const [text, name] = Array.isArray(cell) ? cell : [cell, ""];
      if (text instanceof Function) text(row.children[number]); else say(row.children[number], text);
      dress(row.children[number], name);
    });
  });
}

const NONE = "–";
function count(value) {
  if (value == null || !isFinite(value)) return NONE;
  if (value >= 99950) return value >= 1e6 ? (value / 1e6).toFixed(value < 1e7 ? 2 : 1) + " M" : Math.round(value / 1e3) + " k";
  return value.toLocaleString("en", { maximumFractionDigits: value > 0 && value < 10 ? 1 : 0 });
}
function percent(part, whole) { return whole > 0 ? fraction(part / whole) : NONE; }
function fraction(value) { return (value >= .9995 || value === 0 ? (value * 100).toFixed(0) : (value * 100).toFixed(1)) + " %"; }
function duration(seconds) {
  if (seconds == null || !isFinite(seconds)) return NONE;
  if (seconds < .001) return Math.round(seconds * 1e6) + " µs";
  if (seconds < 1) return (seconds * 1e3).toFixed(seconds < .01 ? 1 : 0) + " ms";
  if (seconds < 60) return seconds.toFixed(seconds < 10 ? 1 : 0) + " s";
  if (seconds < 3600) return Math.round(seconds / 60) + " min";
  if (seconds < 172800) return Math.round(seconds / 3600) + " h";
  return Math.round(seconds / 86400) + " d";
}
function bytes(value) {
  if (value == null) return NONE;
  return value < 1e6 ? Math.round(value / 1e3) + " kB" : (value / 1e6).toFixed(value < 1e7 ? 1 : 0) + " MB";
}
function clock(time) { return new Date(time * 1000).toLocaleTimeString("en-GB"); }
// Where a long name may be broken on a phone.
function breakable(name) { return name.replaceAll("_", "_\u200b").replace(/([a-z])([A-Z])/g, "$1\u200b$2"); }
function zero(text) { return [text, text === "0" || text === NONE ? "zero" : ""]; }
const sum = values => values.reduce((total, value) => total + value, 0);

// A line over the last two minutes; `format` makes its alternative in words.
class Spark {
  constructor(parent, format, { top } = {}) {
    const space = "http://www.w3.org/2000/svg";
    this.values = [];
    this.format = format;
    this.top = top;
    this.svg = document.createElementNS(space, "svg");
    for (const [key, value] of Object.entries({ class: "spark", viewBox: `0 0 ${SHOWN} 36`, preserveAspectRatio: "none", role: "img" })) this.svg.setAttribute(key, value);
    this.area = this.svg.appendChild(document.createElementNS(space, "path"));
    this.line = this.svg.appendChild(document.createElementNS(space, "path"));
    this.area.setAttribute("class", "area");
    parent.append(this.svg);
    this.draw();
  }
  add(value) {
    this.values.push(value);
    if (this.values.length > SHOWN) this.values.shift();
    this.draw();
  }
  clear() { this.values = []; this.draw(); }
  draw() {
    const known = this.values.filter(value => value != null);
    const top = this.top || Math.max(...known, 1e-9) * 1.08;
    let line = "", pen = "M", first = null, last = null;
    this.values.forEach((value, number) => {
      if (value == null) { pen = "M"; return; }
      const x = SHOWN - this.values.length + number;
      line += `${pen}${x} ${(35 - 34 * Math.min(1, value / top)).toFixed(1)}`;
      pen = "L";
      first ??= x;
      last = x;
    });
    this.line.setAttribute("d", line);
    this.area.setAttribute("d", line && !line.includes("M", 1) ? `${line}L${last} 36L${first} 36Z` : "");
    const words = known.length ? `from ${this.format(Math.min(...known))} to ${this.format(Math.max(...known))}` : "nothing yet";
    this.svg.setAttribute("aria-label", `Last two minutes: ${words}`);
  }
}

// Server-sent events by `fetch`, as EventSource sends no Authorization. Connects again, sooner or later.
class Stream {
  constructor(path, { on, lost, refused }) {
    Object.assign(this, { path, on, lost, refused, token: "", tries: 0 });
    this.open();
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.open(); else this.close(); });
  }
  headers(more = {}) { return this.token ? { ...more, Authorization: `Bearer ${this.token}` } : more; }
  close() { clearTimeout(this.timer); this.abort?.abort(); this.abort = null; }
  async open() {
    this.close();
    const abort = this.abort = new AbortController();
    let why = "no answer";
    try {
      const reply = await fetch(this.path, { headers: this.headers(), signal: abort.signal, cache: "no-store" });
      if (reply.status === 401 || reply.status === 403) { this.refused((await reply.text()).trim(), reply.status); return; }
      if (!reply.ok) throw new Error((await reply.text()).trim());
      this.tries = 0;
      const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = "";;) {
        // Silence is no news: nothing for ten seconds means that the other side is gone, or hangs.
        const silence = setTimeout(() => abort.abort(), 10000);
        const { value, done } = await reader.read().finally(() => clearTimeout(silence));
        if (done) { why = "the stream ended"; break; }
        text += value;
        for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
          const event = /^event: (.*)\ndata: (.*)$/.exec(text.slice(0, end));
          if (event?.[1] === "refused") { this.refused(JSON.parse(event[2]).message, 401); return; }
          if (event) this.on(JSON.parse(event[2]));
        }
      }
    } catch (error) { if (error.name !== "AbortError" && error.name !== "TypeError") why = error.message; }
    if (this.abort !== abort) return; // closed here, or opened again
    this.lost(why);
    this.timer = setTimeout(() => this.open(), Math.min(10000, 500 * 2 ** this.tries++) * (.8 + .4 * Math.random()));
  }
}

function connectToken(stream) {
  $("token-form").addEventListener("submit", event => {
    event.preventDefault();
    stream.token = $("token").value.trim();
    $("token").value = "";
    say($("token-state"), stream.token ? "This page sends the token until it is closed." : "This page sends no token.");
    stream.open();
  });
}
