// The utterances: which are shown, in what order, a page of them at a time; and the suspected label errors.

const PAGE = 25;
const shown = { filter: null, query: "", order: "errors", wrong: false, sound: false, page: 0 };
let pressed = null;

// Words of reference and hypothesis in columns, coloured by the letters of the alignment.
function aligned(reference, hypothesis, steps) {
  const r = units(reference), h = units(hypothesis), tight = data.unit === "character";
  const box = el("div", { class: `alignment${tight ? " tight" : ""}`, dir: "auto", "aria-hidden": "true" });
  let i = 0, j = 0;
  for (const step of steps || "=".repeat(r.length)) {
    const said = step === "I" ? "\u00a0" : r[i], heard = step === "D" ? "\u00a0" : h[j];
    box.append(el("span", { class: `pair ${step === "=" ? "" : step}` }, el("span", { class: "r" }, said), el("span", { class: "h" }, heard)));
    i += step !== "I";
    j += step !== "D";
  }
  if (!box.children.length) box.append(el("span", { class: "soft" }, "nothing said, nothing heard"));
  return [box, el("p", { class: "hidden" }, `Reference: ${reference || "nothing"}. Hypothesis: ${hypothesis || "nothing"}.`)];
}

const errorsOf = (steps) => steps.length - steps.replace(/[SDI]/g, "").length;

// Whether an utterance has the error that was chosen.
function has(row, { kind, reference, hypothesis, speaker }) {
  const all = data.utterances;
  if (speaker !== undefined) return (all.speaker[row] || "unknown") === speaker;
  const r = units(all.reference[row]);
  return data.runs.some((_, side) => {
    const steps = all.steps[side][row];
    if (!steps.includes(kind)) return false;
    const h = units(all.hypothesis[side][row]);
    let i = 0, j = 0;
    for (const step of steps) {
      if (step === kind && (kind === "I" || r[i] === reference) && (kind === "D" || h[j] === hypothesis)) return true;
      i += step !== "I";
      j += step !== "D";
    }
    return false;
  });
}

function choose(filter, button) {
  const again = pressed === button;
  if (pressed) pressed.setAttribute("aria-pressed", "false");
  pressed = again ? null : button;
  if (pressed) pressed.setAttribute("aria-pressed", "true");
  Object.assign(shown, { filter: again ? null : filter, page: 0 });
  list();
  if (!again) document.getElementById("utterances").scrollIntoView();
}

function told({ kind, reference, hypothesis, speaker }) {
  if (speaker !== undefined) return `speaker ${speaker}`;
  return { S: `${reference} → ${hypothesis}`, D: `${reference} deleted`, I: `${hypothesis} inserted` }[kind];
}

const orders = {
  errors: ["Most errors", (one) => -one.errors],
  rate: ["Highest rate", (one) => -one.rate],
  loss: ["Highest loss", (one) => -one.loss],
  longest: ["Longest", (one) => -one.seconds],
  shortest: ["Shortest", (one) => one.seconds],
  split: ["As in the split", (one) => one.row],
  ...(two ? { a: ["B worse than A", (one) => one.counts[0] - one.counts[1]], b: ["A worse than B", (one) => one.counts[1] - one.counts[0]] } : {}),
};
let every = [];

function prepare() {
  const all = data.utterances;
  every = all.id.map((id, row) => {
    const counts = data.runs.map((_, side) => errorsOf(all.steps[side][row])), length = units(all.reference[row]).length;
    const errors = Math.max(...counts), losses = data.runs.map((_, side) => all.loss[side][row]);
    return { row, counts, errors, length, rate: length ? errors / length : errors ? Infinity : 0, seconds: all.seconds[row], loss: Math.max(...losses.map((one) => (one === null ? -Infinity : one))),
      text: [id, all.speaker[row] || "", all.reference[row], ...data.runs.map((_, side) => all.hypothesis[side][row])].join("\n").toLowerCase() };
  });
}

function picked() {
  const words = shown.query.toLowerCase().split(/\s+/).filter(Boolean), [, key] = orders[shown.order];
  const found = every.filter((one) => (!shown.wrong || one.errors) && (!shown.sound || data.closeups[one.row] !== undefined) && words.every((word) => one.text.includes(word)) && (!shown.filter || has(one.row, shown.filter)));
  return found.sort((x, y) => key(x) - key(y) || x.row - y.row);
}

function item(one) {
  const all = data.utterances, row = one.row, closeup = data.closeups[row];
  const place = el("div", {});
  const facts = [all.speaker[row], `${all.seconds[row].toFixed(1)} s`,
    one.counts.map((count, side) => `${two ? `${SIDES[side].toUpperCase()} ` : ""}${counted(count, "error")}`).join(", ") + ` in ${counted(one.length, NOUN)}`,
    Number.isFinite(one.loss) ? `loss ${short(one.loss)}` : null];
  const bodies = data.runs.map((_, side) => aligned(all.reference[row], all.hypothesis[side][row], all.steps[side][row]));
  const who = (side) => el("div", { class: "who", "aria-hidden": "true" }, el("span", {}, "ref"), el("span", { class: two ? SIDES[side] : null }, two ? SIDES[side].toUpperCase() : "hyp"));
  return el("li", {}, el("div", { class: "meta" }, el("span", { class: "id", dir: "auto" }, all.id[row]), facts.filter(Boolean).map((fact) => el("span", {}, fact)),
    closeup === undefined ? null : opener(place, closeup, all.id[row], data.runs.map((_, side) => all.steps[side][row]))),
    bodies.map((body, side) => el("div", { class: "rows" }, who(side), ...body)), place);
}

function list() {
  const place = document.querySelector("#utterances .body"), found = picked(), pages = Math.max(1, Math.ceil(found.length / PAGE));
  shown.page = Math.min(shown.page, pages - 1);
  const from = shown.page * PAGE, here = found.slice(from, from + PAGE);
  const turn = (by) => () => { shown.page += by; list(); document.getElementById("utterances").scrollIntoView(); };
  const chip = shown.filter ? el("button", { type: "button", class: "plain", onclick: () => choose(shown.filter, pressed) }, `${told(shown.filter)} ✕`) : null;
  place.querySelector(".count").replaceChildren(`${found.length ? `${whole(from + 1)} to ${whole(from + here.length)} of ` : ""}${counted(found.length, "utterance")} `, ...(chip ? [chip] : []));
  place.querySelectorAll(".closeup").forEach((one) => one.dispatchEvent(new Event("close")));
  place.querySelector(".list").replaceChildren(...here.map(item));
  place.querySelector(".list").hidden = !here.length;
  const [before, at, after] = place.querySelector(".turn").children;
  before.disabled = !shown.page;
  after.disabled = shown.page >= pages - 1;
  before.onclick = turn(-1);
  after.onclick = turn(1);
  at.textContent = `page ${whole(shown.page + 1)} of ${whole(pages)}`;
  place.querySelector(".turn").hidden = pages < 2;
}

function utterances() {
  if (!data.utterances) return;
  const place = section("utterances"), losses = data.utterances.loss.some((side) => side.some((one) => one !== null));
  place.querySelector(".lead").textContent = `What was said of each on ${data.split}: the reference above, the hypothesis under it. ${Object.keys(data.closeups).length ? `${counted(Object.keys(data.closeups).length, "utterance")} can be heard, with emissions.` : ""}`;
  const set = (name, value) => { shown[name] = value; shown.page = 0; list(); };
  let waiting;
  const search = el("input", { type: "search", placeholder: "words, id or speaker", oninput: (event) => { clearTimeout(waiting); waiting = setTimeout(() => set("query", event.target.value), 120); } });
  const choices = Object.entries(orders).filter(([name]) => name !== "loss" || losses).map(([name, [title]]) => el("option", { value: name }, title));
  const tick = (name, title) => el("label", { class: "tick" }, el("input", { type: "checkbox", onchange: (event) => set(name, event.target.checked) }), title);
  place.querySelector(".body").append(el("div", { class: "tools" }, el("label", { class: "wide" }, "Search", search), el("label", {}, "Order", el("select", { onchange: (event) => set("order", event.target.value) }, choices)),
    tick("wrong", "with errors"), Object.keys(data.closeups).length ? tick("sound", "with sound") : null), el("div", { class: "pager" }, el("span", { class: "count soft", role: "status" })), el("ul", { class: "list" }),
    el("div", { class: "pager turn" }, el("button", { type: "button", class: "plain" }, "Previous"), el("span", { class: "soft" }), el("button", { type: "button", class: "plain" }, "Next")));
  prepare();
  list();
}

function suspects() {
  if (!data.suspects.length) return;
  const place = section("suspects").querySelector(".body");
  for (const group of data.suspects) {
    place.append(el("h3", {}, group.title), el("p", { class: "soft" }, group.basis), el("ol", { class: "list" }, group.rows.map(suspect)));
  }
}

function suspect(one, number) {
  const under = el("div", { class: "under" }), facts = [one.speaker, `${one.seconds.toFixed(1)} s`, `score ${one.score.toFixed(1)}`];
  const meta = el("div", { class: "meta" }, el("span", {}, `${number + 1}.`), el("span", { class: "id", dir: "auto" }, one.id), facts.filter(Boolean).map((fact) => el("span", {}, fact)),
    one.closeup === null ? null : opener(under, one.closeup, one.id, [null]));
  const said = el("dl", { class: "said" }, el("dt", {}, "transcript"), el("dd", { dir: "auto" }, one.reference), el("dt", {}, "recognised"), el("dd", { dir: "auto" }, one.hypothesis || "nothing"));
  return el("li", { class: "suspect" }, meta, said, spark(one.losses, one.usual), under);
}
