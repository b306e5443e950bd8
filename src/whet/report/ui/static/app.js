// The page: which view the address asks for, and the list of runs.

import { showComparison } from "./compare.js";
import { ask, make, size, table, written } from "./dom.js";
import { showRun } from "./run.js";

const LIST_MS = 3000;
const main = document.getElementById("main");
const fault = document.getElementById("fault");
const chosen = new Set();
let view = 0;

async function route() {
  view += 1;
  const mine = view;
  const isCurrent = () => view === mine;
  const [kind, ids = ""] = location.hash.slice(1).split("/");
  for (;;) {
    try {
      fault.textContent = "";
      if (kind === "run") await showRun(main, ids, isCurrent);
      else if (kind === "compare") await showComparison(main, ids.split(","), isCurrent);
      else await showList(isCurrent);
      return;
    } catch (error) {
      if (!isCurrent()) return;
      fault.textContent = `${error.message}; trying again`;
      await new Promise((done) => setTimeout(done, LIST_MS));
      if (!isCurrent()) return;
    }
  }
}

async function showList(isCurrent) {
  const button = make("button", { type: "button", onclick: () => { location.hash = `compare/${[...chosen].join(",")}`; } });
  const holder = make("div", {});
  const offer = () => {
    button.textContent = chosen.size < 2 ? "Choose two runs or more to compare them" : `Compare ${chosen.size} runs`;
    button.disabled = chosen.size < 2;
  };
  main.replaceChildren(make("h1", {}, "Runs"), make("p", {}, button), holder);
  let seen = "";
  while (isCurrent()) {
    const { root, runs } = await ask("api/runs");
    if (!isCurrent()) return;
    document.getElementById("root").textContent = root;
    const now = JSON.stringify(runs);
    if (now !== seen) {
      seen = now;
      for (const id of chosen) if (!runs.some((run) => run.id === id)) chosen.delete(id);
      holder.replaceChildren(runs.length ? listOf(runs, offer) : make("p", { class: "card" }, "No run here yet: whet init writes a recipe, whet train begins a run."));
      offer();
    }
    await new Promise((done) => setTimeout(done, LIST_MS));
  }
}

function listOf(runs, offer) {
  const rows = [...runs].sort((a, b) => b.changed - a.changed).map((run) => [
    make("span", { class: "pick" },
      make("input", { type: "checkbox", "aria-label": `compare ${run.name}`, checked: chosen.has(run.id),
        onchange: (event) => { if (event.target.checked) chosen.add(run.id); else chosen.delete(run.id); offer(); } }),
      make("a", { href: `#run/${run.id}` }, run.name)),
    make("span", { class: `state ${run.state}` }, run.state),
    `${written(run.steps ?? 0)}${run.total_steps ? ` of ${written(run.total_steps)}` : ""}`,
    run.last_loss == null ? "-" : Number(run.last_loss.toPrecision(4)),
    run.verdict ? make("strong", { class: `verdict ${run.verdict.split(" ")[0]}` }, run.verdict) : "-",
    size(run.num_bytes),
    new Date(1000 * run.changed).toLocaleString(),
  ]);
  return table(["run", "state", "steps", "last loss", "verdict", "size", "changed"], rows, { label: "runs" });
}

window.addEventListener("hashchange", route);
route();
