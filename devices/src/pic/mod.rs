// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two cascaded 8259A interrupt controllers and their edge/level control registers.
//!
//! Follows the Intel 8259A data sheet (231468) and, for the ELCR and for what a PC ignores (MCS-80 mode, buffered mode,
//! the trigger bit of ICW1), the ICH9 data sheet (316972), section 13.4. A request must stay up until it is acknowledged,
//! in edge mode too; otherwise the acknowledge cycle gives the spurious IRQ 7 or 15.
//!
//! Hostile party: the guest, which writes any command in any order. All state is a few bytes and every path is bounded.

mod chip;
#[cfg(test)]
mod tests;

use chip::Chip;

/// The input of the primary controller that the secondary drives.
const CASCADE: u8 = 2;
/// IRQ 0, 1 and 2 are always edge-triggered.
const ELCR1_WRITABLE: u8 = 0xf8;
/// IRQ 8 and 13 are always edge-triggered.
const ELCR2_WRITABLE: u8 = 0xde;

/// The pair of interrupt controllers.
#[derive(Debug)]
pub struct Pic {
    primary: Chip,
    secondary: Chip,
}

impl Default for Pic {
    /// As a PC's firmware leaves them: vectors 08h and 70h, everything masked.
    fn default() -> Self {
        Self { primary: Chip::new(0x08, 1 << CASCADE), secondary: Chip::new(0x70, CASCADE) }
    }
}

impl Pic {
    /// Drives input `irq`, 0 to 15. IRQ 2 is the cascade and has no wire.
    pub fn set_line(&mut self, irq: u8, level: bool) {
        match irq {
            CASCADE | 16.. => return,
            0..8 => self.primary.set_line(irq, level),
            8..16 => self.secondary.set_line(irq - 8, level),
        }
        self.sync();
    }

    /// The INTR pin.
    pub fn output(&self) -> bool {
        self.primary.pending().is_some()
    }

    /// The vector that [`Self::acknowledge`] would return now.
    pub fn next_vector(&self) -> u8 {
        match self.primary.pending() {
            Some(CASCADE) if self.primary.cascades(CASCADE) && !self.secondary.is_numbered(CASCADE) => 0xff,
            Some(CASCADE) if self.primary.cascades(CASCADE) => {
                self.secondary.vector(self.secondary.pending().unwrap_or(7))
            }
            input => self.primary.vector(input.unwrap_or(7)),
        }
    }

    /// The interrupt acknowledge cycle: takes the most urgent request into service and returns its vector. Without a
    /// request that is the spurious one, IRQ 7 or IRQ 15.
    pub fn acknowledge(&mut self) -> u8 {
        let vector = match self.primary.acknowledge() {
            Some(CASCADE) if self.primary.cascades(CASCADE) => self.acknowledge_secondary(),
            Some(input) => self.primary.vector(input),
            None => self.primary.vector(7),
        };
        self.sync();
        vector
    }

    fn acknowledge_secondary(&mut self) -> u8 {
        // The secondary's INT falls during the cycle, so that its next request is an edge again.
        self.primary.set_line(CASCADE, false);
        if !self.secondary.is_numbered(CASCADE) {
            return 0xff; // Nobody drives the bus.
        }
        let input = self.secondary.acknowledge().unwrap_or(7);
        self.secondary.vector(input)
    }

    /// Reads port 20h, 21h, A0h, A1h, 4D0h or 4D1h.
    pub fn read(&mut self, port: u16) -> u8 {
        let value = match port {
            0x20 | 0x21 => self.primary.read(port & 1 != 0),
            0xa0 | 0xa1 => self.secondary.read(port & 1 != 0),
            0x4d0 => self.primary.level_triggered(),
            0x4d1 => self.secondary.level_triggered(),
            _ => 0xff,
        };
        self.sync(); // A poll acknowledges.
        value
    }

    /// Writes port 20h, 21h, A0h, A1h, 4D0h or 4D1h.
    pub fn write(&mut self, port: u16, value: u8) {
        match port {
            0x20 | 0x21 => self.primary.write(port & 1 != 0, value),
            0xa0 | 0xa1 => self.secondary.write(port & 1 != 0, value),
            0x4d0 => self.primary.set_level_triggered(value & ELCR1_WRITABLE),
            0x4d1 => self.secondary.set_level_triggered(value & ELCR2_WRITABLE),
            _ => {}
        }
        self.sync();
    }

    /// The wire from the secondary's INT to the primary.
    fn sync(&mut self) {
        self.primary.set_line(CASCADE, self.secondary.pending().is_some());
    }
}
