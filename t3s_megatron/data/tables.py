# SPDX-License-Identifier: Apache-2.0
"""Safetensors files that know what they belong to.

A table holds per-target data keyed by sample: for each sample its id, a hash of its tokens and
targets, and its number of targets. A reader brings its corpus; every one of its samples has to be
in the file with the same tokens, in whatever order. Damage and mismatch are named, never used: a
checksum covers header, sizes and values.

Values are never copied as a whole: they are written from where they are, and read by mapping the
file, so that the ranks of a node share the memory of what they look at.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.durable import replace_file
from t3s_megatron.errors import MismatchError

FORMAT = 2
#: What safetensors calls the dtypes of a table.
_DTYPES: dict[str, np.dtype] = {
    "I64": np.dtype("<i8"),
    "F32": np.dtype("<f4"),
    "U8": np.dtype("u1"),
}
_CORPUS_KEYS = ("dataset_fingerprint", "tokenizer_fingerprint", "uids", "sample_hashes")


#: Values that are looked at together, where temporary arrays are as large as what is looked at.
_AT_ONCE = 2**22


def slices_of(n: int) -> Iterator[slice]:
    """All of n values, a few million at a time: a number that 8 divides, but for the last."""
    for first in range(0, n, _AT_ONCE):
        yield slice(first, min(first + _AT_ONCE, n))


def save_table(
    path: str, kind: str, values: np.ndarray, sizes: np.ndarray, corpus_keys: dict, info: dict
) -> None:
    """`values`: flat float32 or uint8; `sizes` int64[n]: how many of its entries each sample has.

    ValueError when they do not go together.
    """
    if values.shape != (int(sizes.sum()),):
        raise ValueError(f"{kind}: {list(values.shape)} values for {int(sizes.sum())} places")
    header = {"format": FORMAT, "kind": kind, **corpus_keys, **info}
    # As safetensors has them: the largest type first, so that each is aligned.
    tensors = {"sizes": sizes.astype(np.int64), "values": np.ascontiguousarray(values)}
    text = json.dumps({"checksum": _checksum(header, **tensors), **header}, allow_nan=False)
    replace_file(path, lambda temporary: _write(temporary, tensors, text))


def _write(path: str, tensors: dict[str, np.ndarray], text: str) -> None:
    """A safetensors file, from the arrays as they are; `text`: its metadata."""
    names = {dtype: name for name, dtype in _DTYPES.items()}
    head: dict[str, object] = {"__metadata__": {"t3s": text}}
    place = 0
    for name, tensor in tensors.items():
        end = place + tensor.nbytes
        head[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, end],
        }
        place = end
    encoded = json.dumps(head, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in tensors.values():
            file.write(memoryview(tensor).cast("B"))


def _mapped(file: BinaryIO, path: str, name: str) -> np.ndarray:
    """A tensor of a safetensors file that is well-formed, not read but mapped."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    entry = json.loads(file.read(length))[name]
    dtype, (first, last) = _DTYPES[entry["dtype"]], entry["data_offsets"]
    if first == last:
        return np.zeros(entry["shape"], dtype)
    return np.memmap(path, dtype, "r", offset=8 + length + first, shape=tuple(entry["shape"]))


def _checksum(header: dict, values: np.ndarray, sizes: np.ndarray) -> str:
    """`header` as JSON has it, which is the same before writing and after reading."""
    digest = hashlib.sha256(json.dumps(header).encode())
    for tensor in (sizes, values):
        digest.update(np.ascontiguousarray(tensor))
    return digest.hexdigest()


def corpus_keys(corpus: Corpus) -> dict:
    """What ties a table to its samples."""
    return {
        "dataset_fingerprint": corpus.fingerprint,
        "tokenizer_fingerprint": corpus.tokenizer_fingerprint,
        "uids": corpus.uids,
        "sample_hashes": corpus.sample_hashes,
    }


def load_table(
    path: str, kind: str, dtypes: tuple[type, ...], needs: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray, dict]:
    """(values, sizes, header) of a whole file; `dtypes`: one of them is that of its values;
    `needs`: fields of its header. The values are mapped, read-only.

    MismatchError when it is missing, damaged, or another kind of file.
    """
    header, values, sizes = _read(path, kind)
    checksum = header.pop("checksum", None)
    if header.get("kind") != kind or header.get("format") != FORMAT:
        raise MismatchError(
            f"{path}: expected a {kind} of format {FORMAT}, found {header.get('kind')} of format "
            f"{header.get('format')}; use the version of t3s-megatron that wrote it "
            f"({header.get('created_by')}), or make the file again"
        )
    missing = [key for key in (*_CORPUS_KEYS, *needs) if key not in header]
    if missing:
        raise MismatchError(f"{path}: damaged, its header lacks {', '.join(missing)}; remake it")
    if not _well_formed(header, values, sizes, dtypes):
        raise MismatchError(f"{path}: damaged, its sizes or types do not fit; remake it")
    if checksum != _checksum(header, values, sizes):
        raise MismatchError(f"{path}: damaged, its checksum does not match its content; remake it")
    return values, sizes, header


def _well_formed(
    header: dict, values: np.ndarray, sizes: np.ndarray, dtypes: tuple[type, ...]
) -> bool:
    """The checksum is over bytes: it does not see the types that they are read with."""
    uids, hashes = header["uids"], header["sample_hashes"]
    fingerprints = [header["dataset_fingerprint"], header["tokenizer_fingerprint"]]
    if not isinstance(uids, list) or not isinstance(hashes, list):
        return False
    if not all(isinstance(text, str) for text in (*uids, *hashes, *fingerprints)):
        return False
    if values.dtype not in dtypes or sizes.dtype != np.int64:
        return False
    if not len(set(uids)) == len(uids) == len(hashes) or sizes.shape != (len(uids),):
        return False
    # Python's sum: that of int64 may wrap around to the right number.
    return bool((sizes >= 0).all()) and values.shape == (sum(sizes.tolist()),)


def _read(path: str, kind: str) -> tuple[dict, np.ndarray, np.ndarray]:
    """(header, values, sizes) of any table.

    MismatchError when the file cannot be read, or is not one of ours.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get("t3s", "null"))
            names = sorted(file.keys())
            if not isinstance(header, dict) or names != ["sizes", "values"]:
                raise MismatchError(
                    f"{path}: not a file of t3s-megatron, or damaged; give a {kind} that one of "
                    "its runs wrote"
                )
            if file.get_slice("values").get_dtype() not in _DTYPES:
                return header, file.get_tensor("values"), file.get_tensor("sizes")
            with open(path, "rb") as plain:
                return header, _mapped(plain, path, "values"), file.get_tensor("sizes")
    except MismatchError:
        raise
    # AttributeError, TypeError: a type of tensor that numpy does not have.
    except (
        SafetensorError,
        OSError,
        ValueError,
        RecursionError,
        AttributeError,
        TypeError,
    ) as error:
        raise MismatchError(
            f"{path}: cannot be read, it is missing or damaged ({error}); check the path, or make "
            "the file again"
        ) from None


def in_order(values: np.ndarray, sizes: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The values of the samples that stand at `places` int64[m] in the file, one sample after the
    other: `values` itself where those are all of them as they stand there, else a copy."""
    if np.array_equal(places, np.arange(len(sizes))):
        return values
    ends = np.cumsum(sizes)
    return np.concatenate([values[ends[i] - sizes[i] : ends[i]] for i in places])


def mapped_values(path: str) -> np.ndarray:
    """The values of a table that this run has just written: mapped, and not checked again."""
    with open(path, "rb") as file:
        return _mapped(file, path, "values")


def table_checksum(path: str) -> str | None:
    """The checksum that a table says it has; None where there is no table."""
    try:
        with safe_open(path, framework="numpy") as file:
            return json.loads((file.metadata() or {}).get("t3s", "{}")).get("checksum")
    except (SafetensorError, OSError, ValueError, AttributeError):
        return None


def wait_for_tables(checksums: dict[str, str], patience: float = 10.0) -> None:
    """Until these files are there with these checksums. MismatchError when they are not in
    `patience` seconds: a network file system may take a while to show another node's file."""
    give_up = time.monotonic() + patience
    for path, checksum in checksums.items():
        while (found := table_checksum(path)) != checksum:
            if time.monotonic() > give_up:
                raise MismatchError(
                    f"{path}: is not what the root rank has written there (checksum {found}); "
                    "--t3s-dir has to be on a file system that all nodes share"
                )
            time.sleep(0.1)


def places_of(path: str, header: dict, corpus: Corpus) -> list[int]:
    """For each sample of `corpus`, its number in the file. MismatchError names the first misfit."""
    if header["tokenizer_fingerprint"] != corpus.tokenizer_fingerprint:
        raise MismatchError(
            f"{path}: made with another tokenizer (fingerprint "
            f"{header['tokenizer_fingerprint'][:12]}, this run has "
            f"{corpus.tokenizer_fingerprint[:12]}); token positions would not match. Use "
            "that tokenizer, or make the file again with this one"
        )
    numbers = {uid: i for i, uid in enumerate(header["uids"])}
    places = []
    for i, (uid, expected) in enumerate(zip(corpus.uids, corpus.sample_hashes, strict=True)):
        number = numbers.get(uid)
        if number is None:
            raise MismatchError(
                f"{path}: has nothing for sample {uid!r} ({corpus.samples[i].where}); it belongs "
                "to another data set. Use the data it was made for, or make it again for this"
            )
        if header["sample_hashes"][number] != expected:
            raise MismatchError(
                f"{path}: sample {uid!r} ({corpus.samples[i].where}) has other tokens or targets "
                "than when the file was made; remake it for this data"
            )
        places.append(number)
    return places
