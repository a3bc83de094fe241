// An utterance from near: player, waveform, spectrogram, emissions and alignment over one time axis.

const LANE = 20, WAVE = 56, MEL = 112, AXIS = 18;

function opener(place, number, id, steps) {
  const button = el("button", { type: "button", class: "plain", "aria-expanded": "false", "aria-label": `Hear and see ${id}` }, "Listen ▾");
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    button.textContent = open ? "Listen ▾" : "Close ▴";
    if (open) { place.querySelector(".closeup").dispatchEvent(new Event("close")); place.replaceChildren(); } else place.append(closeup(JSON.parse(document.getElementById(`closeup-${number}`).textContent), id, steps));
  });
  return button;
}

function palette() {
  const stops = [0, 1, 2, 3].map((number) => colour(`shade-${number}`)).map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return Array.from({ length: 256 }, (_, value) => {
    const at = (value / 255) * 3, low = Math.min(2, Math.floor(at));
    return stops[low].map((one, channel) => one + (stops[low + 1][channel] - one) * (at - low));
  });
}

// A picture of rows x columns shades; the first row below where `upward`.
function shaded(shades, rows, columns, colours, upward) {
  const canvas = el("canvas", { width: Math.max(1, columns), height: Math.max(1, rows) }), context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
  for (let row = 0; row < rows; row += 1) {
    for (let column = 0; column < columns; column += 1) {
      const at = 4 * ((upward ? rows - 1 - row : row) * columns + column), [r, g, b] = colours[shades[row * columns + column]];
      image.data.set([r, g, b, 255], at);
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// What is drawn from top to bottom: [name of the row, or names of its lines; height; draw(context, width, seconds to x)].
function tracks(one, steps) {
  const colours = palette(), wave = new Int8Array(bytes(one.peaks).buffer), n = wave.length / 2, mel = one.spectrogram;
  const found = [
    { names: [""], height: AXIS, draw: (c, w, x) => { c.fillStyle = colour("soft"); for (const at of ticks(0, one.seconds, Math.max(2, Math.min(12, w / 90)))) { if (x(at) < w - 30) c.fillText(`${at} s`, x(at) + 3, 13); c.fillRect(x(at), 4, 1, AXIS - 4); } } },
    { names: ["wave"], height: WAVE, draw: (c, w) => { const top = Math.max(1, ...wave.map(Math.abs)); c.fillStyle = colour("a"); for (let i = 0; i < n; i += 1) { const high = (wave[n + i] / top) * WAVE * 0.46, low = (wave[i] / top) * WAVE * 0.46; c.fillRect((i / n) * w, WAVE / 2 - high, Math.max(1, w / n), Math.max(1, high - low)); } } },
    { names: ["mel"], height: MEL, draw: (c, w, x) => { c.imageSmoothingEnabled = true; c.drawImage(shaded(bytes(mel.shades), mel.bands, mel.frames, colours, true), x(-mel.step / 2), 0, x(mel.frames * mel.step) , MEL); } },
  ];
  one.heard.forEach((heard, side) => {
    const mark = two && one.heard.length > 1 ? `${SIDES[side].toUpperCase()} ` : "";
    const phones = data.unit === "phone"; // each is a word of its own
    if (heard.reference && side === 0) found.push(lane(`${mark}ref`, heard.reference.words, steps[side], "ID"), ...(phones ? [] : [lane("", heard.reference.labels)]));
    const high = Math.max(9, Math.min(15, Math.round(240 / heard.labels.length)));
    found.push({ names: heard.labels, height: high * heard.labels.length, draw: (c, w, x) => {
      c.imageSmoothingEnabled = false;
      c.drawImage(shaded(bytes(heard.shades), heard.labels.length, heard.frames, colours, false), 0, 0, x(heard.frames * heard.frame), high * heard.labels.length);
    } });
    found.push(...(phones ? [] : [lane("", heard.hypothesis.labels)]), lane(`${mark}hyp`, heard.hypothesis.words, steps[side], "DI"));
  });
  return found;
}

// Words or labels as boxes along the time axis; `steps` colours them where it has a letter for each, less the one of `others`.
function lane(name, spans, steps, [other] = "") {
  const letters = steps ? [...steps].filter((one) => one !== other) : [], boxed = other !== undefined;
  return { names: [name], height: LANE, draw: (c, w, x) => {
    c.textAlign = "center";
    let free = 0; // from where on a text is not written over the one before it
    spans.forEach(([text, start, end], number) => {
      const letter = letters.length === spans.length && letters[number] !== "=" ? { S: "sub", D: "del", I: "ins" }[letters[number]] : null;
      if (boxed) { c.fillStyle = letter ? colour(`${letter}-bg`) : colour("fill"); c.fillRect(x(start) + 0.5, 1.5, Math.max(1, x(end) - x(start) - 1), LANE - 3); }
      else { c.fillStyle = colour("line"); c.fillRect(x(start), 0, 1, LANE); }
      c.fillStyle = letter ? colour(letter) : colour("ink");
      const most = boxed ? Math.max(14, x(end) - x(start)) : Infinity, middle = (x(start) + x(end)) / 2, half = Math.min(most, c.measureText(text).width) / 2;
      if (middle - half < free) return;
      c.fillText(text, middle, LANE - 6, 2 * half);
      free = middle + half;
    });
    c.textAlign = "left";
  } };
}

function closeup(one, id, steps) {
  const sound = el("audio", { controls: true, preload: "auto", src: `data:audio/flac;base64,${one.audio}`, "aria-label": `Sound of ${id}` });
  const gutter = el("canvas", { class: "gutter", "aria-hidden": "true" }), canvas = el("canvas", { "aria-hidden": "true" }), cursor = el("div", { class: "cursor" });
  const inner = el("div", { class: "inner", tabindex: "0", role: "slider", "aria-label": `Place in ${id}: arrows move, space plays`, "aria-valuemin": "0", "aria-valuemax": one.seconds.toFixed(2) }, canvas, cursor);
  const over = el("div", { class: "over" }, inner), readout = el("p", { class: "soft readout" });
  const zoom = el("select", { "aria-label": "Zoom" }, [["1", "whole"], ["2", "2 x"], ["4", "4 x"], ["8", "8 x"]].map(([value, name]) => el("option", { value }, name)));
  const box = el("div", { class: "closeup" }, sound, el("div", { class: "stage" }, gutter, over), readout, el("div", { class: "controls" }, el("label", { class: "soft" }, "Zoom ", zoom)), times(one));
  let width = 0;

  function draw() {
    const list = tracks(one, steps), height = list.reduce((sum, track) => sum + track.height, 0), scale = Math.min(2, window.devicePixelRatio || 1);
    const least = Math.max(over.clientWidth, Math.min(1400, one.seconds * 150));
    width = Math.min(8000, least * Number(zoom.value));
    const x = (seconds) => (seconds / one.seconds) * width;
    for (const [target, wide] of [[canvas, width], [gutter, 40]]) {
      Object.assign(target, { width: wide * scale, height: height * scale });
      target.style.width = `${wide}px`;
      target.style.height = `${height}px`;
    }
    inner.style.width = `${width}px`;
    const c = canvas.getContext("2d"), g = gutter.getContext("2d");
    for (const context of [c, g]) { context.scale(scale, scale); context.font = "12px system-ui, sans-serif"; }
    g.fillStyle = colour("soft");
    g.textAlign = "right";
    for (const track of list) {
      c.save();
      c.beginPath();
      c.rect(0, 0, width, track.height);
      c.clip();
      track.draw(c, width, x);
      c.restore();
      const each = track.height / track.names.length;
      g.font = `${Math.min(12, each + 1)}px system-ui, sans-serif`;
      track.names.forEach((name, number) => g.fillText(name, 34, (number + 0.5) * each + 4, 32));
      for (const context of [c, g]) context.translate(0, track.height);
    }
    follow();
  }

  function follow() {
    const at = sound.currentTime;
    cursor.style.left = `${(at / one.seconds) * width}px`;
    inner.setAttribute("aria-valuenow", at.toFixed(2));
    tell(at);
    const place = (at / one.seconds) * width;
    if (!sound.paused && (place < over.scrollLeft || place > over.scrollLeft + over.clientWidth * 0.95)) over.scrollLeft = place - over.clientWidth * 0.2;
    if (!sound.paused && box.isConnected) requestAnimationFrame(follow);
  }

  function tell(at) {
    const parts = one.heard.map((heard) => {
      const frame = Math.min(heard.frames - 1, Math.floor(at / heard.frame));
      if (frame < 0) return "";
      heard.values = heard.values || bytes(heard.shades);
      const best = heard.labels.map((label, row) => [heard.values[row * heard.frames + frame] / 255, label]).sort((p, q) => q[0] - p[0]).slice(0, 3);
      return best.filter(([value]) => value >= 0.01).map(([value, label]) => `${label} ${value.toFixed(2)}`).join("  ");
    });
    readout.textContent = `${at.toFixed(2)} s   ${parts.join("  |  ")}`;
  }

  const seconds = (event) => Math.max(0, Math.min(one.seconds, ((event.clientX - inner.getBoundingClientRect().left) / width) * one.seconds));
  inner.addEventListener("pointermove", (event) => { if (sound.paused) tell(seconds(event)); });
  inner.addEventListener("click", (event) => { sound.currentTime = seconds(event); follow(); });
  inner.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -0.1, ArrowRight: 0.1, Home: -Infinity, End: Infinity }[event.key];
    if (by !== undefined) sound.currentTime = Math.max(0, Math.min(one.seconds, sound.currentTime + by));
    else if (event.key === " ") { if (sound.paused) sound.play(); else sound.pause(); } else return;
    event.preventDefault();
    follow();
  });
  for (const name of ["play", "seeked", "pause", "loadedmetadata"]) sound.addEventListener(name, follow);
  zoom.addEventListener("change", draw);
  const dark = window.matchMedia("(prefers-color-scheme: dark)"), watch = new ResizeObserver(() => draw());
  requestAnimationFrame(() => watch.observe(over));
  dark.addEventListener("change", draw);
  box.addEventListener("close", () => { sound.pause(); watch.disconnect(); dark.removeEventListener("change", draw); });
  return box;
}

function times(one) {
  const rows = one.heard.flatMap((heard, side) => [["reference", side ? null : heard.reference], [two && one.heard.length > 1 ? `hypothesis ${SIDES[side].toUpperCase()}` : "hypothesis", heard.hypothesis]].flatMap(([name, found]) => (found ? found.words : []).map(([text, start, end, confidence]) => [name, text, start.toFixed(2), end.toFixed(2), confidence.toFixed(2)])));
  const head = ["", data.unit === "phone" ? "phone" : "word", "from (s)", "to (s)", "posterior"];
  return el("details", {}, el("summary", {}, "Times"), el("div", { class: "times", tabindex: "0" }, el("table", {}, el("thead", {}, el("tr", {}, head.map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell) => el("td", {}, cell))))))));
}

// ---------------------------------------------------------------------------------------------------------------------

head();
curves();
confusions();
groups();
utterances();
suspects();
settings();
document.getElementById("foot").append(el("p", {}, `asr_exp ${data.version}. ${data.legend}`));
