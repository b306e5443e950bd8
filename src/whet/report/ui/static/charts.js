// Curves of one or several runs, by uPlot: raw behind, smoothed in front, evaluations as points.

import { make } from "./dom.js";

const COLOURS = ["--c0", "--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7"];
const TITLES = {
  loss: "Loss, nats per taught token", lr: "Learning rate", grad_norm: "Gradient norm before clipping",
  tokens_per_second: "Tokens per second",
};

// What a run has logged so far, put together from portions by step.
export class Log {
  constructor(id, name) {
    this.id = id;
    this.name = name;
    this.at = "";
    this.clear();
  }

  clear() {
    this.points = new Map();
    this.evals = new Map();
    this.names = [];
  }

  // Whether anything is new.
  add(portion) {
    if (portion.is_anew) this.clear();
    this.at = portion.at;
    const names = Object.keys(portion.columns);
    for (const name of names) if (!this.names.includes(name)) this.names.push(name);
    portion.steps.forEach((step, i) => {
      this.points.set(step, Object.fromEntries(names.map((name) => [name, portion.columns[name][i]])));
    });
    for (const { step, values } of portion.evals) this.evals.set(step, { ...this.evals.get(step), ...values });
    return portion.steps.length > 0 || portion.evals.length > 0 || portion.is_anew;
  }

  curve(name) {
    return pairs(this.points, name);
  }

  measured(name) {
    return pairs(this.evals, name);
  }

  measuredNames() {
    return [...new Set([...this.evals.values()].flatMap((values) => Object.keys(values)))];
  }
}

function pairs(found, name) {
  const unit = name.endsWith("_bytes") ? 2 ** 30 : 1;
  return [...found.entries()].filter(([, values]) => Number.isFinite(values[name]))
    .map(([step, values]) => [step, values[name] / unit]).sort((a, b) => a[0] - b[0]);
}

// As a heading: bytes are shown in GiB.
function titled(name) {
  return TITLES[name] || name.replace(/_bytes$/, ", GiB").replaceAll("_", " ");
}

// Mean over `width` points around each one, fewer at the ends on both sides alike: it does not lag behind.
export function smooth(points, width) {
  const sums = [0];
  for (const [, y] of points) sums.push(sums[sums.length - 1] + y);
  const half = Math.floor(width / 2);
  return points.map(([x], i) => {
    const reach = Math.min(half, i, points.length - 1 - i);
    return [x, (sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1)];
  });
}

// One chart that can be given new numbers.
export class Chart {
  constructor(title, { isSmall = false } = {}) {
    this.holder = make("div", { class: "plot" });
    this.legend = make("div", { class: "legend" });
    this.element = make("figure", { class: isSmall ? "card small" : "card" }, make("figcaption", {}, title), this.legend, this.holder);
    this.height = isSmall ? 170 : 320;
    this.shape = "";
    this.plot = null;
    new ResizeObserver(() => this.plot && this.fit()).observe(this.holder);
  }

  fit() {
    const width = this.holder.clientWidth;
    if (width > 0 && width !== this.plot.width) this.plot.setSize({ width, height: this.height });
  }

  // curves: {label, points, colour (index), style: "raw" | "line" | "dots"}
  show(curves, isLog = false) {
    const drawn = curves.filter((curve) => curve.points.length > 0);
    this.element.hidden = drawn.length === 0;
    if (drawn.length === 0) return;
    const data = joined(drawn.map((curve) => curve.points));
    const shape = JSON.stringify([drawn.map((curve) => [curve.label, curve.colour, curve.style]), isLog, scheme()]);
    if (this.plot && shape === this.shape) {
      this.plot.setData(data);
      return;
    }
    this.shape = shape;
    if (this.plot) this.plot.destroy();
    this.plot = new uPlot(this.options(drawn, isLog), data, this.holder);
    this.legend.replaceChildren(...drawn.filter((curve) => curve.style !== "raw").map((curve) => make("span",
      { class: `key k${curve.colour % COLOURS.length} ${curve.style}` }, curve.label)));
    this.fit();
  }

  options(drawn, isLog) {
    const css = getComputedStyle(document.documentElement);
    const muted = css.getPropertyValue("--muted").trim();
    const line = css.getPropertyValue("--line").trim();
    const font = "12px system-ui, sans-serif";
    const axis = { stroke: muted, font, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
    return {
      width: this.holder.clientWidth || 600,
      height: this.height,
      legend: { show: false },
      cursor: { points: { size: 7 } },
      scales: { x: { time: false }, y: { distr: isLog ? 3 : 1 } },
      axes: [
        { ...axis, label: "optimizer step", labelFont: font, labelSize: 18, size: 34 },
        { ...axis, size: 62, values: (_, values) => values.map(short) },
      ],
      series: [{}, ...drawn.map((curve) => series(curve, css))],
      plugins: [{ hooks: { setCursor: (plot) => this.tell(plot, drawn) } }],
    };
  }

  // The values under the pointer, beside the names of the curves.
  tell(plot, drawn) {
    const index = plot.cursor.idx;
    const keys = this.legend.children;
    let place = 0;
    drawn.forEach((curve, i) => {
      if (curve.style === "raw") return;
      const value = index == null ? null : plot.data[i + 1][index];
      const step = index == null ? "" : ` at ${plot.data[0][index].toLocaleString("en")}`;
      if (keys[place]) keys[place].textContent = value == null ? curve.label : `${curve.label} ${short(value)}${step}`;
      place += 1;
    });
  }
}

function scheme() {
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

function series(curve, css) {
  const colour = css.getPropertyValue(COLOURS[curve.colour % COLOURS.length]).trim();
  if (curve.style === "raw") return { stroke: `${colour}55`, width: 1, spanGaps: true, points: { show: false } };
  if (curve.style === "dots") {
    return { stroke: colour, width: 1, dash: [3, 4], spanGaps: true, points: { show: true, size: 7, fill: colour, stroke: colour } };
  }
  return { stroke: colour, width: 2, spanGaps: true, points: { show: curve.points.length < 3, fill: colour } };
}

// Columns over the steps of all curves; null where a curve has no point.
function joined(curves) {
  const steps = [...new Set(curves.flatMap((points) => points.map(([x]) => x)))].sort((a, b) => a - b);
  const place = new Map(steps.map((step, i) => [step, i]));
  const columns = curves.map((points) => {
    const column = new Array(steps.length).fill(null);
    for (const [x, y] of points) column[place.get(x)] = y;
    return column;
  });
  return [steps, ...columns];
}

export function short(value) {
  if (value == null) return "";
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(1).replace(".0e", "e");
  if (Math.abs(value) >= 1e4 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(3)));
}

// Charts for everything that these runs have logged; call `show` again when there is more.
export class Board {
  constructor() {
    this.charts = new Map();
    this.width = 0;
    this.isLog = false;
    this.small = make("div", { class: "small-charts" });
    this.main = new Chart(TITLES.loss);
    const slider = make("input", { type: "range", min: "0", max: "100", value: "30", id: "smoothing",
      oninput: (event) => { this.strength = Number(event.target.value); this.show(this.logs); } });
    const log = make("input", { type: "checkbox", id: "log-axis",
      onchange: (event) => { this.isLog = event.target.checked; this.show(this.logs); } });
    this.strength = 30;
    this.logs = [];
    this.element = make("div", {}, make("div", { class: "controls" },
      make("label", { for: "smoothing" }, "Smoothing ", slider), make("label", { for: "log-axis" }, log, " logarithmic loss")),
    this.main.element, this.small);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.show(this.logs));
  }

  show(logs) {
    this.logs = logs;
    const isOne = logs.length === 1;
    this.main.show(logs.flatMap((log, i) => [
      ...this.lines(log.curve("loss"), isOne ? "training" : log.name, i),
      { label: isOne ? "validation" : `${log.name}, validation`, points: log.measured("loss"), colour: isOne ? 1 : i, style: "dots" },
    ]), this.isLog);
    const names = [...new Set(logs.flatMap((log) => log.names))].filter((name) => name !== "loss");
    for (const name of names) {
      this.chart(name, titled(name)).show(
        logs.flatMap((log, i) => this.lines(log.curve(name), log.name, i, name !== "lr")));
    }
    for (const name of new Set(logs.flatMap((log) => log.measuredNames()))) {
      if (name === "loss") continue;
      this.chart(`eval ${name}`, titled(name)).show(logs.map((log, i) => (
        { label: log.name, points: log.measured(name), colour: isOne ? 1 : i, style: "dots" })));
    }
  }

  // A curve, and behind it what it was before it was smoothed.
  lines(points, label, colour, isSmoothed = true) {
    const width = Math.round((points.length * this.strength) / 300);
    if (!isSmoothed || width < 3) return [{ label, points, colour, style: "line" }];
    return [{ label, points, colour, style: "raw" }, { label, points: smooth(points, width), colour, style: "line" }];
  }

  chart(key, title) {
    if (!this.charts.has(key)) {
      const chart = new Chart(title, { isSmall: true });
      this.charts.set(key, chart);
      this.small.append(chart.element);
    }
    return this.charts.get(key);
  }
}
