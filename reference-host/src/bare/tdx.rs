// SPDX-License-Identifier: MIT OR Apache-2.0
//! Starts an image as a TD would start it, on SVM: all processors take turns on this one, so that each that waits gives way to the
//! others at its PAUSE. Every exit but those of the calls that `reference_host::tdx` plays ends the run: start-up code has no business
//! with CPUID, MSRs, ports or memory that was neither placed nor accepted.

use super::console::{Console, out_byte};
use super::snp::{self, native_cpuid};
use super::{firmware, physical, relocate};
use core::convert::Infallible;
use core::fmt::Write;
use core::ptr;
use reference_host::image::Image;
use reference_host::loader::{self, GuestRam, load_tdx};
use reference_host::memory::{PAGE, PageSet, Range, Room};
use reference_host::options::Options;
use reference_host::report::{End, Stop};
use reference_host::tdx::{Outcome, RESET_PAGE, Td, attributes, first_state};
use specs::svm::exit;
use specs::tdx::TDCALL;
use specs::vmcb::{Misc1, Misc2, Vmcb};
use svm::{GuestRegisters, IoPermissions, MapError, MsrPermissions, NestedTables, Rights, TableMemory};

/// More than a test needs.
const PROCESSORS: usize = 16;
/// #UD, which TDCALL is to QEMU.
const INTERCEPT_UD: u32 = 1 << 6;
const INTERCEPTS_1: Misc1 = Misc1::INTR
    .union(Misc1::NMI)
    .union(Misc1::CPUID)
    .union(Misc1::PAUSE)
    .union(Misc1::HLT)
    .union(Misc1::IOIO)
    .union(Misc1::MSR)
    .union(Misc1::SHUTDOWN);
const INTERCEPTS_2: Misc2 = Misc2::VMRUN.union(Misc2::VMMCALL);
/// PAUSE is F3 90.
const PAUSE_BYTES: u64 = 2;
const CODE_LONG: u16 = 1 << 9;
/// QEMU's debug console, which a TD's host lets it write to.
const DEBUG_CONSOLE: u16 = 0xe9;
/// The exit for #UD.
const UNDEFINED: u64 = exit::EXCEPTION_0 + 6;

static IO_PERMISSIONS: IoPermissions = IoPermissions::INTERCEPT_ALL;
static MSR_PERMISSIONS: MsrPermissions = MsrPermissions::INTERCEPT_ALL;

/// Pages above the guest's RAM, each given out once.
struct Pages {
    next: u64,
    end: u64,
}

// SAFETY: `Room::plan` keeps the range apart from everything else, the direct map reaches it, and each page is given out once, zeroed.
unsafe impl TableMemory for Pages {
    fn allocate(&mut self) -> Option<u64> {
        let page = self.next;
        self.next = page.checked_add(PAGE).filter(|end| *end <= self.end)?;
        // SAFETY: the page is mapped RAM that nothing else uses.
        unsafe { ptr::write_bytes(physical::pointer(page), 0, PAGE as usize) };
        Some(page)
    }

    fn table(&self, physical: u64) -> *mut [u64; 512] {
        physical::pointer(physical).cast()
    }
}

/// A virtual processor.
struct Processor {
    vmcb: &'static mut Vmcb,
    physical: u64,
    registers: GuestRegisters,
    /// It has made a call.
    spoke: bool,
}

/// Loads the image for TDX and runs its start-up code to its end.
pub(super) fn run(
    image: &Image<'_>,
    machine: loader::Machine,
    options: &Options,
    room: &Room,
    placed: &mut PageSet<'_>,
) -> Result<Infallible, Stop> {
    snp::check_svm()?;
    let mut pages = page_range(room.rest);
    let reset = pages.allocate().ok_or(NO_ROOM)?;
    let mut guest = physical::GuestMemory::new(machine.map);
    let mut content = [0; PAGE as usize];
    let policy = load_tdx(image, &machine, &mut guest, placed, &mut content)?;
    // SAFETY: the page was given out a moment ago, and nothing else uses it.
    unsafe { physical::pointer(reset).cast::<[u8; PAGE as usize]>().write(content) };
    let host_save = pages.allocate().ok_or(NO_ROOM)?;
    let mut processors = [const { None }; PROCESSORS];
    let count = machine.processors as usize;
    let Some(present) = processors.get_mut(..count) else {
        return Err(Stop::Machine("a TD has at most 16 processors here"));
    };
    for slot in present.iter_mut() {
        *slot = pages.allocate();
    }
    let mut tables = NestedTables::new(pages, false).ok_or(NO_ROOM)?;
    tables.map(RESET_PAGE, reset, PAGE, Rights::all()).map_err(no_tables)?;
    for range in machine.map.ranges() {
        for page in (range.start..range.end).step_by(PAGE as usize).filter(|page| placed.contains(*page)) {
            tables.map(page, page, PAGE, Rights::all()).map_err(no_tables)?;
        }
    }
    firmware::silence_interrupt_controllers();
    snp::start_svm(host_save);
    let attributes = options.td_attributes.unwrap_or_else(|| attributes(policy));
    let td = Td { attributes, processors: machine.processors };
    let _ = writeln!(Console, "[host] TDX image, no model of TDX: {count} processors, attributes {attributes:#x}");
    let mut processors = (0..).zip(&*present).map(|(index, page)| processor(index, *page, tables.root(), room.block));
    let mut all: [Option<Processor>; PROCESSORS] = core::array::from_fn(|_| processors.next().flatten());
    let mut turns = Turns { td, guest, tables, placed };
    loop {
        // The boot processor comes last, so that the others find nothing in the mailbox at first.
        for (index, processor) in all.iter_mut().enumerate().rev() {
            if let Some(processor) = processor {
                turns.take(index as u32, processor)?;
            }
        }
    }
}

/// The end that the TD reports.
fn fatal(code: u64, message: &[u8; 64]) -> Stop {
    let _ = write!(Console, "[host] fatal error {code:#x}: ");
    // What it says may be anything.
    message.iter().filter(|byte| matches!(byte, 0x20..=0x7e)).for_each(|byte| out_byte(DEBUG_CONSOLE, *byte));
    let _ = writeln!(Console);
    Stop::Ended(End::FatalError(code))
}

const NO_ROOM: Stop = Stop::Machine("no room for the TD: give QEMU more memory above the guest's");

fn no_tables(_: MapError) -> Stop {
    NO_ROOM
}

fn page_range(rest: Range) -> Pages {
    Pages { next: rest.start.next_multiple_of(PAGE), end: rest.end }
}

/// A processor in its first state, with its VMCB in this page.
fn processor(index: u32, page: Option<u64>, nested_cr3: u64, block: u64) -> Option<Processor> {
    let physical = page?;
    // SAFETY: the page was given out for this alone, it is zeroed, and zeroes are a valid VMCB.
    let vmcb = unsafe { &mut *physical::pointer(physical).cast::<Vmcb>() };
    let at = |object: *const u8| relocate::physical_address(object, block);
    let control = &mut vmcb.control;
    control.intercept_exceptions = INTERCEPT_UD;
    control.intercept_misc1 = INTERCEPTS_1.bits();
    control.intercept_misc2 = INTERCEPTS_2.bits();
    control.iopm_base = at((&raw const IO_PERMISSIONS).cast());
    control.msrpm_base = at((&raw const MSR_PERMISSIONS).cast());
    (control.asid, control.nested_paging, control.nested_cr3) = (1, 1, nested_cr3);
    let mut registers = GuestRegisters::default();
    let [signature, ..] = native_cpuid(1, 0);
    first_state(&mut vmcb.save, &mut registers.0, index, signature);
    Some(Processor { vmcb, physical, registers, spoke: false })
}

/// What processors take turns with.
struct Turns<'a, 'b> {
    td: Td,
    guest: physical::GuestMemory,
    tables: NestedTables<Pages>,
    placed: &'a mut PageSet<'b>,
}

impl Turns<'_, '_> {
    /// Runs a processor until it waits.
    fn take(&mut self, index: u32, processor: &mut Processor) -> Result<(), Stop> {
        loop {
            // SAFETY: SVM is on with a page of its own; the VMCB is the processor's, intercepts all that matters, and its nested
            // tables hold the guest's RAM and the reset page alone; GIF is clear and IF set since `start_svm`.
            unsafe { svm::enter(processor.physical, &mut processor.registers) };
            let control = &processor.vmcb.control;
            let (code, info, gpa, rip) =
                (control.exit_code, control.exit_info1, control.exit_info2, processor.vmcb.save.rip);
            match code {
                UNDEFINED if self.is_tdcall(rip) => {
                    processor.vmcb.save.rip = rip + TDCALL.len() as u64;
                    if self.call(index, processor)? {
                        return Ok(());
                    }
                }
                exit::PAUSE => {
                    processor.vmcb.save.rip = rip + PAUSE_BYTES;
                    return Ok(());
                }
                exit::SHUTDOWN => return Err(Stop::Ended(End::TripleFault(rip))),
                exit::NPF => return Err(Stop::Ended(End::UnknownExit(code, gpa, rip))),
                _ => return Err(Stop::Ended(End::UnknownExit(code, info, rip))),
            }
        }
    }

    /// Whether the instruction at `rip` is TDCALL. The image's tables map its code to itself.
    fn is_tdcall(&self, rip: u64) -> bool {
        let mut bytes = [0; TDCALL.len()];
        self.guest.copy_from(rip, &mut bytes).is_ok() && bytes == TDCALL
    }

    /// Carries out a TDCALL; whether the processor waits now.
    fn call(&mut self, index: u32, processor: &mut Processor) -> Result<bool, Stop> {
        let save = &mut processor.vmcb.save;
        let registers = &mut processor.registers.0;
        // SVM keeps this one in the VMCB.
        let [rax, ..] = registers;
        *rax = save.rax;
        if !processor.spoke {
            processor.spoke = true;
            let mode = if save.cs.attributes & CODE_LONG != 0 { "64-bit mode" } else { "no 64-bit mode" };
            let (rip, leaf, cr3) = (save.rip, save.rax, save.cr3);
            let _ = writeln!(Console, "[host] processor {index}: leaf {leaf} at {rip:#x}, {mode}, CR3 {cr3:#x}");
        }
        let outcome = self.td.call(registers, index, self.placed);
        let [rax, ..] = registers;
        save.rax = *rax;
        match outcome {
            Outcome::Done => Ok(false),
            Outcome::Accepted(gpa, bytes) => {
                self.guest.zero(gpa, bytes).map_err(|_| NO_ROOM)?;
                self.tables.map(gpa, gpa, bytes, Rights::all()).map_err(no_tables)?;
                Ok(false)
            }
            Outcome::Output(port, value) => {
                if port == DEBUG_CONSOLE {
                    out_byte(DEBUG_CONSOLE, value);
                }
                Ok(false)
            }
            Outcome::Sleep => Ok(true),
            Outcome::Fatal(code, message) => Err(fatal(code, &message)),
            Outcome::Unknown(leaf, function) => {
                let _ = writeln!(Console, "[host] leaf {leaf}, function {function:#x}: there is no model of TDX here");
                Err(Stop::Ended(End::UnknownExit(UNDEFINED, leaf, save.rip)))
            }
        }
    }
}
