// SPDX-License-Identifier: MIT OR Apache-2.0
//! A launch, rule by rule. That digests are right is in `tests/launch_digest.rs`.

use p384::ecdsa::SigningKey;
use proptest::prelude::*;
use zerocopy::{FromZeros, IntoBytes};

use super::*;
use crate::{CpuidResult, PermissionOrder, Platform, PublicKey, Rules, Signature, test_chain};

fn psp_with(change: impl FnOnce(&mut Platform)) -> Psp {
    let mut platform = Platform::default();
    change(&mut platform);
    Psp::new(platform, test_chain::keys())
}

fn psp() -> Psp {
    psp_with(|_| ())
}

fn begin(psp: &Psp) -> Launch {
    let start = LaunchStart { policy: Policy(0x30000), ..LaunchStart::default() };
    let mut entropy = |bytes: &mut [u8]| {
        bytes.fill(3);
        Ok(())
    };
    psp.launch_start(&start, &mut entropy).unwrap()
}

fn processor(_: u32, _: u32) -> CpuidResult {
    CpuidResult::default()
}

fn verdict(rules: Rules, page: &LaunchPage, bytes: usize) -> Option<(Rule, Status)> {
    let psp = psp_with(|p| p.rules = rules);
    let mut launch = begin(&psp);
    let refused = psp.launch_update(&mut launch, page, &mut vec![0; bytes], &processor).err();
    assert_eq!(launch.digest() == [0; 48], refused.is_some(), "a refused page is not measured");
    refused.map(|refused| (refused.rule, refused.status))
}

#[test]
fn pages_have_a_size_and_lie_at_its_multiples() {
    let at = |gpa, bytes| verdict(Rules::all(), &LaunchPage::new(PageType::Normal, gpa), bytes);
    let size = Some((Rule::PageSize, Status::InvalidPageSize));
    let address = Some((Rule::PageAddress, Status::InvalidAddress));
    for bytes in [0, 1, 4095, 4097, 8192, (2 << 20) - 4096, 4 << 20] {
        assert_eq!(at(0, bytes), size, "{bytes}");
    }
    assert_eq!(at(0x1000, 4096), None);
    assert_eq!(at(0x1001, 4096), address);
    assert_eq!(at(0x20_0000, 2 << 20), None);
    assert_eq!(at(0x20_1000, 2 << 20), address);
    assert_eq!(at((1 << 52) - 4096, 4096), None);
    assert_eq!(at(1 << 52, 4096), address);
    assert_eq!(at(u64::MAX << 12, 4096), address);
}

#[test]
fn what_the_firmware_writes_or_runs_is_small() {
    for page_type in [PageType::Vmsa, PageType::Secrets, PageType::Cpuid] {
        let page = LaunchPage::new(page_type, 0);
        let refused = Some((Rule::SmallPage, Status::InvalidPageSize));
        assert_eq!(verdict(Rules::all(), &page, 2 << 20), refused, "{page_type:?}");
        assert_eq!(verdict(Rules::sourced(), &page, 2 << 20), None, "{page_type:?}");
    }
}

#[test]
fn pages_of_a_migration_image_and_unknown_permissions_are_only_assumed_to_be_refused() {
    let plain = LaunchPage::new(PageType::Normal, 0);
    let imi = LaunchPage { imi: true, ..plain };
    let wrong = [(0x20, 0, 0), (0, 0x40, 0), (0, 0, 0x80)];
    let wrong = wrong.map(|(vmpl1, vmpl2, vmpl3)| Permissions { vmpl1, vmpl2, vmpl3 });
    assert_eq!(verdict(Rules::all(), &imi, 4096), Some((Rule::ImiPage, Status::InvalidParam)));
    assert_eq!(verdict(Rules::sourced(), &imi, 4096), None);
    for permissions in wrong {
        let page = LaunchPage { permissions, ..plain };
        assert_eq!(verdict(Rules::all(), &page, 4096), Some((Rule::PermissionBits, Status::InvalidParam)));
        assert_eq!(verdict(Rules::sourced(), &page, 4096), None);
    }
}

#[test]
fn a_refused_cpuid_page_is_not_measured_and_corrected() {
    let psp = psp();
    let mut launch = begin(&psp);
    let mut page = [0; PAGE_BYTES];
    // One entry: leaf 1 with a feature in ECX.
    (page[0], page[16], page[16 + 32]) = (1, 1, 1);
    let place = LaunchPage::new(PageType::Cpuid, 0);
    let refused = psp.launch_update(&mut launch, &place, &mut page, &processor).unwrap_err();
    assert_eq!((refused.rule, refused.status), (Rule::CpuidValue, Status::InvalidParam));
    assert_eq!((launch.digest(), page[48]), ([0; 48], 0));
    assert!(psp.launch_update(&mut launch, &place, &mut page, &processor).is_ok());
}

#[test]
fn only_zero_and_secrets_pages_are_written() {
    let psp = psp();
    for (number, kept) in [(1, true), (2, true), (3, false), (4, true), (5, false)] {
        let mut page = [0x5a; PAGE_BYTES];
        let place = LaunchPage::new(PageType::from_number(number).unwrap(), 0);
        psp.launch_update(&mut begin(&psp), &place, &mut page, &processor).unwrap();
        assert_eq!(page == [0x5a; PAGE_BYTES], kept, "{number}");
        assert_eq!(page == [0; PAGE_BYTES], number == 3);
    }
    assert_eq!(PageType::from_number(0), None);
    assert_eq!(PageType::from_number(7), None);
}

fn digest_of(order: PermissionOrder, permissions: Permissions) -> [u8; 48] {
    let psp = psp_with(|p| p.permission_order = order);
    let mut launch = begin(&psp);
    let page = LaunchPage { permissions, ..LaunchPage::new(PageType::Normal, 0) };
    psp.launch_update(&mut launch, &page, &mut [0; PAGE_BYTES], &processor).unwrap();
    launch.digest()
}

#[test]
fn permissions_are_measured_in_either_order() {
    use PermissionOrder::{Ascending, Descending};
    let one = Permissions { vmpl1: 1, vmpl2: 2, vmpl3: 4 };
    let none = Permissions::default();
    assert_eq!(digest_of(Ascending, none), digest_of(Descending, none));
    assert_ne!(digest_of(Ascending, one), digest_of(Ascending, none));
    assert_ne!(digest_of(Ascending, one), digest_of(Descending, one));
    // By hand, PAGE_INFO of a page of zeros: digest, contents, then 70h, 1, 0, permissions, GPA.
    let by_hand = |bytes: [u8; 4]| {
        let mut info = vec![0; 48];
        info.extend(crate::ecdsa::sha384(&[0; PAGE_BYTES]));
        info.extend([0x70, 0, 1, 0]);
        info.extend(bytes);
        info.extend([0; 8]);
        crate::ecdsa::sha384(&info)
    };
    assert_eq!(digest_of(Ascending, one), by_hand([0, 1, 2, 4]));
    assert_eq!(digest_of(Descending, one), by_hand([4, 2, 1, 0]));
}

/// An owner and what it signed for an empty launch.
struct Owner {
    block: IdBlock,
    auth: IdAuth,
}

impl Owner {
    fn new(change: impl FnOnce(&mut IdBlock)) -> Self {
        let [id, author] = [5, 6].map(|byte| SigningKey::from_slice(&[byte; 48]).unwrap());
        let (mut block, mut auth) = (IdBlock::new_zeroed(), IdAuth::new_zeroed());
        block.version.set(1);
        block.policy.set(0x30000);
        (block.family_id, block.image_id) = ([1; 16], [2; 16]);
        block.guest_svn.set(9);
        change(&mut block);
        auth.id_key_algorithm.set(1);
        auth.author_key_algorithm.set(1);
        auth.id_key = PublicKey::of(&id).unwrap();
        auth.author_key = PublicKey::of(&author).unwrap();
        auth.id_block_signature = Signature::sign(&id, block.as_bytes()).unwrap();
        auth.id_key_signature = Signature::sign(&author, auth.id_key.as_bytes()).unwrap();
        Self { block, auth }
    }

    fn finish(&self, psp: &Psp, author_key: bool) -> Result<Guest, (Rule, Status)> {
        let finish = LaunchFinish { id_block: Some((&self.block, &self.auth)), author_key, ..LaunchFinish::default() };
        psp.launch_finish(begin(psp), &finish).map_err(|(launch, refused)| {
            // The launch can be finished in another way.
            assert!(psp.launch_finish(launch, &LaunchFinish::default()).is_ok());
            (refused.rule, refused.status)
        })
    }
}

#[test]
fn an_id_block_names_the_guest() {
    let owner = Owner::new(|_| ());
    let guest = owner.finish(&psp(), true).unwrap();
    let identity = guest.identity;
    assert_eq!((identity.family_id, identity.image_id, identity.guest_svn), ([1; 16], [2; 16], 9));
    assert_eq!(identity.id_key_digest, owner.auth.id_key.digest());
    assert_eq!((identity.author_key_digest, identity.has_author), (owner.auth.author_key.digest(), true));
    let alone = owner.finish(&psp(), false).unwrap().identity;
    assert_eq!((alone.author_key_digest, alone.has_author), ([0; 48], false));
}

#[test]
fn an_id_block_must_fit_and_be_signed() {
    let auth = |change: &dyn Fn(&mut IdAuth)| {
        let mut owner = Owner::new(|_| ());
        change(&mut owner.auth);
        owner.finish(&psp(), true).unwrap_err()
    };
    let block = |change: &dyn Fn(&mut IdBlock)| Owner::new(change).finish(&psp(), true).unwrap_err();
    let invalid = |rule| (rule, Status::InvalidParam);
    assert_eq!(auth(&|a| a.id_key_algorithm.set(0)), invalid(Rule::IdKeyAlgorithm));
    assert_eq!(auth(&|a| a.author_key_algorithm.set(2)), invalid(Rule::AuthorKeyAlgorithm));
    assert_eq!(auth(&|a| a.id_key.as_mut_bytes()[0] = 1), invalid(Rule::KeyCurve));
    assert_eq!(auth(&|a| a.author_key.as_mut_bytes()[0] = 1), invalid(Rule::KeyCurve));
    assert_eq!(auth(&|a| a.id_block_signature.as_mut_bytes()[0] ^= 1), (Rule::IdBlockSignature, Status::BadSignature));
    assert_eq!(auth(&|a| a.id_key_signature.as_mut_bytes()[0] ^= 1), (Rule::AuthorSignature, Status::BadSignature));
    assert_eq!(auth(&|a| a.author_key = a.id_key), (Rule::AuthorSignature, Status::BadSignature));
    assert_eq!(block(&|b| b.version.set(2)), invalid(Rule::IdBlockVersion));
    assert_eq!(block(&|b| b.launch_digest[47] = 1), (Rule::IdBlockDigest, Status::BadMeasurement));
    assert_eq!(block(&|b| b.policy.set(0x20000)), (Rule::IdBlockPolicy, Status::PolicyFailure));
}

#[test]
fn an_unused_author_key_is_not_looked_at() {
    let mut owner = Owner::new(|_| ());
    owner.auth.author_key_algorithm.set(7);
    owner.auth.author_key.as_mut_bytes().fill(0xff);
    assert!(owner.finish(&psp(), false).is_ok());
}

#[test]
fn assumed_rules_on_id_blocks_have_a_switch() {
    let lax = psp_with(|p| p.rules = Rules::sourced());
    assert!(Owner::new(|block| block.version.set(2)).finish(&lax, true).is_ok());
    let finish = LaunchFinish { author_key: true, ..LaunchFinish::default() };
    assert!(lax.launch_finish(begin(&lax), &finish).is_ok());
    let (_, refused) = psp().launch_finish(begin(&psp()), &finish).unwrap_err();
    assert_eq!((refused.rule, refused.status), (Rule::AuthorWithoutIdBlock, Status::InvalidParam));
}

#[test]
fn a_policy_is_checked_before_anything_else() {
    let start = LaunchStart { policy: Policy(0), ..LaunchStart::default() };
    let refused = psp().launch_start(&start, &mut |_: &mut [u8]| unreachable!()).unwrap_err();
    assert_eq!(refused.rule, Rule::PolicyMustBeOne);
}

proptest! {
    #[test]
    fn the_order_of_pages_matters(a in 0..1u64 << 20, b in 0..1u64 << 20, same in any::<bool>()) {
        let b = if same { a } else { b };
        let digest = |first: u64, second: u64| {
            let psp = psp();
            let mut launch = begin(&psp);
            for frame in [first, second] {
                let page = LaunchPage::new(PageType::Unmeasured, frame * 4096);
                psp.launch_update(&mut launch, &page, &mut [0; PAGE_BYTES], &processor).unwrap();
            }
            launch.digest()
        };
        prop_assert_eq!(digest(a, b) == digest(b, a), a == b);
    }
}
