// A waveform with words over it, as wide as its recording needs: the canvas is as wide as what can be seen, and stays in place while
// its container scrolls.

export const BINS = 100; // peaks per second
const ROW = 22, ROWS = 3, GAP = 6; // of the words: height of a row, rows, space between words; pixels
const EDGE = 10; // pixels left free on both sides
const SLOWEST = 110; // pixels per second at the least, so that words fit

export class Wave {
  constructor(view, canvas, span, chosen) {
    Object.assign(this, { view, canvas, span, peaks: [], words: [], seconds: 0, now: null, live: false });
    view.addEventListener("scroll", () => this.draw());
    view.addEventListener("click", (event) => this.seconds && chosen(this.timeAt(event)));
    new ResizeObserver(() => this.layout()).observe(view);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  show(changes) { // of peaks, words, seconds, now, live
    Object.assign(this, changes);
    this.layout();
  }

  add(peaks) {
    for (const peak of peaks) this.peaks.push(peak);
    this.seconds = this.peaks.length / BINS;
    this.layout();
  }

  layout() {
    const width = this.view.clientWidth;
    this.scale = this.live ? SLOWEST : Math.max(SLOWEST, (width - 2 * EDGE) / Math.max(this.seconds, 0.5));
    this.span.style.width = `${Math.max(width, Math.ceil(this.at(this.seconds) + EDGE))}px`;
    this.placeWords();
    if (this.live) this.view.scrollLeft = this.view.scrollWidth;
    this.draw();
  }

  at(seconds) { // pixels from the left
    return EDGE + seconds * this.scale;
  }

  placeWords() { // each in the first row where it has room
    const pen = this.canvas.getContext("2d"), ends = new Array(ROWS).fill(-Infinity);
    pen.font = this.font();
    this.placed = this.words.map((word) => {
      const left = this.at(word.start), width = pen.measureText(word.word).width;
      let row = ends.findIndex((end) => end <= left);
      if (row < 0) row = ends.indexOf(Math.min(...ends));
      const x = Math.max(left, ends[row]);
      ends[row] = x + width + GAP;
      return { word, x, width, row };
    });
  }

  font() {
    return `600 14px ${getComputedStyle(document.body).fontFamily}`;
  }

  timeAt(event) {
    const x = event.clientX - this.view.getBoundingClientRect().left + this.view.scrollLeft;
    const y = event.clientY - this.view.getBoundingClientRect().top;
    const hit = this.placed.find((one) => x >= one.x - 2 && x <= one.x + one.width + 2 && Math.floor((y - 4) / ROW) === one.row);
    return hit ? hit.word.start : Math.max(0, Math.min((x - EDGE) / this.scale, this.seconds));
  }

  follow(seconds) { // while it plays: keep the place in sight
    this.now = seconds;
    const x = this.at(seconds), left = this.view.scrollLeft, width = this.view.clientWidth;
    if (x < left || x > left + width * 0.9) this.view.scrollLeft = x - width * 0.1;
    this.draw();
  }

  draw() {
    const width = this.view.clientWidth, height = this.view.clientHeight, dots = devicePixelRatio || 1, left = this.view.scrollLeft;
    if (!width) return;
    this.canvas.width = Math.round(width * dots);
    this.canvas.height = Math.round(height * dots);
    const pen = this.canvas.getContext("2d"), colours = getComputedStyle(document.documentElement);
    const colour = (name) => colours.getPropertyValue(`--${name}`);
    pen.scale(dots, dots);
    const top = ROW * ROWS + 8, middle = (top + height) / 2, half = (height - top) / 2 - 8;
    pen.fillStyle = colour("heard");
    for (const { start, end } of this.words) pen.fillRect(this.at(start) - left, top, Math.max(2, (end - start) * this.scale), height - top);
    this.drawWave(pen, left, width, middle, half, colour("wave"));
    pen.font = this.font();
    pen.textBaseline = "middle";
    const seen = this.placed.filter(({ x, width: wide }) => x + wide >= left && x <= left + width), line = (row) => 4 + ROW * (row + 0.5);
    pen.fillStyle = colour("line");
    for (const { word, row } of seen) pen.fillRect(Math.round(this.at(word.start) - left), line(row) + ROW / 2 - 2, 1, height);
    for (const { word, x, width: wide, row } of seen) {
      const said = this.now !== null && this.now >= word.start && this.now < word.end, y = line(row);
      pen.fillStyle = colour("card");
      pen.fillRect(x - left - 1, y - 8, wide + 2, 16);
      pen.fillStyle = colour(said ? "ours" : "ink");
      pen.fillText(word.word, x - left, y);
    }
    if (this.now !== null) {
      pen.fillStyle = colour("mark");
      pen.fillRect(this.at(this.now) - left - 1, 0, 2, height);
    }
  }

  drawWave(pen, left, width, middle, half, colour) {
    pen.fillStyle = colour;
    pen.fillRect(0, middle - 0.5, width, 1);
    const loudest = Math.max(0.05, this.loudest());
    for (let x = Math.max(0, EDGE - left); x < width; x += 3) {
      const from = Math.max(0, Math.floor(((x + left - EDGE) / this.scale) * BINS)), to = Math.max(from + 1, Math.floor(((x + 3 + left - EDGE) / this.scale) * BINS));
      if (from >= this.peaks.length) break;
      let peak = 0;
      for (let bin = from; bin < to && bin < this.peaks.length; bin++) peak = Math.max(peak, this.peaks[bin]);
      const high = Math.max(1, (peak / loudest) * half);
      pen.fillRect(x, middle - high, 2, 2 * high);
    }
  }

  loudest() { // of all, seen or not: the scale does not jump while one scrolls
    if (this.measured !== this.peaks.length || this.of !== this.peaks) {
      const from = this.of === this.peaks && this.measured < this.peaks.length ? this.measured : 0;
      let most = from ? this.most : 0;
      for (let bin = from; bin < this.peaks.length; bin++) most = Math.max(most, this.peaks[bin]);
      Object.assign(this, { most, of: this.peaks, measured: this.peaks.length });
    }
    return this.most;
  }
}

export function peaksOf(samples, rate) { // of float samples: the largest of each bin
  const bins = new Float32Array(Math.ceil((samples.length / rate) * BINS));
  for (let i = 0; i < samples.length; i++) {
    const bin = Math.floor((i / rate) * BINS), size = Math.abs(samples[i]);
    if (size > bins[bin]) bins[bin] = size;
  }
  return Array.from(bins);
}
