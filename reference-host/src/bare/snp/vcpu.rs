// SPDX-License-Identifier: MIT OR Apache-2.0
//! One virtual processor: which VMPL runs, its registers, and the interrupts that wait for it. What an exit means is in
//! `exits`, how VMPLs change places in `switch`.

mod interrupts;

use super::super::{console, exceptions, processors};
use super::alternate::Alternate;
use super::machine::{Machine, Privacy};
use super::shared::{Held, Order, Orders, Place, Shared, Spin, be};
use super::step::Ambush;
use core::arch::asm;
use core::arch::x86_64::_rdtsc;
use core::fmt::Write;
use core::ptr::NonNull;
use reference_host::report::{End, RECORD_SEPARATOR, Stop};
use reference_host::snp::decode::{self, Instruction};
use reference_host::snp::walk::{Mapping, Paging, is_forced_private};
use reference_host::snp::{ASID, state};
use snp_model::rule::INSTRUCTION_BYTES;
use snp_model::{Broken, Rule, Violation};
use specs::sev::VMPLS;
use specs::svm::{event, exit};
use specs::vmcb::{Misc1, Misc2, VirtualInterrupt, Vmcb, VmcbControl, VmcbSave};
use specs::vmsa::{SevFeatures, Vmsa};
use svm::GuestRegisters;
use zerocopy::FromZeros;

/// CR4's PSE, PGE, SMEP and SMAP. QEMU empties its TLB once more for every switch that changes one of them. They mean
/// nothing to this program, which marks no page global and maps none for user mode; so its own CR4 follows the guest's.
const MIRRORED: u64 = 1 << 4 | 1 << 7 | 1 << 20 | 1 << 21;
const CR4_OSFXSR: u64 = 1 << 9;
const CODE_LONG: u16 = 1 << 9;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_RF: u64 = 1 << 16;
/// Intercepts of writes of CR0 and CR4.
pub(super) const INTERCEPT_CR_WRITE: u32 = 1 << 16 | 1 << (16 + 4);
/// Intercepts of DR7, as KVM without DebugSwap.
const INTERCEPT_DR7: u32 = 1 << 7 | 1 << (16 + 7);
/// #UD: PVALIDATE and its like, which QEMU does not know.
const INTERCEPT_UD: u32 = 1 << 6;
/// An NMI's vector.
const NMI: u64 = 2;
/// #UD.
const UD: u64 = 6;
/// #GP, whose injection has an error code.
pub(super) const GP: u64 = 13;
/// #PF, which has one too.
pub(super) const PF: u64 = 14;
const RAX: u8 = 0;
const RSP: u8 = 4;

const INTERCEPTS_1: Misc1 = Misc1::INTR
    .union(Misc1::NMI)
    .union(Misc1::SMI)
    .union(Misc1::INIT)
    .union(Misc1::RDPMC)
    .union(Misc1::CPUID)
    .union(Misc1::RSM)
    .union(Misc1::INVD)
    .union(Misc1::HLT)
    .union(Misc1::INVLPGA)
    .union(Misc1::IOIO)
    .union(Misc1::MSR)
    .union(Misc1::SHUTDOWN);
const INTERCEPTS_2: Misc2 = Misc2::VMRUN
    .union(Misc2::VMMCALL)
    .union(Misc2::VMLOAD)
    .union(Misc2::VMSAVE)
    .union(Misc2::STGI)
    .union(Misc2::CLGI)
    .union(Misc2::SKINIT)
    .union(Misc2::WBINVD)
    .union(Misc2::MONITOR)
    .union(Misc2::MWAIT)
    .union(Misc2::XSETBV)
    .union(Misc2::RDPRU);

/// The physical addresses that a VMCB needs.
pub(super) struct Places {
    pub(super) vmcb: u64,
    pub(super) io_permissions: u64,
    pub(super) msr_permissions: u64,
}

/// Where a VMPL's state is while it does not run.
#[derive(Clone, Copy)]
pub(super) enum Home {
    /// The host keeps it in a page outside the guest's memory, as KVM does at launch.
    Launch,
    /// In a page of the guest's.
    Page(u64),
}

/// What comes after an exit.
pub(super) type Flow = Result<(), End>;

/// A translation of code, kept as a TLB would keep it.
#[derive(Clone, Copy)]
pub(super) struct CodePage {
    root: u64,
    page: u64,
    pub(super) gpa: u64,
}

impl CodePage {
    /// Whether it is the page of an address, with these tables.
    pub(super) const fn holds(&self, root: u64, address: u64) -> bool {
        self.root == root && self.page == address & !0xfff
    }
}

/// What a virtual processor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    /// Nothing: it has no VMSA.
    Stopped,
    /// It runs.
    Running,
    /// It waits for an interrupt.
    Halted,
    /// It waits for a start-up by another one.
    Held,
}

/// A virtual processor.
pub(super) struct Vcpu {
    /// Its number, which is its APIC ID and the machine's processor's.
    pub(super) number: u32,
    pub(super) activity: Activity,
    /// Whether its state is in the VMCB.
    pub(super) loaded: bool,
    pub(super) vmcb: NonNull<Vmcb>,
    pub(super) physical: u64,
    pub(super) registers: GuestRegisters,
    /// Which one runs.
    pub(super) vmpl: u8,
    /// A VMSA as it was loaded from a page.
    page: Vmsa,
    /// VMPL0's VMSA if the host keeps it.
    launch: Vmsa,
    /// Whether the latter is the one that is loaded.
    pub(super) launch_runs: bool,
    pub(super) homes: [Option<Home>; VMPLS],
    /// The features that the host lets each VMPL's VMSA have.
    pub(super) allowed: [u64; VMPLS],
    pub(super) ghcb: [u64; VMPLS],
    pub(super) features: SevFeatures,
    /// VMPL0 takes no interrupts but through its doorbell.
    pub(super) restricted: bool,
    /// The guest handles an NMI, and another one waits.
    nmi_blocked: bool,
    nmi_pending: bool,
    /// The guest's CR3 lacks the C-bit, which hardware ignores there; the VMCB's has it.
    pub(super) public_root: bool,
    /// Writes of CR0 make no exit until the next one.
    pub(super) unwatched: bool,
    /// The interrupt that the host has acknowledged and the guest has not taken. There is no second one: the guest's next end
    /// of interrupt may be meant for one before it, and would end the highest instead.
    held: Option<u8>,
    /// The VMCB asks for an exit as soon as the guest can take it.
    window: bool,
    /// What QEMU does not do for a VMSA with alternate injection.
    pub(super) alternate: Alternate,
    /// Exits in a row for which the guest was not entered.
    pub(super) ahead: u32,
    /// Where the last instruction was found.
    pub(super) code: Option<CodePage>,
    /// The guest's bits of [`MIRRORED`], which our own CR4 shows as well; all ones before the first entry.
    mirrored: u64,
    strict: bool,
    /// What a hostile host injects after so many more instructions.
    pub(super) ambush: Option<Ambush>,
    /// So long it lets the guest wait, in TSC cycles.
    pub(super) stall: u64,
}

impl Vcpu {
    /// A processor without a VMSA.
    pub(super) fn new(number: u32, vmcb: &'static mut Vmcb, places: &Places, ghcb: u64, strict: bool) -> Self {
        let control = &mut vmcb.control;
        control.intercept_cr = INTERCEPT_CR_WRITE;
        control.intercept_dr = INTERCEPT_DR7;
        control.intercept_exceptions = INTERCEPT_UD;
        control.intercept_misc1 = INTERCEPTS_1.bits();
        control.intercept_misc2 = INTERCEPTS_2.bits();
        control.iopm_base = places.io_permissions;
        control.msrpm_base = places.msr_permissions;
        control.asid = ASID;
        control.nested_paging = 1;
        Self {
            number,
            activity: Activity::Stopped,
            loaded: false,
            vmcb: NonNull::from(vmcb),
            physical: places.vmcb,
            registers: GuestRegisters::default(),
            vmpl: 0,
            page: Vmsa::new_zeroed(),
            launch: Vmsa::new_zeroed(),
            launch_runs: false,
            homes: [None; VMPLS],
            allowed: [0; VMPLS],
            ghcb: [ghcb; VMPLS],
            features: SevFeatures::empty(),
            restricted: false,
            nmi_blocked: false,
            nmi_pending: false,
            public_root: false,
            unwatched: false,
            held: None,
            window: false,
            alternate: Alternate::default(),
            ahead: 0,
            code: None,
            mirrored: u64::MAX,
            strict,
            ambush: None,
            stall: 0,
        }
    }

    /// Gives it the VMSA that the host has launched.
    pub(super) fn launched(&mut self, vmsa: &Vmsa) {
        self.launch = *vmsa;
        self.restricted = vmsa.sev_features & SevFeatures::RESTRICTED_INJECTION.bits() != 0;
        self.homes = [Some(Home::Launch), None, None, None];
        self.allowed = [vmsa.sev_features, 0, 0, 0];
    }

    pub(super) fn control(&mut self) -> &mut VmcbControl {
        // SAFETY: the VMCB is this processor's alone; the hardware touches it only in `svm::enter`, which borrows `self`.
        unsafe { &mut self.vmcb.as_mut().control }
    }

    pub(super) fn save(&mut self) -> &mut VmcbSave {
        // SAFETY: as in `control`.
        unsafe { &mut self.vmcb.as_mut().save }
    }

    /// The VMSA that was loaded last, which the host may keep itself: then nothing of it need be copied.
    pub(super) const fn vmsa(&mut self) -> &mut Vmsa {
        if self.launch_runs { &mut self.launch } else { &mut self.page }
    }

    /// The processor's state and the VMSA that it was loaded from.
    pub(super) fn state(&mut self) -> (&mut VmcbSave, &mut GuestRegisters, &mut Vmsa) {
        // SAFETY: as in `control`; the VMCB is no part of `self`.
        let save = unsafe { &mut self.vmcb.as_mut().save };
        (save, &mut self.registers, if self.launch_runs { &mut self.launch } else { &mut self.page })
    }

    pub(super) fn register(&mut self, number: u8) -> u64 {
        match number {
            RAX => self.save().rax,
            RSP => self.save().rsp,
            other => self.registers.0.get(usize::from(other)).copied().unwrap_or(0),
        }
    }

    pub(super) fn set_register(&mut self, number: u8, value: u64) {
        match number {
            RAX => self.save().rax = value,
            RSP => self.save().rsp = value,
            other => {
                if let Some(slot) = self.registers.0.get_mut(usize::from(other)) {
                    *slot = value;
                }
            }
        }
    }

    pub(super) fn paging(&mut self) -> Paging {
        let save = self.save();
        Paging { cr0: save.cr0, cr3: save.cr3, cr4: save.cr4, efer: save.efer }
    }

    /// What makes an address private just now.
    pub(super) fn privacy(&mut self) -> Privacy {
        if self.features.contains(SevFeatures::VTOM) {
            return Privacy::Below(self.vmsa().virtual_tom);
        }
        let save = self.save();
        if is_forced_private(save.cr0, save.efer) { Privacy::Forced } else { Privacy::CBit }
    }

    /// Runs whatever there is to run, until the guest ends.
    pub(super) fn run(&mut self, shared: &'static Spin<Shared>) -> ! {
        let mut held = shared.lock();
        held.machine.current = self.number;
        let mut outcome =
            if self.homes.iter().any(Option::is_some) { self.enter(&mut held.machine, 0) } else { Ok(()) };
        loop {
            // The lock is kept for good at the end: nobody else has anything to say then.
            let next = outcome.and_then(|()| self.prepare(&mut held));
            if let Err(end) = next {
                let separator = char::from(RECORD_SEPARATOR);
                let _ = writeln!(console::Console, "[host] {} exits\n{separator}{}", held.counts.exits, held.counts);
                console::stop(&Stop::Ended(end))
            }
            if self.activity == Activity::Running && self.is_near_ambush() {
                outcome = self.approach(&mut held);
                continue;
            }
            let running = self.activity == Activity::Running;
            if !running {
                held = self.rest(shared, held);
            } else if !self.anticipate(&held.machine) {
                held = self.run_once(shared, held);
            }
            held.machine.current = self.number;
            outcome = if self.activity == Activity::Running { self.conclude_exit(&mut held) } else { Ok(()) };
        }
    }

    /// What others want, and what waits for the guest.
    fn prepare(&mut self, shared: &mut Shared) -> Flow {
        if let Some(orders) = shared.orders.get_mut(self.number as usize).and_then(Orders::take) {
            self.obey(&mut shared.machine, &orders)?;
        }
        if self.activity == Activity::Halted && self.has_pending() {
            self.wake(&mut shared.machine)?;
        }
        if self.activity == Activity::Running {
            self.pass_interrupts_on(&mut shared.machine, &mut shared.host)?;
            self.keep_shadow();
            self.judge_nmi();
            self.mirror_cr4();
            let privacy = self.privacy();
            self.control().nested_cr3 = shared.machine.root(self.vmpl, privacy);
        }
        Ok(())
    }

    /// Into the guest and out again, without the lock.
    fn run_once<'a>(&mut self, shared: &'a Spin<Shared>, held: Held<'a, Shared>) -> Held<'a, Shared> {
        be(self.number, Place::Guest);
        drop(held);
        self.dawdle();
        // SAFETY: RDTSC has no requirement; CR4.TSD does not bind ring 0.
        let now = || unsafe { _rdtsc() };
        let begun = now();
        // There is room for one interrupt.
        self.vmrun(self.held.is_none());
        let spent = now().wrapping_sub(begun);
        be(self.number, Place::Host);
        let mut held = shared.lock();
        held.counts.guest_cycles = held.counts.guest_cycles.wrapping_add(spent);
        held
    }

    /// VMRUN, until an exit; whether the host's interrupts make one where the VMCB masks them.
    pub(super) fn vmrun(&mut self, interrupts: bool) {
        let requested = self.control().virtual_interrupt & VirtualInterrupt::V_IRQ.bits() != 0;
        if !interrupts {
            // SAFETY: GIF is clear, so IF says only whether interrupts make exits.
            unsafe { asm!("cli", options(nomem, nostack)) };
        }
        // SAFETY:
        // 1. `snp::start_svm` has turned SVM on and given the processor its host save area.
        // 2. The VMCB is ours; it intercepts every SVM instruction, all ports and all MSRs but those that VMRUN
        //    switches, and its nested tables hold the guest's RAM and a page of noise alone.
        // 3. GIF is clear everywhere outside of the windows in `exceptions`.
        unsafe { svm::enter(self.physical, &mut self.registers) };
        // SAFETY: GIF is clear, so nothing arrives.
        unsafe { asm!("sti", options(nomem, nostack)) };
        if requested {
            processors::look_again();
        }
    }

    /// Sleeps until an order or, if it may, an interrupt comes. What came already has left an NMI pending.
    fn rest<'a>(&mut self, shared: &'a Spin<Shared>, held: Held<'a, Shared>) -> Held<'a, Shared> {
        be(self.number, Place::Asleep);
        drop(held);
        if self.activity == Activity::Halted {
            self.held = exceptions::sleep();
        } else {
            exceptions::doze();
        }
        be(self.number, Place::Host);
        shared.lock()
    }

    pub(super) fn conclude_exit(&mut self, shared: &mut Shared) -> Flow {
        shared.counts.exits += 1;
        let control = self.control();
        (control.virtual_interrupt, control.exit_int_info) =
            state::after_delivery(control.virtual_interrupt, control.exit_int_info);
        if control.exit_code == exit::EXCEPTION_0 + UD && self.vmpl == 0 {
            shared.counts.instructions += 1;
        }
        self.handle(shared)?;
        if let Some(end) = shared.devices.end {
            return Err(end);
        }
        match shared.machine.broken.take() {
            Some(broken) => self.broke(&shared.machine, broken),
            None => Ok(()),
        }
    }

    fn obey(&mut self, machine: &mut Machine, orders: &Orders) -> Flow {
        self.nmi_pending |= orders.nmi && self.activity != Activity::Stopped;
        for (vmpl, order) in (0u8..).zip(orders.vmsas) {
            match order {
                Some(Order::Take(gpa, features)) => self.adopt(machine, vmpl, gpa, features)?,
                Some(Order::Drop) => self.abandon(machine, vmpl)?,
                None => {}
            }
        }
        if orders.startup && self.activity == Activity::Held {
            self.wake(machine)?;
        }
        Ok(())
    }

    /// Gives our own CR4 the guest's paging bits, and the one without which FXRSTOR and FXSAVE leave the vector registers out.
    fn mirror_cr4(&mut self) {
        let bits = self.save().cr4 & MIRRORED;
        if bits == self.mirrored {
            return;
        }
        self.mirrored = bits;
        let own: u64;
        // SAFETY: reading CR4 has no effect.
        unsafe { asm!("mov {}, cr4", out(reg) own, options(nomem, nostack, preserves_flags)) };
        let new = own & !MIRRORED | bits | CR4_OSFXSR;
        // SAFETY: none of these bits changes anything for this program; see `MIRRORED`. The processor has each of them,
        // because the guest has set it.
        unsafe { asm!("mov cr4, {}", in(reg) new, options(nostack, preserves_flags)) };
    }

    /// A fault that the processor itself would raise: its frame has RF set, which QEMU 7.2 leaves out.
    pub(super) fn raise(&mut self, vector: u64, error_code: u32) {
        let with_code = if matches!(vector, GP | PF) { event::ERROR_CODE_VALID } else { 0 };
        let field = event::VALID | event::TYPE_EXCEPTION | with_code | vector | u64::from(error_code) << 32;
        self.control().event_injection = field;
        self.save().rflags |= RFLAGS_RF;
    }

    /// The instruction at RIP.
    pub(super) fn fetch(&mut self, machine: &Machine) -> ([u8; INSTRUCTION_BYTES], usize) {
        let mut bytes = [0; INSTRUCTION_BYTES];
        let paging = self.paging();
        let save = self.save();
        let long = save.cs.attributes & CODE_LONG != 0 && save.efer & EFER_LMA != 0;
        let rip = if long { save.rip } else { save.cs.base.wrapping_add(save.rip) & 0xffff_ffff };
        let first = (4096 - (rip & 0xfff) as usize).min(INSTRUCTION_BYTES);
        let mut length = 0;
        for (at, part) in [(rip, 0..first), (rip.wrapping_add(first as u64), first..INSTRUCTION_BYTES)] {
            let Some(slot) = bytes.get_mut(part.clone()) else { break };
            let Ok(Mapping { gpa, .. }) = machine.walk(&paging, at) else { break };
            if !slot.is_empty() && !machine.hardware_read(gpa, slot) {
                break;
            }
            length = part.end;
        }
        (bytes, length)
    }

    pub(super) fn decode(&mut self, machine: &Machine) -> Instruction {
        let save = self.save();
        let (long, rip, root) = (save.cs.attributes & CODE_LONG != 0, save.rip, save.cr3);
        let mut window = [0; 8];
        // What the last instruction's page says is believed only if it is an instruction that exits.
        if long
            && rip & 0xfff <= 0xff8
            && let Some(code) = self.code.filter(|code| code.holds(root, rip))
            && machine.hardware_read(code.gpa | rip & 0xfff, &mut window)
        {
            let found = decode::decode(&window, long);
            if found.length != 0 {
                return found;
            }
        }
        let (bytes, length) = self.fetch(machine);
        let page = machine.walk(&self.paging(), rip).ok().filter(|_| long);
        self.code = page.map(|mapping| CodePage { root, page: rip & !0xfff, gpa: mapping.gpa & !0xfff });
        decode::decode(bytes.get(..length).unwrap_or(&[]), long)
    }

    /// Moves RIP past the instruction.
    pub(super) fn advance(&mut self, machine: &Machine) -> Flow {
        let instruction = self.decode(machine);
        if instruction.length == 0 {
            return self.gap(machine, 0x11);
        }
        self.skip(instruction);
        Ok(())
    }

    pub(super) fn skip(&mut self, instruction: Instruction) {
        self.control().interrupt_state &= !1;
        let save = self.save();
        save.rip = save.rip.wrapping_add(instruction.length.into());
    }

    /// Something that the model does not show.
    pub(super) fn gap(&mut self, machine: &Machine, found: u64) -> Flow {
        Err(self.violation(machine, Broken { rule: Rule::NotModelled, gpa: 0, found }))
    }

    pub(super) fn violation(&mut self, machine: &Machine, broken: Broken) -> End {
        End::Violation(self.report(machine, broken))
    }

    fn report(&mut self, machine: &Machine, broken: Broken) -> Violation {
        let (bytes, length) = self.fetch(machine);
        let rip = self.save().rip;
        Violation { broken, vcpu: self.number, vmpl: self.vmpl, rip, bytes, length: length as u8 }
    }

    /// A rule is broken that hardware and KVM would let pass: the end for a strict host, a line for a permissive one.
    pub(super) fn broke(&mut self, machine: &Machine, broken: Broken) -> Flow {
        let violation = self.report(machine, broken);
        if self.strict || broken.rule == Rule::NotModelled {
            return Err(End::Violation(violation));
        }
        // A console that cannot be written to has nowhere to report that.
        let _ = writeln!(super::super::console::Console, "[host] {violation}");
        Ok(())
    }
}
