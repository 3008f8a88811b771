// SPDX-License-Identifier: MIT OR Apache-2.0
//! What Parados asks an SNP host that ends the VM, as the host's side reads it and its report words it.

#![allow(missing_docs, reason = "a test")]

use platform::{Reason, Termination};
use reference_host::report::End;
use snp_host::{Action, Devices, Hardware, Host, NotShared};

/// A machine that a request to end the VM must not touch.
struct Untouched;

impl Hardware for Untouched {
    fn rmpupdate(&mut self, gpa: u64, _: bool, _: bool) -> u32 {
        panic!("RMPUPDATE of {gpa:#x}")
    }
    fn remap(&mut self, gpa: u64, _: u64) {
        panic!("{gpa:#x} mapped elsewhere")
    }
    fn snatch(&mut self, gpa: u64) {
        panic!("{gpa:#x} taken away")
    }
    fn occupy(&mut self) {
        panic!("a VMSA that runs elsewhere")
    }
    fn psmash(&mut self, gpa: u64) -> u32 {
        panic!("PSMASH of {gpa:#x}")
    }
    fn is_ram(&self, _: u64, _: u64) -> bool {
        false
    }
    fn read_shared(&mut self, _: u64, _: &mut [u8]) -> Result<(), NotShared> {
        Err(NotShared)
    }
    fn write_shared(&mut self, _: u64, _: &[u8]) -> Result<(), NotShared> {
        Err(NotShared)
    }
}

impl Devices for Untouched {
    fn port_read(&mut self, _: u8, port: u16, _: u8) -> u32 {
        panic!("IN {port:#x}")
    }
    fn port_write(&mut self, _: u8, port: u16, _: u8, _: u32) {
        panic!("OUT {port:#x}")
    }
    fn memory_read(&mut self, gpa: u64, _: u8) -> u64 {
        panic!("a read of {gpa:#x}")
    }
    fn memory_write(&mut self, gpa: u64, _: u8, _: u64) {
        panic!("a write of {gpa:#x}")
    }
    fn cpuid(&mut self, leaf: u32, _: u32) -> [u32; 4] {
        panic!("CPUID {leaf:#x}")
    }
    fn msr_read(&mut self, _: u32) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, _: u32, _: u64) -> bool {
        false
    }
    fn interrupt(&mut self, command: u32, _: u8) {
        panic!("interrupt command {command:#x}")
    }
    fn guest_request(&mut self, _: &[u8; 4096], _: &mut [u8; 4096]) -> Option<u32> {
        None
    }
    fn certificates(&self) -> &[u8] {
        &[]
    }
}

/// What the host reports when a processor of Parados's VMPL asks for this end.
fn reported(how: Termination) -> String {
    let mut value = how.ghcb_request();
    match Host::new(51, 2).vmgexit(1, 0, &mut value, &mut Untouched, &mut Untouched) {
        Action::Terminate(set, code) => End::GivenUp(set, code).to_string(),
        other => panic!("{how:?} is no request to end the VM: {other:?}"),
    }
}

#[test]
fn the_host_words_every_reason_that_parados_gives() {
    for &reason in Reason::ALL {
        let words = reported(Termination::Fatal(reason, 0xdead_beef));
        assert_eq!(words, format!("Parados gave up: {} (reason {:#04x})", reason.words(), reason.code()));
    }
}

#[test]
fn an_end_without_a_reason_is_not_taken_for_one() {
    assert_eq!(reported(Termination::PowerOff), "the guest gave up: reason set 8, code 0");
}
