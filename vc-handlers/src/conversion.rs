// SPDX-License-Identifier: MIT OR Apache-2.0
//! VMMCALL of a guest that shares pages with the host and takes them back: `docs/page-conversion.md`.
//!
//! RAX is the call, RBX the first page's address, RCX how many pages. A call moves some pages at a time and counts RBX and RCX
//! as a repeated string instruction does its registers: until RCX is 0 the instruction starts over, and interrupts come in
//! between. RAX is the result then; after a refusal RBX is the first page that has not moved.
//!
//! Hostile party: the guest, with address and count. Each turn is bounded, and only the page-state table knows what is memory.

use platform::{Gpa, Gpr, GuestCpu, PAGE_SIZE, PageRange, Reason, SHARED_BIT, Visibility};

use crate::{Conversion, Env, Outcome, VcpuContext, operand};

/// Private pages become shared.
pub(crate) const SHARE: u64 = 0x5041_0001;
/// Shared pages become private.
pub(crate) const UNSHARE: u64 = 0x5041_0002;

/// Results, by Linux's numbers, negated: EPERM, EIO, ENOMEM, EFAULT, EINVAL, EALREADY.
const NOT_PERMITTED: u64 = 1_u64.wrapping_neg();
const REFUSED: u64 = 5_u64.wrapping_neg();
const EXHAUSTED: u64 = 12_u64.wrapping_neg();
const NOT_MEMORY: u64 = 14_u64.wrapping_neg();
const INVALID: u64 = 22_u64.wrapping_neg();
const ALREADY: u64 = 114_u64.wrapping_neg();

/// The call, if RAX names one and the guest has them.
pub(crate) fn handle(
    next_rip: u64,
    vcpu: &VcpuContext<'_>,
    cpu: &mut impl GuestCpu,
    env: &mut impl Env,
) -> Option<Outcome> {
    let to = match operand::get_word(Gpr::Rax, cpu) {
        SHARE if vcpu.page_conversion => Visibility::Shared,
        UNSHARE if vcpu.page_conversion => Visibility::Private,
        _ => return None,
    };
    let result = match turn(to, cpu, env) {
        Turn::Again => return Some(Outcome::Resume),
        Turn::Broken(gpa) => return Some(Outcome::Terminate(Reason::GuestMemory, gpa)),
        Turn::Done(result) => result,
    };
    operand::put_word(Gpr::Rax, result, cpu);
    Some(Outcome::Complete(next_rip))
}

/// What follows from one turn.
enum Turn {
    Again,
    Done(u64),
    Broken(u64),
}

fn turn(to: Visibility, cpu: &mut impl GuestCpu, env: &mut impl Env) -> Turn {
    let (first, pages) = (operand::get_word(Gpr::Rbx, cpu), operand::get_word(Gpr::Rcx, cpu));
    if cpu.system().cpl != 0 {
        return Turn::Done(NOT_PERMITTED);
    }
    let Some(range) = range(first, pages) else { return Turn::Done(INVALID) };
    if pages == 0 {
        return Turn::Done(0);
    }
    match env.convert(range, to) {
        Conversion::Pages(moved) => {
            let moved = moved.min(pages);
            operand::put_word(Gpr::Rbx, first + moved * PAGE_SIZE, cpu);
            operand::put_word(Gpr::Rcx, pages - moved, cpu);
            if moved == pages { Turn::Done(0) } else { Turn::Again }
        }
        Conversion::Busy => Turn::Again,
        Conversion::Refused => Turn::Done(REFUSED),
        Conversion::NotMemory => Turn::Done(NOT_MEMORY),
        Conversion::WrongState => Turn::Done(ALREADY),
        Conversion::Exhausted => Turn::Done(EXHAUSTED),
        Conversion::Broken => Turn::Broken(first),
    }
}

/// The pages, named by their private addresses.
fn range(first: u64, pages: u64) -> Option<PageRange> {
    let end = pages.checked_mul(PAGE_SIZE).and_then(|bytes| first.checked_add(bytes))?;
    PageRange::new(Gpa(first), Gpa(end)).filter(|_| end <= SHARED_BIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::models::everything;
    use crate::testing::{FakeCpu, FakeEnv};
    use crate::{VcpuContext, Vendor};
    use platform::Exception;

    const NEXT: u64 = 0x1003;

    fn page(number: u64) -> u64 {
        number * PAGE_SIZE
    }

    /// The call from CPL 0; the outcome, and RAX, RBX and RCX afterwards.
    fn call(env: &mut FakeEnv, offered: bool, cpl: u8, words: [u64; 3]) -> (Outcome, [u64; 3]) {
        let table = everything(Vendor::Amd);
        let vcpu = VcpuContext::new(&table, 0).with_page_conversion(offered);
        let mut cpu = FakeCpu::long_mode();
        cpu.set_cpl(cpl);
        for (register, word) in [Gpr::Rax, Gpr::Rbx, Gpr::Rcx].into_iter().zip(words) {
            cpu.set_gpr(register, word);
        }
        let outcome = crate::hypercall::handle(NEXT, &vcpu, &mut cpu, env);
        (outcome, [Gpr::Rax, Gpr::Rbx, Gpr::Rcx].map(|register| cpu.gpr(register)))
    }

    fn error(code: i64) -> u64 {
        code as u64
    }

    #[test]
    fn a_guest_without_the_calls_gets_an_undefined_instruction() {
        let mut env = FakeEnv::default();
        for number in [SHARE, UNSHARE] {
            let (outcome, _) = call(&mut env, false, 0, [number, page(1), 1]);
            assert_eq!(outcome, Outcome::Inject(Exception::UNDEFINED));
        }
        assert_eq!(call(&mut env, true, 0, [0x5041_0003, page(1), 1]).0, Outcome::Inject(Exception::UNDEFINED));
        assert!(env.conversions.is_empty());
    }

    #[test]
    fn a_long_call_goes_on_where_it_was_interrupted() {
        let mut env = FakeEnv::default();
        env.converted.extend([Conversion::Pages(64), Conversion::Busy, Conversion::Pages(36)]);
        let (outcome, words) = call(&mut env, true, 0, [SHARE, page(8), 100]);
        assert_eq!((outcome, words), (Outcome::Resume, [SHARE, page(72), 36]));
        assert_eq!(call(&mut env, true, 0, words), (Outcome::Resume, words), "another processor is at it");
        assert_eq!(call(&mut env, true, 0, words), (Outcome::Complete(NEXT), [0, page(108), 0]));
        let asked: Vec<_> = env.conversions.iter().map(|(range, to)| (range.start().0, range.bytes(), *to)).collect();
        let last = (page(72), page(36), Visibility::Shared);
        assert_eq!(asked, [(page(8), page(100), Visibility::Shared), last, last]);
    }

    #[test]
    fn a_refusal_says_where() {
        for (answer, code) in [
            (Conversion::Refused, -5),
            (Conversion::Exhausted, -12),
            (Conversion::NotMemory, -14),
            (Conversion::WrongState, -114),
        ] {
            let mut env = FakeEnv::default();
            env.converted.extend([Conversion::Pages(3), answer]);
            let (_, words) = call(&mut env, true, 0, [UNSHARE, page(1), 9]);
            let (outcome, words) = call(&mut env, true, 0, words);
            assert_eq!((outcome, words), (Outcome::Complete(NEXT), [error(code), page(4), 6]), "{answer:?}");
        }
    }

    #[test]
    fn a_host_that_lied_ends_the_vm_with_no_address_told() {
        let mut env = FakeEnv::default();
        env.converted.push_back(Conversion::Broken);
        let (outcome, _) = call(&mut env, true, 0, [SHARE, page(5), 1]);
        assert_eq!(outcome, Outcome::Terminate(Reason::GuestMemory, page(5)));
        assert!(matches!(Reason::GuestMemory.detail(), platform::Detail::Private(_)));
    }

    #[test]
    fn nonsense_reaches_no_memory() {
        let mut env = FakeEnv::default();
        for (first, pages) in [
            (page(1) + 8, 1),
            (page(1), u64::MAX),
            (u64::MAX - 4095, 1),
            (SHARED_BIT, 1),
            (SHARED_BIT - PAGE_SIZE, 2),
            (page(1), u64::MAX / PAGE_SIZE),
        ] {
            let words = [SHARE, first, pages];
            let expected = (Outcome::Complete(NEXT), [error(-22), first, pages]);
            assert_eq!(call(&mut env, true, 0, words), expected, "{first:#x} {pages}");
        }
        assert_eq!(call(&mut env, true, 0, [SHARE, page(7), 0]).1, [0, page(7), 0]);
        assert_eq!(call(&mut env, true, 3, [SHARE, page(7), 1]).1, [error(-1), page(7), 1]);
        assert!(env.conversions.is_empty());
    }
}
