"""Arrays from and to files: .npz, .npy, .safetensors. Nothing in a file is ever executed."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.diagnostics import InputError, input_error

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

FORMATS = "formats: .npz, .safetensors, or NAME=file.npy"


def read_arrays(arguments: tuple[str, ...]) -> dict[str, Array]:
    """The arrays of several `file.npz`, `file.safetensors` or `NAME=file.npy`; later ones win."""
    arrays: dict[str, Array] = {}
    for argument in arguments:
        name, separator, rest = argument.partition("=")
        if separator and rest.endswith(".npy"):
            arrays[name] = _guarded(Path(rest), _read_npy)
        else:
            arrays |= _guarded(Path(argument), _reader(argument))
    return arrays


def _reader(path: str) -> Any:
    if path.endswith(".npz"):
        return _read_npz
    if path.endswith(".safetensors"):
        return _read_safetensors
    hint = f"give its tensor: `NAME={path}`" if path.endswith(".npy") else FORMATS
    raise input_error("file-format", f"{path} is no file of arrays that can be read", hint)


def _guarded(path: Path, reader: Any) -> Any:
    try:
        return reader(path)
    except InputError:
        raise
    except FileNotFoundError:
        raise input_error("file-missing", f"there is no file {path}") from None
    except IsADirectoryError:
        raise input_error("file-format", f"{path} is a directory") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as e:
        reason = str(e).split("\n")[0][:120]
        raise input_error("file-format", f"{path} cannot be read: {reason}") from None


def _read_npz(path: Path) -> dict[str, Array]:
    import numpy as np

    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        raise input_error("file-format", f"{path} holds one unnamed array, not an .npz archive")
    with loaded as archive:
        return {name: archive[name] for name in archive.files}


def _read_npy(path: Path) -> Array:
    import numpy as np

    loaded = np.load(path, allow_pickle=False)
    if not isinstance(loaded, np.ndarray):
        raise input_error("file-format", f"{path} is an archive; name it .npz")
    return loaded


def _read_safetensors(path: Path) -> dict[str, Array]:
    numpy_format = _safetensors()
    try:
        return dict(numpy_format.load_file(path))
    except numpy_format.SafetensorError as e:
        raise input_error("file-format", f"{path} cannot be read: {e}") from None


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError:
        raise input_error(
            "missing-package",
            ".safetensors files need the package safetensors",
            "install it: `pip install safetensors`",
        ) from None
    safetensors.numpy.SafetensorError = safetensors.SafetensorError  # type: ignore[attr-defined]
    return safetensors.numpy


def write_arrays(path: str, arrays: Mapping[str, Array]) -> None:
    """Write outputs under their names; .npy takes a single array. Raises `InputError`."""
    import numpy as np

    check_output(path, len(arrays))
    target = Path(path)
    try:
        if path.endswith(".npz"):
            np.savez(target, allow_pickle=False, **arrays)
        elif path.endswith(".npy"):
            np.save(target, next(iter(arrays.values())), allow_pickle=False)
        else:
            contiguous = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
            _safetensors().save_file(contiguous, target)
    except OSError as e:
        raise input_error("file-write", f"{path} cannot be written: {e.strerror or e}") from None


def check_output(path: str, count: int) -> None:
    """Whether a path can take this many arrays; asked before anything is computed."""
    if not path.endswith((".npz", ".npy", ".safetensors")):
        raise input_error("file-format", f"{path}: outputs go to .npz, .npy or .safetensors")
    if path.endswith(".npy") and count != 1:
        raise input_error(
            "file-format",
            f"{path}: .npy takes one array, and there are {count} outputs",
            "use .npz",
        )
    parent = Path(path).parent
    if not parent.is_dir():
        raise input_error("file-write", f"there is no folder {parent}")
