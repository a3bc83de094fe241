// The page: sends a file or the microphone to the server, and shows the words over the waveform.

import { RATE, decodeInBrowser, toInt16 } from "./decode.js";
import { Recording, wav } from "./record.js";
import { Wave, peaksOf } from "./wave.js";

const UNSURE = 0.6; // confidence below which a word is marked
const $ = (id) => document.getElementById(id);

const audio = $("audio");
const wave = new Wave($("view"), $("wave"), $("span"), (seconds) => playFrom(seconds));
let token = sessionStorage.getItem("token") || "";
let recording = null; // the Recording in progress
let upload = null; // the AbortController of the latest upload
let retry = null; // what to do again once there is a token
let wordButtons = [];

// ---- status and transcript

function setStatus(sentence, isError = false) {
  $("status").textContent = sentence;
  $("status").classList.toggle("bad", isError && Boolean(sentence));
}

async function showServer() {
  try {
    const health = await (await fetch("healthz")).json();
    const { megabytes, seconds } = health.limits;
    const duration = seconds >= 120 ? `${Math.round(seconds / 60)} minutes` : `${seconds} s`;
    $("about").textContent =
      `${health.model}: recordings up to ${megabytes} MB and ${duration}. ` +
      "They go to this server and nowhere else, and are not kept.";
    $("token").hidden = !health.token || Boolean(token);
  } catch {
    setStatus("The server does not answer.", true);
  }
}

function wordButton({ word, start, end, confidence }) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = word;
  button.title = `${start.toFixed(2)} to ${end.toFixed(2)} s, confidence ${confidence.toFixed(2)}`;
  button.classList.toggle("unsure", confidence < UNSURE);
  button.addEventListener("click", () => playFrom(start));
  return button;
}

function showTranscript(words, text, isFinal) {
  wave.update({ words });
  wordButtons = words.map(wordButton);
  const content = words.length ? wordButtons.flatMap((button) => [button, " "]) : [text];
  $("text").replaceChildren(...content);
  $("text").dataset.final = isFinal;
  $("hint").hidden = !words.length;
  $("copy").disabled = !text;
  $("copy").dataset.text = text;
}

function resetResult(name) {
  audio.pause();
  if (audio.src) URL.revokeObjectURL(audio.src);
  audio.removeAttribute("src");
  $("play").disabled = true;
  $("play").textContent = "Play";
  $("name").textContent = name;
  $("clock").textContent = "";
  $("result").hidden = false;
  wave.update({ peaks: [], words: [], seconds: 0, position: null, live: false });
  showTranscript([], "", false);
}

// ---- playback

function loadAudio(blob) {
  audio.src = URL.createObjectURL(blob);
  audio.onloadedmetadata = () => {
    $("play").disabled = false;
  };
}

function playFrom(seconds) {
  if ($("play").disabled) return;
  audio.currentTime = seconds;
  audio.play();
}

function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}

// Shows the position of playback, again and again while the audio plays.
function showPosition() {
  const position = audio.currentTime;
  $("clock").textContent = `${clock(position)} / ${clock(wave.seconds)}`;
  wave.follow(position);
  wave.words.forEach(({ start, end }, i) => {
    wordButtons[i].classList.toggle("now", position >= start && position < end);
  });
  if (!audio.paused) requestAnimationFrame(showPosition);
}

audio.addEventListener("play", () => {
  $("play").textContent = "Pause";
  showPosition();
});
audio.addEventListener("pause", () => {
  $("play").textContent = "Play";
});
audio.addEventListener("seeked", () => {
  if (audio.paused) showPosition();
});
$("play").addEventListener("click", () => (audio.paused ? audio.play() : audio.pause()));

// ---- files

async function transcribeFile(file) {
  if (recording) return;
  upload?.abort();
  const controller = new AbortController();
  upload = controller;
  resetResult(file.name);
  setStatus("Transcribing …");
  loadAudio(file);
  const decoded = decodeInBrowser(file);
  decoded.then((samples) => {
    if (samples && upload === controller) {
      wave.update({ peaks: peaksOf(samples, RATE), seconds: samples.length / RATE });
    }
  });
  try {
    let response = await post(file, file.name, controller.signal);
    const samples = await decoded;
    if (response.status === 400 && samples) {
      // a format that the browser can decode and the server cannot
      response = await post(wav([toInt16(samples)], RATE), "decoded.wav", controller.signal);
    }
    const body = await response.json();
    if (upload !== controller) return;
    if (response.status === 401) return askForToken(() => transcribeFile(file));
    storeToken();
    if (!response.ok) {
      $("result").hidden = true;
      return setStatus(body.error.message, true);
    }
    if (!samples) wave.update({ peaks: [], seconds: body.seconds });
    $("clock").textContent = clock(body.seconds);
    showTranscript(body.words, body.text, true);
    setStatus(body.text ? "" : "No words were recognised.");
  } catch (error) {
    if (error.name !== "AbortError") setStatus("The server does not answer.", true);
  }
}

function post(blob, name, signal) {
  const form = new FormData();
  form.append("file", blob, name);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  return fetch("predict", { method: "POST", body: form, signal, headers });
}

$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  if ($("file").files[0]) transcribeFile($("file").files[0]);
  $("file").value = "";
});
for (const type of ["dragenter", "dragover", "dragleave", "drop"]) {
  window.addEventListener(type, (event) => {
    event.preventDefault();
    $("take").classList.toggle("over", type === "dragover" || type === "dragenter");
    if (type === "drop" && event.dataTransfer.files[0]) transcribeFile(event.dataTransfer.files[0]);
  });
}

// ---- the microphone

async function record() {
  upload?.abort();
  upload = null;
  resetResult("Recording");
  const current = new Recording(token, {
    onSamples(samples, rate) {
      wave.addPeaks(
        peaksOf(
          Float32Array.from(samples, (sample) => sample / 32768),
          rate,
        ),
      );
      $("clock").textContent = clock(wave.seconds);
    },
    onTranscript({ words, text, final }) {
      storeToken();
      showTranscript(words, text, final);
      if (final) setStatus(text ? "" : "No words were recognised.");
    },
    onEnd(problem) {
      finishRecording(current, problem);
    },
  });
  recording = current;
  setRecording(true);
  $("record").disabled = true;
  try {
    await current.start();
    wave.update({ live: true });
    setStatus("Recording: words appear as you speak.");
    $("record").disabled = false;
  } catch (error) {
    if (current.ended) return; // onEnd has shown why
    current.end(error.message);
    $("result").hidden = true;
  }
}

function finishRecording(finished, problem) {
  recording = null;
  setRecording(false);
  $("record").disabled = false;
  wave.update({ live: false });
  if (finished.blocks.length) loadAudio(finished.wav());
  else $("result").hidden = true;
  if (problem.includes("wants its token")) return askForToken(record);
  if (problem) setStatus(problem, true);
}

function setRecording(isRecording) {
  document.body.classList.toggle("recording", isRecording);
  $("verb").textContent = isRecording ? "Stop" : "Record";
  $("choose").disabled = isRecording;
}

$("record").addEventListener("click", async () => {
  if (!recording) return record();
  $("verb").textContent = "Stopping";
  $("record").disabled = true;
  setStatus("Transcribing the last words …");
  await recording.stop();
});

// ---- the token, and copying

function askForToken(action) {
  retry = action;
  token = "";
  sessionStorage.removeItem("token");
  $("result").hidden = true;
  $("token").hidden = false;
  $("word").focus();
  setStatus("This server wants its token.", true);
}

// Keeps the token for this tab once the server has accepted it.
function storeToken() {
  if (token) sessionStorage.setItem("token", token);
}

$("token").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!/^[\x21-\x7e]+$/.test($("word").value)) {
    return setStatus("A token is one word, without accents.", true);
  }
  token = $("word").value;
  $("token").hidden = true;
  setStatus("");
  retry?.();
  retry = null;
});

$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("copy").dataset.text);
    setStatus("Copied.");
  } catch {
    setStatus("The browser does not let this page copy; select the text instead.", true);
  }
});

showServer();
