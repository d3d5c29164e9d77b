"""Pictures as data-URIs, small enough that a page with a hundred of them stays a page."""

import base64
import io

from PIL import Image

from reinforced_data.decoding import UnreadableImage, decode_image

_SIDE_PX = 192
# Below both a PNG or a JPEG goes in as it is: re-encoding would only blur it.
_SMALL_BYTES = 16_384
_SMALL_SIDE_PX = 512
_MAGIC = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}


def picture_uri(data: bytes) -> str:
    """A data-URI of a PNG, JPEG or WebP; empty when it cannot be read.

    What claims to be a picture and is none never reaches the page; a large one is shrunk.
    """
    try:
        image = decode_image(data)
    except UnreadableImage:
        return ""
    kind = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)
    if kind is None or len(data) > _SMALL_BYTES or max(image.size) > _SMALL_SIDE_PX:
        image.thumbnail((_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=88)
        data, kind = stream.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
