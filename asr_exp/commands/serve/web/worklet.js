// Runs in the audio thread: the microphone's samples, 16 bits each, in parts of about a tenth of a second.

class Tap extends AudioWorkletProcessor {
  constructor() {
    super();
    this.part = new Int16Array(Math.round(sampleRate / 10));
    this.filled = 0;
    this.port.onmessage = () => { // asked for the rest
      this.port.postMessage(this.part.slice(0, this.filled));
      this.ended = true;
    };
  }

  process([input]) {
    for (const sample of (input && input[0]) || []) {
      this.part[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
      if (this.filled === this.part.length) {
        this.port.postMessage(this.part.slice());
        this.filled = 0;
      }
    }
    return !this.ended;
  }
}

registerProcessor("tap", Tap);
