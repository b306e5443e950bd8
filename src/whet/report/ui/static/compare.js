// Several runs: their curves over each other, the settings in which they differ, and what came out.

import { Board, Log } from "./charts.js";
import { ask, make, section, table } from "./dom.js";
import { follow } from "./run.js";

const LIVE_MS = 3000;
const GROUPS = { recipe: "Settings", plan: "Derived values", data: "Rows", model: "Base model", environment: "Environment" };

export async function showComparison(main, ids, isCurrent) {
  const logs = ids.map((id) => new Log(id, id));
  const board = new Board();
  const body = make("div", {});
  main.replaceChildren(make("h1", {}, `${ids.length} runs beside each other`), section("Curves", board.element), body);
  let states = "";
  while (isCurrent()) {
    const looks = await Promise.all(logs.map(follow));
    if (!isCurrent()) return;
    looks.forEach(({ line }, i) => { logs[i].name = line.name; });
    if (looks.some(({ isNew }) => isNew)) board.show(logs);
    const now = JSON.stringify(looks.map(({ line }) => [line.state, line.verdict]));
    if (now !== states) {
      states = now;
      const found = await ask(`api/diff?runs=${ids.map(encodeURIComponent).join(",")}`);
      if (!isCurrent()) return;
      body.replaceChildren(...tables(found));
    }
    await new Promise((done) => setTimeout(done, LIVE_MS));
  }
}

function tables(found) {
  const head = (first) => [first, ...found.runs];
  const groups = Object.entries(GROUPS).map(([group, title]) => {
    const rows = found.differences.filter((row) => row[0] === group).map((row) => row.slice(1));
    return rows.length ? make("div", {}, make("h3", {}, title), table(head("differs"), rows)) : "";
  }).filter((each) => each !== "");
  return [
    section("What came out", found.results.length ? table(head("result"), found.results, { isNumeric: true }) : make("p", { class: "card" }, "Nothing yet.")),
    section("What differs", ...(groups.length ? groups : [make("p", { class: "card" }, "No value differs.")])),
  ];
}
