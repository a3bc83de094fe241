"use strict";
// What every part of the page uses: the data, elements, numbers. Elements are made without markup, so that no
// text is ever read as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const SIDES = ["a", "b"];
const two = data.runs.length > 1;
const NOUN = { word: "word", phone: "phone", character: "character" }[data.unit];

function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) {
      continue;
    }
    if (name.startsWith("on")) {
      made.addEventListener(name.slice(2), value);
    } else {
      made.setAttribute(name, value === true ? "" : value);
    }
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const whole = (number) => number.toLocaleString("en");
const percent = (rate, digits = 2) =>
  rate === null || rate === undefined ? "–" : `${(100 * rate).toFixed(digits)} %`;
const counted = (number, noun) => `${whole(number)} ${noun}${number === 1 ? "" : "s"}`;
const within = (ends) => (ends ? `${percent(ends[0])} to ${percent(ends[1])}` : "");
const short = (number) =>
  number === 0
    ? "0"
    : Math.abs(number) >= 1e4 || Math.abs(number) < 1e-3
      ? number.toExponential(1)
      : String(+number.toPrecision(3));
// Python's white space, so that a text falls into the words that its errors were counted in.
const SPACE = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]+";
const SPACES = new RegExp(SPACE);
const ENDS = new RegExp(`^${SPACE}|${SPACE}$`, "g");
const units = (text) =>
  data.unit === "character" ? [...text.replace(ENDS, "")] : text.split(SPACES).filter(Boolean);
const bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));

function duration(seconds) {
  if (seconds >= 3600) {
    return `${(seconds / 3600).toFixed(1)} h`;
  }
  return seconds >= 60 ? `${(seconds / 60).toFixed(1)} min` : `${seconds.toFixed(1)} s`;
}

function section(id) {
  const place = document.getElementById(id);
  place.hidden = false;
  const title = place.querySelector("h2").textContent;
  document.getElementById("contents").append(el("a", { href: `#${id}` }, title));
  return place;
}

// -----------------------------------------------------------------------------------------------------------
// the head

function figure(name, values) {
  const shown = values.map(([value, under], number) => [
    el("b", { class: two ? `${SIDES[number]} small` : null }, value),
    under ? el("span", {}, under) : null,
  ]);
  return el("div", { class: "card figure" }, el("span", {}, name), ...shown);
}

function head() {
  const place = document.getElementById("head");
  place.append(el("h1", {}, data.title));
  data.runs.forEach((run, number) => {
    const mark = two ? el("b", { class: SIDES[number] }, `${SIDES[number].toUpperCase()} `) : null;
    place.append(
      el(
        "p",
        { class: "soft" },
        mark,
        el("span", { class: "mono" }, run.folder),
        run.facts.length ? `: ${run.facts.join(", ")}` : "",
      ),
    );
  });
  data.notes.forEach((note) => place.append(el("p", { class: "apart" }, note)));
  const figures = el("div", { class: "figures" });
  const scored = data.runs.map((run) => run.summary);
  if (scored.some(Boolean)) {
    for (const metric of ["wer", "per", "cer"]) {
      if (scored.every((one) => !one || one[metric] === null || one[metric] === undefined)) {
        continue;
      }
      const first = metric !== "cer";
      figures.append(
        figure(
          `${metric.toUpperCase()} on ${data.split}`,
          scored.map((one) => [percent(one && one[metric]), first && one ? within(one.ci95) : ""]),
        ),
      );
    }
    for (const [name, key] of [
      ["Substitutions", "substitutions"],
      ["Deletions", "deletions"],
      ["Insertions", "insertions"],
    ]) {
      figures.append(
        figure(
          name,
          scored.map((one) => [
            one ? whole(one[key]) : "–",
            one && one.reference_length
              ? `${percent(one[key] / one.reference_length)} of ${whole(one.reference_length)}`
              : "",
          ]),
        ),
      );
    }
    if (data.utterances) {
      const n = data.utterances.id.length;
      figures.append(
        el(
          "div",
          { class: "card figure" },
          el("span", {}, "Utterances"),
          el("b", { class: two ? "small" : null }, whole(n)),
          el("span", {}, duration(data.utterances.seconds.reduce((sum, one) => sum + one, 0))),
        ),
      );
    }
  }
  if (figures.children.length) {
    place.append(figures);
  }
  if (data.comparison) {
    place.append(el("p", { class: "apart" }, data.comparison));
  }
}

// -----------------------------------------------------------------------------------------------------------
// confusions and groups

function bar(name, value, shares, spreads, pick) {
  const tracks = shares.map((share, number) => {
    const spread = spreads && spreads[number];
    const track = el("span", { class: "track" }, el("span", { class: `share ${SIDES[number]}` }));
    track.firstChild.style.width = `${100 * Math.min(1, share)}%`;
    if (spread) {
      const line = el("span", { class: "spread" });
      line.style.left = `${100 * Math.max(0, Math.min(1, spread[0]))}%`;
      line.style.right = `${100 * (1 - Math.min(1, spread[1]))}%`;
      track.append(line);
    }
    return track;
  });
  const inside = el(
    "span",
    { class: "bar" },
    el("span", { class: "name" }, ...[name].flat()),
    el("span", { class: "value" }, value),
    ...tracks,
  );
  return el(
    "li",
    {},
    pick ? el("button", { type: "button", "aria-pressed": "false", onclick: pick }, inside) : inside,
  );
}

function confusions() {
  const kinds = data.confusions;
  if (!kinds) {
    return;
  }
  const place = section("errors");
  place.querySelector(".lead").textContent =
    `The ${NOUN}s most often confused on ${data.split}. Choose one to see the utterances that it is in.`;
  const parts = [
    [
      "substitutions",
      "Substitutions",
      (row) => [el("bdi", {}, row[0]), " → ", el("b", { dir: "auto" }, row[1])],
      (row) => ({ kind: "S", reference: row[0], hypothesis: row[1] }),
      2,
    ],
    [
      "deletions",
      "Deleted",
      (row) => [el("del", { dir: "auto" }, row[0])],
      (row) => ({ kind: "D", reference: row[0] }),
      1,
    ],
    [
      "insertions",
      "Inserted",
      (row) => [el("bdi", {}, row[0])],
      (row) => ({ kind: "I", hypothesis: row[0] }),
      1,
    ],
  ];
  for (const [key, title, name, filter, words] of parts) {
    const rows = kinds[key].rows;
    const most = Math.max(1, ...rows.flatMap((row) => row.slice(words, words + data.runs.length)));
    const list = rows.map((row) => {
      const counts = row.slice(words, words + data.runs.length);
      const spoken = row[words + data.runs.length];
      return bar(
        name(row),
        counts.map(whole).join(" · ") + (spoken ? ` of ${whole(spoken)}` : ""),
        counts.map((one) => one / most),
        null,
        (event) => choose(filter(row), event.currentTarget),
      );
    });
    const rest = kinds[key].kinds - rows.length;
    place
      .querySelector(".columns")
      .append(
        el(
          "div",
          { class: "card" },
          el("h3", {}, `${title} (${kinds[key].totals.map(whole).join(" · ")})`),
          list.length
            ? el("ul", { class: "bars", tabindex: "0", "aria-label": title }, list)
            : el("p", { class: "soft" }, "None."),
          rest > 0 ? el("p", { class: "soft" }, `and ${whole(rest)} other kinds`) : null,
        ),
      );
  }
}

function groups() {
  if (!data.groups) {
    return;
  }
  const place = section("groups");
  place.querySelector(".lead").textContent =
    `${data.metric} of groups of utterances on ${data.split}, with 95 % intervals as thin lines where there are any.`;
  const titles = {
    length: `By length, in ${NOUN}s`,
    rate: `By speaking rate, in ${NOUN}s a second`,
    speaker: "By speaker",
  };
  for (const [key, rows] of Object.entries(data.groups)) {
    if (!rows.length) {
      continue;
    }
    const most = Math.max(1e-9, ...rows.flatMap((row) => row.rates.map((rate) => rate || 0))) * 1.25;
    const list = rows.map((row) =>
      bar(
        el("bdi", {}, row.name),
        `${row.rates.map((rate) => percent(rate, 1)).join(" · ")}, ${counted(row.utterances, "utterance")}`,
        row.rates.map((rate) => (rate || 0) / most),
        row.intervals.map((ends) => ends && ends.map((end) => end / most)),
        key === "speaker" ? (event) => choose({ speaker: row.name }, event.currentTarget) : null,
      ),
    );
    place
      .querySelector(".columns")
      .append(
        el(
          "div",
          { class: "card" },
          el("h3", {}, titles[key]),
          el("ul", { class: "bars", tabindex: "0", "aria-label": titles[key] }, list),
        ),
      );
  }
}

function settings() {
  const place = section("settings").querySelector(".body");
  data.runs.forEach((run, number) => {
    for (const [name, text] of Object.entries(run.files)) {
      place.append(
        el(
          "details",
          {},
          el("summary", {}, (two ? `${SIDES[number].toUpperCase()}: ` : "") + name),
          el("pre", {}, text),
        ),
      );
    }
  });
}
