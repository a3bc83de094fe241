// The detail of an utterance: its player, its tracks over one time axis, and the times of its words.

function opener(place, number, id, steps) {
  const button = el(
    "button",
    { type: "button", class: "plain", "aria-expanded": "false", "aria-label": `Hear and see ${id}` },
    "Listen ▾",
  );
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    button.textContent = open ? "Listen ▾" : "Close ▴";
    if (open) {
      place.querySelector(".detail").dispatchEvent(new Event("close"));
      place.replaceChildren();
    } else {
      place.append(
        detailView(JSON.parse(document.getElementById(`detail-${number}`).textContent), id, steps),
      );
    }
  });
  return button;
}

function detailView(detail, id, steps) {
  const sound = el("audio", {
    controls: true,
    preload: "auto",
    src: `data:audio/flac;base64,${detail.audio}`,
    "aria-label": `Sound of ${id}`,
  });
  const gutter = el("canvas", { class: "gutter", "aria-hidden": "true" });
  const canvas = el("canvas", { "aria-hidden": "true" });
  const cursor = el("div", { class: "cursor" });
  const inner = el(
    "div",
    {
      class: "inner",
      tabindex: "0",
      role: "slider",
      "aria-label": `Place in ${id}: arrows move, space plays`,
      "aria-valuemin": "0",
      "aria-valuemax": detail.seconds.toFixed(2),
    },
    canvas,
    cursor,
  );
  const over = el("div", { class: "over" }, inner);
  const readout = el("p", { class: "soft readout" });
  const zoom = el(
    "select",
    { "aria-label": "Zoom" },
    [
      ["1", "whole"],
      ["2", "2 x"],
      ["4", "4 x"],
      ["8", "8 x"],
    ].map(([value, name]) => el("option", { value }, name)),
  );
  const box = el(
    "div",
    { class: "detail" },
    sound,
    el("div", { class: "stage" }, gutter, over),
    readout,
    el("div", { class: "controls" }, el("label", { class: "soft" }, "Zoom ", zoom)),
    times(detail),
  );
  let width = 0;

  function draw() {
    const list = tracks(detail, steps);
    const height = list.reduce((sum, track) => sum + track.height, 0);
    const scale = Math.min(2, window.devicePixelRatio || 1);
    const least = Math.max(over.clientWidth, Math.min(1400, detail.seconds * 150));
    width = Math.min(8000, least * Number(zoom.value));
    const x = (seconds) => (seconds / detail.seconds) * width;
    for (const [target, wide] of [
      [canvas, width],
      [gutter, 40],
    ]) {
      Object.assign(target, { width: wide * scale, height: height * scale });
      target.style.width = `${wide}px`;
      target.style.height = `${height}px`;
    }
    inner.style.width = `${width}px`;
    const c = canvas.getContext("2d");
    const g = gutter.getContext("2d");
    for (const context of [c, g]) {
      context.scale(scale, scale);
      context.font = "12px system-ui, sans-serif";
    }
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
      for (const context of [c, g]) {
        context.translate(0, track.height);
      }
    }
    follow();
  }

  function follow() {
    const at = sound.currentTime;
    cursor.style.left = `${(at / detail.seconds) * width}px`;
    inner.setAttribute("aria-valuenow", at.toFixed(2));
    showPosteriors(at);
    const place = (at / detail.seconds) * width;
    if (!sound.paused && (place < over.scrollLeft || place > over.scrollLeft + over.clientWidth * 0.95)) {
      over.scrollLeft = place - over.clientWidth * 0.2;
    }
    if (!sound.paused && box.isConnected) {
      requestAnimationFrame(follow);
    }
  }

  function showPosteriors(at) {
    const parts = detail.analyses.map((analysis) => {
      const frame = Math.min(analysis.frames - 1, Math.floor(at / analysis.frame));
      if (frame < 0) {
        return "";
      }
      analysis.values = analysis.values || bytes(analysis.shades);
      const best = analysis.labels
        .map((label, row) => [analysis.values[row * analysis.frames + frame] / 255, label])
        .sort((p, q) => q[0] - p[0])
        .slice(0, 3);
      return best
        .filter(([value]) => value >= 0.01)
        .map(([value, label]) => `${label} ${value.toFixed(2)}`)
        .join("  ");
    });
    readout.textContent = `${at.toFixed(2)} s   ${parts.join("  |  ")}`;
  }

  const seconds = (event) =>
    Math.max(
      0,
      Math.min(
        detail.seconds,
        ((event.clientX - inner.getBoundingClientRect().left) / width) * detail.seconds,
      ),
    );
  inner.addEventListener("pointermove", (event) => {
    if (sound.paused) {
      showPosteriors(seconds(event));
    }
  });
  inner.addEventListener("click", (event) => {
    sound.currentTime = seconds(event);
    follow();
  });
  inner.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -0.1, ArrowRight: 0.1, Home: -Infinity, End: Infinity }[event.key];
    if (by !== undefined) {
      sound.currentTime = Math.max(0, Math.min(detail.seconds, sound.currentTime + by));
    } else if (event.key === " ") {
      if (sound.paused) {
        sound.play();
      } else {
        sound.pause();
      }
    } else {
      return;
    }
    event.preventDefault();
    follow();
  });
  for (const name of ["play", "seeked", "pause", "loadedmetadata"]) {
    sound.addEventListener(name, follow);
  }
  zoom.addEventListener("change", draw);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const watch = new ResizeObserver(() => draw());
  requestAnimationFrame(() => watch.observe(over));
  dark.addEventListener("change", draw);
  box.addEventListener("close", () => {
    sound.pause();
    watch.disconnect();
    dark.removeEventListener("change", draw);
  });
  return box;
}

function times(detail) {
  const rows = detail.analyses.flatMap((analysis, side) =>
    [
      ["reference", side ? null : analysis.reference],
      [
        two && detail.analyses.length > 1 ? `hypothesis ${SIDES[side].toUpperCase()}` : "hypothesis",
        analysis.hypothesis,
      ],
    ].flatMap(([name, aligned]) =>
      (aligned ? aligned.words : []).map(([text, start, end, confidence]) => [
        name,
        text,
        start.toFixed(2),
        end.toFixed(2),
        confidence.toFixed(2),
      ]),
    ),
  );
  const head = ["", data.unit === "phone" ? "phone" : "word", "from (s)", "to (s)", "posterior"];
  return el(
    "details",
    {},
    el("summary", {}, "Times"),
    el(
      "div",
      { class: "times", tabindex: "0" },
      el(
        "table",
        {},
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            head.map((name) => el("th", { scope: "col" }, name)),
          ),
        ),
        el(
          "tbody",
          {},
          rows.map((row) =>
            el(
              "tr",
              {},
              row.map((cell) => el("td", {}, cell)),
            ),
          ),
        ),
      ),
    ),
  );
}
