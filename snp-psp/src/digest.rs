// SPDX-License-Identifier: MIT OR Apache-2.0
//! The launch digest: a chain of SHA-384 over one PAGE_INFO for each 4 KiB page.
//!
//! 56860, 8.17.2, Table 67, as virtee/sev-snp-measure `gctx.py` and COCONUT-SVSM `igvmmeasure` write it.

use zerocopy::little_endian::{U16, U64};
use zerocopy::{Immutable, IntoBytes, Unaligned};

use crate::ecdsa::sha384;
use crate::launch::{PageType, Permissions};

/// How the permissions of VMPL1 to 3 lie in PAGE_INFO's bytes 64h to 67h. The sources disagree, and software so far
/// leaves them zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PermissionOrder {
    /// Reserved, VMPL1, VMPL2, VMPL3: COCONUT's igvmmeasure; also the order in Linux's launch command.
    #[default]
    Ascending,
    /// VMPL3, VMPL2, VMPL1, reserved: sev-snp-measure.
    Descending,
}

#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct PageInfo {
    digest: [u8; 48],
    contents: [u8; 48],
    length: U16,
    page_type: u8,
    imi: u8,
    permissions: [u8; 4],
    gpa: U64,
}

const _: () = assert!(size_of::<PageInfo>() == 0x70);

/// A digest in the making.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LaunchDigest([u8; 48]);

impl LaunchDigest {
    pub(crate) const fn new() -> Self {
        Self([0; 48])
    }

    pub(crate) fn value(&self) -> [u8; 48] {
        self.0
    }

    /// Takes in a page of 4 KiB; `contents` are hashed only for the types that are measured.
    pub(crate) fn extend(
        &mut self,
        page_type: PageType,
        gpa: u64,
        permissions: Permissions,
        order: PermissionOrder,
        contents: &[u8],
    ) {
        let Permissions { vmpl1, vmpl2, vmpl3 } = permissions;
        let info = PageInfo {
            digest: self.0,
            contents: if page_type.is_measured() { sha384(contents) } else { [0; 48] },
            length: U16::new(0x70),
            page_type: page_type as u8,
            imi: 0,
            permissions: match order {
                PermissionOrder::Ascending => [0, vmpl1, vmpl2, vmpl3],
                PermissionOrder::Descending => [vmpl3, vmpl2, vmpl1, 0],
            },
            gpa: U64::new(gpa),
        };
        self.0 = sha384(info.as_bytes());
    }
}
