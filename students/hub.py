"""`push_to_hub`: a student, an export or a bundle on the Hugging Face hub, with a card.

A dry run unless told to upload. What looks like a secret is refused before any request; hidden
files, links and checkpoints do not go. `load_student` reads a folder back from `hf-hub:USER/NAME`.
Left out: resuming large files beyond what `huggingface_hub` does.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from students.student import CONFIG_FILE

HUB_PREFIX = "hf-hub:"
_KNOWN = (CONFIG_FILE, "metadata.json", "bundles.json")
_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
_LEFT_OUT = {"__pycache__", "checkpoints", "tensorboard", "wandb", "tracker.json"}
# Names that hold keys, and the forms that keys have: Hugging Face, AWS, GitHub, OpenAI, Slack, PEM.
_SECRET_NAME = re.compile(
    r"(\.env.*|.*\.(pem|key|p12|pfx)|id_(rsa|ed25519|ecdsa)|credentials.*|\.?netrc|\.npmrc|token)"
)
_SECRET = re.compile(
    rb"\b(hf_[A-Za-z0-9]{30,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,}|sk-[A-Za-z0-9_-]{32,}"
    rb"|xox[abprs]-[A-Za-z0-9-]{20,})|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
# Text files are read; weights of this size hold none that a pattern could tell from chance.
_MOST_READ = 32 << 20
_TEXT = {".json", ".jsonl", ".md", ".txt", ".py", ".js", ".html", ".css", ".yaml", ".yml", ".kt",
         ".swift", ".toml", ".csv", ".log", ".cfg", ".ini", ".sh", ""}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PushReport:
    """What went, or would go.

    Attributes:
        repository: USER/NAME.
        files: path in the repository -> bytes.
        address: of the commit; empty after a dry run.
    """

    repository: str
    files: Mapping[str, int]
    address: str = ""


def push_to_hub(
    folder: str | Path,
    repository: str,
    *,
    upload: bool = False,
    private: bool = False,
    message: str = "Upload with clip-distill",
) -> PushReport:
    """Send a folder to the hub; its README.md is the model card, a plain one is added if missing.

    Args:
        folder: what `Student.save`, `export` or `bundle` wrote.
        repository: USER/NAME; made if it is not there.
        upload: really send; by default only the report is made.
        private: whether a repository that is made now is private.
        message: of the commit.

    Raises:
        ValueError: nothing of ours in the folder, a bad name, or a file that looks like a secret.
        RuntimeError: the hub refused.
    """
    folder = Path(folder)
    if not _REPOSITORY.fullmatch(repository):
        raise ValueError(f"a repository is called USER/NAME, got {repository!r}")
    if not any((folder / name).is_file() for name in _KNOWN):
        raise ValueError(
            f"no student, export or bundle in {folder}: none of {', '.join(_KNOWN)} is there"
        )
    files = _files(folder)
    for name, path in files.items():
        _refuse_secret(name, path)
    sizes = {name: path.stat().st_size for name, path in files.items()}
    card = None if "README.md" in files else _plain_card(repository)
    if card is not None:
        sizes["README.md"] = len(card)
    address = _upload(files, card, repository, private, message) if upload else ""
    return PushReport(repository=repository, files=dict(sorted(sizes.items())), address=address)


def fetch_from_hub(name: str) -> Path:
    """Download `hf-hub:USER/NAME`, or `hf-hub:USER/NAME@REVISION`; returns the local folder.

    Raises:
        ValueError: the hub has no such repository, or is not reached and nothing was kept.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
    if not _REPOSITORY.fullmatch(repository):
        raise ValueError(f"a repository is called {HUB_PREFIX}USER/NAME, got {name!r}")
    wanted = ["*.json", "*.safetensors", "*.gz"]
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"cannot get {name}: {error}. Is the name right, are you logged in (hf auth login)?"
        ) from error


def _files(folder: Path) -> dict[str, Path]:
    """Everything in the folder but hidden files, links, and what training keeps for itself."""
    found = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        ours = not any(part in _LEFT_OUT for part in parts)
        hidden = any(part.startswith(".") for part in parts) and not _SECRET_NAME.fullmatch(
            path.name
        )
        if path.is_file() and not path.is_symlink() and ours and not hidden:
            found["/".join(parts)] = path
    return found


def _refuse_secret(name: str, path: Path) -> None:
    advice = "take it out of the folder, then push again; nothing was sent"
    if _SECRET_NAME.fullmatch(path.name.lower()):
        raise ValueError(f"{name} looks like a file of secrets by its name: {advice}")
    if path.suffix.lower() in _TEXT and path.stat().st_size <= _MOST_READ:
        found = _SECRET.search(path.read_bytes())
        if found:
            # Not the secret itself: errors end up in logs.
            start = found.group()[:6].decode()
            raise ValueError(f"{name} holds what looks like a secret ({start}...): {advice}")


def _plain_card(repository: str) -> bytes:
    name = repository.partition("/")[2]
    text = f"""---
library_name: clip-distill
tags: [clip, distillation]
---
# {name}

A CLIP student made with clip-distill.

    from students import load_student
    model = load_student("{HUB_PREFIX}{repository}")
    model.encode_text(["a photo of a cat"])
"""
    return text.encode()


def _upload(
    files: Mapping[str, Path], card: bytes | None, repository: str, private: bool, message: str
) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path))
        for name, path in files.items()
    ]
    if card is not None:
        operations.append(CommitOperationAdd(path_in_repo="README.md", path_or_fileobj=card))
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.create_commit(repository, operations, commit_message=message)
    except LocalTokenNotFoundError as error:
        raise ValueError("you are not logged in to the hub: run `hf auth login`") from error
    except HfHubHTTPError as error:
        raise RuntimeError(f"the hub refused {repository}: {error}") from error
    return str(done.commit_url)
