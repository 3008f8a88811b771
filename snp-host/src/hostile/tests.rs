// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each deed, once.

use super::{Act, Change, Consequence, Deed, Event, Injection, Script, Watched, scripts};
use crate::testing::{GHCB, Machine, Request as Ask, host};
use crate::{Action, Hardware};
use specs::ghcb::{exit as own, msr, page};
use specs::svm::exit;

fn script(acts: &'static [Act]) -> &'static Script {
    Box::leak(Box::new(Script { name: "", acts }))
}

fn features() -> Ask {
    Ask::new(own::FEATURES)
}

#[test]
fn an_act_counts_requests_of_its_kind_alone() {
    const ACTS: &[Act] = &[Act { on: Event::Exit(own::FEATURES), from: 2, times: 2, deed: Deed::Pretend(7, 8) }];
    let (mut host, mut machine) = (host(), Machine::default());
    host.play(script(ACTS));
    let mut answers = Vec::new();
    for _ in 0..5 {
        Ask::new(exit::WBINVD).run_at(0, &mut host, &mut machine);
        answers.push(features().run_at(0, &mut host, &mut machine).info1);
    }
    assert_eq!(answers, [0, 7, 7, 0, 0]);
}

#[test]
fn of_several_acts_the_first_that_is_due_is_done() {
    const ACTS: &[Act] = &[
        Act { on: Event::Exit(own::FEATURES), from: 2, times: 1, deed: Deed::Pretend(1, 1) },
        Act { on: Event::Any, from: 1, times: u32::MAX, deed: Deed::Pretend(2, 2) },
    ];
    let (mut host, mut machine) = (host(), Machine::default());
    host.play(script(ACTS));
    let answers: Vec<_> = (0..3).map(|_| features().run_at(0, &mut host, &mut machine).info1).collect();
    assert_eq!(answers, [2, 1, 2]);
}

#[test]
fn what_is_withheld_is_neither_done_nor_answered() {
    const ACTS: &[Act] = &[Act { on: Event::Any, from: 1, times: u32::MAX, deed: Deed::Withhold }];
    let (mut host, mut machine) = (host(), Machine::default());
    host.play(script(ACTS));
    let out = Ask::new(exit::IOIO).info(0x80 << 16 | 1 << 4, 0).field(page::RAX, 5);
    let reply = out.run_at(0, &mut host, &mut machine);
    assert_eq!((reply.info1, reply.action), (0x80 << 16 | 1 << 4, Action::Resume), "as the guest wrote it");
    assert!(machine.devices.written.is_empty());
    let mut value = 0x014 | 0x7000 | 1 << 52;
    let (memory, devices) = machine.halves();
    host.vmgexit(0, 0, &mut value, memory, devices);
    assert_eq!(value, 0x014 | 0x7000 | 1 << 52);
}

#[test]
fn what_is_repeated_is_done_twice() {
    const ACTS: &[Act] = &[Act { on: Event::Any, from: 1, times: 1, deed: Deed::Repeat }];
    let (mut host, mut machine) = (host(), Machine::default());
    host.play(script(ACTS));
    let out = Ask::new(exit::IOIO).info(0x80 << 16 | 1 << 4, 0).field(page::RAX, 5);
    assert_eq!(out.run_at(0, &mut host, &mut machine).info1, 0);
    assert_eq!(machine.devices.written, [(0x80, 1, 5), (0x80, 1, 5)]);
}

#[test]
fn an_answer_is_falsified_after_the_deed() {
    const ACTS: &[Act] = &[
        Act { on: Event::Exit(exit::CPUID), from: 1, times: 1, deed: Deed::Falsify(&[(page::RBX, 0xf0)]) },
        Act { on: Event::Msr(msr::SEV_INFO_REQUEST), from: 1, times: 1, deed: Deed::FalsifyMsr(1 << 32) },
    ];
    let (mut host, mut machine) = (host(), Machine::default());
    host.play(script(ACTS));
    let ask = Ask::new(exit::CPUID).field(page::RAX, 7).field(page::RCX, 0);
    let reply = ask.run_at(0, &mut host, &mut machine);
    assert_eq!((reply.word(page::RAX), reply.word(page::RBX)), (7, 8 ^ 0xf0));
    let mut value = msr::SEV_INFO_REQUEST;
    let (memory, devices) = machine.halves();
    host.vmgexit(0, 0, &mut value, memory, devices);
    assert_eq!(value, host.initial_msr() ^ 1 << 32);
}

#[test]
fn an_old_answer_of_the_firmware_comes_again() {
    const ACTS: &[Act] = &[Act { on: Event::Exit(own::GUEST_REQUEST), from: 2, times: 1, deed: Deed::Replay }];
    let (mut host, mut machine) = (host(), Machine::default());
    host.play(script(ACTS));
    let ask = Ask::new(own::GUEST_REQUEST).info(0x6000, 0x7000);
    ask.run_at(0, &mut host, &mut machine);
    machine.memory.write_shared(0x7000, &[0; 4096]).unwrap();
    let reply = ask.run_at(0, &mut host, &mut machine);
    let mut bytes = [0; 1];
    machine.memory.read_shared(0x7fff, &mut bytes).unwrap();
    assert_eq!((reply.info1, reply.info2, bytes), (0, 0, [0xab]));
}

#[test]
fn an_answer_of_the_firmware_is_forged_after_it_was_given() {
    const ACTS: &[Act] = &[Act { on: Event::Exit(own::GUEST_REQUEST), from: 1, times: 1, deed: Deed::Forge(0x100, 2) }];
    let (mut host, mut machine) = (host(), Machine::default());
    host.play(script(ACTS));
    let reply = Ask::new(own::GUEST_REQUEST).info(0x6000, 0x7000).run_at(0, &mut host, &mut machine);
    let mut bytes = [0; 3];
    machine.memory.read_shared(0x70ff, &mut bytes).unwrap();
    assert_eq!((reply.info1, reply.info2, bytes), (0, 0, [0xab, 0xa9, 0xab]));
}

#[test]
fn a_snatched_page_comes_back_without_its_validation() {
    const ACTS: &[Act] = &[Act { on: Event::Any, from: 1, times: 1, deed: Deed::Snatch(0x20_3000) }];
    let (mut host, mut machine) = (host(), Machine::default());
    machine.memory.rmpupdate(0x20_0000, true, true);
    host.play(script(ACTS));
    features().run_at(0, &mut host, &mut machine);
    assert!(machine.memory.is_private(0x20_3000) && machine.memory.is_private(0x20_4000));
    assert_eq!(machine.memory.updates(0x20_3000), 3, "given with its neighbours, taken, given back");
}

#[test]
fn a_page_is_moved_by_the_nested_tables_alone() {
    const ACTS: &[Act] = &[Act { on: Event::Any, from: 1, times: 1, deed: Deed::Remap(0x20_3000, 0x40_0000) }];
    let (mut host, mut machine) = (host(), Machine::default());
    host.play(script(ACTS));
    features().run_at(0, &mut host, &mut machine);
    assert_eq!(
        (machine.memory.remapped.as_slice(), machine.memory.updates(0x20_3000)),
        (&[(0x20_3000, 0x40_0000)][..], 0)
    );
}

#[test]
fn a_vmsa_is_run_elsewhere_when_the_script_says_so() {
    const ACTS: &[Act] = &[Act { on: Event::Any, from: 2, times: 1, deed: Deed::Occupy }];
    let (mut host, mut machine) = (host(), Machine::default());
    host.play(script(ACTS));
    let occupied = [(); 3].map(|()| {
        features().run_at(0, &mut host, &mut machine);
        machine.memory.occupied
    });
    assert_eq!(occupied, [0, 1, 1]);
}

#[test]
fn what_needs_the_processor_is_passed_on_once() {
    const CHANGE: Change = Change { offset: 0x3a0, reads: 1, flip: 1 };
    const ACTS: &[Act] = &[
        Act { on: Event::Any, from: 1, times: 1, deed: Deed::Watch(Watched::Ghcb, CHANGE) },
        Act { on: Event::Any, from: 2, times: 1, deed: Deed::Inject(3, Injection::Entry) },
        Act { on: Event::Any, from: 3, times: 1, deed: Deed::Delay(9) },
        Act { on: Event::Any, from: 4, times: 1, deed: Deed::TurnBack(8) },
    ];
    let (mut host, mut machine) = (host(), Machine::default());
    host.play(script(ACTS));
    let mut next = || {
        assert_eq!(features().run_at(0, &mut host, &mut machine).info1, 0);
        (host.take_consequence(), host.take_consequence())
    };
    assert_eq!(next(), (Some(Consequence::Watch(GHCB, CHANGE)), None));
    assert_eq!(next(), (Some(Consequence::Inject(3, Injection::Entry)), None));
    assert_eq!(next(), (Some(Consequence::Stall(9)), None));
    assert_eq!(next(), (Some(Consequence::TurnBack(8)), None));
    assert_eq!(next(), (None, None));
}

#[test]
fn a_page_that_does_not_exist_is_not_watched() {
    const CHANGE: Change = Change { offset: 0, reads: 1, flip: 1 };
    const ACTS: &[Act] = &[Act { on: Event::Any, from: 1, times: 1, deed: Deed::Watch(Watched::Doorbell, CHANGE) }];
    let (mut host, mut machine) = (host(), Machine::default());
    host.play(script(ACTS));
    features().run_at(0, &mut host, &mut machine);
    assert_eq!(host.take_consequence(), None, "there is no doorbell");
}

#[test]
fn scripts_have_names_of_their_own_and_stand_in_the_book() {
    let book = include_str!("../../../docs/hostile-hosts.md");
    for (index, script) in scripts::ALL.iter().enumerate() {
        assert!(scripts::ALL[..index].iter().all(|other| other.name != script.name), "{}", script.name);
        assert!(book.contains(&format!("| `{}` |", script.name)), "{} is not in docs/hostile-hosts.md", script.name);
        assert!(script.acts.len() <= super::ACTS, "{}", script.name);
        assert_eq!(scripts::find(script.name), Some(script));
    }
    assert_eq!(scripts::find("kindness"), None);
}

#[test]
fn without_a_script_nobody_is_lied_to() {
    let (mut host, mut machine) = (host(), Machine::default());
    assert_eq!(features().run_at(0, &mut host, &mut machine).info1, 0);
    assert_eq!(host.take_consequence(), None);
}

/// A list of three pages that are to become private, and what is left of it.
fn convert(host: &mut crate::Host, machine: &mut Machine) -> (u64, u64, Vec<bool>) {
    let mut bytes = [0u16, 2, 0, 0].map(u16::to_le_bytes).concat();
    bytes.extend([0x7000u64, 0x8000, 0x9000].map(|gpa| (1 << 52 | gpa).to_le_bytes()).concat());
    let reply = Ask::new(own::PAGE_STATE_CHANGE).scratch_inside(&bytes).run_at(0, host, machine);
    let private = [0x7000, 0x8000, 0x9000].map(|gpa| machine.memory.is_private(gpa)).to_vec();
    (reply.info2, reply.word(page::SHARED_BUFFER), private)
}

#[test]
fn a_list_is_carried_out_in_part() {
    const ACTS: &[Act] = &[
        Act { on: Event::Any, from: 1, times: 1, deed: Deed::Shorten(0, 5) },
        Act { on: Event::Any, from: 2, times: 1, deed: Deed::Shorten(2, 7) },
        Act { on: Event::Any, from: 3, times: 1, deed: Deed::Shorten(9, 0) },
    ];
    let (mut host, mut machine) = (host(), Machine::default());
    host.play(script(ACTS));
    assert_eq!(convert(&mut host, &mut machine), (5, 2 << 16, vec![false, false, false]));
    assert_eq!(convert(&mut host, &mut machine), (7, 2 << 16 | 2, vec![true, true, false]));
    assert_eq!(convert(&mut host, &mut machine), (0, 2 << 16 | 3, vec![true, true, true]));
}

#[test]
fn what_is_claimed_is_not_done() {
    const ACTS: &[Act] = &[Act { on: Event::Any, from: 1, times: 1, deed: Deed::Claim }];
    let (mut host, mut machine) = (host(), Machine::default());
    host.play(script(ACTS));
    assert_eq!(convert(&mut host, &mut machine), (0, 2 << 16 | 3, vec![false, false, false]));
}
