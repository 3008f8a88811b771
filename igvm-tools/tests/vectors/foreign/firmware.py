# SPDX-License-Identifier: MIT OR Apache-2.0
"""Writes firmware.fd: two pages that halt, with OVMF's table of what SEV-SNP has to load. Then another project's tool
makes an IGVM file of it, which the tests read:

    python3 firmware.py
    cargo install virtfw-igvm-tools@0.2.6
    igvm-wrap -i firmware.fd -o virtfw.igvm --native --snp
"""

import struct
import uuid

SIZE = 0x2000


def entry(guid, data):
    """An entry of the table, which is read backwards."""
    return data + struct.pack("<H", len(data) + 18) + uuid.UUID(guid).bytes_le


sections = [(0x800000, 0x2000, 1), (0x802000, 0x1000, 2), (0x803000, 0x1000, 3), (0x804000, 0x3000, 1)]
metadata = b"ASEV" + struct.pack("<III", 16 + 12 * len(sections), 1, len(sections))
metadata += b"".join(struct.pack("<III", *section) for section in sections)
start = 0x1000
entries = entry("dc886566-984a-4798-a75e-5585a7bf67cc", struct.pack("<I", SIZE - start))
entries += entry("00f771de-1a7e-4fcb-890e-68c77e2fb44e", struct.pack("<I", 0xFFFFFFF0))
footer = struct.pack("<H", len(entries) + 18) + uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
image = bytearray(b"\xf4" * SIZE)
image[start : start + len(metadata)] = metadata
table = entries + footer
image[SIZE - 0x20 - len(table) : SIZE - 0x20] = table
open("firmware.fd", "wb").write(image)
