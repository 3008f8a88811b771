// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's devices, which are QEMU's own: ports, the interrupt controllers' memory, model-specific registers.
//!
//! The guest is hostile. It does not get the ports through which QEMU would end, be spoken to by the host, or copy memory
//! for it (fw_cfg's DMA), unless it is VMPL0 of an image for debugging; of the registers it can write those that cannot hurt the host. A PCI device that masters the bus
//! would reach all memory, so none gets the bit that lets it (`docs/fidelity.md`).

use super::super::console::{Console, in_byte, in_dword, in_word, out_byte, out_dword, out_word};
use super::super::msr::mtrrs;
pub(super) use super::super::msr::{read as read_msr, write as write_msr};
use super::super::{physical, processors};
use core::arch::x86_64::{__cpuid_count, _rdtsc};
use core::fmt::Write;
use reference_host::report::End;
use reference_host::snp::cpuid;
use reference_host::snp::dma::without_bus_master;
use reference_host::snp::firmware::Firmware;
use snp_host::Devices;
use specs::apic::{ApicBase, InterruptCommand, LAPIC_BASE};
use specs::msr;

/// The debug console, and the port that ends QEMU.
const DEBUG_PORTS: [core::ops::RangeInclusive<u16>; 2] = [0xe9..=0xea, 0xf4..=0xf7];
/// fw_cfg's DMA.
const OWN_PORTS: [core::ops::RangeInclusive<u16>; 1] = [0x514..=0x51b];
/// PM1 control of the q35, and the bit that enters the sleep state (ACPI 6.5, 4.8.3.2).
const PM1_CONTROL: u16 = 0x604;
const SLEEP_ENABLE: u32 = 1 << 13;
/// Reset control of the ICH9.
const RESET_CONTROL: u16 = 0xcf9;
const RESET_CPU: u32 = 1 << 2;
/// The keyboard controller's command that pulses the reset line.
const KEYBOARD_COMMAND: u16 = 0x64;
const KEYBOARD_RESET: u32 = 0xfe;
/// What of the memory below 4 GiB is the interrupt controllers' and the HPET's.
const CONTROLLERS: core::ops::Range<u64> = 0xfec0_0000..0xfef0_0000;
/// ECAM, as SeaBIOS places it on a q35.
const ECAM: core::ops::Range<u64> = 0xb000_0000..0xc000_0000;

/// QEMU's devices.
#[derive(Default)]
pub(super) struct Forwarded {
    /// The guest has ended the machine.
    pub(super) end: Option<End>,
    /// The secure processor.
    pub(super) firmware: Firmware,
    /// How many messages it has refused.
    refused: u32,
    /// VMPL0 may use the debug console, and end QEMU.
    pub(super) debug_ports: bool,
}

/// How many refused messages are told of; a guest could go on for ever.
const TOLD: u32 = 8;

impl Forwarded {
    /// Whether an access touches a port that is not for a guest, or not for this VMPL.
    fn is_own(&self, vmpl: u8, port: u16, bytes: u8) -> bool {
        let last = port.saturating_add(u16::from(bytes) - 1);
        let touches = |own: &core::ops::RangeInclusive<u16>| port <= *own.end() && *own.start() <= last;
        let debug = DEBUG_PORTS.iter().any(touches) && !(self.debug_ports && vmpl == 0);
        debug || OWN_PORTS.iter().any(touches)
    }
}

/// Where a device has registers in memory.
struct Register(*mut u8);

impl Register {
    /// For an aligned access of 1, 2, 4 or 8 bytes.
    fn new(gpa: u64, bytes: u8) -> Option<Self> {
        let device = CONTROLLERS.contains(&gpa) || ECAM.contains(&gpa);
        (device && gpa.is_multiple_of(bytes.into())).then(|| Self(physical::pointer(gpa)))
    }

    fn read<T: Copy>(&self) -> T {
        // SAFETY: `new` has checked the alignment for a `T`; the direct map reaches the address, where devices are and no
        // memory, so nothing can be aliased. The callers' `T`s are integers.
        unsafe { self.0.cast::<T>().read_volatile() }
    }

    fn write<T: Copy>(&self, value: T) {
        // SAFETY: as in `read`. The local APIC is the guest's to program: all interrupts that arrive are passed on to it.
        unsafe { self.0.cast::<T>().write_volatile(value) };
    }
}

/// The processor's answer to CPUID.
pub(in super::super) fn native_cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let answer = __cpuid_count(leaf, subleaf);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

/// Registers whose writes QEMU keeps, and that mean nothing to this program.
fn is_harmless(number: u32) -> bool {
    matches!(number, msr::MC0_CTL..=0x47f | msr::MCG_STATUS | msr::TSC_AUX) || mtrrs().any(|mtrr| mtrr == number)
}

/// Registers whose writes a host ignores: configuration and counters that an emulated processor does not have.
const fn is_ignored(number: u32) -> bool {
    matches!(
        number,
        msr::APIC_BASE
            | msr::BIOS_SIGN_ID
            | msr::DEBUGCTL
            | 0x48..=0x49
            | 0x10b
            | msr::K7_EVNTSEL0..=0xc001_0007
            | msr::HWCR
            | 0xc001_0020..=0xc001_0055
            | 0xc001_0200..=0xc001_020b
            | 0xc001_1000..=0xc001_10ff
    )
}

/// Of a command: a shorthand, and the mode of a destination that it has besides (APM vol. 2, 16.5).
const NAMES_NOBODY: u32 = 3 << 18 | 1 << 11;
const X2APIC_ID: u32 = 0x802;
const X2APIC: core::ops::RangeInclusive<u32> = 0x802..=0x83f;

/// PCI: the port of the configuration address, and the four of the data (PCI 3.0, 3.2.2.3.2).
const PCI_ADDRESS: u16 = 0xcf8;
const PCI_DATA: u16 = 0xcfc;

fn local_apic(offset: u64) -> Option<Register> {
    Register::new(LAPIC_BASE + offset, 4)
}

/// The x2APIC that QEMU 7.2 lacks, by the registers of its xAPIC (APM vol. 2, 16.11). `snp_host::apic` has what is not the
/// same in both.
fn x2apic_read(number: u32) -> Option<u64> {
    let value = u64::from(local_apic(u64::from(number & 0xff) << 4)?.read::<u32>());
    Some(if number == X2APIC_ID { value >> 24 } else { value })
}

fn x2apic_write(number: u32, value: u64) -> bool {
    local_apic(u64::from(number & 0xff) << 4).map(|register| register.write(value as u32)).is_some()
}

impl Devices for Forwarded {
    fn port_read(&mut self, vmpl: u8, port: u16, bytes: u8) -> u32 {
        match bytes {
            _ if self.is_own(vmpl, port, bytes) => u32::MAX,
            1 => in_byte(port).into(),
            2 => in_word(port).into(),
            _ => in_dword(port),
        }
    }

    fn port_write(&mut self, vmpl: u8, port: u16, bytes: u8, value: u32) {
        match port {
            _ if self.is_own(vmpl, port, bytes) => return,
            PM1_CONTROL if value & SLEEP_ENABLE != 0 => self.end = Some(End::PowerOff),
            RESET_CONTROL if bytes == 1 && value & RESET_CPU != 0 => self.end = Some(End::Reset),
            KEYBOARD_COMMAND if value & 0xff == KEYBOARD_RESET => self.end = Some(End::Reset),
            _ => {}
        }
        if self.end.is_some() {
            return;
        }
        let value = if (PCI_DATA..PCI_DATA + 4).contains(&port) {
            let register = u64::from(in_dword(PCI_ADDRESS) & 0xfc) + u64::from(port - PCI_DATA);
            without_bus_master(register, value.into()) as u32
        } else {
            value
        };
        match bytes {
            1 => out_byte(port, value as u8),
            2 => out_word(port, value as u16),
            _ => out_dword(port, value),
        }
    }

    fn memory_read(&mut self, gpa: u64, bytes: u8) -> u64 {
        let Some(register) = Register::new(gpa, bytes) else { return u64::MAX };
        match bytes {
            1 => register.read::<u8>().into(),
            2 => register.read::<u16>().into(),
            4 => register.read::<u32>().into(),
            _ => register.read::<u64>(),
        }
    }

    fn memory_write(&mut self, gpa: u64, bytes: u8, value: u64) {
        let Some(register) = Register::new(gpa, bytes) else { return };
        let value = if ECAM.contains(&gpa) { without_bus_master(gpa & 0xfff, value) } else { value };
        match bytes {
            1 => register.write(value as u8),
            2 => register.write(value as u16),
            4 => register.write(value as u32),
            _ => register.write(value),
        }
    }

    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let place = cpuid::Place { number: processors::number(), count: processors::online() };
        cpuid::answer(leaf, subleaf, place, native_cpuid)
    }

    fn msr_read(&mut self, number: u32) -> Option<u64> {
        match number {
            // SAFETY: RDTSC has no requirement; CR4.TSD does not bind ring 0.
            msr::TSC => Some(unsafe { _rdtsc() }),
            // Which processor started first is the VM's to say.
            msr::APIC_BASE if processors::number() == 0 => Some(read_msr(number) | ApicBase::BOOTSTRAP.bits()),
            msr::APIC_BASE => Some(read_msr(number) & !ApicBase::BOOTSTRAP.bits()),
            _ if X2APIC.contains(&number) => x2apic_read(number),
            _ if is_harmless(number) => Some(read_msr(number)),
            msr::MTRR_CAP | msr::MCG_CAP | msr::PAT => Some(read_msr(number)),
            _ if is_ignored(number) => Some(0),
            _ => None,
        }
    }

    fn msr_write(&mut self, number: u32, value: u64) -> bool {
        if is_harmless(number) {
            // SAFETY: QEMU only keeps these, and this program uses none of them.
            unsafe { write_msr(number, value) };
            return true;
        }
        if X2APIC.contains(&number) { x2apic_write(number, value) } else { is_ignored(number) }
    }

    fn interrupt(&mut self, command: u32, destination: u8) {
        // The machine has other numbers for its processors than the VM, and QEMU 7.2 reads shorthands by its own; so the
        // processors are named.
        let own = processors::number();
        let (myself, others) = match InterruptCommand(command).shorthand() {
            1 => (true, false),
            2 => (true, true),
            3 => (false, true),
            _ => return processors::send(destination.into(), command),
        };
        let named = command & !NAMES_NOBODY;
        let targets = (0..processors::online()).filter(|to| if *to == own { myself } else { others });
        targets.for_each(|to| processors::send(to, named));
    }

    fn guest_request(&mut self, request: &[u8; 4096], response: &mut [u8; 4096]) -> Option<u32> {
        let Err(refused) = self.firmware.request(request, response)? else { return Some(0) };
        if self.refused < TOLD {
            self.refused += 1;
            // A console that cannot be written to has nowhere to report that.
            let _ = writeln!(Console, "[host] the firmware refuses a message: {refused}");
        }
        Some(refused.status as u32)
    }

    fn certificates(&self) -> &[u8] {
        self.firmware.certificates()
    }
}
