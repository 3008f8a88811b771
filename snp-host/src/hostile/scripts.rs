// SPDX-License-Identifier: MIT OR Apache-2.0
//! The attacks, by name. `docs/hostile-hosts.md` says of each what a guest should make of it; the book and this list are
//! compared by a test.

use super::{Act, Change, Deed, Event, Injection, Script, Watched};
use specs::ghcb::{exit as own, guest_request, msr, page, page_state};
use specs::svm::exit;

const ALWAYS: u32 = u32::MAX;
/// About 2 ms on any processor.
const LATE: u64 = 5_000_000;
/// About 50 ms, which have passed since the machine's start on any processor.
const TURNED_BACK: u64 = 1 << 27;
/// A port access in the middle of a kernel's start.
const SOMEWHERE: u32 = 10_000;
/// A start of the guest by a paravisor, in the middle of that guest's own start; and how often it is disturbed.
const LATER: u32 = 1000;
/// The first page-state change of a guest above a paravisor.
const CONVERSIONS: u32 = 3;
const MOVE: Deed = Deed::Remap(PAGE_OF_THE_GUEST, PAGE_OF_THE_GUEST + 0x20_0000);
const STRAY: Deed = Deed::Inject(2, Injection::Entry);
/// A page of guests that place something there: the test images' initial RAM disk, or Parados.
const PAGE_OF_THE_GUEST: u64 = 0x800_0000;

/// Where a message has something encrypted.
const ENCRYPTED: u64 = 0x100;

/// After one read.
const fn flip(offset: usize) -> Change {
    Change { offset: offset as u64, reads: 1, flip: 1 }
}

const fn always(on: Event, deed: Deed) -> Act {
    Act { on, from: 1, times: ALWAYS, deed }
}

const fn once(on: Event, nth: u32, deed: Deed) -> Act {
    Act { on, from: nth, times: 1, deed }
}

/// Page-state changes, from the n-th on.
const fn from(nth: u32, deed: Deed) -> Act {
    Act { on: Event::Exit(own::PAGE_STATE_CHANGE), from: nth, times: ALWAYS, deed }
}

/// All of them.
pub const ALL: &[Script] = &[
    Script {
        name: "no-features",
        acts: &[
            always(Event::Msr(msr::FEATURES_REQUEST), Deed::Pretend(msr::FEATURES_RESPONSE, 0)),
            always(Event::Exit(own::FEATURES), Deed::Pretend(0, 0)),
        ],
    },
    // Versions 0 to 0, and the C-bit where it is.
    Script {
        name: "old-protocol",
        acts: &[always(Event::Msr(msr::SEV_INFO_REQUEST), Deed::FalsifyMsr(0x0002_0001 << 32))],
    },
    Script {
        name: "no-registration",
        acts: &[always(
            Event::Msr(msr::REGISTER_GPA_REQUEST),
            Deed::Pretend(msr::REGISTER_GPA_RESPONSE | msr::NO_GFN << 12, 0),
        )],
    },
    Script {
        name: "no-conversion",
        acts: &[
            always(Event::Msr(msr::PAGE_STATE_REQUEST), Deed::Pretend(msr::PAGE_STATE_RESPONSE | 1 << 63, 0)),
            always(Event::Exit(own::PAGE_STATE_CHANGE), Deed::Pretend(0, 0x100 << 32)),
        ],
    },
    // The first changes are of pages that a paravisor cannot do without.
    Script { name: "slow-conversion", acts: &[from(CONVERSIONS, Deed::Shorten(3, 0))] },
    Script { name: "half-conversion", acts: &[from(CONVERSIONS, Deed::Shorten(3, page_state::GENERIC))] },
    Script {
        name: "rare-conversion",
        acts: &[
            Act { on: Event::Exit(own::PAGE_STATE_CHANGE), from: CONVERSIONS, times: 50, deed: Deed::Shorten(0, 0) },
            Act {
                on: Event::Exit(own::PAGE_STATE_CHANGE),
                from: CONVERSIONS + 50,
                times: 50,
                deed: Deed::Shorten(0, page_state::GENERIC),
            },
        ],
    },
    Script { name: "claimed-conversion", acts: &[from(CONVERSIONS, Deed::Claim)] },
    Script { name: "false-conversion", acts: &[from(CONVERSIONS, Deed::Falsify(&[(page::SHARED_BUFFER, 0x8000)]))] },
    Script { name: "no-doorbell", acts: &[always(Event::Exit(own::HV_DOORBELL), Deed::Withhold)] },
    Script { name: "no-creation", acts: &[always(Event::Exit(own::AP_CREATION), Deed::Withhold)] },
    Script { name: "silence", acts: &[always(Event::Exit(exit::MSR), Deed::Withhold)] },
    Script { name: "late", acts: &[always(Event::Exit(exit::MSR), Deed::Delay(LATE))] },
    Script {
        name: "twice",
        acts: &[
            always(Event::Exit(own::GUEST_REQUEST), Deed::Repeat),
            always(Event::Exit(own::EXTENDED_GUEST_REQUEST), Deed::Repeat),
        ],
    },
    Script {
        name: "replay",
        acts: &[
            Act { on: Event::Exit(own::GUEST_REQUEST), from: 2, times: ALWAYS, deed: Deed::Replay },
            Act { on: Event::Exit(own::EXTENDED_GUEST_REQUEST), from: 2, times: ALWAYS, deed: Deed::Replay },
        ],
    },
    // A bit of what the firmware has encrypted.
    Script {
        name: "forged-answer",
        acts: &[
            always(Event::Exit(own::GUEST_REQUEST), Deed::Forge(ENCRYPTED, 1)),
            always(Event::Exit(own::EXTENDED_GUEST_REQUEST), Deed::Forge(ENCRYPTED, 1)),
        ],
    },
    Script {
        name: "no-messenger",
        acts: &[
            always(Event::Exit(own::GUEST_REQUEST), Deed::Withhold),
            always(Event::Exit(own::EXTENDED_GUEST_REQUEST), Deed::Withhold),
        ],
    },
    Script {
        name: "throttle",
        acts: &[
            Act { on: Event::Exit(own::GUEST_REQUEST), from: 1, times: 3, deed: Deed::Pretend(0, guest_request::BUSY) },
            Act {
                on: Event::Exit(own::EXTENDED_GUEST_REQUEST),
                from: 1,
                times: 3,
                deed: Deed::Pretend(0, guest_request::BUSY),
            },
        ],
    },
    // Another APIC ID, another number of processors, no hypervisor.
    Script {
        name: "false-cpuid",
        acts: &[
            always(Event::Exit(exit::CPUID), Deed::Falsify(&[(page::RBX, 0xff03_0000), (page::RCX, 1 << 31)])),
            always(Event::Msr(msr::CPUID_REQUEST), Deed::FalsifyMsr(0x0300_0000 << 32)),
        ],
    },
    Script {
        name: "snatched-page",
        acts: &[
            once(Event::Exit(own::PAGE_STATE_CHANGE), 1, Deed::Snatch(PAGE_OF_THE_GUEST)),
            once(Event::Exit(own::RUN_VMPL), LATER, Deed::Snatch(PAGE_OF_THE_GUEST)),
        ],
    },
    Script {
        name: "moved-page",
        acts: &[once(Event::Exit(own::PAGE_STATE_CHANGE), 1, MOVE), once(Event::Exit(own::RUN_VMPL), LATER, MOVE)],
    },
    Script {
        name: "second-thought",
        acts: &[
            once(Event::Exit(own::FEATURES), 1, Deed::Watch(Watched::Ghcb, flip(page::SW_EXIT_INFO2))),
            once(Event::Exit(own::RUN_VMPL), LATER, Deed::Watch(Watched::Ghcb, flip(page::SW_EXIT_INFO1))),
        ],
    },
    Script {
        name: "low-vector",
        acts: &[
            once(Event::Exit(own::FEATURES), 1, Deed::Inject(3, Injection::Doorbell(14))),
            once(Event::Exit(own::RUN_VMPL), LATER, Deed::Inject(3, Injection::Doorbell(14))),
        ],
    },
    Script {
        name: "forged-interrupt",
        acts: &[
            once(Event::Exit(exit::IOIO), SOMEWHERE, Deed::Inject(2, Injection::Interrupt(0x80))),
            once(Event::Exit(own::RUN_VMPL), LATER, Deed::Inject(2, Injection::Interrupt(0x80))),
        ],
    },
    Script {
        name: "forged-exception",
        acts: &[
            once(Event::Exit(exit::IOIO), SOMEWHERE, Deed::Inject(2, Injection::Exception(13, Some(0)))),
            once(Event::Exit(own::RUN_VMPL), LATER, Deed::Inject(2, Injection::Exception(13, Some(0)))),
        ],
    },
    Script { name: "turned-back", acts: &[once(Event::Exit(own::RUN_VMPL), LATER, Deed::TurnBack(TURNED_BACK))] },
    Script {
        name: "early-run",
        acts: &[Act { on: Event::Exit(exit::MSR), from: 1, times: LATER, deed: Deed::Inject(5, Injection::Run(2)) }],
    },
    Script { name: "second-run", acts: &[once(Event::Exit(own::RUN_VMPL), LATER, Deed::Occupy)] },
    Script {
        name: "stray-entry",
        acts: &[
            Act { on: Event::Msr(msr::RUN_VMPL_REQUEST), from: 1, times: LATER, deed: STRAY },
            Act { on: Event::Exit(own::RUN_VMPL), from: 1, times: LATER, deed: STRAY },
        ],
    },
];

/// The attack of a name.
pub fn find(name: &str) -> Option<&'static Script> {
    ALL.iter().find(|script| script.name == name)
}
