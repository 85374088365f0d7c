"use strict";
// The search, the filters, the keys, and what is cheaper to make here than to store in each page.

const up = document.currentScript.getAttribute("src").replace("site.js", "");
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

/** The template of this page. */
const kind = $("main").dataset.page;

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node && name !== "list") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const loading = {};
/** The data of a script of the site, which is loaded once. */
function data(file, name) {
  loading[file] ??= new Promise((resolve, reject) => {
    document.head.append(
      make("script", { src: up + file, onload: () => resolve(window[name]), onerror: reject }),
    );
  });
  return loading[file];
}
const index = () => data("index.js", "INDEX").then((found) => (found.rows ??= rowsOf(found), found));

const word = (fate) => fate.split(/[: ]/)[0];
const part = (text) => encodeURIComponent(text).replace(/%(2F|3A)/g, (_, code) => ({ "2F": "/", "3A": ":" })[code]);
const messageUrl = (name) => `${up}message/${part(name)}.html`;
const fieldUrl = (message, field) => `${messageUrl(message)}#${part(field)}`;

function rowsOf({ messages, fates, versions }) {
  return messages.flatMap(([message, ...fields]) =>
    fields.map(([name, fate, since, why = "", place = "", type = "", tops = "", rules = ""]) => ({
      message, name, fate: fates[fate], since: versions[since], why, place, type,
      target: tops.split(" "), rule: rules.split(" "), url: fieldUrl(message, name),
      searched: `${message}.${name} ${place} ${why}`.toLowerCase(),
    })));
}

// --- the bar: what needs this script is made by it

function bar() {
  const header = $("header");
  if (!$("nav")) {
    const pages = { index: "Overview", fields: "Fields", rpcs: "RPCs", targets: "Targets", lifecycle: "Lifecycle", changes: "Changes" };
    const here = kind === "rpc" ? "rpcs" : "index";
    header.append(make("nav", { "aria-label": "Site" }, ...Object.entries(pages).map(([page, label]) =>
      make("a", { href: `${up}${page}.html`, ...(page === here && { "aria-current": "true" }) }, label))));
  }
  header.append(make("div", { className: "search", role: "search" },
    make("input", { id: "search", type: "search", placeholder: "Search", autocomplete: "off", spellcheck: false, role: "combobox",
      "aria-label": "Search fields, targets, RPCs and reasons", "aria-expanded": "false", "aria-controls": "results", "aria-autocomplete": "list" }),
    make("kbd", { "aria-hidden": "true" }, "/"),
    make("ul", { id: "results", role: "listbox", "aria-label": "Results", hidden: true })));
  const keys = { "/": "search", "j k": "next, previous", Enter: "open", Esc: "close" };
  document.body.append(make("footer", {}, make("span", {}, document.title), make("span", { className: "keys" },
    ...Object.entries(keys).flatMap(([key, does]) => [...key.split(" ").map((k) => make("kbd", {}, k)), ` ${does}`]))));
}

// --- search

function searched({ rows, rpcs, messages, targets, sources, functions }) {
  const page = `${up}targets.html#`;
  return [
    ...rpcs.map(([name, why]) => ["RPC", name, `${up}rpc/${part(name)}.html`, why]),
    ...messages.map(([name, ...fields]) => ["message", name, messageUrl(name), `${fields.length} fields`]),
    ...rows.map((row) => ["field", `${row.message}.${row.name}`, row.url, [row.fate, row.place].filter(Boolean).join(" · "), row.why]),
    ...targets.map(([name, writers]) => ["target", name, page + part(name), `${writers} ${writers === 1 ? "writer" : "writers"}`]),
    ...sources.map(([name]) => ["source", name, `${page}source:${part(name)}`, ""]),
    ...functions.map(([name]) => ["function", name, `${page}function:${part(name)}`, ""]),
  ].map(([kind, title, url, detail, why = ""]) =>
    ({ kind, title, url, detail, why, low: title.toLowerCase(), rest: `${detail} ${why}`.toLowerCase() }));
}

/** The best items for the words of a query: in the title before the rest, at the start of a part
    before elsewhere; what has a page or writers before sources and functions. */
function best(items, query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return [];
  const scored = [];
  for (const item of items) {
    let score = (item.low === query.toLowerCase() ? 40 : 0) + (/source|function/.test(item.kind) ? 0 : 4);
    for (const one of words) {
      const at = item.low.indexOf(one);
      if (at === 0) score += 12;
      else if (at > 0) score += /[^a-z0-9]/.test(item.low[at - 1]) ? 9 : 6;
      else if (item.rest.includes(one)) score += 2;
      else { score = 0; break; }
    }
    if (score > 0) scored.push([score - item.low.length / 100, item]);
  }
  return scored.sort((a, b) => b[0] - a[0]).slice(0, 40).map(([, item]) => item);
}

function marked(text, query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean).map((one) => one.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return text.split(new RegExp(`(${words.join("|")})`, "i")).map((piece, number) => (number % 2 ? make("mark", {}, piece) : piece));
}

function search() {
  const input = $("#search"), list = $("#results");
  let items = null, found = [], active = 0;
  const show = (open) => { list.hidden = !open; input.setAttribute("aria-expanded", String(open)); };
  const select = (number) => {
    active = number;
    $$("li[role=option]", list).forEach((li, n) => li.setAttribute("aria-selected", String(n === active)));
    const li = list.children[active];
    if (found.length) { input.setAttribute("aria-activedescendant", li.id); li.scrollIntoView({ block: "nearest" }); }
    else input.removeAttribute("aria-activedescendant");
  };
  const open = (item) => { show(false); input.blur(); location.href = item.url; };
  const update = async () => {
    items ??= searched(await index());
    const query = input.value.trim();
    found = best(items, query);
    list.replaceChildren(...found.map((item, number) => {
      const why = query && item.why.toLowerCase().includes(query.toLowerCase()) ? item.why : item.detail || item.why;
      return make("li", { id: `result-${number}`, role: "option", onmousedown: (event) => { event.preventDefault(); open(item); } },
        make("span", {}, item.kind), make("b", {}, ...marked(item.title, query)), ...(why ? [make("small", {}, ...marked(why, query))] : []));
    }));
    if (query && !found.length) list.append(make("li", { role: "presentation" }, make("span", {}, "Nothing found")));
    show(Boolean(query));
    select(0);
  };
  input.addEventListener("input", update);
  input.addEventListener("focus", () => { index(); if (input.value.trim()) update(); });
  input.addEventListener("blur", () => show(false));
  input.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && found.length) { event.preventDefault(); select((active + step + found.length) % found.length); }
    else if (event.key === "Enter" && found[active]) { event.preventDefault(); open(found[active]); }
    else if (event.key === "Escape") { if (input.value) { input.value = ""; update(); } else input.blur(); }
  });
}

// --- the table of fields

async function fields() {
  const form = $("#filters");
  if (!form) return;
  const { rows } = await index();
  const trs = rows.map((row) => make("tr", { id: `${row.message}.${row.name}` },
    make("td", {}, make("a", { href: row.url }, make("span", {}, `${row.message}.`), row.name)),
    make("td", {}, make("b", { className: word(row.fate) }, row.fate)),
    make("td", {}, make("code", {}, row.place)),
    make("td", {}, row.since)));
  const output = $("output");
  const apply = () => {
    const asked = new FormData(form);
    const fates = asked.getAll("fate"), text = asked.get("q").trim().toLowerCase().split(/\s+/);
    const is = (name, value) => !asked.get(name) || asked.get(name) === value;
    const has = (name, values) => !asked.get(name) || values.includes(asked.get(name));
    let count = 0;
    rows.forEach((row, number) => {
      const kept = (!fates.length || fates.includes(row.fate)) && is("since", row.since) && is("message", row.message)
        && has("target", row.target) && has("rule", row.rule) && text.every((one) => row.searched.includes(one));
      trs[number].hidden = !kept;
      count += kept;
    });
    output.value = count === rows.length ? `${count} fields` : `${count} of ${rows.length} fields`;
    const query = new URLSearchParams([...asked].filter(([, value]) => value)).toString();
    if (query || location.hash.startsWith("#?")) history.replaceState(null, "", query ? `#?${query}` : "#");
  };
  const restore = () => {
    if (!location.hash.startsWith("#?")) return;
    const asked = new URLSearchParams(location.hash.slice(2));
    for (const field of form.elements) {
      if (field.type === "checkbox") field.checked = asked.getAll(field.name).includes(field.value);
      else if (field.name) field.value = asked.get(field.name) ?? "";
    }
  };
  restore();
  apply();
  $("#fields tbody").replaceChildren(...trs);
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  addEventListener("hashchange", () => { restore(); apply(); });
  reveal();
}

// --- what changed between any two versions

async function pair() {
  const form = $("#pair");
  if (!form) return;
  const [old, latest] = [form.elements.old, form.elements.new], versions = [...old.options].map((one) => one.value);
  if (versions.length < 2) return;
  const url = (subject, kind) => {
    const at = subject.lastIndexOf(".");
    return [null, messageUrl, () => fieldUrl(subject.slice(0, at), subject.slice(at + 1)), () => `${up}rpc/${part(subject.slice(at + 1))}.html`][kind]?.(subject);
  };
  const listed = $$('main > section[aria-labelledby*=".."] li');
  const copied = (row) => { const copy = row.cloneNode(true); copy.removeAttribute("id"); return copy; };
  const row = (told) => typeof told === "number" ? copied(listed[told]) : made(...told);
  const made = (kind, subject, detail, link) => make("li", {}, make("b", {}, kind.replaceAll("-", " ")), " ",
    link ? make("a", { href: url(subject, link) }, subject) : make("code", {}, subject), ...(detail ? [" ", make("small", {}, detail)] : []));
  const show = async (from, to) => {
    const { classes, changes } = await data("changes.js", "CHANGES");
    const lies = (boxes) => boxes.some((first, at) => at % 4 === 0 && first <= from && from <= boxes[at + 1] && boxes[at + 2] <= to && to <= boxes[at + 3]);
    const found = changes.filter((change) => lies(change.slice(2)));
    const lists = classes.map(([effect, meaning], number) => [effect, meaning, found.filter((change) => change[1] === number)]);
    $("#net").replaceChildren(make("h2", {}, `${versions[from]} → ${versions[to]} `, make("small", {}, `${found.length}`)),
      ...(found.length ? [] : [make("p", {}, "Nothing changed.")]),
      ...lists.filter(([, , rows]) => rows.length).flatMap(([effect, meaning, rows]) => [
        make("h3", {}, `${effect[0].toUpperCase()}${effect.slice(1)} `, make("small", {}, meaning)),
        make("ul", { className: "changes" }, ...rows.map(([told]) => row(told)))]));
    form.querySelector("output").value = `${found.length} net changes`;
  };
  const apply = async () => {
    const chosen = [old, latest].map((one) => one.selectedIndex).sort((a, b) => a - b);
    await show(...chosen);
    $("#net").hidden = false;
    for (const one of $$("main > section:not(#net)")) one.hidden = true;
    history.replaceState(null, "", `#?${versions[chosen[0]]}..${versions[chosen[1]]}`);
  };
  const each = () => {
    $("#net").hidden = true;
    for (const one of $$("main > section:not(#net)")) one.hidden = false;
    form.querySelector("output").value = "";
  };
  const restore = async () => {
    const asked = decodeURIComponent(location.hash).match(/^#\?(.+)\.\.(.+)$/)?.slice(1).map((one) => versions.indexOf(one));
    if (!asked || asked.includes(-1)) { each(); return reveal(); }
    [old.selectedIndex, latest.selectedIndex] = asked;
    await apply();
  };
  const start = () => { old.selectedIndex = versions.length - 2; latest.selectedIndex = versions.length - 1; };
  start();
  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { start(); each(); history.replaceState(null, "", "#"); }));
  addEventListener("hashchange", restore);
  await restore();
}

// --- targets, and the fields of an RPC

async function lists() {
  if (!$("#read")) return;
  const { sources, functions, rows } = await index();
  const fates = new Map(rows.map((row) => [`${row.message}#${row.name}`, word(row.fate)]));
  for (const [id, kind, named] of [["read", "source", sources], ["called", "function", functions]]) {
    $(`#${id}`).replaceChildren(...named.map(([name, ...refs]) => make("li", { id: `${kind}:${name}` }, make("code", {}, name),
      ...refs.map((ref) => {
        const [message, ...field] = ref.split("#");
        return make("a", { className: fates.get(ref) ?? "compute", href: fieldUrl(message, field.join("#")) }, `${message}.${field.join("#")}`);
      }))));
  }
  reveal();
}

async function trees() {
  const tops = $$("ul.carried");
  if (!tops.length) return;
  const { messages, fates } = await index();
  const known = new Map(messages.map(([name, ...fields]) => [name, fields]));
  const grow = (list, message, above) => {
    known.get(message).forEach(([name, fate, , , place = "", type = ""], number) => {
      const item = list.children[number] ?? list.appendChild(make("li", {}, make("a", { className: word(fates[fate]), href: fieldUrl(message, name) }, name)));
      const told = word(fates[fate]) === "unmapped" ? fates[fate] : place;
      if (told) item.append(" ", make("small", {}, told));
      if (!known.get(type)?.length || above.includes(type)) return;
      const inner = make("details", {}, make("summary", {}, type));
      inner.addEventListener("toggle", () => {
        if (inner.children.length === 1) grow(inner.appendChild(make("ul")), type, [...above, type]);
      });
      item.append(inner);
    });
  };
  for (const list of tops) grow(list, list.dataset.message, [list.dataset.message]);
}

// --- messages

function sections() {
  const all = $$("main > section[class]");
  for (const section of all) {
    const title = section.firstElementChild, name = title.firstChild;
    name.replaceWith(make("a", { href: `#${part(section.id)}` }, name.data.trim()), " ");
  }
  if (all.length > 1) {
    all[0].before(make("ul", { className: "jump" }, ...all.map((section) =>
      make("li", {}, make("a", { className: section.className, href: `#${part(section.id)}` }, section.id)))));
  }
}

/** A reason is stored once, with the ends of its lines, and belongs into the entry below it too. */
function reasons() {
  for (const code of $$("pre.y")) {
    const lines = code.closest("section[id], main").querySelector(".why").textContent.trim().split("\n");
    code.textContent = code.textContent.replace(/^( *)why: (>?)…$/m, (_, margin, folded) =>
      `${margin}why: ${folded ? [">", ...lines.map((line) => `${margin}  ${line}`)].join("\n") : lines[0]}`);
  }
}

async function evidence() {
  if (kind !== "rpc" && kind !== "message") return;
  const { tests, requests, messages, rpcs } = await data("evidence.js", "EVIDENCE");
  const every = tests.flatMap(([file, found]) => found.map(([line, name]) => ({ file, line, name })));
  const name = $("h1").textContent;
  const listed = ([found = [], asked = []] = []) => {
    const more = found.at(-1) < 0 ? -found.at(-1) : 0;
    const shown = found.filter((number) => number >= 0).map((number) => every[number]);
    const count = shown.length + more;
    const files = [...new Set(shown.map((test) => test.file))];
    const made = [];
    made.push(count ? make("details", { className: "tests" }, make("summary", {}, `${count} ${count === 1 ? "test" : "tests"}`), make("ul", {},
      ...files.map((file) => make("li", {}, file, make("ul", {}, ...shown.filter((test) => test.file === file).map((test) =>
        make("li", {}, make("small", {}, String(test.line)), ` ${test.name}`))))),
      ...(more ? [make("li", {}, `and ${more} more`)] : []))) : make("p", {}, make("small", {}, "No test names it.")));
    if (asked.length) {
      const others = asked.at(-1) < 0 ? -asked.at(-1) : 0;
      const files = asked.filter((number) => number >= 0).map((number) => requests[number]);
      const all = files.length + others;
      made.push(make("details", { className: "tests" }, make("summary", {}, `${all} ${all === 1 ? "request" : "requests"}`),
        make("ul", {}, ...files.map((file) => make("li", {}, file)), ...(others ? [make("li", {}, `and ${others} more`)] : []))));
    }
    return made;
  };
  if (kind === "rpc") $("main").append(...listed(rpcs[name]));
  else for (const section of $$("main > section[class]")) section.append(...listed(messages[name]?.[section.id]));
}

/** Words, texts and comments of YAML and Python. */
function coloured(code) {
  const pattern = code.className === "y"
    ? /(#.*)|("[^"\n]*"|'[^'\n]*')|(^[ \t]*(?:- )?[\w.\-[\]/]+(?=:))/gm
    : /(#.*)|("""[^]*?"""|f?"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|\b(def|return|if|else|elif|for|in|is|not|and|or|None|True|False|async|await|with|raise|yield|from|import|lambda|while|try|except)\b/g;
  const text = code.textContent, made = [];
  let at = 0;
  for (const match of text.matchAll(pattern)) {
    made.push(text.slice(at, match.index), make(match[1] ? "i" : match[2] ? "q" : "b", {}, match[0]));
    at = match.index + match[0].length;
  }
  code.replaceChildren(...made, text.slice(at));
  if (code.scrollWidth > code.clientWidth) { code.tabIndex = 0; code.setAttribute("role", "region"); code.setAttribute("aria-label", code.previousElementSibling?.textContent ?? "Code"); }
}

/** Only what comes near the screen. */
function colours() {
  const watch = new IntersectionObserver((seen) => {
    for (const { isIntersecting, target } of seen) if (isIntersecting) { watch.unobserve(target); coloured(target); }
  }, { rootMargin: "400px" });
  for (const code of $$("pre")) watch.observe(code);
}

/** Open what the address names, and go there: the row may have been made after the page. */
function reveal() {
  const id = decodeURIComponent(location.hash.slice(1));
  const found = id && !id.startsWith("?") && document.getElementById(id);
  if (!found) return;
  if (found.tagName === "DETAILS") found.open = true;
  if (document.querySelector(":target") !== found) location.replace(location.hash);
  found.scrollIntoView();
}

// --- keys

function keys() {
  const rows = () => $$("main a[href]").filter((link) => link.closest("section > h2, td:first-child, li, .columns") && link.checkVisibility() && !link.closest(".jump"));
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const on = rows().indexOf(document.activeElement);
    const step = { j: 1, k: -1, ...(on >= 0 && { ArrowDown: 1, ArrowUp: -1 }) }[event.key];
    if (event.key === "/") { event.preventDefault(); $("#search").focus(); $("#search").select(); }
    else if (event.key === "Escape") document.activeElement.blur();
    else if (step) {
      event.preventDefault();
      const every = rows();
      const next = every[on < 0 ? firstSeen(every) : Math.max(0, Math.min(every.length - 1, on + step))];
      next?.focus({ focusVisible: true, preventScroll: true });
      next?.scrollIntoView({ block: next.closest("h2") ? "start" : "nearest" });
    }
  });
}

const firstSeen = (every) => Math.max(0, every.findIndex((link) => link.getBoundingClientRect().top > 60));

const opened = [];
addEventListener("beforeprint", () => { for (const one of $$("details:not([open])")) { one.open = true; opened.push(one); } });
addEventListener("afterprint", () => { for (const one of opened.splice(0)) one.open = false; });
addEventListener("hashchange", reveal);

bar();
search();
keys();
if (kind === "message") sections();
reasons();
colours();
reveal();
for (const made of [fields(), pair(), lists(), trees(), evidence()]) made.catch((error) => console.error(error));
