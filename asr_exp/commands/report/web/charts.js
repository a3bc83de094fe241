// Curves over steps: SVG with a reading under the pointer.

const EDGE = { left: 52, right: 10, top: 8, bottom: 26 };

function ticks(low, high, count) {
  const rough = (high - low) / count || 1, size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * size).find((one) => one >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-6; at += step) found.push(+at.toPrecision(12));
  return found;
}

function decades(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1)
    for (const one of high / low > 2000 ? [1] : [1, 2, 5]) found.push(one * 10 ** power);
  return found.filter((one) => one >= low * 0.999 && one <= high * 1.001);
}

function chart(title, series, read, log, small) {
  const WIDE = small || window.innerWidth < 600 ? 340 : 560, HIGH = WIDE < 400 ? 190 : 240;
  const values = series.flatMap((one) => one.points.map((point) => point[1])), steps = series.flatMap((one) => one.points.map((point) => point[0]));
  const reduce = (list, pick, start) => list.reduce((best, one) => pick(best, one), start);
  let low = reduce(values, Math.min, Infinity), high = reduce(values, Math.max, -Infinity);
  const last = Math.max(1, reduce(steps, Math.max, 1));
  log = log && low > 0 && high / low > 10;
  if (!log) { low = Math.min(0, low); high = high > low ? high : low + 1; }
  const scale = log ? Math.log10 : (one) => one, bottom = HIGH - EDGE.bottom;
  const x = (step) => EDGE.left + (step / last) * (WIDE - EDGE.left - EDGE.right);
  const y = (value) => bottom - ((scale(value) - scale(low)) / (scale(high) - scale(low) || 1)) * (bottom - EDGE.top);
  const drawing = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": `${title}: ${series.map((one) => `${one.name} from ${read(one.points[0][1])} to ${read(one.points.at(-1)[1])}`).join("; ")}` });
  for (const value of log ? decades(low, high) : ticks(low, high, 5)) {
    drawing.append(svg("line", { class: "grid", x1: EDGE.left, x2: WIDE - EDGE.right, y1: y(value), y2: y(value) }), svg("text", { x: EDGE.left - 6, y: y(value) + 4, "text-anchor": "end" }, read(value)));
  }
  for (const step of ticks(0, last, WIDE / 110)) drawing.append(svg("text", { x: x(step), y: HIGH - 8, "text-anchor": "middle" }, whole(step)));
  const mark = svg("line", { class: "mark", y1: EDGE.top, y2: bottom, visibility: "hidden" });
  drawing.append(mark);
  for (const one of series) {
    const line = one.points.map(([step, value], number) => `${number ? "L" : "M"}${x(step).toFixed(1)} ${y(Math.max(value, log ? low : value)).toFixed(1)}`).join("");
    const style = { stroke: `var(--${one.side})`, "stroke-dasharray": one.dashed ? "1 5" : "none", "stroke-linecap": "round", opacity: one.faint ? 0.5 : 1 };
    drawing.append(svg("path", { d: line, ...style }));
    if (one.points.length < 60) for (const [step, value] of one.points) drawing.append(svg("circle", { cx: x(step), cy: y(value), r: 3, fill: `var(--${one.side})` }));
  }
  const names = series.map((one) => el("span", {}));
  const key = el("div", { class: "key" }, el("span", { class: "at" }), names);
  const tell = (at) => {
    key.firstChild.textContent = at === null ? "" : `step ${whole(Math.round(at))}`;
    series.forEach((one, number) => {
      const near = at === null ? null : one.points.reduce((best, point) => (Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best));
      const sign = el("i", { class: one.dashed ? "dashed" : null });
      sign.style.borderColor = `var(--${one.side})`;
      sign.style.opacity = one.faint ? 0.5 : 1;
      names[number].replaceChildren(sign, one.name + (near ? ` ${read(near[1])}` : ""));
    });
  };
  tell(null);
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect(), at = (((event.clientX - box.left) / box.width) * WIDE - EDGE.left) / (WIDE - EDGE.left - EDGE.right) * last;
    if (at < 0 || at > last) return;
    mark.setAttribute("visibility", "visible");
    mark.setAttribute("x1", x(at));
    mark.setAttribute("x2", x(at));
    tell(at);
  });
  drawing.addEventListener("pointerleave", () => { mark.setAttribute("visibility", "hidden"); tell(null); });
  return el("div", { class: "card chart" }, el("h3", {}, title), drawing, key);
}

function curves() {
  if (!data.runs.some((run) => Object.keys(run.curves).length)) return;
  const places = section("curves").querySelectorAll(".charts");
  const rate = (value) => `${+(100 * value).toPrecision(3)} %`;
  const wanted = [
    ["Loss", [["train/loss", "train", 1], ["dev/loss", "dev", 0]], short, true],
    ["Error rate on dev", [["dev/wer", "WER", 0], ["dev/per", "PER", 0], ["dev/cer", "CER", 2]], rate, false],
    ["Learning rate", [["train/lr", "learning rate", 0]], short, false],
    ["Gradient norm", [["train/grad_norm", "norm", 0]], short, true],
    ["Share of blank frames", [["train/blank_ratio", "blank", 0]], rate, false],
  ];
  for (const [title, names, read, log] of wanted) {
    const series = data.runs.flatMap((run, number) => names.filter(([name]) => run.curves[name] && run.curves[name].length).map(([name, shown, style]) => ({
      name: two ? `${SIDES[number].toUpperCase()} ${shown}` : shown, points: run.curves[name], side: SIDES[number], faint: style === 1, dashed: style === 2,
    })));
    const small = !title.startsWith("Loss") && !title.startsWith("Error");
    if (series.length) places[Number(small)].append(chart(title, series, read, log, small));
  }
}

function spark(losses, usual) {
  const points = losses.filter((one) => one !== null), W = 190, H = 54;
  const high = Math.max(...points, ...usual, 1e-9), n = Math.max(1, losses.length - 1);
  const line = (values) => values.map((value, i) => (value === null ? "" : `${i && values[i - 1] !== null ? "L" : "M"}${(4 + (i / n) * (W - 8)).toFixed(1)} ${(H - 4 - (value / high) * (H - 8)).toFixed(1)}`)).join("");
  const drawing = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `its loss over the epochs: ${points.map(short).join(", ")}; usual: ${usual.map(short).join(", ")}` });
  drawing.append(svg("path", { d: line(usual), fill: "none", stroke: "var(--soft)", "stroke-width": 1.5, "stroke-dasharray": "3 3" }), svg("path", { d: line(losses), fill: "none", stroke: "var(--del)", "stroke-width": 2 }));
  losses.forEach((value, i) => { if (value !== null) drawing.append(svg("circle", { cx: 4 + (i / n) * (W - 8), cy: H - 4 - (value / high) * (H - 8), r: 2.5, fill: "var(--del)" })); });
  usual.forEach((value, i) => drawing.append(svg("circle", { cx: 4 + (i / n) * (W - 8), cy: H - 4 - (value / high) * (H - 8), r: 1.8, fill: "var(--soft)" })));
  return el("div", { class: "spark" }, drawing, el("span", { class: "soft" }, losses.length > 1 ? "loss by epoch; dashed: usual" : `loss ${short(points[0])}, usual ${short(usual[0])}`));
}
