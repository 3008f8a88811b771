// SPDX-License-Identifier: MIT OR Apache-2.0
//! **A TEST chain. Its private keys are public. Nothing may trust it unless it was told to.**
//!
//! ARK, ASK and VCEK as the Key Distribution Service hands them out for a Milan chip: the same key types, signatures,
//! names and extensions, but for the organisation, which says what it is. `tests/test_chain.rs` makes the certificates
//! from the keys, bit for bit; `test-chain/README.md` tells how the keys came to be.

use crate::platform::{Chip, ChipKeys, Product, Tcb};

/// The root's certificate, DER.
pub const ARK: &[u8] = include_bytes!("../test-chain/certs/ark.der");
/// The certificate of the key between, DER.
pub const ASK: &[u8] = include_bytes!("../test-chain/certs/ask.der");
/// The chip's certificate, DER.
pub const VCEK: &[u8] = include_bytes!("../test-chain/certs/vcek.der");

/// The chip that the VCEK's certificate is for. Its identifier can be read in a dump of a report.
pub const CHIP: Chip =
    Chip { id: *b"Parados TEST chip: its keys are public, a report proves nothing.", product: Product::MILAN };

/// The patch levels that the VCEK's certificate is for.
pub const TCB: Tcb = Tcb { boot_loader: 4, tee: 0, snp: 24, microcode: 219 };

/// The scalar of the VCEK: SHA-384 of [`VCEK_LABEL`].
const VCEK_SCALAR: [u8; 48] = [
    0x81, 0x21, 0x83, 0x55, 0xba, 0x29, 0xdd, 0xe8, 0xa8, 0x7d, 0xca, 0xc6, 0x20, 0xe9, 0xca, 0xf3, 0xb3, 0xc4, 0x60,
    0x87, 0xb7, 0x94, 0xae, 0x32, 0xd0, 0x31, 0x62, 0x1b, 0xbd, 0x6c, 0x5a, 0x47, 0x2c, 0x03, 0x46, 0xd0, 0x56, 0x3a,
    0xa7, 0x36, 0x55, 0xa1, 0x78, 0xed, 0xbf, 0xee, 0xa5, 0xc3,
];

/// Whence the VCEK comes.
pub const VCEK_LABEL: &[u8] = b"Parados TEST VCEK, a public key pair";

/// The keys of the test chip.
#[expect(clippy::expect_used, reason = "a constant, and every test uses it")]
pub fn keys() -> ChipKeys {
    let secret = b"Parados TEST chip secret, as public as the rest.";
    ChipKeys::new(&VCEK_SCALAR, *secret).expect("the test key is a scalar of P-384")
}
