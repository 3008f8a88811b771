# SPDX-License-Identifier: MIT OR Apache-2.0
"""Makes the vectors in this folder; see README.md."""
import base64
import re
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sevsnpmeasure import id_block
from sevsnpmeasure.gctx import GCTX

HERE = Path(__file__).parent
NORMAL, VMSA, ZERO, UNMEASURED, SECRETS, CPUID = range(1, 7)


def page(seed):
    if seed is None:
        return bytes(4096)
    return bytes((i * seed + (i >> 8)) % 256 for i in range(4096))


LAUNCHES = {
    "nothing": [],
    "zeros": [(NORMAL, 0, None)],
    "zero": [(ZERO, 0, None)],
    "unmeasured": [(UNMEASURED, 0x1000, 3)],
    "secrets": [(SECRETS, 0x1000, None)],
    "cpuid": [(CPUID, 0x2000, None)],
    "vmsa": [(VMSA, GCTX.VMSA_GPA, None)],
    "each": [
        (NORMAL, 0, None),
        (ZERO, 0x1000, None),
        (SECRETS, 0x2000, None),
        (CPUID, 0x3000, None),
        (VMSA, GCTX.VMSA_GPA, None),
    ],
    "contents": [(NORMAL, 0x1000, 7), (NORMAL, 0x2000, 11), (VMSA, GCTX.VMSA_GPA, 5), (VMSA, GCTX.VMSA_GPA, 13)],
    "order": [(NORMAL, 0x2000, 11), (NORMAL, 0x1000, 7), (VMSA, GCTX.VMSA_GPA, 13), (VMSA, GCTX.VMSA_GPA, 5)],
    "high": [(NORMAL, 0xF_FFFF_FFFF_E000, 1), (UNMEASURED, 0xFFFF_F000, 1)],
    "2M": [(NORMAL, 0x20_0000 + n * 4096, n % 7 + 1) for n in range(512)],
    "id-block": [(NORMAL, 0x10_0000, 17), (VMSA, GCTX.VMSA_GPA, 19)],
}


def digest(pages):
    context = GCTX()
    for kind, gpa, seed in pages:
        {
            NORMAL: lambda: context.update_normal_pages(gpa, page(seed)),
            VMSA: lambda: context.update_vmsa_page(page(seed)),
            ZERO: lambda: context.update_zero_pages(gpa, 4096),
            UNMEASURED: lambda: context.update_unmeasured_pages(gpa, 4096),
            SECRETS: lambda: context.update_secrets_page(gpa),
            CPUID: lambda: context.update_cpuid_page(gpa),
        }[kind]()
    return context.ld()


def write_digests():
    lines = []
    for name, pages in LAUNCHES.items():
        words = [f"{kind}@{gpa:x}:{'-' if seed is None else seed}" for kind, gpa, seed in pages]
        lines.append(" ".join([name, *words, digest(pages).hex()]))
    (HERE / "launch_digests.txt").write_text("\n".join(lines) + "\n")


def new_key(folder, name):
    file = folder / name
    key = ec.generate_private_key(ec.SECP384R1())
    pem = serialization.Encoding.PEM
    form = serialization.PrivateFormat.TraditionalOpenSSL
    file.write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    return file


def write_id_block():
    with tempfile.TemporaryDirectory() as folder:
        keys = [str(new_key(Path(folder), name)) for name in ("id", "author")]
        text = id_block.snp_calc_id_block(digest(LAUNCHES["id-block"]), *keys)
    found = dict(re.findall(r"([a-z_-]+)(?:=|: )([A-Za-z0-9+/=]+)", text))
    decoded = {name: base64.b64decode(value) for name, value in found.items()}
    (HERE / "id_block.bin").write_bytes(decoded["id-block"])
    (HERE / "id_auth.bin").write_bytes(decoded["id-auth"])
    (HERE / "id_key_digests.txt").write_text(decoded["id_key_hash"].hex() + "\n" + decoded["author_key"].hex() + "\n")


write_digests()
write_id_block()
