// Records from the microphone, streams the samples to the server and receives transcripts.

const FINAL_TIMEOUT = 20000; // milliseconds until the final transcript must have come
const FLUSH_TIMEOUT = 500; // milliseconds until the audio thread must have sent its last samples

export class Recording {
  // onSamples(samples, rate): 16-bit samples from the microphone. onTranscript(message): a message of
  // /v1/stream. onEnd(problem): the recording has ended; problem is a sentence, or "" where there is none.
  constructor(token, { onSamples, onTranscript, onEnd }) {
    this.token = token;
    this.onSamples = onSamples;
    this.onTranscript = onTranscript;
    this.onEnd = onEnd;
    this.blocks = []; // all samples, for playing
    this.unsent = []; // blocks that came before the connection was open
  }

  // Starts recording. Throws an Error with a sentence for the user.
  async start() {
    if (!navigator.mediaDevices || !window.AudioWorkletNode) {
      throw new Error(
        "The browser lets a page record only when it comes from this machine (127.0.0.1) or over https.",
      );
    }
    this.microphone = await openMicrophone();
    this.context = new AudioContext();
    this.rate = this.context.sampleRate;
    this.connect();
    await this.context.audioWorklet.addModule("page/worklet.js");
    this.sender = new AudioWorkletNode(this.context, "sample-sender");
    this.sender.port.onmessage = ({ data }) => this.addBlock(data);
    this.context.createMediaStreamSource(this.microphone).connect(this.sender);
    // some browsers do not run a node that is connected to nothing; its output is silence
    this.sender.connect(this.context.destination);
  }

  connect() {
    const address = new URL("v1/stream", location.href);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(address);
    this.socket.onopen = () => {
      this.socket.send(JSON.stringify({ rate: this.rate, token: this.token }));
      for (const block of this.unsent.splice(0)) this.socket.send(block);
    };
    this.socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.error) this.end(message.error.message);
      else this.onTranscript(message);
      if (message.final) this.isFinal = true;
    };
    this.socket.onclose = () => this.end(this.isFinal ? "" : "The server has ended the connection.");
  }

  addBlock(samples) {
    if (!samples.length) return;
    this.blocks.push(samples);
    this.onSamples(samples, this.rate);
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(samples);
    else if (this.socket.readyState === WebSocket.CONNECTING) this.unsent.push(samples);
  }

  // Sends the samples that are still in the audio thread and ends the session; the final transcript follows.
  async stop() {
    await this.flush();
    this.releaseMicrophone();
    const sendEnd = () => this.socket.send(JSON.stringify({ end: true }));
    if (this.socket.readyState === WebSocket.OPEN) sendEnd();
    else this.socket.addEventListener("open", sendEnd);
    this.timer = setTimeout(() => this.end("The server has not answered."), FINAL_TIMEOUT);
  }

  // Resolves when the last block has come, which is shorter than the others.
  flush() {
    return new Promise((resolve) => {
      const addBlock = this.sender.port.onmessage;
      this.sender.port.onmessage = (event) => {
        addBlock(event);
        if (event.data.length < this.rate / 10) resolve();
      };
      this.sender.port.postMessage("end");
      setTimeout(resolve, FLUSH_TIMEOUT);
    });
  }

  // Ends the recording, once.
  end(problem) {
    if (this.ended) return;
    this.ended = true;
    clearTimeout(this.timer);
    this.releaseMicrophone();
    this.socket?.close();
    this.onEnd(problem);
  }

  releaseMicrophone() {
    this.microphone?.getTracks().forEach((track) => track.stop());
    if (this.context && this.context.state !== "closed") this.context.close();
  }

  wav() {
    return wav(this.blocks, this.rate);
  }
}

async function openMicrophone() {
  const audio = {
    channelCount: 1,
    echoCancellation: false,
    noiseSuppression: false,
    autoGainControl: false,
  };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    const sentences = {
      NotAllowedError: "The browser was not allowed to use the microphone.",
      NotFoundError: "There is no microphone.",
    };
    throw new Error(sentences[error.name] || `The microphone cannot be used: ${error.message}.`);
  }
}

// A WAV file of blocks of 16-bit mono samples.
export function wav(blocks, rate) {
  const bytes = 2 * blocks.reduce((sum, block) => sum + block.length, 0);
  const header = new DataView(new ArrayBuffer(44));
  const putText = (offset, text) => {
    [...text].forEach((letter, i) => header.setUint8(offset + i, letter.charCodeAt(0)));
  };
  putText(0, "RIFF");
  header.setUint32(4, 36 + bytes, true);
  putText(8, "WAVEfmt ");
  header.setUint32(16, 16, true); // length of the format chunk
  header.setUint16(20, 1, true); // PCM
  header.setUint16(22, 1, true); // channels
  header.setUint32(24, rate, true);
  header.setUint32(28, 2 * rate, true); // bytes per second
  header.setUint16(32, 2, true); // bytes per frame
  header.setUint16(34, 16, true); // bits per sample
  putText(36, "data");
  header.setUint32(40, bytes, true);
  return new Blob([header, ...blocks], { type: "audio/wav" });
}
