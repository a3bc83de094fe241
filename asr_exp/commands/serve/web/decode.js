// Decodes a recording in the browser, for the waveform and for formats that the server cannot read.

export const RATE = 16000; // samples per second of what is decoded

// The samples of a file, mixed to mono; null for a format that the browser cannot decode.
export async function decodeInBrowser(file) {
  try {
    const bytes = await file.arrayBuffer();
    return mixToMono(await new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes));
  } catch {
    return null;
  }
}

function mixToMono(buffer) {
  const mono = new Float32Array(buffer.length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
    buffer.getChannelData(channel).forEach((sample, i) => {
      mono[i] += sample / buffer.numberOfChannels;
    });
  }
  return mono;
}

// Floats between -1 and 1 to 16-bit samples.
export function toInt16(samples) {
  return Int16Array.from(samples, (sample) => Math.max(-32768, Math.min(32767, Math.round(sample * 32768))));
}
