"""What to tell somebody whose store cannot be written."""

import errno
import shutil
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def cannot_write(error: OSError, path: Path, size: int) -> OSError:
    """Word an error of the file system.

    Args:
        error: what the system said.
        path: the file that was to be written.
        size: its bytes.

    Returns:
        A `PermissionError` where another folder or other rights are needed, else an `OSError`.
    """
    said = f"{path} cannot be written ({error.strerror or error})"
    if error.errno in _REFUSED:
        return PermissionError(
            f"{said}: this process may not write there. Give another folder, or change the "
            "rights of this one"
        )
    if error.errno in _FULL:
        said += f": {size:,} bytes are needed, {_free_bytes(path):,} are free"
        if error.errno != errno.ENOSPC:
            said += " but a limit on files or on this user's space forbids it"
    return OSError(
        f"{said}. All that is committed is whole: make room and give the same command again, "
        "which goes on from there"
    )


def _free_bytes(path: Path) -> int:
    there = next(parent for parent in path.parents if parent.is_dir())
    return shutil.disk_usage(there).free
