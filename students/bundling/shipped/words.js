// Texts to token ids, the same as words.py gives; TOKENIZER.md says it in words.

const LIGATURES = {
  "Ĳ": "IJ", "ĳ": "ij", "ŉ": "ʼn", "Ǳ": "DZ", "ǲ": "Dz", "ǳ": "dz", "Ǆ": "DŽ", "ǅ": "Dž",
  "ǆ": "dž", "Ǉ": "LJ", "ǈ": "Lj", "ǉ": "lj", "Ǌ": "NJ", "ǋ": "Nj", "ǌ": "nj", "ﬀ": "ff",
  "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "ſt", "ﬆ": "st",
};
const LIGATURE = new RegExp(`[${Object.keys(LIGATURES).join("")}]`, "g");
const CONTROLS = /[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]/g;
const TERMINAL = /\x1b\[(?:\d|;)*[a-zA-Z]/g;
// Python's white space, which JavaScript's \s is not quite.
const SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const SPACES = new RegExp(`[${SPACE}]+`, "g");
const SPECIAL = /<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d/iuy;
// U+0345 belongs to no word: the original ignores case, and its capital is a letter.
const RUN = /\p{L}+|\p{N}|[^ \u0345\p{L}\p{N}]+/uy;
const WORD = new RegExp(`[a-z]+|[0-9]+|[^${SPACE}a-z0-9]`, "gu");

// The browser decodes entities by the same standard as Python's html.unescape.
function unescaped(text) {
  if (!text.includes("&")) return text;
  const box = document.createElement("textarea");
  box.innerHTML = text.replaceAll("<", "&lt;");
  return box.value;
}

function character(entity) {
  const made = unescaped(entity);
  if (made !== entity) return made.includes(";") && made.length > 1 ? entity : made;
  // "P&EACUTE;REZ": a lower-case name, written in capitals.
  if (entity !== entity.toUpperCase()) return entity;
  const small = unescaped(entity.toLowerCase());
  return small === entity.toLowerCase() ? entity : small.toUpperCase();
}

// What ftfy does to text that is not broken, line by line, until nothing changes.
function repaired(text) {
  let markup = false;
  return (text.match(/[^\n]*\n|[^\n]+/g) ?? []).map((line) => {
    markup ||= line.includes("<");
    for (let before = null; line !== before;) {
      before = line;
      if (!markup) line = line.replace(/&#?[0-9A-Za-z]{1,24};/g, character);
      line = line
        .replace(LIGATURE, (one) => LIGATURES[one])
        .replace(/[\u3000\uff01-\uffef]/g, (one) => one.normalize("NFKC"))
        .replace(/[ʼ\u2018-\u201b]/g, "'")
        .replace(/[\u201c-\u201f]/g, '"')
        .replace(/\r\n|[\r\u2028\u2029\x85]/g, "\n")
        .toWellFormed()
        .replace(TERMINAL, "")
        .replace(CONTROLS, "")
        .normalize("NFC");
    }
    return line;
  }).join("");
}

export function clean(text, how) {
  text = unescaped(unescaped(repaired(text)));
  if (how === "canonicalize") text = text.replace(/_/g, " ").replace(/[!-/:-@[-`{-~]/g, "");
  text = text.replace(SPACES, " ").replace(/^ | $/g, "");
  return how === "whitespace" ? text : text.toLowerCase();
}

function split(text) {
  const words = [];
  for (let at = 0; at < text.length;) {
    SPECIAL.lastIndex = RUN.lastIndex = at;
    const found = SPECIAL.exec(text) ?? RUN.exec(text);
    if (found) words.push(found[0]);
    at += found ? found[0].length : 1;
  }
  return words;
}

// The visible character that stands for each of the 256 bytes in the vocabulary.
function byteLetters() {
  const shown = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  let hidden = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(shown(byte) ? byte : hidden++));
}

// Start and end around ids, cut to `length`, padded with 0.
function framed(ids, start, end, length) {
  const row = new BigInt64Array(length);
  [start, ...ids.slice(0, length - 2), end].forEach((id, i) => { row[i] = BigInt(id); });
  return row;
}

class BytePairs {
  constructor(config, vocabulary, merges) {
    this.config = config;
    this.vocabulary = new Map(Object.entries(vocabulary));
    this.ranks = new Map(merges.map((merge, rank) => [merge, rank]));
    this.letters = byteLetters();
  }

  row(text) {
    const { start_id: start, end_id: end, context_length: length, clean: how } = this.config;
    const ids = split(clean(text, how)).flatMap((word) => this.ids(word));
    return framed(ids, start, end, length);
  }

  ids(word) {
    if (word === "<start_of_text>" || word === "<end_of_text>") return [this.vocabulary.get(word)];
    const parts = Array.from(new TextEncoder().encode(word), (byte) => this.letters[byte]);
    parts[parts.length - 1] += "</w>";
    return this.merge(parts).map((part) => this.vocabulary.get(part));
  }

  // Join the neighbours of the best rank until no pair has one.
  merge(parts) {
    while (parts.length > 1) {
      let best = Infinity, pair = null;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
        if (rank < best) [best, pair] = [rank, [parts[i], parts[i + 1]]];
      }
      if (!pair) break;
      const joined = [];
      for (let i = 0; i < parts.length; i++) {
        const both = parts[i] === pair[0] && parts[i + 1] === pair[1];
        joined.push(both ? pair[0] + pair[1] : parts[i]);
        if (both) i++;
      }
      parts = joined;
    }
    return parts;
  }
}

class WordLevel {
  constructor(config) {
    this.config = config;
    this.ids = new Map(config.words.map((word, i) => [word, i + 3]));
  }

  row(text) {
    const ids = (text.toLowerCase().match(WORD) ?? []).map((word) => this.ids.get(word) ?? 2);
    return framed(ids, 1, this.config.end_id, this.config.context_length);
  }
}

// `read(name)` resolves to a file's text. The result has row(text): a BigInt64Array of token ids.
export async function openTokenizer(read) {
  const config = JSON.parse(await read("tokenizer.json"));
  if (config.algorithm === "words") return new WordLevel(config);
  if (config.algorithm !== "clip_bpe") {
    throw new Error("this page has no tokenizer of this student's kind: use its own labels");
  }
  const [vocabulary, merges] = await Promise.all([read(config.vocabulary), read(config.merges)]);
  return new BytePairs(config, JSON.parse(vocabulary), merges.trimEnd().split("\n"));
}
