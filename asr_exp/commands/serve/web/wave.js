// Draws a waveform with its words. The canvas is as wide as the visible part, and stays in place while its
// container scrolls.

export const PEAKS_PER_SECOND = 100;
const ROW_HEIGHT = 22; // pixels, as are the next four; words stand in rows above the waveform
const ROWS = 3;
const WORD_GAP = 6;
const MARGIN = 10; // left and right of the waveform
const MIN_SCALE = 110; // per second, so that words have room
const BAR_STEP = 3; // pixels from one bar of the waveform to the next

export class Wave {
  // container scrolls and holds the canvas; spacer is an element as wide as the whole waveform.
  // onSelect(seconds) is called when a word or a place of the waveform is clicked.
  constructor(container, canvas, spacer, onSelect) {
    this.container = container;
    this.canvas = canvas;
    this.spacer = spacer;
    this.peaks = [];
    this.words = [];
    this.seconds = 0;
    this.position = null; // of playback, in seconds
    this.live = false; // whether it is being recorded
    container.addEventListener("scroll", () => this.draw());
    container.addEventListener("click", (event) => this.seconds && onSelect(this.timeAt(event)));
    new ResizeObserver(() => this.layout()).observe(container);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  // Changes some of peaks, words, seconds, position and live.
  update(changes) {
    Object.assign(this, changes);
    this.layout();
  }

  addPeaks(peaks) {
    for (const peak of peaks) this.peaks.push(peak);
    this.seconds = this.peaks.length / PEAKS_PER_SECOND;
    this.layout();
  }

  layout() {
    const width = this.container.clientWidth;
    const fitting = (width - 2 * MARGIN) / Math.max(this.seconds, 0.5);
    this.scale = this.live ? MIN_SCALE : Math.max(MIN_SCALE, fitting); // pixels per second
    this.spacer.style.width = `${Math.max(width, Math.ceil(this.xOf(this.seconds) + MARGIN))}px`;
    this.placeWords();
    if (this.live) this.container.scrollLeft = this.container.scrollWidth;
    this.draw();
  }

  // Pixels from the left end of the waveform.
  xOf(seconds) {
    return MARGIN + seconds * this.scale;
  }

  // Gives each word the first row that has room for it.
  placeWords() {
    const context = this.canvas.getContext("2d");
    const ends = new Array(ROWS).fill(-Infinity);
    context.font = this.font();
    this.placed = this.words.map((word) => {
      const start = this.xOf(word.start);
      const width = context.measureText(word.word).width;
      let row = ends.findIndex((end) => end <= start);
      if (row < 0) row = ends.indexOf(Math.min(...ends));
      const x = Math.max(start, ends[row]);
      ends[row] = x + width + WORD_GAP;
      return { word, x, width, row };
    });
  }

  font() {
    return `600 14px ${getComputedStyle(document.body).fontFamily}`;
  }

  // The start of the word that is clicked, or else the time of the place.
  timeAt(event) {
    const box = this.container.getBoundingClientRect();
    const x = event.clientX - box.left + this.container.scrollLeft;
    const row = Math.floor((event.clientY - box.top - 4) / ROW_HEIGHT);
    const clicked = this.placed.find(
      (one) => x >= one.x - 2 && x <= one.x + one.width + 2 && row === one.row,
    );
    return clicked ? clicked.word.start : Math.max(0, Math.min((x - MARGIN) / this.scale, this.seconds));
  }

  // Shows the position of playback, and scrolls to it.
  follow(seconds) {
    this.position = seconds;
    const x = this.xOf(seconds);
    const left = this.container.scrollLeft;
    const width = this.container.clientWidth;
    if (x < left || x > left + width * 0.9) this.container.scrollLeft = x - width * 0.1;
    this.draw();
  }

  draw() {
    const width = this.container.clientWidth;
    const height = this.container.clientHeight;
    const left = this.container.scrollLeft;
    const pixelRatio = devicePixelRatio || 1;
    if (!width) return;
    this.canvas.width = Math.round(width * pixelRatio);
    this.canvas.height = Math.round(height * pixelRatio);
    const context = this.canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`);
    context.scale(pixelRatio, pixelRatio);
    this.drawWaveform(context, left, width, height, colour);
    this.drawWords(context, left, width, height, colour);
    if (this.position !== null) {
      context.fillStyle = colour("mark");
      context.fillRect(this.xOf(this.position) - left - 1, 0, 2, height);
    }
  }

  drawWaveform(context, left, width, height, colour) {
    const top = ROW_HEIGHT * ROWS + 8;
    const middle = (top + height) / 2;
    const half = (height - top) / 2 - 8;
    context.fillStyle = colour("word-band");
    for (const { start, end } of this.words) {
      context.fillRect(this.xOf(start) - left, top, Math.max(2, (end - start) * this.scale), height - top);
    }
    context.fillStyle = colour("wave");
    context.fillRect(0, middle - 0.5, width, 1);
    const largest = Math.max(0.05, this.largestPeak());
    const indexAt = (x) => Math.floor(((x + left - MARGIN) / this.scale) * PEAKS_PER_SECOND);
    for (let x = Math.max(0, MARGIN - left); x < width; x += BAR_STEP) {
      const first = Math.max(0, indexAt(x));
      const last = Math.max(first + 1, indexAt(x + BAR_STEP));
      if (first >= this.peaks.length) break;
      let peak = 0;
      for (let i = first; i < last && i < this.peaks.length; i++) peak = Math.max(peak, this.peaks[i]);
      const bar = Math.max(1, (peak / largest) * half);
      context.fillRect(x, middle - bar, 2, 2 * bar);
    }
  }

  drawWords(context, left, width, height, colour) {
    context.font = this.font();
    context.textBaseline = "middle";
    const visible = this.placed.filter((one) => one.x + one.width >= left && one.x <= left + width);
    const middleOf = (row) => 4 + ROW_HEIGHT * (row + 0.5);
    context.fillStyle = colour("line");
    for (const { word, row } of visible) {
      const x = Math.round(this.xOf(word.start) - left);
      context.fillRect(x, middleOf(row) + ROW_HEIGHT / 2 - 2, 1, height);
    }
    for (const { word, x, width: wordWidth, row } of visible) {
      const isPlaying = this.position !== null && this.position >= word.start && this.position < word.end;
      const y = middleOf(row);
      context.fillStyle = colour("card");
      context.fillRect(x - left - 1, y - 8, wordWidth + 2, 16);
      context.fillStyle = colour(isPlaying ? "accent" : "ink");
      context.fillText(word.word, x - left, y);
    }
  }

  // Of all peaks, visible or not, so that the scale does not jump while one scrolls. The result is kept, so
  // that only new peaks are looked at during a recording.
  largestPeak() {
    const isKnown = this.measuredPeaks === this.peaks && this.measured <= this.peaks.length;
    let largest = isKnown ? this.largest : 0;
    for (let i = isKnown ? this.measured : 0; i < this.peaks.length; i++) {
      largest = Math.max(largest, this.peaks[i]);
    }
    this.largest = largest;
    this.measuredPeaks = this.peaks;
    this.measured = this.peaks.length;
    return largest;
  }
}

// The largest absolute sample of each bin. samples: floats between -1 and 1.
export function peaksOf(samples, rate) {
  const peaks = new Float32Array(Math.ceil((samples.length / rate) * PEAKS_PER_SECOND));
  for (let i = 0; i < samples.length; i++) {
    const bin = Math.floor((i / rate) * PEAKS_PER_SECOND);
    peaks[bin] = Math.max(peaks[bin], Math.abs(samples[i]));
  }
  return Array.from(peaks);
}
