// The page: a file or the microphone in, words over the waveform out.

import { Recording, wav } from "./record.js";
import { Wave, peaksOf } from "./wave.js";

const RATE = 16000; // of what is decoded here, for the waveform
const UNSURE = 0.6; // confidence below which a word is marked
const $ = (id) => document.getElementById(id);
const audio = $("audio"), wave = new Wave($("view"), $("wave"), $("span"), (seconds) => playFrom(seconds));
let token = sessionStorage.getItem("token") || "", recording = null, upload = null, asked = null, buttons = [];

// ---- what is said about it

function say(sentence, bad = false) {
  $("status").textContent = sentence;
  $("status").classList.toggle("bad", bad && Boolean(sentence));
}

async function about() {
  try {
    const health = await (await fetch("healthz")).json();
    const { megabytes, seconds } = health.limits, long = seconds >= 120 ? `${Math.round(seconds / 60)} minutes` : `${seconds} s`;
    $("about").textContent = `${health.model}: recordings up to ${megabytes} MB and ${long}. They go to this server and nowhere else, and are not kept.`;
    $("token").hidden = !health.token || Boolean(token);
  } catch {
    say("The server does not answer.", true);
  }
}

function show(words, text, final) {
  wave.show({ words });
  buttons = words.map(({ word, start, end, confidence }) => {
    const one = document.createElement("button");
    one.type = "button";
    one.textContent = word;
    one.title = `${start.toFixed(2)} to ${end.toFixed(2)} s, confidence ${confidence.toFixed(2)}`;
    one.classList.toggle("unsure", confidence < UNSURE);
    one.addEventListener("click", () => playFrom(start));
    return one;
  });
  $("text").replaceChildren(...(words.length ? buttons.flatMap((one) => [one, " "]) : [text]));
  $("text").dataset.final = final;
  $("hint").hidden = !words.length;
  $("copy").disabled = !text;
  $("copy").dataset.text = text;
}

function clear(name) {
  audio.pause();
  if (audio.src) URL.revokeObjectURL(audio.src);
  audio.removeAttribute("src");
  $("play").disabled = true;
  $("play").textContent = "Play";
  $("name").textContent = name;
  $("clock").textContent = "";
  $("result").hidden = false;
  wave.show({ peaks: [], words: [], seconds: 0, now: null, live: false });
  show([], "", false);
}

// ---- playing

function load(blob) {
  audio.src = URL.createObjectURL(blob);
  audio.onloadedmetadata = () => { $("play").disabled = false; };
}

function playFrom(seconds) {
  if ($("play").disabled) return;
  audio.currentTime = seconds;
  audio.play();
}

function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}

function tick() {
  const now = audio.currentTime;
  $("clock").textContent = `${clock(now)} / ${clock(wave.seconds)}`;
  wave.follow(now);
  wave.words.forEach(({ start, end }, i) => buttons[i].classList.toggle("now", now >= start && now < end));
  if (!audio.paused) requestAnimationFrame(tick);
}

audio.addEventListener("play", () => { $("play").textContent = "Pause"; tick(); });
audio.addEventListener("pause", () => { $("play").textContent = "Play"; });
audio.addEventListener("seeked", () => { if (audio.paused) tick(); });
$("play").addEventListener("click", () => (audio.paused ? audio.play() : audio.pause()));

// ---- a file

async function send(file) {
  if (recording) return;
  upload?.abort();
  const mine = upload = new AbortController();
  clear(file.name);
  say("Listening …");
  load(file);
  const decoded = file.arrayBuffer().then((bytes) => new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes))
    .then((found) => mixed(found), () => null); // a format that the server reads and the browser does not
  decoded.then((samples) => samples && upload === mine && wave.show({ peaks: peaksOf(samples, RATE), seconds: samples.length / RATE }));
  try {
    let answer = await post(file, file.name, mine.signal);
    const samples = await decoded;
    if (answer.status === 400 && samples) answer = await post(wav([whole(samples)], RATE), "decoded.wav", mine.signal); // the other way round
    const found = await answer.json();
    if (upload !== mine) return;
    if (answer.status === 401) return wantToken(() => send(file));
    keepToken();
    if (!answer.ok) {
      $("result").hidden = true;
      return say(found.error.message, true);
    }
    if (!samples) wave.show({ peaks: [], seconds: found.seconds });
    $("clock").textContent = clock(found.seconds);
    show(found.words, found.text, true);
    say(found.text ? "" : "No words were heard.");
  } catch (error) {
    if (error.name !== "AbortError") say("The server does not answer.", true);
  }
}

function post(blob, name, signal) {
  const form = new FormData();
  form.append("file", blob, name);
  return fetch("predict", { method: "POST", body: form, signal, headers: token ? { Authorization: `Bearer ${token}` } : {} });
}

function mixed(decoded) {
  const sum = new Float32Array(decoded.length);
  for (let channel = 0; channel < decoded.numberOfChannels; channel++) {
    decoded.getChannelData(channel).forEach((sample, i) => { sum[i] += sample / decoded.numberOfChannels; });
  }
  return sum;
}

function whole(samples) {
  return Int16Array.from(samples, (sample) => Math.max(-32768, Math.min(32767, Math.round(sample * 32768))));
}

$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { if ($("file").files[0]) send($("file").files[0]); $("file").value = ""; });
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  window.addEventListener(kind, (event) => {
    event.preventDefault();
    $("take").classList.toggle("over", kind === "dragover" || kind === "dragenter");
    if (kind === "drop" && event.dataTransfer.files[0]) send(event.dataTransfer.files[0]);
  });
}

// ---- the microphone

async function record() {
  upload?.abort();
  upload = null;
  clear("Recording");
  const mine = recording = new Recording(token, {
    heard(samples, rate) { wave.add(peaksOf(Float32Array.from(samples, (sample) => sample / 32768), rate)); $("clock").textContent = clock(wave.seconds); },
    told({ words, text, final }) { keepToken(); show(words, text, final); if (final) say(text ? "" : "No words were heard."); },
    failed(sentence) { ended(mine, sentence); },
  });
  busy(true);
  $("record").disabled = true;
  try {
    await mine.start();
    wave.show({ live: true });
    say("Recording: words appear as you speak.");
    $("record").disabled = false;
  } catch (error) {
    if (mine.over) return; // it has been told why
    mine.end(error.message);
    $("result").hidden = true;
  }
}

function ended(mine, sentence) {
  recording = null;
  busy(false);
  $("record").disabled = false;
  wave.show({ live: false });
  if (mine.parts.length) load(mine.wav());
  else $("result").hidden = true;
  if (sentence.includes("wants its token")) return wantToken(record);
  if (sentence) say(sentence, true);
}

function busy(on) {
  document.body.classList.toggle("recording", on);
  $("verb").textContent = on ? "Stop" : "Record";
  $("choose").disabled = on;
}

$("record").addEventListener("click", async () => {
  if (!recording) return record();
  $("verb").textContent = "Stopping";
  $("record").disabled = true;
  say("Listening to the last words …");
  await recording.stop();
});

// ---- the rest

function wantToken(then) {
  asked = then;
  token = "";
  sessionStorage.removeItem("token");
  $("result").hidden = true;
  $("token").hidden = false;
  $("word").focus();
  say("This server wants its token.", true);
}

function keepToken() { // it has been taken
  if (token) sessionStorage.setItem("token", token);
}

$("token").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!/^[\x21-\x7e]+$/.test($("word").value)) return say("A token is one word, without accents.", true);
  token = $("word").value;
  $("token").hidden = true;
  say("");
  asked?.();
  asked = null;
});

$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("copy").dataset.text);
    say("Copied.");
  } catch {
    say("The browser does not let this page copy; select the text instead.", true);
  }
});

about();
