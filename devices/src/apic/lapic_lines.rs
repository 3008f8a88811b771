// SPDX-License-Identifier: MIT OR Apache-2.0
//! The local vector table: the pins LINT0 and LINT1, and the error interrupt (SDM vol. 3A, 11.5.1 and 11.5.3).

use crate::apic::lapic::{Lapic, Mode};
use crate::apic::port::Signals;
use specs::apic::{ErrorStatus, Lvt, SPURIOUS_ENABLE, Slot};
use vmm_interface::{DeliveryMode, TriggerMode};

/// A local interrupt pin. A PC wires the 8259s' output to LINT0 and NMI to LINT1.
#[allow(missing_docs, reason = "the architecture's own names")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lint {
    Lint0,
    Lint1,
}

impl Lint {
    const BOTH: [Self; 2] = [Self::Lint0, Self::Lint1];
}

impl Lapic {
    /// Whether the 8259s' output, on LINT0, interrupts the processor as ExtINT: the LVT entry says so, or the APIC is
    /// globally disabled and its pins are the processor's INTR and NMI (11.4.3). The latter on the bootstrap processor
    /// alone, as boards wire it.
    pub fn accepts_extint(&self) -> bool {
        if self.mode == Mode::Disabled {
            return self.is_bootstrap();
        }
        let lvt = Lvt(self.registers.lvt_lint0.value);
        !lvt.masked() && DeliveryMode::from_bits(lvt.delivery_mode()) == Some(DeliveryMode::ExtInt)
    }

    /// Drives a pin; `asserted` is its logical level. What comes out of it besides vectors is returned.
    ///
    /// An ExtINT pin is not reported here: it is a level, which the run loop learns from the 8259s and
    /// [`Self::accepts_extint`].
    pub fn set_lint(&mut self, pin: Lint, asserted: bool) -> Signals {
        let level = match pin {
            Lint::Lint0 => &mut self.lint[0],
            Lint::Lint1 => &mut self.lint[1],
        };
        let rising = asserted && !*level;
        *level = asserted;
        if self.mode == Mode::Disabled {
            return Signals { nmi: rising && pin == Lint::Lint1, ..Signals::NONE };
        }
        self.sense(pin, rising)
    }

    /// Looks at a pin after an edge, or after something changed that a level was waiting for.
    fn sense(&mut self, pin: Lint, rising: bool) -> Signals {
        let lvt = Lvt(self.lint_entry(pin).value);
        if lvt.masked() {
            return Signals::NONE;
        }
        match DeliveryMode::from_bits(lvt.delivery_mode()) {
            Some(DeliveryMode::Fixed) if level_triggered(lvt) => {
                let waits = self.asserted(pin) && lvt.0 & Lvt::REMOTE_IRR == 0;
                if waits && self.accept(lvt.vector(), TriggerMode::Level) {
                    self.lint_entry(pin).value |= Lvt::REMOTE_IRR;
                }
                Signals::NONE
            }
            Some(DeliveryMode::Fixed) if rising => {
                self.accept(lvt.vector(), TriggerMode::Edge);
                Signals::NONE
            }
            Some(DeliveryMode::Nmi) => Signals { nmi: rising, ..Signals::NONE },
            Some(DeliveryMode::Smi) => Signals { smi: rising, ..Signals::NONE },
            Some(DeliveryMode::Init) => Signals { init: rising, ..Signals::NONE },
            _ => Signals::NONE,
        }
    }

    /// Writes LVT LINT0 or LINT1. A level that waits comes in when it is unmasked.
    pub(super) fn write_lint(&mut self, pin: Lint, value: u32) {
        const WRITABLE: u32 = Lvt::VECTOR | Lvt::DELIVERY_MODE | Lvt::ACTIVE_LOW | Lvt::LEVEL | Lvt::MASKED;
        let value = self.masked_if_disabled(value & WRITABLE);
        let entry = self.lint_entry(pin);
        // Remote IRR has no meaning but for a fixed level-triggered interrupt.
        let kept = if level_triggered(Lvt(value)) { entry.value & Lvt::REMOTE_IRR } else { 0 };
        entry.value = value | kept;
        // Without an edge there can be no signal, only a vector.
        let _ = self.sense(pin, false);
    }

    /// The level-triggered interrupt `vector` ended: a pin that caused it may cause it again.
    pub(super) fn end_lint(&mut self, vector: u8) {
        for pin in Lint::BOTH {
            let entry = self.lint_entry(pin);
            if entry.value & Lvt::REMOTE_IRR != 0 && Lvt(entry.value).vector() == vector {
                entry.value &= !Lvt::REMOTE_IRR;
                let _ = self.sense(pin, false);
            }
        }
    }

    /// An LVT entry as it is stored: while software disables the APIC, the mask cannot be cleared (11.4.7.2).
    pub(super) fn masked_if_disabled(&self, value: u32) -> u32 {
        if self.registers.spurious.value & SPURIOUS_ENABLE == 0 { value | Lvt::MASKED } else { value }
    }

    /// Masks the whole table, because software disabled the APIC.
    pub(super) fn mask_local_interrupts(&mut self) {
        let registers = &mut self.registers;
        for entry in [
            &mut registers.lvt_timer,
            &mut registers.lvt_thermal,
            &mut registers.lvt_performance,
            &mut registers.lvt_lint0,
            &mut registers.lvt_lint1,
            &mut registers.lvt_error,
        ] {
            entry.value |= Lvt::MASKED;
        }
    }

    /// Notes an error for the next write to the error status register. The first since the last such write interrupts.
    pub(super) fn record_error(&mut self, error: ErrorStatus) {
        let armed = self.errors.is_empty();
        self.errors |= error;
        let lvt = Lvt(self.registers.lvt_error.value);
        if armed && !lvt.masked() {
            // An illegal vector in this very entry comes back here once, no longer armed.
            self.accept(lvt.vector(), TriggerMode::Edge);
        }
    }

    fn asserted(&self, pin: Lint) -> bool {
        match pin {
            Lint::Lint0 => self.lint[0],
            Lint::Lint1 => self.lint[1],
        }
    }

    fn lint_entry(&mut self, pin: Lint) -> &mut Slot {
        match pin {
            Lint::Lint0 => &mut self.registers.lvt_lint0,
            Lint::Lint1 => &mut self.registers.lvt_lint1,
        }
    }
}

/// Whether the trigger bit counts: it does for fixed interrupts only; NMI, SMI and INIT are always edges (11.5.1).
fn level_triggered(lvt: Lvt) -> bool {
    lvt.0 & Lvt::LEVEL != 0 && DeliveryMode::from_bits(lvt.delivery_mode()) == Some(DeliveryMode::Fixed)
}
