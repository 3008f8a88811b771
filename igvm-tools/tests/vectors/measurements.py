# SPDX-License-Identifier: MIT OR Apache-2.0
"""Prints the digests that `src/measure/tests.rs` expects of its image `every_kind`.

    pip install sev-snp-measure==0.0.13
    python3 measurements.py

SNP's come from sev-snp-measure's GCTX; MRTD from the rules of the TDX module, spelt out below.
"""

import hashlib
from sevsnpmeasure.gctx import GCTX, sha384

ZERO = bytes(4096)


def pattern(seed):
    return bytes((seed + i) % 251 for i in range(4096))


def vmsa(rip, features):
    page = bytearray(4096)
    page[0x178:0x180] = rip.to_bytes(8, "little")
    page[0x3B0:0x3B8] = features.to_bytes(8, "little")
    return bytes(page)


# What the image lays out, in its order.
STEPS = [
    ("normal", 0x100000, pattern(1)),
    ("unmeasured", 0x101000, pattern(2)),
    ("secrets", 0x102000, ZERO),
    ("cpuid", 0x103000, pattern(3)),
    ("cpuid", 0x104000, ZERO),
    ("none", 0x105000, ZERO),
    ("vmsa", 0x10B000, vmsa(0x1111, 0x21)),
    ("parameter", 0x106000, None),
    ("parameter", 0x107000, None),
    ("normal", 0x109000, pattern(4)),
    ("vmsa", 0x10C000, vmsa(0x2222, 0x21)),
    ("normal", 0x108000, ZERO),
]


def snp(kvm, typed_zeroes):
    context = GCTX()
    last = []
    for kind, gpa, data in STEPS:
        if kind == "normal" or (kind == "none" and not typed_zeroes):
            context.update_normal_pages(gpa, data)
        elif kind == "none":
            context.update_zero_pages(gpa, 4096)
        elif kind in ("unmeasured", "parameter"):
            context.update_unmeasured_pages(gpa, 4096)
        elif kind == "secrets":
            context.update_secrets_page(gpa)
        elif kind == "cpuid":
            context.update_cpuid_page(gpa)
        elif kvm:
            last.append(data)
        else:
            context._update(0x02, gpa, sha384(data))
    for data in last:
        context.update_vmsa_page(data)
    return context.hex_ld()


def tdx():
    mrtd = hashlib.sha384()
    for kind, gpa, data in STEPS:
        if kind == "vmsa":
            continue
        mrtd.update(b"MEM.PAGE.ADD\0\0\0\0" + gpa.to_bytes(8, "little") + bytes(104))
        if kind in ("unmeasured", "parameter"):
            continue
        for at in range(0, 4096, 256):
            mrtd.update(b"MR.EXTEND\0\0\0\0\0\0\0" + (gpa + at).to_bytes(8, "little") + bytes(104))
            mrtd.update(data[at : at + 256])
    return mrtd.hexdigest()


print("snp file data", snp(False, False))
print("snp file type", snp(False, True))
print("snp kvm  data", snp(True, False))
print("snp kvm  type", snp(True, True))
print("tdx mrtd     ", tdx())
