// SPDX-License-Identifier: MIT OR Apache-2.0
//! A second processor: VMPL0 creates it, talks to it through its doorbell, lets it run a VMPL2 of its own, and takes rights
//! away from that while it runs. Then the ways to do it wrong, one for each task.
//!
//! The other processor does what [`COMMAND`] says, and says when it is done. Both are VMPL0 of one program.

use crate::checks::check;
use crate::doorbell::{self, X2APIC_COMMAND, X2APIC_EOI, write_apic};
use crate::instructions::{flush, pvalidate, read, rmpadjust, write};
use crate::start::snp_other_entry;
use crate::{FREE, SHARED, ghcb, lower, number};
use core::arch::asm;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use guests::exceptions::{Frame, set_hook};
use specs::ghcb::{exit as own, malformed, msr, page};
use specs::sev::{npf, result};
use specs::svm::{VmcbSegment, exit};
use specs::vmsa::{SevFeatures, Vmsa};
use zerocopy::{FromZeros, IntoBytes};

/// The other processor's VMSA, in a large page of its own.
const LARGE: u64 = FREE + 0x180_0000;
const VMSA: u64 = LARGE + 0x1000;
const SECOND_VMSA: u64 = LARGE + 0x2000;
/// A shared page for the list of processors.
const LIST: u64 = FREE + 0x1f_7000;
const OTHER: u64 = 1;
const CREATE_ON_INIT: u64 = 0;
const CREATE: u64 = 1;
const DESTROY: u64 = 2;
/// Interrupts, and where `HEARD` has them: from 40h on, and the NMI in the last bit.
const FIRST: u64 = 0x40;
const TO_OTHER: u64 = 0x51;
const TO_FIRST: u64 = 0x52;
/// Of a higher class: it does not wait for the others.
const TIMER: u64 = 0x63;
/// How long a timer runs that comes while its processor sleeps.
const NAP: u64 = 20_000_000;
const NMI_HEARD: u64 = 1 << 63;
const READ_WRITE: u8 = 3;
const ALL: u8 = 0xf;
/// How often a right is taken away.
const ROUNDS: u64 = 50;

/// How often the other processor has started.
static ARRIVED: AtomicU64 = AtomicU64::new(0);
/// What it shall do, and what it has done.
static COMMAND: AtomicU64 = AtomicU64::new(NOTHING);
static DONE: AtomicU64 = AtomicU64::new(NOTHING);
/// What each processor's doorbell has said.
static HEARD: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

const NOTHING: u64 = 0;
const CHECK_LOWER: u64 = 1;
const SPIN_BELOW: u64 = 2;
const SLEEP: u64 = 3;
const SLEEP_FOR_TIMER: u64 = 4;
const COUNT_BELOW: u64 = 5;
const PREPARE_BELOW: u64 = 6;
const SPIN: u64 = 7;

fn heard() -> &'static AtomicU64 {
    let [first, other] = &HEARD;
    if number() == 0 { first } else { other }
}

/// #HV: notes what came. The GHCB may be in use, so the end of the interrupt is for later.
fn listen(_: &mut Frame) {
    let word = doorbell::take_all();
    let (vector, flags) = (word & 0xff, word >> 8);
    let bit = if vector >= FIRST { 1 << (vector - FIRST) } else { 0 };
    heard().fetch_or(bit | if flags & 1 != 0 { NMI_HEARD } else { 0 }, SeqCst);
}

/// Whether an interrupt has come; if so it is over.
fn take(vector: u64) -> bool {
    let bit = 1 << (vector - FIRST);
    let came = heard().fetch_and(!bit, SeqCst) & bit != 0;
    if came {
        write_apic(X2APIC_EOI, 0);
    }
    came
}

fn send(processor: u64, command: u64) {
    write_apic(X2APIC_COMMAND, processor << 32 | command);
}

fn wait(mut until: impl FnMut() -> bool) {
    while !until() {
        spin_loop();
    }
}

fn create(operation: u64, vmpl: u64, gpa: u64, features: u64) -> (u64, u64) {
    ghcb::request(own::AP_CREATION, OTHER << 32 | vmpl << 16 | operation, gpa, &[(page::RAX, features)])
}

fn tell(command: u64) {
    DONE.store(NOTHING, SeqCst);
    COMMAND.store(command, SeqCst);
}

fn finished(command: u64) -> bool {
    DONE.load(SeqCst) == command
}

/// A VMSA for the other processor: this program's tables, an entry of its own.
fn vmsa() -> Vmsa {
    let (cr0, cr3, cr4): (u64, u64, u64);
    let mut tables = [[0u8; 16]; 2];
    let [gdt, idt] = &mut tables;
    // SAFETY: reading control registers changes nothing.
    unsafe { asm!("mov {}, cr0", "mov {}, cr3", "mov {}, cr4", out(reg) cr0, out(reg) cr3, out(reg) cr4) };
    // SAFETY: SGDT and SIDT write ten bytes.
    unsafe { asm!("sgdt [{}]", "sidt [{}]", in(reg) gdt.as_mut_ptr(), in(reg) idt.as_mut_ptr()) };
    let register = |bytes: &[u8; 16]| {
        let [a, b, base @ .., _, _, _, _, _, _] = *bytes;
        VmcbSegment {
            selector: 0,
            attributes: 0,
            limit: u16::from_le_bytes([a, b]).into(),
            base: u64::from_le_bytes(base),
        }
    };
    let segment = |selector, attributes| VmcbSegment { selector, attributes, limit: u32::MAX, base: 0 };
    let mut vmsa = Vmsa::new_zeroed();
    (vmsa.gdtr, vmsa.idtr) = (register(gdt), register(idt));
    vmsa.cs = segment(8, 0xa9b);
    (vmsa.ss, vmsa.ds, vmsa.es) = (segment(16, 0xc93), segment(16, 0xc93), segment(16, 0xc93));
    vmsa.gs = VmcbSegment { base: OTHER, ..segment(16, 0xc93) };
    (vmsa.efer, vmsa.cr0, vmsa.cr3, vmsa.cr4) = (0x1500, cr0, cr3, cr4);
    (vmsa.rflags, vmsa.rip) = (2, &raw const snp_other_entry as u64);
    (vmsa.dr6, vmsa.dr7) = (0xffff_0ff0, 0x400);
    (vmsa.g_pat, vmsa.xcr0, vmsa.mxcsr, vmsa.x87_fcw) = (0x0007_0406_0007_0406, 1, 0x1f80, 0x37f);
    vmsa.sev_features = features();
    vmsa
}

fn features() -> u64 {
    (SevFeatures::SNP_ACTIVE | SevFeatures::RESTRICTED_INJECTION).bits()
}

fn write_vmsa(place: u64, vmsa: &Vmsa) {
    for (at, chunk) in (place..).step_by(8).zip(vmsa.as_bytes().chunks_exact(8)) {
        write(at, u64::from_le_bytes(chunk.try_into().unwrap_or_default()));
    }
}

/// Brings it up.
fn start() {
    doorbell::set_up();
    set_hook(listen);
    check!(pvalidate(LARGE, true, true) == (0, false));
    write_vmsa(VMSA, &vmsa());
    check!(rmpadjust(VMSA, 1, 0, true) == 0);
    check!(create(CREATE, 0, VMSA, features()) == (0, 0));
    wait(|| ARRIVED.load(SeqCst) == 1);
}

pub(crate) fn all() {
    start();
    refusals();
    interrupts();
    tell(CHECK_LOWER);
    wait(|| finished(CHECK_LOWER));
    while_its_guest_runs();
    revocations();
    again();
    legacy_mode();
}

/// What a host says no to.
fn refusals() {
    let bad = (2, malformed::INVALID_INPUT);
    ghcb::share(LIST);
    check!(ghcb::request(own::APIC_ID_LIST, LIST, 0, &[(page::RAX, 1)]).0 == 0);
    check!(read(SHARED + LIST) == 2 && read(SHARED + LIST + 8) & 0xffff_ffff == OTHER);
    check!(create(CREATE, 0, LARGE, features()) == bad);
    check!(create(CREATE, 0, VMSA, features() | 1 << 5) == bad);
    check!(create(CREATE, 4, VMSA, features()) == bad);
    check!(create(3, 0, VMSA, features()) == bad);
    // A VMSA that runs is not to be had.
    check!(rmpadjust(VMSA, 1, 0, false) == result::FAIL_INUSE);
}

/// There and back; asleep; an NMI; a timer that only it hears.
fn interrupts() {
    tell(SPIN);
    send(OTHER, TO_OTHER);
    wait(|| finished(SPIN));
    wait(|| take(TO_FIRST));
    tell(SLEEP);
    (0..200_000).for_each(|_| spin_loop());
    send(OTHER, TO_OTHER);
    wait(|| finished(SLEEP));
    tell(SLEEP_FOR_TIMER);
    wait(|| finished(SLEEP_FOR_TIMER));
    let [first, other] = &HEARD;
    check!(first.load(SeqCst) == 0);
    send(OTHER, 0x400);
    wait(|| other.load(SeqCst) & NMI_HEARD != 0);
    other.store(0, SeqCst);
}

/// Its VMPL2 runs in a circle; an interrupt brings its VMPL0 back.
fn while_its_guest_runs() {
    tell(SPIN_BELOW);
    (0..200_000).for_each(|_| spin_loop());
    check!(!finished(SPIN_BELOW));
    send(OTHER, TO_OTHER);
    wait(|| finished(SPIN_BELOW));
}

/// Its VMPL2 counts in memory. Whenever the right is gone, so is every translation.
fn revocations() {
    let counter = lower_of_other() + 0x2000;
    tell(COUNT_BELOW);
    for _ in 0..ROUNDS {
        let before = read(counter);
        wait(|| read(counter) != before);
        check!(rmpadjust(counter, 2, 0, false) == 0);
        flush();
        let last = read(counter);
        (0..2000).for_each(|_| spin_loop());
        check!(read(counter) == last);
        check!(rmpadjust(counter, 2, READ_WRITE, false) == 0);
    }
    send(OTHER, TO_OTHER);
    wait(|| finished(COUNT_BELOW));
}

/// It ends, and starts once more with INIT.
fn again() {
    check!(create(DESTROY, 0, 0, 0).0 == 0);
    // The host ends it in its own time.
    wait(|| rmpadjust(VMSA, 1, 0, false) == 0);
    COMMAND.store(NOTHING, SeqCst);
    write_vmsa(VMSA, &vmsa());
    check!(rmpadjust(VMSA, 1, 0, true) == 0);
    check!(create(CREATE_ON_INIT, 0, VMSA, features()) == (0, 0));
    (0..200_000).for_each(|_| spin_loop());
    check!(ARRIVED.load(SeqCst) == 1);
    send(OTHER, 0x4500);
    wait(|| ARRIVED.load(SeqCst) == 2);
    // And once more while it runs, from another page: what waits for INIT waits, whatever else its host does meanwhile.
    COMMAND.store(NOTHING, SeqCst);
    write_vmsa(SECOND_VMSA, &vmsa());
    check!(rmpadjust(SECOND_VMSA, 1, 0, true) == 0);
    check!(create(CREATE_ON_INIT, 0, SECOND_VMSA, features()) == (0, 0));
    let [_, other] = &HEARD;
    send(OTHER, 0x400);
    wait(|| other.load(SeqCst) & NMI_HEARD != 0);
    other.store(0, SeqCst);
    check!(ARRIVED.load(SeqCst) == 2);
    send(OTHER, 0x4500);
    wait(|| ARRIVED.load(SeqCst) == 3);
}

/// A processor without paging, in 32-bit code, gets #VC as well.
fn legacy_mode() {
    check!(create(DESTROY, 0, 0, 0).0 == 0);
    wait(|| rmpadjust(VMSA, 1, 0, false) == 0);
    let at = |offset| LARGE + 0x10_0000 + offset;
    let (code, handler, seen, idt, gdt, stack) = (at(0), at(0x100), at(0x200), at(0x1000), at(0x2000), at(0x4000));
    // CPUID; JMP to itself.
    write(code, 0xfeeb_a20f);
    // POP EAX; MOV [seen], EAX; JMP to itself.
    write(handler, 0xfeeb << 48 | seen << 16 | 0xa358);
    write(seen, 0);
    write(idt + 29 * 8, handler & 0xffff | 0x10 << 16 | 0x8e << 40 | handler >> 16 << 48);
    write(gdt + 0x10, 0x00cf_9b00_0000_ffff);
    write(gdt + 0x18, 0x00cf_9300_0000_ffff);
    let segment = |selector, attributes| VmcbSegment { selector, attributes, limit: u32::MAX, base: 0 };
    let table = |limit, base| VmcbSegment { selector: 0, attributes: 0, limit, base };
    let data = segment(0x18, 0xc93);
    let (cs, gdtr, idtr) = (segment(0x10, 0xc9b), table(0x1f, gdt), table(0xff, idt));
    let (efer, cr0, cr3, cr4, rip, rsp) = (0x1000, 0x11, 0, 0, code, stack);
    write_vmsa(VMSA, &Vmsa { cs, ss: data, ds: data, es: data, gdtr, idtr, efer, cr0, cr3, cr4, rip, rsp, ..vmsa() });
    check!(rmpadjust(VMSA, 1, 0, true) == 0);
    check!(create(CREATE, 0, VMSA, features()) == (0, 0));
    wait(|| read(seen) != 0);
    check!(read(seen) & 0xffff_ffff == exit::CPUID);
}

/// The other processor, from its entry on.
pub(crate) extern "C" fn other() -> ! {
    check!(number() == OTHER);
    if ARRIVED.load(SeqCst) == 0 {
        doorbell::set_up();
    }
    ARRIVED.fetch_add(1, SeqCst);
    let mut last = NOTHING;
    loop {
        wait(|| COMMAND.load(SeqCst) != last);
        last = COMMAND.load(SeqCst);
        obey(last);
        DONE.store(last, SeqCst);
    }
}

fn obey(command: u64) {
    match command {
        CHECK_LOWER => lower::all(),
        SPIN => {
            wait(|| take(TO_OTHER));
            send(0, TO_FIRST);
        }
        SLEEP => sleep_until(TO_OTHER),
        SLEEP_FOR_TIMER => sleep_until(TIMER),
        PREPARE_BELOW => lower::prepare(&lower::vmsa()),
        SPIN_BELOW => {
            // JMP to itself.
            below(0xfeeb);
            wait(|| {
                lower::run();
                take(TO_OTHER)
            });
        }
        COUNT_BELOW => {
            // INC qword [RBX]; JMP there.
            below(0xfb_eb03_ff48);
            wait(|| {
                lower::run();
                let code = read(lower::vmsa_page() + lower::EXIT_CODE);
                if code == exit::NPF {
                    check!(read(lower::vmsa_page() + lower::EXIT_INFO1) & npf::VMPL != 0);
                }
                take(TO_OTHER)
            });
        }
        _ => {}
    }
}

/// Sleeps until an interrupt has come. If it came just before, the timer ends the sleep.
fn sleep_until(vector: u64) {
    write_apic(0x83e, 0xb);
    write_apic(0x832, TIMER);
    loop {
        write_apic(0x838, NAP);
        // SAFETY: #HV comes whatever the interrupt flag says, and its handler returns here.
        unsafe { asm!("hlt") };
        let timer = take(TIMER);
        if (timer && vector == TIMER) || take(vector) {
            break;
        }
    }
    // No other timer is left to come.
    write_apic(0x838, 0);
    (0..1000).for_each(|_| spin_loop());
    take(TIMER);
}

/// New code for VMPL2, which is there already.
fn below(code: u64) {
    let vmsa = lower::vmsa_page();
    write(lower::code(), code);
    write(vmsa + lower::RIP, lower::code());
    write(vmsa + lower::RBX, lower::open());
    write(vmsa + lower::VINTR_CTRL, 0);
    check!(rmpadjust(lower::code(), 2, ALL, false) == 0);
}

/// Rules that only two processors can break.
pub(crate) fn commit(task: u64) {
    match task {
        // vmrun.vmsa-page, on the other processor
        13 => {
            doorbell::set_up();
            check!(pvalidate(LARGE, true, true) == (0, false));
            write_vmsa(VMSA, &vmsa());
            create(CREATE, 0, VMSA, features());
        }
        // vmsa.in-use-write
        14 => {
            spin_below();
            let vmsa = lower_of_other() + 0x1000;
            write(vmsa + lower::RBX, 1);
            send(OTHER, TO_OTHER);
        }
        // vmrun.in-use
        15 => {
            spin_below();
            let vmsa = lower_of_other() + 0x1000;
            let features = lower::vmsa().sev_features;
            let (info1, _) = ghcb::request(own::AP_CREATION, CREATE | 2 << 16, vmsa, &[(page::RAX, features)]);
            check!(info1 == 0);
            ghcb::ask(msr::RUN_VMPL_REQUEST | 2 << 32);
        }
        // tlb.flush-before-use: asleep, while the other processor may still write
        16 => {
            spin_below();
            check!(rmpadjust(lower_of_other() + 0x2000, 2, 0, false) == 0);
            // SAFETY: nothing comes back.
            unsafe { asm!("hlt") };
        }
        // host.rmpupdate: a page that a processor holds
        22 => {
            start();
            ghcb::change_state(VMSA, false);
        }
        _ => return,
    }
    loop {
        spin_loop();
    }
}

/// Where the other processor's VMPL2 is, by `lower`.
const fn lower_of_other() -> u64 {
    FREE + 0x40_0000 + OTHER * 0x80_0000
}

/// The other processor's VMPL2 is under way.
fn spin_below() {
    start();
    tell(PREPARE_BELOW);
    wait(|| finished(PREPARE_BELOW));
    tell(SPIN_BELOW);
    (0..200_000).for_each(|_| spin_loop());
}
