// The microphone, sent to the server as it is spoken into.

const PATIENCE = 20000; // milliseconds for the last words

export class Recording {
  // heard(samples, rate): what came in; told(message): what the server makes of it; failed(sentence)
  constructor(token, { heard, told, failed }) {
    Object.assign(this, { token, heard, told, failed, parts: [], unsent: [] });
  }

  async start() {
    if (!navigator.mediaDevices || !window.AudioWorkletNode) {
      throw new Error("The browser lets a page record only when it comes from this machine (127.0.0.1) or over https.");
    }
    try {
      const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
      this.microphone = await navigator.mediaDevices.getUserMedia({ audio });
    } catch (error) {
      const why = { NotAllowedError: "The browser was not allowed to use the microphone.", NotFoundError: "There is no microphone." };
      throw new Error(why[error.name] || `The microphone cannot be used: ${error.message}.`);
    }
    this.context = new AudioContext();
    this.rate = this.context.sampleRate;
    this.connect();
    await this.context.audioWorklet.addModule("page/worklet.js");
    this.tap = new AudioWorkletNode(this.context, "tap");
    this.tap.port.onmessage = ({ data }) => this.take(data);
    this.context.createMediaStreamSource(this.microphone).connect(this.tap);
    this.tap.connect(this.context.destination); // it puts out silence; what leads nowhere is not run everywhere
  }

  connect() {
    const address = new URL("v1/stream", location.href);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(address);
    this.socket.onopen = () => {
      this.socket.send(JSON.stringify({ rate: this.rate, token: this.token }));
      for (const part of this.unsent.splice(0)) this.socket.send(part);
    };
    this.socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.error) this.end(message.error.message);
      else this.told(message);
      if (message.final) this.final = true;
    };
    this.socket.onclose = () => this.end(this.final ? "" : "The server has ended the connection.");
  }

  take(samples) {
    if (!samples.length) return;
    this.parts.push(samples);
    this.heard(samples, this.rate);
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(samples);
    else if (this.socket.readyState === WebSocket.CONNECTING) this.unsent.push(samples);
  }

  async stop() { // what is in the pipe, then the end; the last words follow
    await new Promise((done) => {
      const take = this.tap.port.onmessage;
      this.tap.port.onmessage = (event) => { take(event); if (event.data.length < this.rate / 10) done(); };
      this.tap.port.postMessage("end");
      setTimeout(done, 500);
    });
    this.release();
    const end = () => this.socket.send(JSON.stringify({ end: true }));
    if (this.socket.readyState === WebSocket.OPEN) end();
    else this.socket.addEventListener("open", end);
    this.timer = setTimeout(() => this.end("The server has not answered."), PATIENCE);
  }

  end(sentence) {
    if (this.over) return;
    this.over = true;
    clearTimeout(this.timer);
    this.release();
    this.socket?.close();
    this.failed(sentence);
  }

  release() {
    this.microphone?.getTracks().forEach((track) => track.stop());
    if (this.context && this.context.state !== "closed") this.context.close();
  }

  wav() {
    return wav(this.parts, this.rate);
  }
}

export function wav(parts, rate) { // of 16-bit samples, mono
  const bytes = 2 * parts.reduce((sum, part) => sum + part.length, 0), head = new DataView(new ArrayBuffer(44));
  const word = (at, text) => [...text].forEach((letter, i) => head.setUint8(at + i, letter.charCodeAt(0)));
  word(0, "RIFF"); word(8, "WAVEfmt "); word(36, "data");
  for (const [at, value] of [[4, 36 + bytes], [16, 16], [24, rate], [28, 2 * rate], [40, bytes]]) head.setUint32(at, value, true);
  for (const [at, value] of [[20, 1], [22, 1], [32, 2], [34, 16]]) head.setUint16(at, value, true);
  return new Blob([head, ...parts], { type: "audio/wav" });
}
