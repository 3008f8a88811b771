// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the processors have in common, behind one lock: it is held whenever a processor is not in its guest and not asleep.
//!
//! A processor that changes what others may do, takes their translations away: it calls each that is in its guest (by an NMI,
//! which every guest's exit intercepts) and waits until it has left. QEMU drops all translations at an exit, so "has
//! left" is "has flushed", and nobody enters again while the lock is held.

use super::devices::Forwarded;
use super::machine::Machine;
use crate::bare::processors;
use core::cell::UnsafeCell;
use core::fmt;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use snp_host::apic::{Signal, SignalKind};
use snp_host::{Creation, Host, PROCESSORS};
use specs::sev::VMPLS;

/// Where a processor is.
static WHERE: [AtomicU8; PROCESSORS] = [const { AtomicU8::new(Place::Host as u8) }; PROCESSORS];

/// Where a processor can be.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Place {
    /// In this program, with the lock or waiting for it.
    Host,
    /// In its guest, or about to enter.
    Guest,
    /// Asleep, or about to be.
    Asleep,
}

/// Says where this processor is from now on.
pub(super) fn be(number: u32, place: Place) {
    if let Some(slot) = WHERE.get(number as usize) {
        slot.store(place as u8, Ordering::SeqCst);
    }
}

fn is(number: u32, place: Place) -> bool {
    WHERE.get(number as usize).is_some_and(|slot| slot.load(Ordering::SeqCst) == place as u8)
}

/// So many looks at a processor that was called, and it is called again: QEMU's VMRUN sets its request for a virtual interrupt without
/// the lock under which another processor's NMI is noted, which can lose the latter.
const CALL_AGAIN: u32 = 1 << 22;

/// Makes all other processors leave their guests. The caller has the lock, so none of them enters again.
pub(super) fn quiesce(own: u32) {
    let others = || (0..processors::online()).filter(|number| *number != own);
    others().filter(|number| is(*number, Place::Guest)).for_each(processors::call);
    for number in others() {
        let mut looks = 0u32;
        while is(number, Place::Guest) {
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(CALL_AGAIN) {
                processors::call(number);
            }
            core::hint::spin_loop();
        }
    }
}

/// Makes a processor look at its orders, wherever it is.
fn rouse(number: u32) {
    if !is(number, Place::Host) {
        processors::call(number);
    }
}

/// What others want of a processor.
#[derive(Clone, Copy, Default)]
pub(super) struct Orders {
    /// Whether there are any.
    given: bool,
    /// A VMSA for a VMPL, or none any more.
    pub(super) vmsas: [Option<Order>; VMPLS],
    /// VMSAs that come with INIT.
    with_init: [Option<(u64, u64)>; VMPLS],
    /// An NMI for the guest.
    pub(super) nmi: bool,
    /// A start-up IPI.
    pub(super) startup: bool,
}

impl Orders {
    /// What has been ordered since the last call. VMSAs that wait for INIT go on waiting.
    pub(super) fn take(&mut self) -> Option<Self> {
        if !self.given {
            return None;
        }
        let kept = Self { with_init: self.with_init, ..Self::default() };
        Some(core::mem::replace(self, kept))
    }
}

/// The VMSA and the features that the host was told.
#[derive(Clone, Copy)]
pub(super) enum Order {
    Take(u64, u64),
    Drop,
}

/// What of a guest's running costs a host: reported when it ends.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    /// Exits of any VMPL.
    pub(super) exits: u64,
    /// VMGEXITs that the host was asked something with.
    pub(super) requests: u64,
    /// Writes of the GHCB MSR, which are exits here, but none on hardware.
    pub(super) ghcb_msr_writes: u64,
    /// PVALIDATE and its like, which are exits of VMPL0 here, but none on hardware.
    pub(super) instructions: u64,
    /// TSC cycles in which some VMPL ran.
    pub(super) guest_cycles: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { exits, requests, ghcb_msr_writes, instructions, guest_cycles } = self;
        write!(f, "{{\"host\":{{\"exits\":{exits},\"instructions\":{instructions},\"requests\":{requests}")?;
        write!(f, ",\"ghcb_msr_writes\":{ghcb_msr_writes},\"guest_cycles\":{guest_cycles}}}}}")
    }
}

/// Everything that there is once.
pub(super) struct Shared {
    pub(super) machine: Machine,
    pub(super) host: Host,
    pub(super) devices: Forwarded,
    pub(super) orders: [Orders; PROCESSORS],
    pub(super) counts: Counts,
}

impl Shared {
    /// AP creation.
    pub(super) fn create(&mut self, creation: &Creation) {
        let Creation { apic_id, vmpl, vmsa, at_once } = *creation;
        let Some(orders) = self.orders.get_mut(apic_id as usize) else { return };
        let (Some(order), Some(with_init)) =
            (orders.vmsas.get_mut(usize::from(vmpl)), orders.with_init.get_mut(usize::from(vmpl)))
        else {
            return;
        };
        match vmsa {
            Some(vmsa) if !at_once => {
                *with_init = Some(vmsa);
                return;
            }
            Some((gpa, features)) => *order = Some(Order::Take(gpa, features)),
            None => (*order, *with_init) = (Some(Order::Drop), None),
        }
        orders.given = true;
        rouse(apic_id);
    }

    /// One processor tells others something.
    pub(super) fn signal(&mut self, signal: &Signal) {
        for (number, orders) in (0u32..).zip(&mut self.orders).filter(|(number, _)| signal.targets >> number & 1 != 0) {
            orders.given = true;
            match signal.kind {
                SignalKind::Nmi => orders.nmi = true,
                SignalKind::Startup => orders.startup = true,
                SignalKind::Init => {
                    for ((order, waiting), vmpl) in orders.vmsas.iter_mut().zip(&mut orders.with_init).zip(0..) {
                        if let Some((gpa, features)) = waiting.take() {
                            *order = Some(Order::Take(gpa, features));
                            self.host.created(number, vmpl);
                        }
                    }
                }
            }
            rouse(number);
        }
    }
}

/// A lock that spins.
pub(super) struct Spin<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: only the holder of the lock reaches the value, and there is one at a time.
unsafe impl<T: Send> Sync for Spin<T> {}

// SAFETY: the pointers in it are to tables and registers of the machine, which are the same on every processor; the VMCBs,
// which are not, are no part of it.
unsafe impl Send for Shared {}

impl<T> Spin<T> {
    pub(super) const fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Waits for it. Whoever has it may be waiting for this processor to leave its guest, which it has.
    pub(super) fn lock(&self) -> Held<'_, T> {
        while self.taken.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            core::hint::spin_loop();
        }
        Held(self)
    }
}

/// The lock, taken.
pub(super) struct Held<'a, T>(&'a Spin<T>);

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this is the only holder.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this is the only holder, and it is borrowed mutably.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        self.0.taken.store(false, Ordering::Release);
    }
}
