// A bundle in a browser: pictures and texts to unit vectors, with onnxruntime-web (the global `ort`).
//
//   const clip = await openBundle(".");
//   const picture = await clip.embedPicture(imageData);
//   const texts = await clip.embedTexts(["a cat", "a dog"]);
//   clip.scores(picture, texts);   // a probability each

import { pixels } from "./resize.js";
import { openTokenizer } from "./words.js";

export async function openBundle(folder = ".", onProgress = () => {}) {
  const read = async (name) => {
    const answer = await fetch(`${folder}/${name}`);
    if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
    return answer.text();
  };
  const readJson = async (name) => JSON.parse(await read(name));
  const [facts, preprocessing] = await Promise.all([
    readJson("metadata.json"), readJson("preprocessing.json"),
  ]);
  const files = facts.files ?? {};
  const labels = "labels.json" in files ? await readJson("labels.json") : null;
  if (labels) {
    const bytes = await (await fetch(`${folder}/${labels.rows}`)).arrayBuffer();
    labels.vectors = split(new Float32Array(bytes), labels.shape[1]);
  }
  const total = facts.towers.image.bytes + facts.towers.text.bytes;
  let loaded = 0;
  const open = async (tower) => {
    const bytes = await download(`${folder}/${tower.file}`, (more) => {
      loaded += more;
      onProgress(Math.min(1, loaded / total));
    });
    return ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  };
  const image = await open(facts.towers.image);
  const text = await open(facts.towers.text);
  // Of its maker's own, or of Hugging Face's: then there are only the labels.
  const tokenizer = await openTokenizer(read).catch(() => null);
  return new Bundle({ facts, preprocessing, labels, image, text, tokenizer });
}

async function download(address, onBytes) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status} ${answer.statusText}`);
  const parts = [];
  const reader = answer.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    onBytes(part.value.length);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

class Bundle {
  constructor(parts) {
    Object.assign(this, parts);
  }

  // ImageData to one unit vector.
  async embedPicture(imageData) {
    const { image_size: size } = this.preprocessing, { input_dtype: dtype } = this.facts.towers.image;
    const shape = dtype === "uint8" ? [1, size, size, 3] : [1, 3, size, size];
    const input = new ort.Tensor(dtype, pixels(imageData, this.preprocessing, dtype), shape);
    return this.run("image", input);
  }

  // Texts to unit vectors.
  async embedTexts(texts) {
    const rows = [];
    for (const text of texts) {
      const ids = this.tokenizer.row(text);
      rows.push(await this.run("text", new ort.Tensor("int64", ids, [1, ids.length])));
    }
    return rows;
  }

  async run(tower, input) {
    const { input: name, output } = this.facts.towers[tower];
    const made = await this[tower].run({ [name]: input });
    return made[output].data;
  }

  // Over all texts (CLIP), or of each by itself (SigLIP).
  scores(picture, texts) {
    const { logit_scale: scale, logit_bias: bias, kind } = this.facts;
    const logits = texts.map((text) => scale * text.reduce((sum, x, i) => sum + x * picture[i], 0));
    if (kind === "sigmoid") return logits.map((logit) => 1 / (1 + Math.exp(-logit - bias)));
    const top = Math.max(...logits);
    const shares = logits.map((logit) => Math.exp(logit - top));
    const total = shares.reduce((sum, share) => sum + share, 0);
    return shares.map((share) => share / total);
  }
}

function split(flat, width) {
  return Array.from({ length: flat.length / width }, (_, i) => flat.slice(i * width, (i + 1) * width));
}

// Any picture that the browser can draw, as bytes of RGBA; no colour management, as Pillow has none.
export async function imageDataOf(blob) {
  const picture = await createImageBitmap(blob, {
    colorSpaceConversion: "none", premultiplyAlpha: "none",
  });
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  return context.getImageData(0, 0, picture.width, picture.height);
}
