// SPDX-License-Identifier: MIT OR Apache-2.0
//! VMMCALL: Parados's own hypercalls (`conversion`), and KVM's, as far as kvm-unit-tests makes them without asking CPUID (Linux,
//! `Documentation/virt/kvm/x86/hypercalls.rst`).
//!
//! Only a machine with the test devices has KVM's. A guest that has neither gets #UD, as on a processor without a hypervisor: CPUID
//! announces none of KVM's interfaces.
//!
//! Hostile party: the guest, with number, bitmap and destination. One call sends at most 128 messages.

use platform::{Exception, Gpr, GuestCpu};
use vmm_interface::{DeliveryMode, Destination, InterruptMessage, TriggerMode};

use crate::{Env, Outcome, VcpuContext, conversion, operand};

/// `KVM_HC_SEND_IPI`.
const SEND_IPI: u64 = 10;

/// Results: what Linux calls EPERM and EINVAL, and KVM's own ENOSYS, negated.
const NOT_PERMITTED: u64 = 1_u64.wrapping_neg();
const INVALID: u64 = 22_u64.wrapping_neg();
const NOT_IMPLEMENTED: u64 = 1000_u64.wrapping_neg();

/// ICR bits (SDM vol. 3A, 11.6.1): the vector, the delivery mode, and what a message with these says anyway: level assert.
const ICR_VECTOR: u64 = 0xff;
const ICR_MODE: u64 = 7 << 8;
const ICR_ASSERT: u64 = 1 << 14;
/// Vectors below are illegal in an interrupt message (SDM vol. 3A, 11.5.2).
const FIRST_LEGAL_VECTOR: u8 = 16;
const MODE_FIXED: u64 = 0;
const MODE_NMI: u64 = 4 << 8;

/// The first APIC ID that no processor has; an 8-bit destination of this value is everybody.
const BROADCAST: u64 = 0xff;

/// A hypercall: number in RAX, arguments in RBX, RCX, RDX and RSI, the result in RAX.
pub(crate) fn handle(next_rip: u64, vcpu: &VcpuContext<'_>, cpu: &mut impl GuestCpu, env: &mut impl Env) -> Outcome {
    if let Some(outcome) = conversion::handle(next_rip, vcpu, cpu, env) {
        return outcome;
    }
    if !vcpu.hypercalls {
        return Outcome::Inject(Exception::UNDEFINED);
    }
    let number = operand::get_word(Gpr::Rax, cpu);
    let result = match number {
        _ if cpu.system().cpl != 0 => NOT_PERMITTED,
        SEND_IPI => send_ipi(cpu, env),
        _ => NOT_IMPLEMENTED,
    };
    operand::put_word(Gpr::Rax, result, cpu);
    Outcome::Complete(next_rip)
}

/// One message to each processor whose bit is set. Returns how many take it.
fn send_ipi(cpu: &impl GuestCpu, env: &mut impl Env) -> u64 {
    let [low, high, first, icr] = [Gpr::Rbx, Gpr::Rcx, Gpr::Rdx, Gpr::Rsi].map(|it| operand::get_word(it, cpu));
    // The word's width is the caller's; only 64-bit callers fill it.
    let width = if operand::is_64bit(cpu) { 64 } else { 32 };
    let mode = match icr & ICR_MODE {
        MODE_FIXED => DeliveryMode::Fixed,
        MODE_NMI => DeliveryMode::Nmi,
        _ => return INVALID,
    };
    if icr & !(ICR_VECTOR | ICR_MODE | ICR_ASSERT) != 0 {
        return INVALID;
    }
    let vector = (icr & ICR_VECTOR) as u8;
    // Nobody takes an illegal vector. That is no error: kvm-unit-tests sends one to no processor.
    if mode == DeliveryMode::Fixed && vector < FIRST_LEGAL_VECTOR {
        return 0;
    }
    let bitmap = u128::from(low) | u128::from(high) << width;
    let mut taken = 0;
    for bit in (0..2 * width).filter(|bit| bitmap >> bit & 1 != 0) {
        // IDs ascend, and no processor has one from here on.
        let Some(id) = first.checked_add(bit).filter(|id| *id < BROADCAST) else { break };
        let destination = Destination::Physical(id as u32);
        let message = InterruptMessage { destination, mode, vector, trigger: TriggerMode::Edge, assert: true };
        taken += u64::from(env.send(&message));
    }
    taken
}
