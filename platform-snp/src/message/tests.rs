// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages to the model of the firmware, which shares no code with what is tested, over a host that does with them what it likes.

use proptest::prelude::*;
use snp_psp::{
    CpuidResult, Guest, LaunchFinish, LaunchPage, LaunchStart, Page, PageType, Platform, Policy, Psp, test_chain,
};
use specs::guest_message::{KeyRequest, KeyResponse, ReportRequest, kind};

use super::*;

/// What the host does with one message.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Deed {
    Honest,
    /// Says that it will carry it later.
    PutOff,
    /// Says that the firmware refuses.
    Refuse,
    /// Hands it to the firmware, and says that it will carry it later.
    CarryAndPutOff,
    /// Gives the answer to the first message again.
    Replay,
    /// Gives nothing.
    Empty,
    /// Gives the message itself back.
    Echo,
    /// Flips a bit of the answer.
    Flip(usize),
}

struct World {
    psp: Psp,
    guest: Guest,
    deeds: Vec<Deed>,
    first: Option<Page>,
    /// All that the host saw on the way to the firmware.
    seen: Vec<Message>,
    patience: u32,
}

fn world(deeds: &[Deed]) -> (World, Channel, Page) {
    let psp = Psp::new(Platform::default(), test_chain::keys());
    let start = LaunchStart { policy: Policy(0x30000), ..LaunchStart::default() };
    let mut next = 0u8;
    let mut entropy = |bytes: &mut [u8]| {
        bytes.iter_mut().for_each(|byte| (*byte, next) = (next, next.wrapping_add(1)));
        Ok(())
    };
    let mut launch = psp.launch_start(&start, &mut entropy).unwrap();
    let mut secrets = [0; 4096];
    let page = LaunchPage::new(PageType::Secrets, 0x1000);
    psp.launch_update(&mut launch, &page, &mut secrets, &|_, _| CpuidResult::default()).unwrap();
    let guest = psp.launch_finish(launch, &LaunchFinish::default()).unwrap();
    let channel = Channel::take(&mut secrets);
    (World { psp, guest, deeds: deeds.to_vec(), first: None, seen: Vec::new(), patience: 3 }, channel, secrets)
}

impl World {
    fn firmware(&mut self, request: &Message) -> Result<Page, u32> {
        let (mut message, mut answer) = ([0; 4096], [0; 4096]);
        message[..MESSAGE_BYTES].copy_from_slice(request);
        let answered = self.psp.guest_request(&mut self.guest, &message, &mut answer);
        answered.map(|_| answer).map_err(|refused| refused.status as u32)
    }
}

impl Carrier for World {
    fn carry(&mut self, request: &Message, answer: &mut Message) -> Carried {
        self.seen.push(*request);
        let deed = if self.deeds.is_empty() { Deed::Honest } else { self.deeds.remove(0) };
        let page = match deed {
            Deed::PutOff => return Carried::Later,
            Deed::Refuse => return Carried::Failed(AttestError::Firmware(0x16)),
            Deed::CarryAndPutOff => {
                self.firmware(request).unwrap();
                return Carried::Later;
            }
            Deed::Replay => self.first.unwrap(),
            Deed::Empty => [0; 4096],
            Deed::Echo => {
                let mut page = [0; 4096];
                page[..MESSAGE_BYTES].copy_from_slice(request);
                page
            }
            Deed::Honest | Deed::Flip(_) => match self.firmware(request) {
                Ok(page) => page,
                Err(status) => return Carried::Failed(AttestError::Firmware(status)),
            },
        };
        self.first.get_or_insert(page);
        answer.copy_from_slice(&page[..MESSAGE_BYTES]);
        if let Deed::Flip(bit) = deed {
            answer[bit / 8] ^= 1 << (bit % 8);
        }
        Carried::Answered
    }

    fn wait(&mut self) -> bool {
        self.patience -= 1;
        self.patience > 0
    }
}

fn report(channel: &mut Channel, world: &mut World) -> Result<ReportResponse, AttestError> {
    let mut question = ReportRequest::new_zeroed();
    question.report_data = [0xd1; 64];
    let mut answer = ReportResponse::new_zeroed();
    channel.ask(kind::REPORT_REQUEST, question.as_bytes(), answer.as_mut_bytes(), world).map(|()| answer)
}

fn key(channel: &mut Channel, world: &mut World, fields: u64) -> Result<KeyResponse, AttestError> {
    let mut question = KeyRequest::new_zeroed();
    question.fields.set(fields);
    let mut answer = KeyResponse::new_zeroed();
    channel.ask(kind::KEY_REQUEST, question.as_bytes(), answer.as_mut_bytes(), world).map(|()| answer)
}

#[test]
fn the_firmware_answers_one_message_after_the_other() {
    let (mut world, mut channel, _) = world(&[]);
    for count in 1..4 {
        let answer = report(&mut channel, &mut world).unwrap();
        assert_eq!((answer.status.get(), answer.bytes.get()), (0, 0x4a0));
        assert_eq!(answer.report[0x50..0x90], [0xd1; 64], "REPORT_DATA");
        assert_eq!(channel.count, 2 * count);
    }
    let keys = [9, 9, 1].map(|fields| key(&mut channel, &mut world, fields).unwrap().key);
    assert!(keys[0] == keys[1] && keys[0] != keys[2] && keys[0] != [0; 32]);
}

/// The firmware's refusal is an answer like any other, and the conversation goes on.
#[test]
fn a_refusal_by_the_firmware_itself_is_authentic() {
    let (mut world, mut channel, _) = world(&[]);
    assert_ne!(key(&mut channel, &mut world, 1 << 60).unwrap().status.get(), 0);
    assert!(report(&mut channel, &mut world).is_ok());
}

#[test]
fn no_key_is_left_in_the_secrets_page() {
    let (_, channel, secrets) = world(&[]);
    assert!(secrets[0x20..0xa0].iter().all(|byte| *byte == 0));
    assert_ne!(channel.key, [0; 32]);
    assert_eq!(secrets[0], 3, "the rest is left");
}

#[test]
fn a_closed_channel_has_no_key_and_asks_nobody() {
    let (mut world, mut channel, _) = world(&[]);
    channel.close();
    assert_eq!(channel.key, [0; 32]);
    assert_eq!(report(&mut channel, &mut world).err(), Some(AttestError::Over));
    assert!(world.seen.is_empty());
}

/// What is put off comes again byte for byte: another message under the same number would give both away.
#[test]
fn a_message_that_is_put_off_is_sent_again_unchanged() {
    let (mut world, mut channel, _) = world(&[Deed::PutOff, Deed::PutOff]);
    assert!(report(&mut channel, &mut world).is_ok());
    assert_eq!(world.seen.len(), 3);
    assert!(world.seen.iter().all(|message| *message == world.seen[0]));
}

fn ends(deeds: &[Deed], earlier: usize, error: AttestError) {
    let (mut world, mut channel, _) = world(deeds);
    for _ in 0..earlier {
        report(&mut channel, &mut world).unwrap();
    }
    assert_eq!(report(&mut channel, &mut world).err(), Some(error), "{deeds:?}");
    let sent = world.seen.len();
    assert_eq!((channel.key, report(&mut channel, &mut world).err()), ([0; 32], Some(AttestError::Over)), "{deeds:?}");
    assert_eq!(world.seen.len(), sent, "nothing is sent under a number that may have been used");
}

#[test]
fn whatever_goes_wrong_ends_the_conversation() {
    ends(&[Deed::PutOff; 9], 0, AttestError::Busy);
    ends(&[Deed::Refuse], 0, AttestError::Firmware(0x16));
    ends(&[Deed::Empty], 0, AttestError::OutOfSequence);
    ends(&[Deed::Echo], 0, AttestError::OutOfSequence);
    ends(&[Deed::Honest, Deed::Replay], 1, AttestError::OutOfSequence);
    // The firmware has seen the number, so it refuses the second copy.
    ends(&[Deed::CarryAndPutOff], 0, AttestError::Firmware(snp_psp::Status::InvalidParam as u32));
}

#[test]
fn numbers_do_not_begin_again() {
    let (mut world, mut channel, _) = world(&[]);
    channel.count = u64::MAX - 1;
    assert_eq!(report(&mut channel, &mut world).err(), Some(AttestError::Exhausted));
    assert!(world.seen.is_empty() && channel.key == [0; 32]);
}

/// An answer to another kind of question, under the right number: the firmware never makes one, and the tag would be right.
#[test]
fn an_answer_to_another_question_is_none() {
    let (_, channel, _) = world(&[]);
    let cipher = Aes256Gcm::new((&channel.key).into());
    let right = header(kind::REPORT_REQUEST + 1, 2, 0x4c0);
    let other = |change: fn(&mut Header)| {
        let mut sent = right;
        change(&mut sent);
        let mut answer = seal(&cipher, &sent, &[0; 0x4c0]).unwrap();
        open(&cipher, &right, &mut answer)
    };
    assert_eq!(other(|_| {}), Ok(()));
    assert_eq!(other(|header| header.kind = kind::KEY_REQUEST + 1), Err(AttestError::Forged));
    assert_eq!(other(|header| header.version = 2), Err(AttestError::Forged));
    assert_eq!(other(|header| header.vmpck = 2), Err(AttestError::Forged));
    assert_eq!(other(|header| header.bytes.set(0x4bf)), Err(AttestError::Forged));
    assert_eq!(other(|header| header.algorithm = 2), Err(AttestError::Forged));
    assert_eq!(other(|header| header.sequence.set(4)), Err(AttestError::OutOfSequence));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// But for what the format leaves to nobody: the unused half of the tag, and the reserved word before what it covers.
    #[test]
    fn a_flipped_bit_anywhere_is_no_answer(bit in 0..MESSAGE_BYTES * 8) {
        let (mut world, mut channel, _) = world(&[Deed::Flip(bit)]);
        let free = (0x10..0x20).contains(&(bit / 8)) || (0x28..0x30).contains(&(bit / 8));
        let answer = report(&mut channel, &mut world);
        prop_assert_eq!(answer.is_ok(), free);
        prop_assert_eq!(channel.key == [0; 32], !free);
    }
}
