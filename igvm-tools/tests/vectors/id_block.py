# SPDX-License-Identifier: MIT OR Apache-2.0
"""Prints what `src/sign/tests.rs` expects: an ID block that sev-snp-measure made with the test key vcek.p8.

    pip install sev-snp-measure==0.0.13 cryptography
    openssl pkcs8 -inform DER -nocrypt -in vcek.p8 -out key.pem
    python3 id_block.py key.pem
"""

import base64
import sys
from sevsnpmeasure.id_block import snp_calc_id_block

key = sys.argv[1]
text = snp_calc_id_block(bytes(range(48)), key, key)
fields = dict(part.split("=", 1) for part in text.split("\n")[0].split(","))
auth = base64.b64decode(fields["id-auth"])
print("block     ", base64.b64decode(fields["id-block"]).hex())
print("signature ", auth[0x40:0x70].hex(), auth[0x88:0xB8].hex())
print("key digest", base64.b64decode(text.split("id_key_hash: ")[1].split("\n")[0]).hex())
