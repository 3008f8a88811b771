// SPDX-License-Identifier: MIT OR Apache-2.0
//! The MSR protocol: what a guest can ask before it has a GHCB page (GHCB 2.0, 2.3.1).

use crate::{Action, Devices, Hardware, Host, VERSIONS, page_state};
use specs::ghcb::{msr, page_state as operation};

/// Bits 51:12 of a page-state request, shifted down.
const GFN: u64 = 0xff_ffff_ffff;

/// SEV information: the versions and the C-bit.
pub(crate) const fn sev_info(c_bit: u8) -> u64 {
    msr::SEV_INFO_RESPONSE | (c_bit as u64) << 24 | *VERSIONS.start() << 32 | *VERSIONS.end() << 48
}

pub(crate) fn handle(
    host: &mut Host,
    processor: u32,
    vmpl: u8,
    value: &mut u64,
    hardware: &mut impl Hardware,
    devices: &mut impl Devices,
) -> Action {
    let request = *value;
    let data = request >> 12;
    match request & msr::FUNCTION {
        msr::SEV_INFO_REQUEST => *value = sev_info(host.c_bit),
        msr::CPUID_REQUEST => {
            let [eax, ebx, ecx, edx] = devices.cpuid((request >> 32) as u32, 0);
            let register = request >> 30 & 3;
            let answer = [eax, ebx, ecx, edx].get(register as usize).copied().unwrap_or(0);
            *value = msr::CPUID_RESPONSE | register << 30 | u64::from(answer) << 32;
        }
        msr::FEATURES_REQUEST => *value = msr::FEATURES_RESPONSE | host.features << 12,
        msr::PREFERRED_GPA_REQUEST => *value = msr::PREFERRED_GPA_RESPONSE | msr::NO_GFN << 12,
        msr::REGISTER_GPA_REQUEST => {
            let gpa = data << 12;
            let accepted = hardware.is_ram(gpa, 4096);
            if let (true, Some(context)) = (accepted, host.context(processor, vmpl)) {
                context.registered = Some(gpa);
            }
            *value = msr::REGISTER_GPA_RESPONSE | if accepted { data } else { msr::NO_GFN } << 12;
        }
        msr::PAGE_STATE_REQUEST => {
            let gpa = (data & GFN) << 12;
            let to_private = match data >> 40 & 0xf {
                operation::PRIVATE => Some(true),
                operation::SHARED => Some(false),
                _ => None,
            };
            let done = to_private.is_some_and(|private| page_state::convert(hardware, gpa, false, private).is_ok());
            // KVM sets the top bit on failure.
            *value = msr::PAGE_STATE_RESPONSE | if done { 0 } else { 1 << 63 };
        }
        msr::AP_RESET_HOLD_REQUEST => {
            *value = msr::AP_RESET_HOLD_RESPONSE;
            return Action::Hold;
        }
        msr::RUN_VMPL_REQUEST => {
            // The answer is there before the switch, so that it is seen on the way back.
            let target = (request >> 32) as u8;
            if host.may_run(processor, vmpl, target.into()) {
                *value = msr::RUN_VMPL_RESPONSE;
                return Action::Run(target);
            }
            *value = msr::RUN_VMPL_RESPONSE | 1 << 32;
        }
        msr::TERMINATE => return Action::Terminate((request >> 12 & 0xf) as u8, (request >> 16) as u8),
        // KVM leaves what it does not know as it is and goes on.
        _ => {}
    }
    Action::Resume
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Machine, host};

    fn ask(request: u64) -> (u64, Action) {
        let (mut host, mut machine) = (host(), Machine::default());
        ask_with(&mut host, &mut machine, request)
    }

    fn ask_with(host: &mut Host, machine: &mut Machine, request: u64) -> (u64, Action) {
        let mut value = request;
        let (memory, devices) = machine.halves();
        let action = host.vmgexit(0, 0, &mut value, memory, devices);
        (value, action)
    }

    #[test]
    fn the_versions_and_the_c_bit_are_told() {
        assert_eq!(ask(0x002).0, 0x0002_0001_2f00_0001);
        assert_eq!(host().initial_msr(), 0x0002_0001_2f00_0001);
    }

    #[test]
    fn one_register_of_a_leaf_at_a_time() {
        assert_eq!(ask(0x4000_0000_4000_0004).0, 0x4000_0001_4000_0005, "EBX");
        assert_eq!(ask(0x4000_0000_c000_0004).0, 0x4000_0003_c000_0005, "EDX");
    }

    #[test]
    fn a_ghcb_is_registered_only_in_ram() {
        let (mut host, mut machine) = (host(), Machine::default());
        assert_eq!(ask_with(&mut host, &mut machine, 0x5012).0, 0x5013);
        assert_eq!(host.context(0, 0).unwrap().registered, Some(0x5000));
        assert_eq!(ask_with(&mut host, &mut machine, 0xffff_0000_0012).0, 0xffff_ffff_ffff_f013);
        assert_eq!(host.context(0, 0).unwrap().registered, Some(0x5000));
    }

    #[test]
    fn a_page_changes_hands_and_a_bad_request_fails() {
        let (mut host, mut machine) = (host(), Machine::default());
        assert_eq!(ask_with(&mut host, &mut machine, 1 << 52 | 0x7014).0, 0x015);
        assert!(machine.memory.is_private(0x7000));
        assert_eq!(ask_with(&mut host, &mut machine, 2 << 52 | 0x7014).0, 0x015);
        assert!(!machine.memory.is_private(0x7000));
        for bad in [0x7014, 5 << 52 | 0x7014, 1 << 52 | 0xffff_ffff_f014] {
            assert_eq!(ask_with(&mut host, &mut machine, bad).0, 1 << 63 | 0x015, "{bad:#x}");
        }
    }

    #[test]
    fn termination_names_set_and_code() {
        assert_eq!(ask(0x0003_1100), (0x0003_1100, Action::Terminate(1, 3)));
    }

    #[test]
    fn a_vmpl_with_a_vmsa_can_be_run() {
        let (mut host, mut machine) = (host(), Machine::default());
        host.context(0, 2).unwrap().created = true;
        assert_eq!(ask_with(&mut host, &mut machine, 0x016 | 2 << 32), (0x017, Action::Run(2)));
    }

    #[test]
    fn what_is_unknown_stays_as_it_is() {
        assert_eq!(ask(0xabc_def), (0xabc_def, Action::Resume));
        assert_eq!(ask(0x016 | 2 << 32), (0x017 | 1 << 32, Action::Resume), "there is no VMSA for it");
        assert_eq!(ask(0x006).1, Action::Hold);
        assert_eq!(ask(0x010).0, 0xffff_ffff_ffff_f011);
        assert_eq!(ask(0x080).0, 0x3_7081);
    }
}
