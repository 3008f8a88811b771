# SPDX-License-Identifier: MIT OR Apache-2.0
"""Prints the MRTD of an IGVM file for TDX, from nothing but the file, the format and the TDX module's rules.

    python3 mrtd.py parados-tdx.igvm
"""

import hashlib
import struct
import sys

PLATFORM, AREA, PAGE, INSERT = 0x1, 0x301, 0x302, 0x303
TDX = 3
LARGE, UNMEASURED, SHARED = 1, 2, 4

image = open(sys.argv[1], "rb").read()
_, _, at, length = struct.unpack_from("<4I", image)
end, mask, areas, mrtd = at + length, 0, {}, hashlib.sha384()


def record(name, gpa):
    mrtd.update(name.ljust(16, b"\0") + gpa.to_bytes(8, "little") + bytes(104))


while at < end:
    kind, size = struct.unpack_from("<II", image, at)
    at += 8
    if kind == PLATFORM:
        bit, _, platform = struct.unpack_from("<IBB", image, at)
        mask = bit if platform == TDX else mask
    elif kind == AREA:
        nbytes, index, _ = struct.unpack_from("<QII", image, at)
        areas[index] = nbytes
    elif kind == INSERT:
        gpa, wanted, index = struct.unpack_from("<QII", image, at)
        if wanted & mask:
            # The loader fills these, so they are added and not measured.
            for page in range(0, areas[index], 4096):
                record(b"MEM.PAGE.ADD", gpa + page)
    elif kind == PAGE:
        gpa, wanted, offset, flags = struct.unpack_from("<QIII", image, at)
        if wanted & mask and not flags & SHARED:
            assert not flags & LARGE, "pages of 4 KiB only"
            record(b"MEM.PAGE.ADD", gpa)
            data = image[offset : offset + 4096] if offset else bytes(4096)
            for chunk in range(0, 0 if flags & UNMEASURED else 4096, 256):
                record(b"MR.EXTEND", gpa + chunk)
                mrtd.update(data[chunk : chunk + 256])
    at += (size + 7) & ~7

print(mrtd.hexdigest())
