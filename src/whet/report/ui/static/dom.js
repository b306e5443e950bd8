// Elements from texts. Every text becomes a text node: nothing that a run holds is ever read as HTML.

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, String(value));
  }
  element.append(...children.flat().filter((child) => child != null && child !== ""));
  return element;
}

export function table(head, rows, { isNumeric = false, label = "" } = {}) {
  const cells = (row) => row.map((cell, i) => make(i === 0 ? "th" : "td", i === 0 ? { scope: "row" } : {}, written(cell)));
  const found = make("table", { class: isNumeric ? "numbers" : "" },
    make("thead", {}, make("tr", {}, head.map((cell) => make("th", { scope: "col" }, cell)))),
    make("tbody", {}, rows.map((row) => make("tr", {}, cells(row)))));
  return make("div", { class: "scroll card", tabindex: "0", role: "region", "aria-label": label || head.join(", ") }, found);
}

// A value in a table: numbers to six digits, lists and objects as JSON; an element stays what it is.
export function written(value) {
  if (value instanceof Node) return value;
  if (value == null) return "-";
  if (typeof value === "number") return Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(6)));
  if (typeof value === "object") return JSON.stringify(value);
  return String(value);
}

export function section(title, ...children) {
  return make("section", {}, make("h2", {}, title), ...children);
}

export function size(bytes) {
  for (const [unit, name] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) if (bytes >= unit) return `${(bytes / unit).toFixed(1)} ${name}`;
  return `${bytes} B`;
}

export function mark(isCorrect) {
  return make("span", { class: `mark ${isCorrect ? "right" : "wrong"}` }, isCorrect ? "right" : "wrong");
}

export async function ask(address) {
  const answer = await fetch(address, { credentials: "omit" });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error || `answer ${answer.status}`);
  return found;
}
