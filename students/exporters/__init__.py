"""Files that a phone runs, checked against the model they came from.

What `export(student, "out/")` leaves, and nothing else:

    out/metadata.json             every file with its sha256; every tower file with its interface,
                                  size, measured error and latency; scale, bias, classes, versions
    out/preprocessing.json        picture to pixels, as `teachers.contract.Preprocess` reads it
    out/tokenizer.json            text to token ids; CLIP's vocabulary lies beside it
    out/student.json, model.safetensors     what `load_student("out/")` reads
    out/FORMAT/GRAPH[.QUANTIZE].SUFFIX      onnx/image.onnx, onnx/image.int8.onnx,
                                  executorch/text.pte, litert/text.dynamic-int8.tflite,
                                  coreml/image.fp16.mlpackage (a folder)

GRAPH is `image`, `text`, or `zero_shot` (pixels to the logits of a fixed label set); a file without
QUANTIZE is float32. In `metadata.json`, `towers` is a list with one entry a file: `format`,
`quantize`, `tower`, `path` (relative to out/), `input`, `input_shape` (a first "n" is any number of
rows), `input_dtype`, `output`, `output_shape`, `output_dtype`. `preprocessing_inside` says whether
picture files take bytes `(n, size, size, 3)` and normalise them, or normalised floats
`(n, 3, size, size)`; resizing and cropping are always the app's.
"""

from students.exporters.bundle import ExportReport, ExportRow, export
from students.exporters.formats import FORMATS
from students.exporters.parity import ParityError

__all__ = ["FORMATS", "ExportReport", "ExportRow", "ParityError", "export"]
