// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest's conversation with the firmware, rule by rule.

use proptest::prelude::*;
use zerocopy::FromBytes;

use super::*;
use crate::ecdsa::PublicKey;
use crate::message::Header;
use crate::{
    CpuidResult, Launch, LaunchFinish, LaunchPage, LaunchStart, NoEntropy, PAGE_BYTES, PageType, Permissions, Platform,
    Report, ReportVersion, Rules, Version, test_chain,
};

const KEY: u8 = 3;
const REPORT: u8 = 5;
const TSC: u8 = 17;

/// A guest that knows its secrets.
struct Machine {
    psp: Psp,
    guest: Guest,
    secrets: Page,
}

fn counting(seed: u8) -> impl FnMut(&mut [u8]) -> Result<(), NoEntropy> {
    let mut next = seed;
    move |bytes| {
        bytes.iter_mut().for_each(|byte| (*byte, next) = (next, next.wrapping_mul(5).wrapping_add(1)));
        Ok(())
    }
}

fn launch(psp: &Psp, start: &LaunchStart) -> (Launch, Page) {
    let mut launch = psp.launch_start(start, &mut counting(7)).unwrap();
    let mut secrets = [0xff; PAGE_BYTES];
    let page = LaunchPage::new(PageType::Secrets, 0x1000);
    psp.launch_update(&mut launch, &page, &mut secrets, &|_, _| CpuidResult::default()).unwrap();
    (launch, secrets)
}

fn machine_with(start: &LaunchStart, change: impl FnOnce(&mut Platform)) -> Machine {
    let mut platform = Platform::default();
    change(&mut platform);
    let psp = Psp::new(platform, test_chain::keys());
    let (launch, secrets) = launch(&psp, start);
    let finish = LaunchFinish { host_data: [0x11; 32], ..LaunchFinish::default() };
    let guest = psp.launch_finish(launch, &finish).unwrap();
    Machine { psp, guest, secrets }
}

fn start() -> LaunchStart {
    LaunchStart { policy: Policy(0x30000), gosvw: [9; 16], tsc: None }
}

fn machine() -> Machine {
    machine_with(&start(), |_| ())
}

impl Machine {
    /// VMPCK `n`, as the guest reads it from its secrets page.
    fn vmpck(&self, n: u8) -> Vmpck {
        let at = 0x20 + usize::from(n) * 32;
        self.secrets[at..at + 32].try_into().unwrap()
    }

    /// A request as the guest's driver makes it.
    fn request(&self, vmpck: u8, sequence: u64, kind: u8, version: u8, payload: &[u8]) -> Page {
        let header = Header::new(sequence, kind, version, payload.len() as u16, vmpck);
        self.seal(header, payload)
    }

    fn seal(&self, mut header: Header, payload: &[u8]) -> Page {
        let mut page = [0; PAGE_BYTES];
        let text = &mut page[0x60..0x60 + payload.len()];
        text.copy_from_slice(payload);
        header.encrypt(&self.vmpck(header.vmpck & 3), text).unwrap();
        page[..0x60].copy_from_slice(header.as_bytes());
        page
    }

    fn send(&mut self, request: &Page) -> Result<(Answer, Page), Refused> {
        let mut response = [0xee; PAGE_BYTES];
        match self.psp.guest_request(&mut self.guest, request, &mut response) {
            Ok(answer) => Ok((answer, response)),
            Err(refused) => {
                assert_eq!(response, [0xee; PAGE_BYTES], "a refusal leaves the response alone");
                Err(refused)
            }
        }
    }

    /// The next request of VMPCK `n`, its answer decrypted.
    fn ask(&mut self, n: u8, kind: u8, version: u8, payload: &[u8]) -> (Answer, Vec<u8>) {
        let sequence = self.guest.message_counts[usize::from(n)] + 1;
        let request = self.request(n, sequence, kind, version, payload);
        let (answer, response) = self.send(&request).unwrap();
        let (header, text) = Header::read_from_prefix(&response).unwrap();
        assert_eq!(header.sequence.get(), sequence + 1);
        assert_eq!((header.message_type, header.message_version, header.vmpck), (kind + 1, version, n));
        let bytes = usize::from(header.message_size.get());
        let mut text = text.to_vec();
        assert!(text[bytes..].iter().all(|byte| *byte == 0));
        text.truncate(bytes);
        header.decrypt(&self.vmpck(n), &mut text).unwrap();
        (answer, text)
    }

    fn refusal(&mut self, request: &Page) -> (Rule, Status) {
        let refused = self.send(request).unwrap_err();
        (refused.rule, refused.status)
    }
}

fn report_request(vmpl: u32, flags: u32) -> [u8; 96] {
    let mut request = [0; 96];
    request[..64].copy_from_slice(&[0xd1; 64]);
    request[64..68].copy_from_slice(&vmpl.to_le_bytes());
    request[68..72].copy_from_slice(&flags.to_le_bytes());
    request
}

fn report(answer: &[u8]) -> Report {
    assert_eq!(answer.len(), 0x20 + 0x4a0);
    assert_eq!(answer[..8], [0, 0, 0, 0, 0xa0, 4, 0, 0]);
    Report::read_from_bytes(&answer[0x20..]).unwrap()
}

/// Computed with another implementation of AES-256-GCM (Python, `cryptography`).
#[test]
fn a_message_is_encrypted_as_elsewhere() {
    let key: Vmpck = std::array::from_fn(|i| i as u8);
    let (mut header, mut payload) = (Header::new(1, REPORT, 1, 0x60, 0), [0; 96]);
    header.encrypt(&key, &mut payload).unwrap();
    assert_eq!(header.as_bytes()[0x30..0x38], 0x0101600005016000_u64.to_be_bytes());
    assert_eq!(header.as_bytes()[0x38..], [0; 40]);
    assert_eq!(payload[..16], 0xe22c823fa4afec074a0405c33cc188cb_u128.to_be_bytes());
    assert_eq!(header.tag, 0xf82ad6a7637d3333e57fd9adeb832a0f_u128.to_be_bytes());
    assert_eq!(header.decrypt(&key, &mut payload), Some(()));
    assert_eq!(payload, [0; 96]);
}

#[test]
fn a_report_says_what_was_launched_and_verifies() {
    let mut machine = machine();
    let (answer, text) = machine.ask(0, REPORT, 1, &report_request(2, 0));
    assert_eq!(answer, Answer { request: MessageType::ReportRequest, vmpl: 0, refused: None });
    let report = report(&text);
    let vcek = PublicKey::of(test_chain::keys().vcek()).unwrap();
    assert!(report.signature.verifies(&vcek, report.signed()));
    assert_eq!((report.version.get(), report.vmpl.get(), report.policy.get()), (3, 2, 0x30000));
    assert_eq!(report.report_data, [0xd1; 64]);
    assert_eq!(report.measurement, machine.guest.launch_digest());
    assert_eq!(report.host_data, [0x11; 32]);
    assert_eq!(report.chip_id, test_chain::CHIP.id);
    assert_eq!(report.reported_tcb, [4, 0, 0, 0, 0, 0, 24, 219]);
    assert_eq!((report.family, report.model, report.stepping), (0x19, 1, 1));
    assert_eq!((report.signature_algorithm.get(), report.flags.get()), (1, 0));
    assert_eq!(report.platform_info.get(), 1 << 2 | 1 << 5);
    assert_eq!(report.report_id_ma, [0xff; 32]);
    assert_eq!(report.current_version, [1, 58, 1]);
}

#[test]
fn a_reports_version_decides_on_its_fields() {
    let fields = |version| {
        let mut machine = machine_with(&start(), |p| (p.report_version, p.mitigations) = (version, 6));
        let report = report(&machine.ask(0, REPORT, 1, &report_request(0, 0)).1);
        (report.version.get(), report.family, report.launch_mitigations.get(), report.platform_info.get() >> 5 & 1)
    };
    assert_eq!(fields(ReportVersion::V2), (2, 0, 0, 0));
    assert_eq!(fields(ReportVersion::V3), (3, 0x19, 0, 1));
    assert_eq!(fields(ReportVersion::V5), (5, 0x19, 6, 1));
}

#[test]
fn masks_take_identifier_and_signature_away() {
    let mut machine = machine_with(&start(), |p| (p.mask_chip_id, p.mask_chip_key) = (true, true));
    let report = report(&machine.ask(0, REPORT, 1, &report_request(0, 0)).1);
    assert_eq!(report.chip_id, [0; 64]);
    assert_eq!((report.flags.get(), report.signature_algorithm.get()), (2 | 7 << 2, 0));
    assert_eq!(report.signature.as_bytes(), [0; 512]);
}

#[test]
fn nobody_gets_a_report_or_a_key_of_a_vmpl_above() {
    let mut machine = machine();
    for requester in 0..4u8 {
        for vmpl in [0, 1, 2, 3, 4, u32::MAX] {
            let good = u32::from(requester) <= vmpl && vmpl <= 3;
            let expected = (!good).then_some((Rule::RequestVmpl, Status::InvalidParam));
            let (answer, text) = machine.ask(requester, REPORT, 1, &report_request(vmpl, 0));
            assert_eq!(answer.refused.map(|r| (r.rule, r.status)), expected, "{requester} {vmpl}");
            assert_eq!(answer.vmpl, requester);
            assert_eq!(text[0], if good { 0 } else { 0x16 });
            assert_eq!(text[4..].iter().all(|byte| *byte == 0), !good, "a refused report holds nothing");
            let (answer, text) = machine.ask(requester, KEY, 1, &key_request(0, 0, vmpl)[..0x20]);
            assert_eq!(answer.refused.map(|r| (r.rule, r.status)), expected, "{requester} {vmpl}");
            assert_eq!(text[4..].iter().all(|byte| *byte == 0), !good);
        }
    }
}

#[test]
fn a_key_that_is_not_loaded_is_refused_within_the_answer() {
    let mut machine = machine();
    for (flags, expected) in [(0, 0), (1, 0), (2, 0x27), (3, 0x27), (4, 0x16)] {
        let (answer, text) = machine.ask(0, REPORT, 1, &report_request(0, flags));
        assert_eq!(text[0], expected, "{flags}");
        assert_eq!(answer.refused.is_some(), expected != 0);
        let (_, text) = machine.ask(0, KEY, 1, &key_request(flags << 1, 0, 0)[..0x20]);
        assert_eq!(text[0], expected, "{flags}");
    }
}

#[test]
fn reserved_fields_of_a_request_are_only_assumed_to_be_checked() {
    let mut request = report_request(0, 0);
    request[95] = 1;
    let key = key_request(8, 0, 0);
    let verdict = |rules| {
        let mut machine = machine_with(&start(), |p| p.rules = rules);
        let first = machine.ask(0, REPORT, 1, &request).0.refused.map(|r| r.rule);
        (first, machine.ask(0, KEY, 1, &key[..0x20]).0.refused.map(|r| r.rule))
    };
    assert_eq!(verdict(Rules::all()), (Some(Rule::RequestReserved), Some(Rule::RequestReserved)));
    assert_eq!(verdict(Rules::sourced()), (None, None));
}

#[test]
fn numbers_must_follow_each_other_and_each_key_has_its_own() {
    let mut machine = machine();
    let payload = report_request(3, 0);
    let first = machine.request(1, 1, REPORT, 1, &payload);
    assert!(machine.send(&first).is_ok());
    let wrong = (Rule::MessageSequence, Status::InvalidParam);
    assert_eq!(machine.refusal(&first), wrong, "replayed");
    for sequence in [0, 2, 4, 5, u64::MAX] {
        let request = machine.request(1, sequence, REPORT, 1, &payload);
        assert_eq!(machine.refusal(&request), wrong, "{sequence}");
    }
    for (vmpck, sequence) in [(1, 3), (2, 1), (0, 1), (1, 5), (3, 1)] {
        let request = machine.request(vmpck, sequence, REPORT, 1, &payload);
        assert!(machine.send(&request).is_ok(), "{vmpck} {sequence}");
    }
}

#[test]
fn a_refused_message_does_not_count_and_a_refusing_answer_does() {
    let mut machine = machine();
    let request = machine.request(0, 1, REPORT, 1, &report_request(0, 0));
    let mut forged = request;
    forged[0x60] ^= 1;
    assert_eq!(machine.refusal(&forged), (Rule::MessageTag, Status::BadMeasurement));
    assert!(machine.send(&request).is_ok());
    let refusing = machine.request(0, 3, REPORT, 1, &report_request(9, 0));
    assert!(machine.send(&refusing).unwrap().0.refused.is_some());
    assert_eq!(machine.guest.message_counts, [4, 0, 0, 0]);
}

#[test]
fn numbers_run_out() {
    let mut machine = machine();
    for (count, good) in [(u64::MAX - 3, true), (u64::MAX - 1, false), (u64::MAX, false)] {
        machine.guest.message_counts[0] = count;
        let request = machine.request(0, count.wrapping_add(1), REPORT, 1, &report_request(0, 0));
        match machine.send(&request) {
            Ok(_) => assert!(good),
            Err(refused) => assert_eq!((refused.rule, good), (Rule::MessageOverflow, false)),
        }
    }
}

#[test]
fn every_authenticated_byte_is() {
    let mut machine = machine_with(&start(), |p| p.rules = Rules::sourced());
    let request = machine.request(0, 1, REPORT, 1, &report_request(0, 0));
    for at in (0..16).chain(0x30..0x60 + 96) {
        let mut forged = request;
        forged[at] ^= 0x80;
        assert!(machine.send(&forged).is_err(), "{at:x}");
    }
    assert!(machine.send(&request).is_ok());
}

#[test]
fn another_vmpls_key_opens_nothing() {
    let mut machine = machine();
    let mut request = machine.request(1, 1, REPORT, 1, &report_request(1, 0));
    request[0x3c] = 0;
    assert_eq!(machine.refusal(&request), (Rule::MessageTag, Status::BadMeasurement));
}

#[test]
fn each_field_of_the_header_has_its_rule() {
    let mut machine = machine();
    let payload = report_request(0, 0);
    let good = Header::new(1, REPORT, 1, 96, 0);
    let mut size = good;
    size.header_size.set(0x61);
    let mut large = good;
    large.message_size.set(4001);
    let mut largest = good;
    largest.message_size.set(u16::MAX);
    for (header, rule) in [
        (Header { algorithm: 0, ..good }, Rule::MessageAlgorithm),
        (Header { algorithm: 2, ..good }, Rule::MessageAlgorithm),
        (Header { header_version: 2, ..good }, Rule::MessageHeader),
        (size, Rule::MessageHeader),
        (Header { vmpck: 4, ..good }, Rule::MessageKey),
        (Header { vmpck: 255, ..good }, Rule::MessageKey),
        (large, Rule::MessageSize),
        (largest, Rule::MessageSize),
        (Header { message_type: 0, ..good }, Rule::MessageType),
        (Header { message_type: 1, ..good }, Rule::MessageType),
        (Header { message_type: 6, ..good }, Rule::MessageType),
        (Header { message_type: 7, ..good }, Rule::MessageType),
        (Header { message_version: 0, ..good }, Rule::MessageVersion),
        (Header { message_version: 2, ..good }, Rule::MessageVersion),
    ] {
        let request = machine.seal(header, &payload);
        assert_eq!(machine.refusal(&request), (rule, Status::InvalidParam), "{header:x?}");
    }
    let request = machine.request(0, 1, REPORT, 1, &payload[..95]);
    assert_eq!(machine.refusal(&request), (Rule::PayloadSize, Status::InvalidParam));
    let request = machine.request(0, 1, TSC, 1, &[]);
    assert_eq!(machine.refusal(&request), (Rule::PayloadSize, Status::InvalidParam));
}

#[test]
fn reserved_fields_of_the_header_are_only_assumed_to_be_checked() {
    for at in [0x10, 0x1f, 0x28, 0x38, 0x3d, 0x5f] {
        let verdict = |rules| {
            let mut machine = machine_with(&start(), |p| p.rules = rules);
            let mut bytes = [0; 0x60];
            bytes.copy_from_slice(Header::new(1, REPORT, 1, 96, 0).as_bytes());
            bytes[at] = 1;
            let mut header = Header::read_from_bytes(&bytes).unwrap();
            let mut page = [0; PAGE_BYTES];
            page[0x60..0xc0].copy_from_slice(&report_request(0, 0));
            header.encrypt(&machine.vmpck(0), &mut page[0x60..0xc0]).unwrap();
            page[..0x60].copy_from_slice(header.as_bytes());
            machine.send(&page).err().map(|refused| refused.rule)
        };
        assert_eq!(verdict(Rules::all()), Some(Rule::MessageReserved), "{at:x}");
        assert_eq!(verdict(Rules::sourced()), None, "{at:x}");
    }
}

fn key_request(root: u32, fields: u64, vmpl: u32) -> [u8; 0x28] {
    let mut request = [0; 0x28];
    request[..4].copy_from_slice(&root.to_le_bytes());
    request[8..16].copy_from_slice(&fields.to_le_bytes());
    request[16..20].copy_from_slice(&vmpl.to_le_bytes());
    request
}

fn key(machine: &mut Machine, request: &[u8; 0x28]) -> Result<[u8; 32], Rule> {
    let (answer, text) = machine.ask(0, KEY, 2, request);
    assert_eq!(text.len(), 64);
    match answer.refused {
        None => Ok(text[32..].try_into().unwrap()),
        Some(refused) => {
            assert_eq!(text[..4], (refused.status as u32).to_le_bytes());
            assert_eq!(text[4..], [0; 60]);
            Err(refused.rule)
        }
    }
}

#[test]
fn a_key_is_the_same_again_and_differs_with_what_is_mixed_in() {
    let mut machine = machine();
    let mut keys: Vec<_> = [
        key_request(0, 0, 0),
        key_request(1, 0, 0),
        key_request(2, 0, 0),
        key_request(0, 1, 0),
        key_request(0, 1 << 3, 0),
        key_request(0, 1 << 5, 0),
        key_request(0, 1 << 6, 0),
        key_request(0, 0, 1),
    ]
    .iter()
    .map(|request| {
        let made = key(&mut machine, request).unwrap();
        assert_eq!(key(&mut machine, request).unwrap(), made);
        made
    })
    .collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 8);
}

#[test]
fn both_versions_of_a_keys_request_give_the_same_key() {
    let mut machine = machine();
    let request = key_request(0, 1, 0);
    let made = key(&mut machine, &request).unwrap();
    assert_eq!(machine.ask(0, KEY, 1, &request[..0x20]).1[32..], made);
}

#[test]
fn only_what_is_mixed_in_changes_a_key() {
    let other = LaunchStart { policy: Policy(0x20000), ..start() };
    let (mut one, mut two) = (machine(), machine_with(&other, |_| ()));
    let (plain, policy) = (key_request(0, 0, 0), key_request(0, 1, 0));
    assert_eq!(key(&mut one, &plain), key(&mut two, &plain));
    assert_ne!(key(&mut one, &policy), key(&mut two, &policy));
}

#[test]
fn a_key_of_the_chip_survives_the_guest_and_one_of_the_vm_does_not() {
    let again = |seed| {
        let mut machine = machine();
        let (launch, secrets) = {
            let mut launch = machine.psp.launch_start(&start(), &mut counting(seed)).unwrap();
            let mut secrets = [0; PAGE_BYTES];
            let page = LaunchPage::new(PageType::Secrets, 0x1000);
            machine.psp.launch_update(&mut launch, &page, &mut secrets, &|_, _| CpuidResult::default()).unwrap();
            (launch, secrets)
        };
        machine.guest = machine.psp.launch_finish(launch, &LaunchFinish::default()).unwrap();
        machine.secrets = secrets;
        (key(&mut machine, &key_request(0, 0x3f, 0)), key(&mut machine, &key_request(1, 0x3f, 0)))
    };
    assert_eq!(again(1).0, again(2).0);
    assert_ne!(again(1).1, again(2).1);
}

#[test]
fn a_key_from_what_is_not_there_is_refused() {
    let mut machine = machine_with(&start(), |p| p.mitigations = 5);
    let with = |at: usize, value: u8| {
        let mut request = key_request(0, 0, 0);
        request[at] = value;
        request
    };
    assert_eq!(key(&mut machine, &key_request(0, 1 << 7, 0)), Err(Rule::KeyFields));
    assert_eq!(key(&mut machine, &key_request(0, 1 << 63, 0)), Err(Rule::KeyFields));
    assert_eq!(key(&mut machine, &with(4, 1)), Err(Rule::RequestReserved));
    assert_eq!(key(&mut machine, &with(0x14, 1)), Err(Rule::KeySvn));
    // The committed levels are 4, 0, 24 and 219.
    assert_eq!(key(&mut machine, &with(0x18, 5)), Err(Rule::KeyTcb));
    assert_eq!(key(&mut machine, &with(0x1e, 25)), Err(Rule::KeyTcb));
    assert_eq!(key(&mut machine, &with(0x1a, 1)), Err(Rule::KeyTcb));
    assert!(key(&mut machine, &with(0x18, 4)).is_ok());
    assert_eq!(key(&mut machine, &with(0x20, 2)), Err(Rule::KeyMitigations));
    assert!(key(&mut machine, &with(0x20, 4)).is_ok());
}

#[test]
fn tsc_information_is_for_guests_with_secure_tsc() {
    let tsc = Tsc { scale: 1 << 32, offset: 5, factor: 7 };
    let mut secure = machine_with(&LaunchStart { tsc: Some(tsc), ..start() }, |_| ());
    let (answer, text) = secure.ask(0, TSC, 1, &[0; 128]);
    assert_eq!((answer.refused, text.len()), (None, 128));
    assert_eq!(text[8..16], (1u64 << 32).to_le_bytes());
    assert_eq!((text[16], text[24]), (5, 7));
    assert_eq!(secure.secrets[0x160], 7);

    let mut plain = machine();
    let (answer, text) = plain.ask(0, TSC, 1, &[0; 128]);
    assert_eq!((answer.refused.map(|r| r.rule), text[0]), (Some(Rule::TscConfigured), 0x16));
    let mut lax = machine_with(&start(), |p| p.rules = Rules::sourced());
    assert_eq!(lax.ask(0, TSC, 1, &[0; 128]).1, [0; 128]);
    let mut noisy = [0; 128];
    noisy[127] = 1;
    assert_eq!(secure.ask(0, TSC, 1, &noisy).0.refused.map(|r| r.rule), Some(Rule::RequestReserved));
}

#[test]
fn the_secrets_page_is_new_all_over_and_holds_four_keys() {
    let machine = machine();
    let page = machine.secrets;
    assert_eq!(page[..4], [3, 0, 0, 0]);
    assert_eq!(page[4..8], [0; 4]);
    assert_eq!(page[8..12], 0x00a0_0f11_u32.to_le_bytes());
    assert_eq!(page[0x10..0x20], [9; 16]);
    assert!(page[0xa0..].iter().all(|byte| *byte == 0), "what lay there before is gone");
    let keys: std::collections::BTreeSet<_> = (0..4).map(|n| machine.vmpck(n)).collect();
    assert_eq!(keys.len(), 4);
    let again = machine_with(&start(), |_| ());
    assert_eq!(again.secrets, page, "the same entropy gives the same secrets");
    let other = machine.psp.launch_start(&start(), &mut counting(8)).unwrap();
    assert_ne!(other.secrets.vmpck[0], machine.vmpck(0));
}

#[test]
fn a_launch_without_entropy_is_refused() {
    let psp = Psp::new(Platform::default(), test_chain::keys());
    for good in 0..6 {
        let mut left = good;
        let mut entropy = |bytes: &mut [u8]| {
            bytes.fill(1);
            left -= 1;
            if left < 0 { Err(NoEntropy) } else { Ok(()) }
        };
        let refused = psp.launch_start(&start(), &mut entropy).unwrap_err();
        assert_eq!((refused.rule, refused.status), (Rule::Entropy, Status::HardwarePlatform));
    }
}

#[test]
fn levels_at_launch_and_now_are_told_apart() {
    let mut machine = machine();
    machine.psp.platform.current_tcb.snp = 30;
    machine.psp.platform.current = Version { major: 1, minor: 60, build: 2 };
    let report = report(&machine.ask(0, REPORT, 1, &report_request(0, 0)).1);
    assert_eq!((report.launch_tcb[6], report.current_tcb[6], report.committed_tcb[6]), (24, 30, 24));
    assert_eq!((report.current_version, report.committed_version), ([2, 60, 1], [1, 58, 1]));
}

#[test]
fn permissions_of_a_page_stay_what_the_launch_said() {
    let psp = Psp::new(Platform::default(), test_chain::keys());
    let (mut launch, _) = launch(&psp, &start());
    let permissions = Permissions { vmpl1: 0xf, vmpl2: 0x5, vmpl3: 1 };
    let page = LaunchPage { permissions, ..LaunchPage::new(PageType::Vmsa, 0x2000) };
    let placed = psp.launch_update(&mut launch, &page, &mut [0; PAGE_BYTES], &|_, _| CpuidResult::default()).unwrap();
    assert_eq!((placed.permissions, placed.vmsa, placed.validated), (permissions, true, true));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_page_of_noise_is_answered(
        mut page in prop::collection::vec(any::<u8>(), PAGE_BYTES),
        shape in any::<bool>(),
        size in any::<u16>(),
        vmpck in 0..4u8,
    ) {
        let mut machine = machine_with(&start(), |p| p.rules = Rules::sourced());
        if shape {
            // Past all checks but the tag.
            let header = Header::new(1, REPORT, 1, size, vmpck);
            page[0x10..0x60].copy_from_slice(&header.as_bytes()[0x10..]);
        }
        let request: Page = page.try_into().unwrap();
        prop_assert!(machine.send(&request).is_err());
        prop_assert_eq!(machine.guest.message_counts, [0; 4]);
    }

    #[test]
    fn any_authentic_request_is_answered_or_refused_and_never_both(
        kind in prop_oneof![Just(KEY), Just(REPORT), Just(TSC), any::<u8>()],
        version in 0..4u8,
        vmpck in 0..4u8,
        payload in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..160),
            prop::collection::vec(0..4u8, 96..=96),
            prop::collection::vec(any::<u8>(), 4000..=4000),
        ],
        strict in any::<bool>(),
    ) {
        let rules = if strict { Rules::all() } else { Rules::sourced() };
        let mut machine = machine_with(&start(), |p| p.rules = rules);
        let request = machine.request(vmpck, 1, kind, version, &payload);
        let answered = machine.send(&request).is_ok();
        let mut expected = [0; 4];
        expected[usize::from(vmpck)] = if answered { 2 } else { 0 };
        prop_assert_eq!(machine.guest.message_counts, expected);
    }
}
