// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks what the PVH boot loader passes (Xen public headers: arch-x86/hvm/start_info.h).
//!
//! The memory map in it is SeaBIOS's: it hides what the firmware keeps for itself. The machine's own map comes from fw_cfg.

use crate::report::Stop;
use specs::pvh::{START_MAGIC, StartInfo};

/// Checks the structure: it must be PVH's, and pass one module.
pub fn check(info: &StartInfo) -> Result<(), Stop> {
    if info.magic != START_MAGIC {
        return Err(Stop::Machine("the PVH start information has a wrong magic number"));
    }
    if info.module_count != 1 {
        return Err(Stop::Machine("exactly one module is needed: pass the IGVM file with -initrd"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_but_one_module_is_refused() {
        let good = StartInfo { magic: START_MAGIC, module_count: 1, ..StartInfo::default() };
        assert_eq!(check(&good), Ok(()));
        assert!(check(&StartInfo { module_count: 0, ..good }).is_err());
        assert!(check(&StartInfo { module_count: 2, ..good }).is_err());
        assert!(check(&StartInfo { magic: 1, ..good }).is_err());
    }
}
