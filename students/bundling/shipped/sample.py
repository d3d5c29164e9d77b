"""Try the model in this folder: which of the texts fits each picture?

python sample.py cat.jpg dog.jpg --texts "a cat" "a dog"
python sample.py cat.jpg                       # with the bundle's own labels, if it has any
python sample.py cat.jpg --save rows.npz       # the embeddings

`requirements.txt` lists all that it needs.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from students.bundling.shipped.feeding import open_tokenizer, pixels, read
from students.bundling.shipped.runtime_onnx import open_tower

HERE = Path(__file__).parent


def main() -> None:
    """Embed, compare, print."""
    layout = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--texts", nargs="+", default=[])
    parser.add_argument("--save", help="write the embeddings here (.npz)")
    asked = parser.parse_args()
    facts = read(HERE / "metadata.json")
    names, text_rows = texts_and_rows(asked.texts, facts)
    image_rows = embed_pictures(asked.pictures, facts)
    for picture, row in zip(asked.pictures, image_rows, strict=True):
        print(picture)
        shares = scores(row, text_rows, facts)
        for i in np.argsort(-shares, kind="stable")[:5]:
            print(f"  {100 * shares[i]:5.1f} %  {names[i]}")
    if asked.save:
        np.savez(asked.save, image=image_rows, text=text_rows)


def embed_pictures(paths: list[str], facts: dict) -> np.ndarray:
    """Unit rows `(n, d)`, one a picture."""
    tower, config = facts["towers"]["image"], read(HERE / "preprocessing.json")
    run, dtype = open_tower(HERE, tower), tower["input_dtype"]
    return np.concatenate([run(pixels(Image.open(path), config, dtype)) for path in paths])


def texts_and_rows(texts: list[str], facts: dict) -> tuple[list[str], np.ndarray]:
    """Texts with their unit rows: those asked for, else the bundle's labels."""
    if texts:
        run, tokenize = open_tower(HERE, facts["towers"]["text"]), open_tokenizer(HERE)
        return texts, np.concatenate([run(ids[None]) for ids in tokenize(texts)])
    if not (HERE / "labels.json").is_file():
        raise SystemExit("this bundle has no labels of its own: name some with --texts")
    labels = read(HERE / "labels.json")
    rows = np.fromfile(HERE / labels["rows"], dtype="<f4").reshape(labels["shape"])
    return labels["labels"], rows


def scores(row: np.ndarray, text_rows: np.ndarray, facts: dict) -> np.ndarray:
    """Probabilities: over all texts (CLIP), or of each by itself (SigLIP)."""
    logits = facts["logit_scale"] * (text_rows @ row).astype(np.float64)
    if facts["kind"] == "sigmoid":
        return 1 / (1 + np.exp(-(logits + facts["logit_bias"])))
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()


if __name__ == "__main__":
    main()
