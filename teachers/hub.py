"""The Hugging Face hub, or without a network what its cache holds.

huggingface_hub asks the hub for news of every file, and without a network retries each for half a
minute before it looks into its cache. Here one question decides.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import huggingface_hub
from huggingface_hub import constants


@contextmanager
def hub_or_cache(
    what: str, folder: str = "a local folder with open_clip_config.json and weights"
) -> Iterator[None]:
    """Load from the hub inside this block; when it is out of reach, from the cache alone.

    Args:
        what: is loaded, for the message.
        folder: what may be passed instead, for the message.

    Raises:
        ConnectionError: it is not in the cache either; says what to do.
    """
    obstacle = hub_obstacle()
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or bool(obstacle)
    try:
        yield
    except (RuntimeError, OSError) as error:
        if not obstacle:
            raise
        raise ConnectionError(
            f"{what} is not in the cache {constants.HF_HUB_CACHE}, and {obstacle}. Connect "
            "(behind a proxy set HTTPS_PROXY), or load it once where there is a network and copy "
            f"that cache here (HF_HOME names its place), or pass {folder}. "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = before


def hub_obstacle(seconds: float = 5.0) -> str:
    """Say why the hub cannot be asked; empty when it can."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids to ask the hub"
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=seconds)
    except Exception as error:
        # Its HTTP library may be httpx or requests, each with errors of its own.
        return f"{constants.ENDPOINT} cannot be reached ({error})"
    return ""
