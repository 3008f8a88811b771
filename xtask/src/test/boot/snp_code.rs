// SPDX-License-Identifier: MIT OR Apache-2.0
//! The SNP image's own instructions: none that exits on its own account (APM vol. 2, 15.35.5), because a #VC in Parados ends the
//! VM, and none that asks anybody but the CPUID page for CPUID. What the tests execute would show it; a dependency's feature
//! detection, in code that they do not reach, would not.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, Register};
use igvm_tools::Platform;
use object::{Object, ObjectSection, ObjectSymbol, SectionKind};

use super::{Context, Outcome, Verdict};
use crate::build;

/// Only the native image may have them.
pub(super) fn exits_by_ghcb_alone(_: &Context) -> Outcome {
    let found = |platform| {
        let path = build::paravisor_for(platform).map_err(|failure| failure.message)?;
        let file = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        exiting(&file).map_err(|error| format!("{}: {error}", path.display()))
    };
    let native = found(Platform::Native)?;
    if !native.iter().any(|(_, what)| *what == Mnemonic::Cpuid) || !native.iter().any(|(_, what)| *what == Mnemonic::In)
    {
        return Err(format!("the native image has neither CPUID nor IN, expected both: {native:x?}"));
    }
    match found(Platform::Snp)?.first() {
        None => Ok(Verdict::Passed),
        Some((at, what)) => Err(format!("the SNP image has {what:?} at {at:#x}, which exits by itself")),
    }
}

/// Where an ELF's code has instructions that exit by themselves, and which.
fn exiting(file: &[u8]) -> Result<Vec<(u64, Mnemonic)>, object::Error> {
    let elf = object::File::parse(file)?;
    let mut found = Vec::new();
    for section in elf.sections().filter(|section| section.kind() == SectionKind::Text) {
        let (start, code) = (section.address(), section.data()?);
        let end = start + code.len() as u64;
        // From symbol to symbol, so that what stands between functions leads nobody astray.
        let symbols = elf.symbols().map(|symbol| symbol.address()).filter(|at| (start..end).contains(at));
        let mut starts: Vec<u64> = symbols.chain([start, end]).collect();
        starts.sort_unstable();
        for pair in starts.windows(2) {
            if let [from, to] = *pair {
                let part = code.get((from - start) as usize..(to - start) as usize).unwrap_or_default();
                found.extend(exiting_of(part, from));
            }
        }
    }
    Ok(found)
}

fn exiting_of(code: &[u8], at: u64) -> Vec<(u64, Mnemonic)> {
    let decoder = Decoder::with_ip(64, code, at, DecoderOptions::NONE);
    decoder.into_iter().filter(exits).map(|it| (it.ip(), it.mnemonic())).collect()
}

/// Whether a host can make an SNP guest exit by it. RDMSR and WRMSR are left out: some registers never exit. RDTSC likewise, which
/// the host contract wants.
fn exits(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    const EXITING: [Mnemonic; 28] = [
        M::Cpuid,
        M::In,
        M::Insb,
        M::Insw,
        M::Insd,
        M::Out,
        M::Outsb,
        M::Outsw,
        M::Outsd,
        M::Rdpmc,
        M::Rdtscp,
        M::Rdpru,
        M::Invd,
        M::Wbinvd,
        M::Wbnoinvd,
        M::Xsetbv,
        M::Monitor,
        M::Monitorx,
        M::Mwait,
        M::Mwaitx,
        M::Vmmcall,
        M::Vmrun,
        M::Vmload,
        M::Vmsave,
        M::Stgi,
        M::Clgi,
        M::Skinit,
        M::Invlpga,
    ];
    let debug = Register::DR0..=Register::DR7;
    // VMGEXIT is another mnemonic than VMMCALL.
    EXITING.contains(&instruction.mnemonic())
        || (0..instruction.op_count()).any(|index| debug.contains(&instruction.op_register(index)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exits_is_found_and_what_asks_by_the_ghcb_is_not() {
        let code = [
            &[0x48, 0x89, 0xc3][..],   // mov rbx, rax
            &[0x0f, 0xa2],             // cpuid
            &[0xf3, 0x0f, 0x01, 0xd9], // vmgexit
            &[0x0f, 0x01, 0xd9],       // vmmcall
            &[0xb8, 0x0f, 0xa2, 0, 0], // mov eax, 0xa20f
            &[0xec],                   // in al, dx
            &[0xf3, 0x6e],             // rep outsb
            &[0x0f, 0x23, 0xf8],       // mov dr7, rax
            &[0xf3, 0x90, 0x0f, 0x31], // pause, rdtsc
        ];
        let found = exiting_of(&code.concat(), 0x1000);
        let names: Vec<_> = found.iter().map(|(_, mnemonic)| *mnemonic).collect();
        use Mnemonic as M;
        assert_eq!(names, [M::Cpuid, M::Vmmcall, M::In, M::Outsb, M::Mov]);
        assert_eq!(found[0].0, 0x1003);
    }
}
