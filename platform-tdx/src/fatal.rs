// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a TD tells its host that it ends: `TDG.VP.VMCALL<ReportFatalError>` (GHCI, 3.4).

use platform::{Gpr, Termination};
use specs::tdx::vmcall::REPORT_FATAL_ERROR;

/// The registers of the call: the leaf, the mask of what the host sees, the function, the code (bit 63 clear: R13 holds no address),
/// and a message of 64 bytes, zero-padded.
pub fn fatal_error_call(how: Termination) -> [(Gpr, u64); 14] {
    // All but RAX, RCX, RSP and RBP.
    const SHOWN: u64 = 0xffcc;
    let mut message = [0; 8];
    for (word, bytes) in message.iter_mut().zip(how.words().as_bytes().chunks(8)) {
        *word = bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    let [r14, r15, rbx, rdi, rsi, r8, r9, rdx] = message;
    [
        (Gpr::Rax, 0),
        (Gpr::Rcx, SHOWN),
        (Gpr::R10, 0),
        (Gpr::R11, REPORT_FATAL_ERROR),
        (Gpr::R12, how.code().into()),
        (Gpr::R13, 0),
        (Gpr::R14, r14),
        (Gpr::R15, r15),
        (Gpr::Rbx, rbx),
        (Gpr::Rdi, rdi),
        (Gpr::Rsi, rsi),
        (Gpr::R8, r8),
        (Gpr::R9, r9),
        (Gpr::Rdx, rdx),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use platform::Reason;

    /// The order of the message's registers is the one of Linux's guest (`tdx_panic`).
    #[test]
    fn a_fatal_error_has_every_register_that_it_shows() {
        let reasons = Reason::ALL.iter().map(|reason| Termination::Fatal(*reason, u64::MAX));
        for end in reasons.chain([Termination::PowerOff, Termination::Reset, Termination::TripleFault]) {
            let call = fatal_error_call(end);
            let of = |wanted| call.iter().find(|(register, _)| *register == wanted).map(|(_, value)| *value);
            let shown = call.iter().filter(|(register, _)| !matches!(register, Gpr::Rax | Gpr::Rcx));
            assert_eq!(of(Gpr::Rcx), Some(shown.fold(0, |mask, (register, _)| mask | 1 << *register as u32)));
            assert_eq!((of(Gpr::Rax), of(Gpr::R10), of(Gpr::R11)), (Some(0), Some(0), Some(0x1_0003)));
            let code = if let Termination::Fatal(reason, _) = end { reason.code() } else { 0 };
            assert_eq!((of(Gpr::R12), of(Gpr::R13)), (Some(code.into()), Some(0)));
            let order = [Gpr::R14, Gpr::R15, Gpr::Rbx, Gpr::Rdi, Gpr::Rsi, Gpr::R8, Gpr::R9, Gpr::Rdx];
            let bytes: Vec<u8> = order.iter().flat_map(|register| of(*register).unwrap().to_le_bytes()).collect();
            assert_eq!(std::str::from_utf8(&bytes).unwrap().trim_end_matches('\0'), end.words());
        }
    }
}
