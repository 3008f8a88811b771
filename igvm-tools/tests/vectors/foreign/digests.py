# SPDX-License-Identifier: MIT OR Apache-2.0
"""Prints the SNP launch digests of an IGVM file, by sev-snp-measure's GCTX and nothing of ours.

    pip install sev-snp-measure==0.0.13
    python3 digests.py virtfw.igvm 2

The second argument is the platform's compatibility mask.
"""

import struct
import sys
from sevsnpmeasure.gctx import GCTX, sha384

file, mask = open(sys.argv[1], "rb").read(), int(sys.argv[2])
start, size = struct.unpack_from("<II", file, 8)


def digest(kvm, typed_zeroes):
    context, late, areas, at = GCTX(), [], {}, start
    while at < start + size:
        kind, length = struct.unpack_from("<II", file, at)
        body = file[at + 8 : at + 8 + length]
        at += 8 + (length + 7) // 8 * 8
        if kind == 0x301:
            count, index, _ = struct.unpack("<QII", body)
            areas[index] = count
        elif kind == 0x303:
            gpa, own, index = struct.unpack("<QII", body)
            if own & mask:
                context.update_unmeasured_pages(gpa, areas[index])
        elif kind == 0x302:
            gpa, own, offset, flags, data, _ = struct.unpack("<QIIIHH", body)
            if not own & mask or flags & 4:
                continue
            if data == 1:
                context.update_secrets_page(gpa)
            elif data in (2, 3):
                context.update_cpuid_page(gpa)
            elif flags & 2:
                context.update_unmeasured_pages(gpa, 4096)
            elif offset:
                context.update_normal_pages(gpa, file[offset : offset + 4096])
            elif typed_zeroes:
                context.update_zero_pages(gpa, 4096)
            else:
                context.update_normal_pages(gpa, bytes(4096))
        elif kind == 0x304:
            gpa, own, offset, _, _ = struct.unpack("<QIIHH", body)
            if own & mask:
                vmsa = file[offset : offset + 4096]
                late.append(vmsa) if kvm else context._update(2, gpa, sha384(vmsa))
    for vmsa in late:
        context.update_vmsa_page(vmsa)
    return context.hex_ld()


for kvm in (False, True):
    for typed_zeroes in (False, True):
        print("kvm " if kvm else "file", "type" if typed_zeroes else "data", digest(kvm, typed_zeroes))
