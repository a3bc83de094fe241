// What the detail of an utterance draws: waveform, spectrogram, emissions and alignment over one time axis.

const LANE = 20;
const WAVE = 56;
const MEL = 112;
const AXIS = 18;

function palette() {
  const stops = [0, 1, 2, 3]
    .map((number) => colour(`shade-${number}`))
    .map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return Array.from({ length: 256 }, (_, value) => {
    const at = (value / 255) * 3;
    const low = Math.min(2, Math.floor(at));
    return stops[low].map((one, channel) => one + (stops[low + 1][channel] - one) * (at - low));
  });
}

// An image of shades, rows x columns. Its first row is at the bottom where `upward`.
function shaded(shades, rows, columns, colours, upward) {
  const canvas = el("canvas", { width: Math.max(1, columns), height: Math.max(1, rows) });
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let row = 0; row < rows; row += 1) {
    for (let column = 0; column < columns; column += 1) {
      const at = 4 * ((upward ? rows - 1 - row : row) * columns + column);
      const [r, g, b] = colours[shades[row * columns + column]];
      image.data.set([r, g, b, 255], at);
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// The tracks from top to bottom. A track has names (of its row, or of its lines), a height in pixels, and
// draw(context, width, x), where x(seconds) is a place on the time axis.
function tracks(detail, steps) {
  const colours = palette();
  const wave = new Int8Array(bytes(detail.peaks).buffer);
  const n = wave.length / 2;
  const mel = detail.spectrogram;
  const list = [
    {
      names: [""],
      height: AXIS,
      draw: (c, w, x) => {
        c.fillStyle = colour("soft");
        for (const at of ticks(0, detail.seconds, Math.max(2, Math.min(12, w / 90)))) {
          if (x(at) < w - 30) {
            c.fillText(`${at} s`, x(at) + 3, 13);
          }
          c.fillRect(x(at), 4, 1, AXIS - 4);
        }
      },
    },
    {
      names: ["wave"],
      height: WAVE,
      draw: (c, w) => {
        const top = Math.max(1, ...wave.map(Math.abs));
        c.fillStyle = colour("a");
        for (let i = 0; i < n; i += 1) {
          const high = (wave[n + i] / top) * WAVE * 0.46;
          const low = (wave[i] / top) * WAVE * 0.46;
          c.fillRect((i / n) * w, WAVE / 2 - high, Math.max(1, w / n), Math.max(1, high - low));
        }
      },
    },
    {
      names: ["mel"],
      height: MEL,
      draw: (c, w, x) => {
        c.imageSmoothingEnabled = true;
        c.drawImage(
          shaded(bytes(mel.shades), mel.bands, mel.frames, colours, true),
          x(-mel.step / 2),
          0,
          x(mel.frames * mel.step),
          MEL,
        );
      },
    },
  ];
  detail.analyses.forEach((analysis, side) => {
    const mark = two && detail.analyses.length > 1 ? `${SIDES[side].toUpperCase()} ` : "";
    const phones = data.unit === "phone"; // each is a word of its own
    if (analysis.reference && side === 0) {
      list.push(
        lane(`${mark}ref`, analysis.reference.words, steps[side], "I"),
        ...(phones ? [] : [lane("", analysis.reference.labels)]),
      );
    }
    const high = Math.max(9, Math.min(15, Math.round(240 / analysis.labels.length)));
    list.push({
      names: analysis.labels,
      height: high * analysis.labels.length,
      draw: (c, w, x) => {
        c.imageSmoothingEnabled = false;
        c.drawImage(
          shaded(bytes(analysis.shades), analysis.labels.length, analysis.frames, colours, false),
          0,
          0,
          x(analysis.frames * analysis.frame),
          high * analysis.labels.length,
        );
      },
    });
    list.push(
      ...(phones ? [] : [lane("", analysis.hypothesis.labels)]),
      lane(`${mark}hyp`, analysis.hypothesis.words, steps[side], "D"),
    );
  });
  return list;
}

// A track of words or labels along the time axis. `steps` colours words where it has a letter for each of
// them; the letter `other`, of words that are not in this text, does not count.
function lane(name, spans, steps, other) {
  const letters = steps ? [...steps].filter((one) => one !== other) : [];
  const boxed = other !== undefined;
  return {
    names: [name],
    height: LANE,
    draw: (c, w, x) => {
      c.textAlign = "center";
      let free = 0; // from where on a text is not written over the one before it
      spans.forEach(([text, start, end], number) => {
        const letter =
          letters.length === spans.length && letters[number] !== "="
            ? { S: "sub", D: "del", I: "ins" }[letters[number]]
            : null;
        if (boxed) {
          c.fillStyle = letter ? colour(`${letter}-bg`) : colour("fill");
          c.fillRect(x(start) + 0.5, 1.5, Math.max(1, x(end) - x(start) - 1), LANE - 3);
        } else {
          c.fillStyle = colour("line");
          c.fillRect(x(start), 0, 1, LANE);
        }
        c.fillStyle = letter ? colour(letter) : colour("ink");
        const most = boxed ? Math.max(14, x(end) - x(start)) : Infinity;
        const middle = (x(start) + x(end)) / 2;
        const half = Math.min(most, c.measureText(text).width) / 2;
        if (middle - half < free) {
          return;
        }
        c.fillText(text, middle, LANE - 6, 2 * half);
        free = middle + half;
      });
      c.textAlign = "left";
    },
  };
}
