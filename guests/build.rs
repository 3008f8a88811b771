// SPDX-License-Identifier: MIT OR Apache-2.0
//! Links the guests at 2 MiB, and the floor's host out of the way of the guest that it runs.

fn main() {
    println!("cargo:rerun-if-changed=guest.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rustc-link-arg-bins=-T{folder}/guest.ld");
    println!("cargo:rustc-link-arg-bin=floor=--defsym=OTHER_BASE=0x4000000");
    println!("cargo:rustc-link-arg-bin=snp-probe=-esnp_entry");
}
