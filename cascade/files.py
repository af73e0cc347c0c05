"""Specs and arrays from and to files: .cascade, .npz, .npy, .safetensors. Nothing in a file is
ever executed.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.diagnostics import InputError, Source, did_you_mean, fail, input_error

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

NUMPY_TYPE = {
    **{f"F{8 * n}": f"<f{n}" for n in (2, 4, 8)},
    **{f"{c}{8 * n}": f"<{c.lower()}{n}" for c in "IU" for n in (1, 2, 4, 8)},
    "BOOL": "?",
}
FORMATS = "formats: .npz, .safetensors, or NAME=file.npy"


def read_source(path: str | Path) -> Source:
    """The text of a spec. Raises `CascadeError` for what cannot be read as text."""
    if str(path) == "-":
        return Source("<stdin>", sys.stdin.read())
    path = Path(path)
    name = str(path)
    if path.is_dir():
        raise fail("file", f"{name} is a directory, not a .cascade file")
    try:
        return Source(name, path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n"))
    except FileNotFoundError:
        raise fail("file", f"there is no file {name}", hints=_nearby(path)) from None
    except UnicodeDecodeError as e:
        raise fail("file", f"{name} is not UTF-8 text (byte {e.start})") from None
    except OSError as e:
        raise fail("file", f"{name} cannot be read: {e.strerror}") from None


def _nearby(path: Path) -> tuple[str, ...]:
    folder = path.parent
    names = [p.name for p in folder.glob("*.cascade")] if folder.is_dir() else []
    return did_you_mean(path.name, names) or ("`cascade examples` lists specs to start from",)


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
    safetensors = _safetensors()
    try:
        return {
            name: _decoded(path, name, tensor)
            for name, tensor in safetensors.deserialize(path.read_bytes())
        }
    except safetensors.SafetensorError as e:
        raise input_error("file-format", f"{path} cannot be read: {e}") from None


def _decoded(path: Path, name: str, tensor: Mapping[str, Any]) -> Array:
    """An array of a .safetensors file; narrow reals, which NumPy lacks, as f32."""
    import numpy as np

    dtype, data = tensor["dtype"], tensor["data"]
    if dtype in NUMPY_TYPE:
        array = np.frombuffer(data, np.dtype(NUMPY_TYPE[dtype]))
    elif dtype == "BF16":
        array = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    elif dtype in ("F8_E4M3", "F8_E5M2"):
        array = _eight_bits(dtype)[np.frombuffer(data, np.uint8)]
    else:
        raise input_error("file-format", f"{path}: `{name}` has type {dtype}, which is not read")
    return array.reshape(tensor["shape"])


def _eight_bits(dtype: str) -> Array:
    """The values of the 256 codes of an 8-bit real."""
    import numpy as np

    code = np.arange(256, dtype=np.uint16)
    if dtype == "F8_E5M2":  # the upper half of a half
        return (code << 8).view(np.float16).astype(np.float32)
    exponent, mantissa = (code >> 3 & 15).astype(int), (code & 7).astype(float)
    size = np.where(
        exponent > 0, np.ldexp(1 + mantissa / 8, exponent - 7), np.ldexp(mantissa / 8, -6)
    )
    size[code & 127 == 127] = np.nan  # the only codes that are no number: there is no infinity
    return np.where(code < 128, size, -size).astype(np.float32)


def _safetensors() -> Any:
    try:
        import safetensors
    except ImportError:
        raise input_error(
            "missing-package",
            ".safetensors files need the package safetensors",
            "install it: `pip install safetensors`",
        ) from None
    return safetensors


def write_arrays(path: str, arrays: Mapping[str, Array]) -> None:
    """Write outputs under their names; .npy takes a single array. Raises `InputError`."""
    import numpy as np

    check_output(path, len(arrays))
    target = Path(path)
    try:
        if path.endswith(".npz"):
            _write_npz(target, arrays)
        elif path.endswith(".npy"):
            np.save(target, next(iter(arrays.values())), allow_pickle=False)
        else:
            from safetensors.numpy import save_file

            save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, target)
    except OSError as e:
        raise input_error("file-write", f"{path} cannot be written: {e.strerror or e}") from None


def _write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """As `np.savez`, which takes some names (`file`, `allow_pickle`) for its own arguments."""
    import numpy as np

    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.save(member, np.asanyarray(array), allow_pickle=False)


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
    if path.endswith(".safetensors"):
        _safetensors()
    parent = Path(path).parent
    if not parent.is_dir():
        raise input_error("file-write", f"there is no folder {parent}")
