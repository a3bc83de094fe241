// The suspected label errors: utterances of an unusual loss, each with its loss by epoch.

function suspects() {
  if (!data.suspects.length) {
    return;
  }
  const place = section("suspects").querySelector(".body");
  for (const group of data.suspects) {
    place.append(
      el("h3", {}, group.title),
      el("p", { class: "soft" }, group.basis),
      el("ol", { class: "list" }, group.rows.map(suspect)),
    );
  }
}

function suspect(one, number) {
  const under = el("div", { class: "under" });
  const facts = [one.speaker, `${one.seconds.toFixed(1)} s`, `score ${one.score.toFixed(1)}`];
  const meta = el(
    "div",
    { class: "meta" },
    el("span", {}, `${number + 1}.`),
    el("span", { class: "id", dir: "auto" }, one.id),
    facts.filter(Boolean).map((fact) => el("span", {}, fact)),
    one.detail === null ? null : opener(under, one.detail, one.id, [null]),
  );
  const texts = el(
    "dl",
    { class: "said" },
    el("dt", {}, "transcript"),
    el("dd", { dir: "auto" }, one.reference),
    el("dt", {}, "recognised"),
    el("dd", { dir: "auto" }, one.hypothesis || "nothing"),
  );
  return el("li", { class: "suspect" }, meta, texts, spark(one.losses, one.usual), under);
}

function spark(losses, usual) {
  const points = losses.filter((one) => one !== null);
  const W = 190;
  const H = 54;
  const high = Math.max(...points, ...usual, 1e-9);
  const n = Math.max(1, losses.length - 1);
  const x = (i) => 4 + (i / n) * (W - 8);
  const y = (value) => H - 4 - (value / high) * (H - 8);
  const pointOf = (value, i, values) => {
    if (value === null) {
      return "";
    }
    return `${i && values[i - 1] !== null ? "L" : "M"}${x(i).toFixed(1)} ${y(value).toFixed(1)}`;
  };
  const line = (values) => values.map(pointOf).join("");
  const listed = (values) => values.map(short).join(", ");
  const drawing = svg("svg", {
    viewBox: `0 0 ${W} ${H}`,
    role: "img",
    "aria-label": `its loss over the epochs: ${listed(points)}; usual: ${listed(usual)}`,
  });
  drawing.append(
    svg("path", {
      d: line(usual),
      fill: "none",
      stroke: "var(--soft)",
      "stroke-width": 1.5,
      "stroke-dasharray": "3 3",
    }),
    svg("path", { d: line(losses), fill: "none", stroke: "var(--del)", "stroke-width": 2 }),
  );
  losses.forEach((value, i) => {
    if (value !== null) {
      drawing.append(
        svg("circle", {
          cx: x(i),
          cy: y(value),
          r: 2.5,
          fill: "var(--del)",
        }),
      );
    }
  });
  usual.forEach((value, i) =>
    drawing.append(
      svg("circle", {
        cx: x(i),
        cy: y(value),
        r: 1.8,
        fill: "var(--soft)",
      }),
    ),
  );
  return el(
    "div",
    { class: "spark" },
    drawing,
    el(
      "span",
      { class: "soft" },
      losses.length > 1
        ? "loss by epoch; dashed: usual"
        : `loss ${short(points[0])}, usual ${short(usual[0])}`,
    ),
  );
}
