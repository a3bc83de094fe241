// Runs in the audio thread: converts the microphone's samples to 16 bits and posts them in blocks of a tenth
// of a second.

class SampleSender extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Int16Array(Math.round(sampleRate / 10));
    this.filled = 0;
    this.port.onmessage = () => {
      // any message asks for the samples that do not fill a block, and ends the processor
      this.port.postMessage(this.block.slice(0, this.filled));
      this.ended = true;
    };
  }

  process([input]) {
    for (const sample of (input && input[0]) || []) {
      this.block[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
      if (this.filled === this.block.length) {
        this.port.postMessage(this.block.slice());
        this.filled = 0;
      }
    }
    return !this.ended;
  }
}

registerProcessor("sample-sender", SampleSender);
