// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bugs on purpose, in the code that the fuzzers are for: a fuzzer that misses them has no eyes (`docs/fuzzing.md`).
//!
//! They exist with the feature `planted-bugs` alone, which the fuzzers turn on, and even there each one sleeps until it is
//! asked for. Without the feature [`Slip::is_planted`] is a constant, and nothing of a slip is compiled. What runs on bare
//! metal does not compile with the feature at all, so that no image can have it.

#[cfg(all(feature = "planted-bugs", target_os = "none"))]
compile_error!("planted bugs are for the fuzzers, never for an image");

/// One thing done wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Slip {
    /// Emulator: a 16-bit store spills into the next byte.
    Spill = 1,
    /// Emulator: a device write of four bytes goes out as one of eight.
    Width,
    /// Emulator: a device gets the halves of eight bytes swapped.
    Order,
    /// Emulator: registers are written before the store, which may fail.
    EarlyRegisters,
    /// Local APIC: an interrupt is taken over one of its class.
    Nested,
    /// Local APIC: the end of a level-triggered interrupt with a high vector is not told.
    SilentEnd,
    /// Local APIC: the timer's initial count lacks a bit.
    Count,
    /// APIC fabric: messages with one vector get lost.
    Lost,
    /// APIC fabric: nobody is kicked.
    Silent,
    /// PC: a 16-bit access that is split into bytes brings a bit of a third one.
    ThirdByte,
    /// PC: the host is not told that INTR falls.
    StuckIntr,
    /// Clock: a call before the deadline raises the flag of an update.
    EarlyUpdate,
    /// Device memory: one byte has seven bits.
    Forgetful,
    /// Core: the guest also gets the page before the end of Parados's.
    Generous,
    /// Core: a payload's memory map lacks its last entry.
    ShortMap,
    /// Core: a payload's command line loses its last byte.
    CutLine,
    /// Reference host: a page with data goes to the next address.
    Shifted,
    /// Reference host: a short parameter lands eight bytes low.
    Low,
    /// Reference host: a refusal names a place behind the file.
    Offset,
    /// Image tools: what a kernel needs beyond its file is not reserved.
    Unreserved,
    /// Image tools: a program may be entered at the end of its bytes.
    Entry,
    /// Image tools: the last part of an unmeasured payload has no digest.
    Unjudged,
    /// Image tools: a misspelt key of a configuration is refused without its line.
    NoLine,
    /// Image tools: a policy that is there is on.
    AnyPolicy,
    /// Image tools: a large page is shown as a small one.
    SmallPage,
    /// Image tools: a refusal of page data forgets its offset.
    NoOffset,
    /// Sizes: a kibibyte has 1000 bytes.
    Unit,
    /// Command output: a trailer that comes in pieces is output.
    Pieces,
    /// Image tools: an unmeasured page is measured.
    Measured,
    /// Image tools: KVM's VMSAs are measured in the file's order.
    FileOrder,
    /// Image tools: a VMSA is measured as an ordinary page.
    PlainVmsa,
    /// Image tools: every page is measured for every platform.
    AnyPlatform,
    /// MSRs: user mode may read them.
    UserMsr,
    /// MSRs: EFER.SVME can be set.
    Svme,
    /// MSRs: a WRMSR that faults leaves its value.
    LateFault,
    /// XSETBV: XCR0 takes AVX without SSE.
    Components,
    /// Control registers: CR4 takes SMEP although CPUID hides it.
    HiddenSmep,
    /// CPUID: SVM is shown.
    ShownSvm,
    /// Debug registers: DR7's bit 10 can be cleared.
    DebugOne,
}

#[cfg(feature = "planted-bugs")]
mod active {
    use core::sync::atomic::{AtomicU8, Ordering};

    use super::Slip;

    static ACTIVE: AtomicU8 = AtomicU8::new(0);

    struct Cleared;

    impl Drop for Cleared {
        fn drop(&mut self) {
            ACTIVE.store(0, Ordering::Relaxed);
        }
    }

    impl Slip {
        /// Whether the code is to do this wrong.
        pub fn is_planted(self) -> bool {
            ACTIVE.load(Ordering::Relaxed) == self as u8
        }

        /// Runs something with this one wrong, also if that panics. For one thread alone.
        pub fn planted<T>(self, body: impl FnOnce() -> T) -> T {
            let _cleared = Cleared;
            ACTIVE.store(self as u8, Ordering::Relaxed);
            body()
        }
    }
}

#[cfg(not(feature = "planted-bugs"))]
impl Slip {
    /// Whether the code is to do this wrong: never.
    #[inline(always)]
    pub const fn is_planted(self) -> bool {
        false
    }
}
