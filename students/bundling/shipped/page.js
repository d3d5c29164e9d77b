// The page: a picture or the camera on one side, texts with their probabilities on the other.

import { imageDataOf, openBundle } from "./clip.js";

const MOST_SHOWN = 8;
const MOST_SIDE = 2048;
const $ = (id) => document.getElementById(id);
const known = new Map();  // prompt -> vector
let clip, picture = null, stream = null, turn = 0;

// Whatever a name or a text holds, it is set as text, never as markup.
const say = (id, text) => { $(id).textContent = text; };

function trouble(error) {
  say("trouble", error.message ?? String(error));
  $("trouble").hidden = false;
}

const guarded = (work) => async (...given) => {
  try {
    $("trouble").hidden = true;
    await work(...given);
  } catch (error) {
    trouble(error);
  }
};

async function start() {
  if (!globalThis.ort) throw new Error("onnxruntime-web did not load: is the network there?");
  // Threads want two headers that simple servers do not send; one thread runs everywhere.
  ort.env.wasm.numThreads = 1;
  clip = await openBundle(".", (share) => { $("progress").value = share; });
  const { name, embed_dim: width, towers, versions } = clip.facts;
  say("name", name);
  document.title = `${name} in this browser`;
  const size = (towers.image.bytes + towers.text.bytes) / 1e6;
  say("facts", `${size.toFixed(1)} MB, vectors of ${width} numbers, onnxruntime-web ` +
    `${versions["onnxruntime-web"]} on WebAssembly, one thread.`);
  $("write").hidden = !clip.tokenizer;
  if (clip.labels) fillIn(clip.labels);
  if (!clip.tokenizer && !clip.labels) throw new Error("this bundle has neither a tokenizer for this page nor labels");
  $("progress").hidden = true;
  $("work").hidden = false;
  await show();
}

// The bundle's own labels, whose vectors are there already when there is one prompt.
function fillIn({ labels, templates, vectors }) {
  $("texts").value = labels.join("\n");
  $("template").value = templates[0];
  labels.forEach((label, i) => known.set(templates[0].replaceAll("{}", label), vectors[i]));
}

function lines() {
  if (!clip.tokenizer) return clip.labels.labels;
  return [...new Set($("texts").value.split("\n").map((line) => line.trim()).filter(Boolean))];
}

function prompts(names) {
  const template = $("template").value.includes("{}") ? $("template").value : "{}";
  return names.map((name) => template.replaceAll("{}", name));
}

// Embed what is new, and show all scores; a later call overtakes an earlier one.
async function show() {
  const mine = ++turn;
  const names = lines(), wanted = prompts(names);
  for (const prompt of wanted) {
    if (known.has(prompt)) continue;
    known.set(prompt, (await clip.embedTexts([prompt]))[0]);
    if (mine !== turn) return;
  }
  say("count", names.length === 1 ? "1 text" : `${names.length} texts`);
  const shares = picture ? clip.scores(picture, wanted.map((prompt) => known.get(prompt))) : null;
  const order = names.map((_, i) => i);
  if (shares) order.sort((a, b) => shares[b] - shares[a]);
  $("results").replaceChildren(...order.slice(0, MOST_SHOWN).map((i, place) =>
    line(names[i], shares ? shares[i] : null, place === 0)));
}

function line(name, share, best) {
  const row = document.createElement("li"), bar = document.createElement("i");
  const label = document.createElement("span"), value = document.createElement("span");
  label.textContent = name;
  value.textContent = share === null ? "" : `${(100 * share).toFixed(1)} %`;
  bar.style.width = `${100 * (share ?? 0)}%`;
  row.className = best && share !== null ? "best" : "";
  row.append(bar, label, value);
  return row;
}

async function look(imageData) {
  const began = performance.now();
  picture = await clip.embedPicture(imageData);
  say("time", `${(performance.now() - began).toFixed(0)} ms a picture`);
  await show();
}

function draw(source, width, height) {
  const shrink = Math.min(1, MOST_SIDE / Math.max(width, height));
  const canvas = $("canvas");
  canvas.width = Math.max(1, Math.round(width * shrink));
  canvas.height = Math.max(1, Math.round(height * shrink));
  canvas.getContext("2d").drawImage(source, 0, 0, canvas.width, canvas.height);
  canvas.hidden = false;
  $("hint").hidden = true;
  $("stage").classList.add("full");
}

const open = guarded(async (blob) => {
  if (!blob) return;
  stopCamera();
  const data = await imageDataOf(blob).catch(() => {
    throw new Error(`${blob.name ?? "this"} is no picture that this browser can read`);
  });
  draw(await createImageBitmap(data), data.width, data.height);
  await look(data);
});

function stopCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  say("camera", "Use the camera");
}

const camera = guarded(async () => {
  if (stream) return stopCamera();
  if (!navigator.mediaDevices) throw new Error("the camera needs https:// or localhost");
  stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  say("camera", "Stop the camera");
  const video = document.createElement("video");
  Object.assign(video, { srcObject: stream, muted: true, playsInline: true });
  await video.play();
  const frame = document.createElement("canvas");
  const context = frame.getContext("2d", { willReadFrequently: true });
  while (stream) {
    frame.width = video.videoWidth;
    frame.height = video.videoHeight;
    context.drawImage(video, 0, 0);
    draw(frame, frame.width, frame.height);
    await look(context.getImageData(0, 0, frame.width, frame.height));
    await new Promise(requestAnimationFrame);
  }
});

$("file").addEventListener("change", (event) => open(event.target.files[0]));
$("camera").addEventListener("click", camera);
for (const id of ["texts", "template"]) $(id).addEventListener("input", guarded(show));
addEventListener("paste", (event) => open(event.clipboardData.files[0]));
addEventListener("dragover", (event) => { event.preventDefault(); $("stage").classList.add("over"); });
addEventListener("dragleave", () => $("stage").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  $("stage").classList.remove("over");
  open(event.dataTransfer.files[0]);
});

start().catch((error) => {
  $("progress").hidden = true;
  say("name", "It did not start");
  trouble(error);
});
