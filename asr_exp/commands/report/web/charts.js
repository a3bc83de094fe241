// Curves over steps: SVG with a reading under the pointer.

const EDGE = { left: 52, right: 10, top: 8, bottom: 26 };

function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * size).find((one) => one >= rough);
  const places = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-6; at += step) {
    places.push(+at.toPrecision(12));
  }
  return places;
}

function decades(low, high) {
  const values = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const one of high / low > 2000 ? [1] : [1, 2, 5]) {
      values.push(one * 10 ** power);
    }
  }
  return values.filter((one) => one >= low * 0.999 && one <= high * 1.001);
}

function chart(title, series, read, log, small) {
  const WIDE = small || window.innerWidth < 600 ? 340 : 560;
  const HIGH = WIDE < 400 ? 190 : 240;
  const values = series.flatMap((one) => one.points.map((point) => point[1]));
  const steps = series.flatMap((one) => one.points.map((point) => point[0]));
  const reduce = (list, pick, start) => list.reduce((best, one) => pick(best, one), start);
  let low = reduce(values, Math.min, Infinity);
  let high = reduce(values, Math.max, -Infinity);
  const last = Math.max(1, reduce(steps, Math.max, 1));
  log = log && low > 0 && high / low > 10;
  if (!log) {
    low = Math.min(0, low);
    high = high > low ? high : low + 1;
  }
  const scale = log ? Math.log10 : (one) => one;
  const bottom = HIGH - EDGE.bottom;
  const x = (step) => EDGE.left + (step / last) * (WIDE - EDGE.left - EDGE.right);
  const y = (value) =>
    bottom - ((scale(value) - scale(low)) / (scale(high) - scale(low) || 1)) * (bottom - EDGE.top);
  const ends = ({ name, points }) => `${name} from ${read(points[0][1])} to ${read(points.at(-1)[1])}`;
  const drawing = svg("svg", {
    viewBox: `0 0 ${WIDE} ${HIGH}`,
    role: "img",
    "aria-label": `${title}: ${series.map(ends).join("; ")}`,
  });
  for (const value of log ? decades(low, high) : ticks(low, high, 5)) {
    drawing.append(
      svg("line", { class: "grid", x1: EDGE.left, x2: WIDE - EDGE.right, y1: y(value), y2: y(value) }),
      svg("text", { x: EDGE.left - 6, y: y(value) + 4, "text-anchor": "end" }, read(value)),
    );
  }
  for (const step of ticks(0, last, WIDE / 110)) {
    drawing.append(svg("text", { x: x(step), y: HIGH - 8, "text-anchor": "middle" }, whole(step)));
  }
  const mark = svg("line", { class: "mark", y1: EDGE.top, y2: bottom, visibility: "hidden" });
  drawing.append(mark);
  for (const one of series) {
    const line = one.points
      .map(
        ([step, value], number) =>
          `${number ? "L" : "M"}${x(step).toFixed(1)} ${y(Math.max(value, log ? low : value)).toFixed(1)}`,
      )
      .join("");
    const style = {
      stroke: `var(--${one.side})`,
      "stroke-dasharray": one.dashed ? "1 5" : "none",
      "stroke-linecap": "round",
      opacity: one.faint ? 0.5 : 1,
    };
    drawing.append(svg("path", { d: line, ...style }));
    if (one.points.length < 60) {
      for (const [step, value] of one.points) {
        drawing.append(svg("circle", { cx: x(step), cy: y(value), r: 3, fill: `var(--${one.side})` }));
      }
    }
  }
  const names = series.map((one) => el("span", {}));
  const key = el("div", { class: "key" }, el("span", { class: "at" }), names);
  const showValues = (at) => {
    key.firstChild.textContent = at === null ? "" : `step ${whole(Math.round(at))}`;
    series.forEach((one, number) => {
      const near =
        at === null
          ? null
          : one.points.reduce((best, point) =>
              Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best,
            );
      const sign = el("i", { class: one.dashed ? "dashed" : null });
      sign.style.borderColor = `var(--${one.side})`;
      sign.style.opacity = one.faint ? 0.5 : 1;
      names[number].replaceChildren(sign, one.name + (near ? ` ${read(near[1])}` : ""));
    });
  };
  showValues(null);
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const at =
      ((((event.clientX - box.left) / box.width) * WIDE - EDGE.left) / (WIDE - EDGE.left - EDGE.right)) *
      last;
    if (at < 0 || at > last) {
      return;
    }
    mark.setAttribute("visibility", "visible");
    mark.setAttribute("x1", x(at));
    mark.setAttribute("x2", x(at));
    showValues(at);
  });
  drawing.addEventListener("pointerleave", () => {
    mark.setAttribute("visibility", "hidden");
    showValues(null);
  });
  return el("div", { class: "card chart" }, el("h3", {}, title), drawing, key);
}

function curves() {
  if (!data.runs.some((run) => Object.keys(run.curves).length)) {
    return;
  }
  const places = section("curves").querySelectorAll(".charts");
  const rate = (value) => `${+(100 * value).toPrecision(3)} %`;
  const wanted = [
    [
      "Loss",
      [
        ["train/loss", "train", 1],
        ["dev/loss", "dev", 0],
      ],
      short,
      true,
    ],
    [
      "Error rate on dev",
      [
        ["dev/wer", "WER", 0],
        ["dev/per", "PER", 0],
        ["dev/cer", "CER", 2],
      ],
      rate,
      false,
    ],
    ["Learning rate", [["train/lr", "learning rate", 0]], short, false],
    ["Gradient norm", [["train/grad_norm", "norm", 0]], short, true],
    ["Share of blank frames", [["train/blank_ratio", "blank", 0]], rate, false],
  ];
  for (const [title, names, read, log] of wanted) {
    const series = data.runs.flatMap((run, number) =>
      names
        .filter(([name]) => run.curves[name] && run.curves[name].length)
        .map(([name, shown, style]) => ({
          name: two ? `${SIDES[number].toUpperCase()} ${shown}` : shown,
          points: run.curves[name],
          side: SIDES[number],
          faint: style === 1,
          dashed: style === 2,
        })),
    );
    const small = !title.startsWith("Loss") && !title.startsWith("Error");
    if (series.length) {
      places[Number(small)].append(chart(title, series, read, log, small));
    }
  }
}
