# SPDX-License-Identifier: Apache-2.0
"""python tests/gpu/prune.py SOURCE TARGET 90: a CUDA library whose device code of every other
architecture, and what debuggers read, is zeros, so that xz makes it small. The offsets stay, and it
loads as before.

The layout of device code (regions with a magic number, entries with kind, sizes and architecture)
was read off libraries of CUDA 13; a library in which it is another is refused.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator

_MAGIC = 0xBA55ED50


def prune(source: str, target: str, keep: set[int]) -> tuple[int, int]:
    """(bytes of device code that stay, bytes that were zeroed). ValueError where there is none."""
    with open(source, "rb") as file:
        data = bytearray(file.read())
    kept = zeroed = 0
    for name, start, stop in _sections(data):
        # Relocatable device code was the input of a link that is done.
        if name.startswith(b".debug_") or name == b"__nv_relfatbin":
            data[start:stop] = bytes(stop - start)
            zeroed += stop - start
        elif name == b".nv_fatbin":
            kept, other = _prune_device_code(data, start, stop, keep)
            zeroed += other
    if not kept:
        raise ValueError(f"{source} has no device code of {sorted(keep)}")
    with open(target, "wb") as file:
        file.write(data)
    return kept, zeroed


def _prune_device_code(data: bytearray, position: int, end: int, keep: set[int]) -> tuple[int, int]:
    kept = zeroed = 0
    while position < end:
        magic, _, header, size = struct.unpack_from("<IHHQ", data, position)
        if magic != _MAGIC:
            position += 8
            continue
        entry, stop = position + header, position + header + size
        while entry < stop:
            _, _, entry_header, payload = struct.unpack_from("<HHIQ", data, entry)
            (architecture,) = struct.unpack_from("<I", data, entry + 28)
            start = entry + entry_header
            if architecture in keep:
                kept += payload
            else:
                data[start : start + payload] = bytes(payload)
                zeroed += payload
            entry = start + payload
        position = stop
    return kept, zeroed


def _sections(data: bytearray) -> Iterator[tuple[bytes, int, int]]:
    """(name, offset of its first byte, of the one behind its last), from the ELF headers."""
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)

    def header(number: int) -> tuple:
        return struct.unpack_from("<IIQQQQIIQQ", data, table + number * size)

    strings = header(names)[4]
    for number in range(count):
        found = header(number)
        start = strings + found[0]
        yield bytes(data[start : data.index(b"\0", start)]), found[4], found[4] + found[5]


if __name__ == "__main__":
    kept, zeroed = prune(sys.argv[1], sys.argv[2], {int(a) for a in sys.argv[3:]})
    print(f"{kept / 1e6:.1f} MB stay, {zeroed / 1e6:.1f} MB zeroed")
