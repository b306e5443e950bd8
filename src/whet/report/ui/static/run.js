// One run: curves that grow while it trains, verdict, answers, ledger, incidents, settings.

import { Board, Log } from "./charts.js";
import { ask, make, mark, section, table, written } from "./dom.js";

const LIVE_MS = 2000;
const METRIC_HEAD = ["metric", "verdict", "difference", "95 % interval", "p", "adjusted p", "would show", "base", "tuned", "rows"];

// Portions of the log until there is no more; whether anything was new, and the run's line of the list.
export async function follow(log) {
  let isNew = false;
  for (;;) {
    const portion = await ask(`api/points/${log.id}?at=${encodeURIComponent(log.at)}`);
    isNew = log.add(portion) || isNew;
    if (!portion.has_more) return { isNew, line: portion.line };
  }
}

export async function showRun(main, id, isCurrent) {
  const log = new Log(id, "");
  const head = make("div", {});
  const body = make("div", {});
  const board = new Board();
  main.replaceChildren(head, section("Curves", board.element), body);
  let seen = "";
  while (isCurrent()) {
    const { isNew, line } = await follow(log);
    if (!isCurrent()) return;
    log.name = line.name;
    if (isNew) board.show([log]);
    const state = JSON.stringify([line.state, line.verdict, log.evals.size]);
    if (state !== seen) {
      seen = state;
      const [overview, samples] = await Promise.all([ask(`api/run/${id}`), ask(`api/samples/${id}`)]);
      if (!isCurrent()) return;
      const open = new Set([...body.querySelectorAll("details[open]")].map((each) => each.dataset.key));
      body.replaceChildren(...details(overview, samples));
      for (const each of body.querySelectorAll("details")) if (open.has(each.dataset.key)) each.open = true;
      head.dataset.subtitle = overview.subtitle.join(" / ");
      showFacts(head, line, overview, id);
    }
    showProgress(head, line);
    await new Promise((done) => setTimeout(done, line.state === "running" ? LIVE_MS : 4 * LIVE_MS));
  }
}

function showFacts(head, line, overview, id) {
  head.replaceChildren(
    make("h1", {}, line.name),
    make("p", { class: "muted" }, make("span", { class: `state ${line.state}` }, line.state), ` ${overview.subtitle.join(" / ")} `,
      make("a", { href: `report/${id}` }, "whole report")),
    make("progress", { max: "1", value: "0", "aria-label": "steps done" }),
    make("dl", { class: "facts" }, overview.facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)))),
    overview.bottleneck ? make("p", {}, overview.bottleneck) : "");
}

function showProgress(head, line) {
  const bar = head.querySelector("progress");
  if (bar && line.total_steps) {
    bar.value = (line.steps || 0) / line.total_steps;
    bar.title = `step ${written(line.steps)} of ${written(line.total_steps)}`;
  }
}

function details(overview, samples) {
  return [
    section("Verdict", ...verdict(overview)),
    overview.problems.length ? section("Files that could not be read in full", list(overview.problems)) : "",
    samples.training.length ? section("Answers while training", ...samples.training.map(answersOfRow)) : "",
    ...samples.after.map((group) => section(`Before and after: ${group.dataset}`,
      make("p", { class: "muted" }, `${group.heading}: ${written(group.num_rows)} rows, ${group.rows.length} shown`), ...group.rows.map(pair))),
    section("Data ledger", ...ledger(overview)),
    section("Incidents", ...incidents(overview)),
    section("Settings", list(overview.sentences), folded("recipe", "Recipe", make("pre", {}, overview.recipe)),
      make("h3", {}, "How to reproduce"), make("pre", { class: "card" }, overview.commands)),
  ].filter((each) => each !== "");
}

function verdict(overview) {
  if (overview.evaluations.length === 0) {
    return [make("p", { class: "card" }, "No comparison of base and tuned has been made yet: nothing is claimed about whether tuning helped.")];
  }
  return [
    overview.overall ? make("p", { class: "overall" }, overview.overall) : "",
    ...overview.evaluations.map((each) => make("article", { class: "card" },
      make("p", {}, make("strong", { class: `verdict ${each.verdict.split(" ")[0]}` }, each.verdict), ` on ${each.dataset}, ${written(each.num_rows)} rows (${each.role})`),
      ...each.sentences.map((sentence) => make("p", { class: "muted" }, sentence)),
      table(METRIC_HEAD, each.metrics, { isNumeric: true, label: `metrics of ${each.dataset}` }))),
  ];
}

// The same row at every evaluation; a slider goes through the steps.
function answersOfRow(row) {
  const text = make("pre", {});
  const label = make("span", { class: "muted" });
  const show = (index) => {
    const answer = row.answers[index];
    label.replaceChildren(`after step ${written(answer.step)} `, mark(answer.is_correct), answer.was_cut ? " cut off at the length limit" : "");
    text.textContent = answer.text;
  };
  const last = row.answers.length - 1;
  const slider = make("input", { type: "range", min: "0", max: String(last), value: String(last), "aria-label": `evaluation of ${row.id}`,
    oninput: (event) => show(Number(event.target.value)) });
  show(last);
  return make("article", { class: "card sample" }, make("p", { class: "muted id" }, `${row.set} / ${row.id}`),
    make("pre", { class: "prompt" }, row.prompt), golds(row.golds), make("p", {}, slider, " ", label), text);
}

function pair(row) {
  return make("article", { class: "card sample" }, make("p", { class: "muted id" }, row.id), make("pre", { class: "prompt" }, row.prompt), golds(row.golds),
    make("div", { class: "sides" }, row.answers.map((answer) => make("div", {},
      make("h4", {}, `${answer.name} `, mark(answer.is_correct), answer.was_cut ? " cut off" : ""), make("pre", {}, answer.text)))));
}

function golds(found) {
  return found.length ? make("p", {}, "Accepted: ", ...found.flatMap((gold, i) => [i ? " or " : "", make("code", {}, gold)])) : "";
}

function ledger(overview) {
  const { statuses, sets, rows, num_all: numAll } = overview.ledger;
  const found = [];
  if (overview.tokens.length) {
    found.push(table(["set", "rows", "samples", "tokens", "taught tokens", "fingerprint"], overview.tokens, { isNumeric: true }));
  }
  if (sets.length) found.push(table(["set", "rows", ...statuses], sets, { isNumeric: true }));
  if (rows.length) {
    found.push(folded("ledger", `Rows that were cut, repeated or left out (${rows.length} of ${written(numAll)} listed)`,
      table(["set", "row", "what became of it", "reason"], rows)));
  }
  if (overview.notes.length) found.push(list(overview.notes));
  return found.length ? found : [make("p", { class: "card" }, "No account of the data is recorded.")];
}

function incidents(overview) {
  const found = [];
  if (overview.incidents.length) {
    found.push(table(["step", "kind", "what happened, and what was done"], overview.incidents.map((each) => [each.step, each.kind, each.text])));
  }
  if (overview.events.length) found.push(list(overview.events.map((each) => `step ${written(each.step)}: ${each.text}`)));
  return found.length ? found : [make("p", { class: "card" }, "None recorded.")];
}

function list(sentences) {
  return make("ul", { class: "card" }, sentences.map((sentence) => make("li", {}, sentence)));
}

function folded(key, title, content) {
  return make("details", { class: "card", "data-key": key }, make("summary", {}, title), content);
}
