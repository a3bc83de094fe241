// The utterances: which are view, in what order, a page of them at a time.

const PAGE = 25;
const view = { filter: null, query: "", order: "errors", wrong: false, sound: false, page: 0 };
let pressed = null;

// Words of reference and hypothesis in columns, coloured by the letters of the alignment.
function aligned(reference, hypothesis, steps) {
  const r = units(reference);
  const h = units(hypothesis);
  const tight = data.unit === "character";
  const box = el("div", { class: `alignment${tight ? " tight" : ""}`, dir: "auto", "aria-hidden": "true" });
  let i = 0;
  let j = 0;
  for (const step of steps || "=".repeat(r.length)) {
    const referenceUnit = step === "I" ? "\u00a0" : r[i];
    const hypothesisUnit = step === "D" ? "\u00a0" : h[j];
    box.append(
      el(
        "span",
        { class: `pair ${step === "=" ? "" : step}` },
        el("span", { class: "r" }, referenceUnit),
        el("span", { class: "h" }, hypothesisUnit),
      ),
    );
    i += step !== "I";
    j += step !== "D";
  }
  if (!box.children.length) {
    box.append(el("span", { class: "soft" }, "nothing said, nothing heard"));
  }
  return [
    box,
    el(
      "p",
      { class: "hidden" },
      `Reference: ${reference || "nothing"}. Hypothesis: ${hypothesis || "nothing"}.`,
    ),
  ];
}

const errorsOf = (steps) => steps.length - steps.replace(/[SDI]/g, "").length;

// Whether an utterance has the error that was chosen.
function hasError(row, { kind, reference, hypothesis, speaker }) {
  const all = data.utterances;
  if (speaker !== undefined) {
    return (all.speaker[row] || "unknown") === speaker;
  }
  const r = units(all.reference[row]);
  return data.runs.some((_, side) => {
    const steps = all.steps[side][row];
    if (!steps.includes(kind)) {
      return false;
    }
    const h = units(all.hypothesis[side][row]);
    let i = 0;
    let j = 0;
    for (const step of steps) {
      if (step === kind && (kind === "I" || r[i] === reference) && (kind === "D" || h[j] === hypothesis)) {
        return true;
      }
      i += step !== "I";
      j += step !== "D";
    }
    return false;
  });
}

function choose(filter, button) {
  const again = pressed === button;
  if (pressed) {
    pressed.setAttribute("aria-pressed", "false");
  }
  pressed = again ? null : button;
  if (pressed) {
    pressed.setAttribute("aria-pressed", "true");
  }
  Object.assign(view, { filter: again ? null : filter, page: 0 });
  list();
  if (!again) {
    document.getElementById("utterances").scrollIntoView();
  }
}

function filterName({ kind, reference, hypothesis, speaker }) {
  if (speaker !== undefined) {
    return `speaker ${speaker}`;
  }
  if (kind === "S") {
    return `${reference} → ${hypothesis}`;
  }
  return kind === "D" ? `${reference} deleted` : `${hypothesis} inserted`;
}

const orders = {
  errors: ["Most errors", (one) => -one.errors],
  rate: ["Highest rate", (one) => -one.rate],
  loss: ["Highest loss", (one) => -one.loss],
  longest: ["Longest", (one) => -one.seconds],
  shortest: ["Shortest", (one) => one.seconds],
  split: ["As in the split", (one) => one.row],
  ...(two
    ? {
        a: ["B worse than A", (one) => one.counts[0] - one.counts[1]],
        b: ["A worse than B", (one) => one.counts[1] - one.counts[0]],
      }
    : {}),
};
let rows = [];

function makeRows() {
  const all = data.utterances;
  rows = all.id.map((id, row) => {
    const counts = data.runs.map((_, side) => errorsOf(all.steps[side][row]));
    const length = units(all.reference[row]).length;
    const errors = Math.max(...counts);
    const losses = data.runs.map((_, side) => all.loss[side][row]);
    return {
      row,
      counts,
      errors,
      length,
      rate: length ? errors / length : errors ? Infinity : 0,
      seconds: all.seconds[row],
      loss: Math.max(...losses.map((one) => (one === null ? -Infinity : one))),
      text: [
        id,
        all.speaker[row] || "",
        all.reference[row],
        ...data.runs.map((_, side) => all.hypothesis[side][row]),
      ]
        .join("\n")
        .toLowerCase(),
    };
  });
}

function selectedRows() {
  const words = view.query.toLowerCase().split(/\s+/).filter(Boolean);
  const [, key] = orders[view.order];
  const selected = rows.filter(
    (one) =>
      (!view.wrong || one.errors) &&
      (!view.sound || data.details[one.row] !== undefined) &&
      words.every((word) => one.text.includes(word)) &&
      (!view.filter || hasError(one.row, view.filter)),
  );
  return selected.sort((x, y) => key(x) - key(y) || x.row - y.row);
}

function item(one) {
  const all = data.utterances;
  const row = one.row;
  const detail = data.details[row];
  const place = el("div", {});
  const facts = [
    all.speaker[row],
    `${all.seconds[row].toFixed(1)} s`,
    one.counts
      .map((count, side) => `${two ? `${SIDES[side].toUpperCase()} ` : ""}${counted(count, "error")}`)
      .join(", ") + ` in ${counted(one.length, NOUN)}`,
    Number.isFinite(one.loss) ? `loss ${short(one.loss)}` : null,
  ];
  const bodies = data.runs.map((_, side) =>
    aligned(all.reference[row], all.hypothesis[side][row], all.steps[side][row]),
  );
  const who = (side) =>
    el(
      "div",
      { class: "who", "aria-hidden": "true" },
      el("span", {}, "ref"),
      el("span", { class: two ? SIDES[side] : null }, two ? SIDES[side].toUpperCase() : "hyp"),
    );
  return el(
    "li",
    {},
    el(
      "div",
      { class: "meta" },
      el("span", { class: "id", dir: "auto" }, all.id[row]),
      facts.filter(Boolean).map((fact) => el("span", {}, fact)),
      detail === undefined
        ? null
        : opener(
            place,
            detail,
            all.id[row],
            data.runs.map((_, side) => all.steps[side][row]),
          ),
    ),
    bodies.map((body, side) => el("div", { class: "rows" }, who(side), ...body)),
    place,
  );
}

function list() {
  const place = document.querySelector("#utterances .body");
  const selected = selectedRows();
  const pages = Math.max(1, Math.ceil(selected.length / PAGE));
  view.page = Math.min(view.page, pages - 1);
  const from = view.page * PAGE;
  const here = selected.slice(from, from + PAGE);
  const turn = (by) => () => {
    view.page += by;
    list();
    document.getElementById("utterances").scrollIntoView();
  };
  const chip = view.filter
    ? el(
        "button",
        { type: "button", class: "plain", onclick: () => choose(view.filter, pressed) },
        `${filterName(view.filter)} ✕`,
      )
    : null;
  const range = selected.length ? `${whole(from + 1)} to ${whole(from + here.length)} of ` : "";
  const count = place.querySelector(".count");
  count.replaceChildren(`${range}${counted(selected.length, "utterance")} `, ...(chip ? [chip] : []));
  place.querySelectorAll(".detail").forEach((one) => one.dispatchEvent(new Event("close")));
  place.querySelector(".list").replaceChildren(...here.map(item));
  place.querySelector(".list").hidden = !here.length;
  const [before, at, after] = place.querySelector(".turn").children;
  before.disabled = !view.page;
  after.disabled = view.page >= pages - 1;
  before.onclick = turn(-1);
  after.onclick = turn(1);
  at.textContent = `page ${whole(view.page + 1)} of ${whole(pages)}`;
  place.querySelector(".turn").hidden = pages < 2;
}

function utterances() {
  if (!data.utterances) {
    return;
  }
  const place = section("utterances");
  const losses = data.utterances.loss.some((side) => side.some((one) => one !== null));
  const details = Object.keys(data.details).length;
  const audible = details ? `${counted(details, "utterance")} can be heard, with emissions.` : "";
  place.querySelector(".lead").textContent =
    `What was said of each on ${data.split}: the reference above, the hypothesis under it. ${audible}`;
  const set = (name, value) => {
    view[name] = value;
    view.page = 0;
    list();
  };
  let waiting;
  const search = el("input", {
    type: "search",
    placeholder: "words, id or speaker",
    oninput: (event) => {
      clearTimeout(waiting);
      waiting = setTimeout(() => set("query", event.target.value), 120);
    },
  });
  const choices = Object.entries(orders)
    .filter(([name]) => name !== "loss" || losses)
    .map(([name, [title]]) => el("option", { value: name }, title));
  const tick = (name, title) =>
    el(
      "label",
      { class: "tick" },
      el("input", { type: "checkbox", onchange: (event) => set(name, event.target.checked) }),
      title,
    );
  place
    .querySelector(".body")
    .append(
      el(
        "div",
        { class: "tools" },
        el("label", { class: "wide" }, "Search", search),
        el(
          "label",
          {},
          "Order",
          el("select", { onchange: (event) => set("order", event.target.value) }, choices),
        ),
        tick("wrong", "with errors"),
        details ? tick("sound", "with sound") : null,
      ),
      el("div", { class: "pager" }, el("span", { class: "count soft", role: "status" })),
      el("ul", { class: "list" }),
      el(
        "div",
        { class: "pager turn" },
        el("button", { type: "button", class: "plain" }, "Previous"),
        el("span", { class: "soft" }),
        el("button", { type: "button", class: "plain" }, "Next"),
      ),
    );
  makeRows();
  list();
}
