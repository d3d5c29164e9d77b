// A picture to the image tower's input, as Pillow resizes: to the same grey level.
//
// Pillow's filters are wide when they shrink (no aliasing), and its arithmetic is whole numbers: weights
// of 22 binary digits, one pass a direction, rounded to bytes in between. A canvas's own scaling is
// another filter in every browser, and moves embeddings.

const DIGITS = 22;
const FILTERS = {
  bilinear: [1, (x) => (x < 1 ? 1 - x : 0)],
  bicubic: [2, (x) => {
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
  }],
};

// First source pixel and whole-number weights of every target pixel.
function weights(inSize, from, to, outSize, interpolation) {
  const [reach, filter] = FILTERS[interpolation];
  const scale = (to - from) / outSize;
  const stretch = Math.max(scale, 1);
  const support = reach * stretch;
  const found = [];
  for (let i = 0; i < outSize; i++) {
    const centre = from + (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(inSize, Math.trunc(centre + support + 0.5));
    const raw = [];
    let total = 0;
    for (let x = first; x < last; x++) {
      const weight = filter(Math.abs((x - centre + 0.5) * (1 / stretch)));
      raw.push(weight);
      total += weight;
    }
    const whole = Int32Array.from(raw, (weight) => {
      const scaled = (total ? weight / total : weight) * 2 ** DIGITS;
      return Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    });
    found.push([first, whole]);
  }
  return found;
}

// One direction: `step` is the distance between neighbours along it, in bytes.
function pass(source, target, lines, lineStep, outLineStep, step, outStep, table) {
  const half = 1 << (DIGITS - 1);
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < table.length; i++) {
      const [first, whole] = table[i];
      let red = half, green = half, blue = half;
      let at = line * lineStep + first * step;
      for (let k = 0; k < whole.length; k++, at += step) {
        red += source[at] * whole[k];
        green += source[at + 1] * whole[k];
        blue += source[at + 2] * whole[k];
      }
      const out = line * outLineStep + i * outStep;
      // A clamped array cuts to 0..255.
      target[out] = red >> DIGITS;
      target[out + 1] = green >> DIGITS;
      target[out + 2] = blue >> DIGITS;
    }
  }
}

// `image` is {data (RGBA bytes), width, height}; `box` is left, top, right, bottom of what is used.
export function resize(image, width, height, interpolation, box = [0, 0, image.width, image.height]) {
  let { data, width: inWidth, height: inHeight } = image;
  const [left, top, right, bottom] = box;
  const across = () => {
    if (width === inWidth && left === 0 && right === inWidth) return;
    const next = new Uint8ClampedArray(width * inHeight * 4);
    const table = weights(inWidth, left, right, width, interpolation);
    pass(data, next, inHeight, inWidth * 4, width * 4, 4, 4, table);
    [data, inWidth] = [next, width];
  };
  const down = () => {
    if (height === inHeight && top === 0 && bottom === inHeight) return;
    const next = new Uint8ClampedArray(inWidth * height * 4);
    const table = weights(inHeight, top, bottom, height, interpolation);
    pass(data, next, inWidth, 4, 4, inWidth * 4, inWidth * 4, table);
    [data, inHeight] = [next, height];
  };
  // The order shows in the last bit. This is Pillow 13's; earlier ones always went across first.
  const downFirst = height < inHeight && inHeight - height > 2 * (inWidth - width);
  for (const one of downFirst ? [down, across] : [across, down]) one();
  return { data, width, height };
}

// Python rounds halves to the even neighbour.
function rounded(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}

// Resize, crop the centre, normalise: Float32Array of 3 x size x size. `config` is preprocessing.json.
// A tower of `dtype` "uint8" normalises inside, and is given the bytes, size x size x 3.
export function pixels(image, config, dtype = "float32") {
  const { image_size: size, interpolation } = config;
  const { width, height } = image;
  const shorter = Math.min(width, height), longer = Math.max(width, height);
  let made;
  if (config.resize_mode === "squash") {
    made = resize(image, size, size, interpolation);
  } else if (size ** 2 * longer > 2 ** 24 * shorter) {
    const x = (width - shorter) / 2, y = (height - shorter) / 2;
    made = resize(image, size, size, interpolation, [x, y, x + shorter, y + shorter]);
  } else if (width <= height) {
    made = resize(image, size, Math.trunc((size * height) / width), interpolation);
  } else {
    made = resize(image, Math.trunc((size * width) / height), size, interpolation);
  }
  const left = rounded((made.width - size) / 2), top = rounded((made.height - size) / 2);
  const value = (x, y, channel) => made.data[((y + top) * made.width + x + left) * 4 + channel];
  if (dtype === "uint8") {
    return Uint8Array.from({ length: 3 * size * size }, (_, i) =>
      value(Math.trunc(i / 3) % size, Math.trunc(i / 3 / size), i % 3));
  }
  const result = new Float32Array(3 * size * size);
  for (let channel = 0; channel < 3; channel++) {
    const mean = Math.fround(Math.fround(config.mean[channel]) * 255);
    const std = Math.fround(Math.fround(config.std[channel]) * 255);
    for (let y = 0; y < size; y++) {
      for (let x = 0; x < size; x++) {
        const at = (channel * size + y) * size + x;
        result[at] = Math.fround(value(x, y, channel) - mean) / std;
      }
    }
  }
  return result;
}
