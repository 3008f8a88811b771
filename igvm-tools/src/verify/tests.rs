// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about verdicts, on a report of a real processor and on reports that the test key signed.

use super::*;
use crate::launch_fixture::{self as fixture, Launch};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};
use tdx::{quote, tdreport};

mod tdx;

const IN_2025: Duration = Duration::from_secs(1_750_000_000);

fn vectors(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

/// Where the chain is, and its root.
struct Chain {
    folder: PathBuf,
    root: Option<PathBuf>,
}

impl Chain {
    fn test(name: &str) -> Self {
        Self { folder: vectors(name), root: Some(vectors(name).join("ark.pem")) }
    }

    fn trust(&self) -> Trust<'_> {
        Trust {
            certificates: Some(&self.folder),
            root: self.root.as_deref(),
            without_signature: false,
            now: UNIX_EPOCH + IN_2025,
        }
    }
}

fn unsigned(without_signature: bool) -> Trust<'static> {
    Trust { certificates: None, root: None, without_signature, now: UNIX_EPOCH }
}

fn judge(evidence: &[u8], launch: &Launch, trust: &Trust<'_>, expected: &Expected) -> Result<Verdict, Error> {
    verify((Path::new("report"), evidence), (Path::new("image"), &launch.bytes()), trust, expected)
}

fn sign(report: &mut [u8]) {
    let random = SystemRandom::new();
    let key = include_bytes!("../../tests/vectors/vcek.p8");
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, key, &random).unwrap();
    let signature = key.sign(&random, &report[..0x2a0]).unwrap();
    for (half, at) in signature.as_ref().chunks(48).zip([0x2a0, 0x2e8]) {
        report[at..at + 72].fill(0);
        report[at..at + 48].copy_from_slice(&half.iter().rev().copied().collect::<Vec<_>>());
    }
}

/// A report of a launch of `fixture::small`, on the chip that the test VCEK is for.
fn report() -> Vec<u8> {
    let launch = fixture::small();
    let measured = crate::measure(Path::new("image"), &launch.bytes()).unwrap();
    let mut report = vec![0; snp::REPORT_BYTES];
    let mut put = |at: usize, bytes: &[u8]| report[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x00, &[2]);
    put(0x08, &fixture::SNP_POLICY.to_le_bytes());
    put(0x34, &[1]);
    put(0x50, &[0xdd; 64]);
    put(0x90, &measured.snp().unwrap().digests[0].digest);
    put(0x180, &[3, 0, 0, 0, 0, 0, 8, 0x73]);
    put(0x1a0, &(0..64).collect::<Vec<u8>>());
    sign(&mut report);
    report
}

fn changed(at: usize, byte: u8) -> Vec<u8> {
    let mut report = report();
    report[at] ^= byte;
    sign(&mut report);
    report
}

fn names<'a>(checks: impl Iterator<Item = &'a Check>) -> Vec<&'a str> {
    checks.map(|check| check.name.as_str()).collect()
}

fn of_small(report: &[u8]) -> Verdict {
    judge(report, &fixture::small(), &Chain::test("rsa").trust(), &Expected::default()).unwrap()
}

#[test]
fn a_real_processors_report_is_verified_up_to_amds_root() {
    let chain = Chain { folder: vectors("milan"), root: None };
    let report = std::fs::read(vectors("milan").join("report.bin")).unwrap();
    let verdict = judge(&report, &fixture::small(), &chain.trust(), &Expected::default()).unwrap();
    assert_eq!(verdict.signature, Some(true));
    let agreeing = names(verdict.checks.iter().filter(|check| check.outcome == Outcome::Agrees));
    assert_eq!(agreeing, ["signature", "signing key", "key's TCB", "key's chip"]);
    assert!(verdict.checks[0].value.contains("SEV-VCEK, issued by SEV-Milan, issued by ARK-Milan: AMD's root"));
    // It was launched from something else.
    assert_eq!(names(verdict.differing()), ["measurement", "policy"]);
    assert!(!verdict.passes());
    for at in [0, 0x90, 0x29f, 0x2a0, 0x2a0 + 71, 0x2e8, 0x32f] {
        let mut changed = report.clone();
        changed[at] ^= 1;
        let Ok(verdict) = judge(&changed, &fixture::small(), &chain.trust(), &Expected::default()) else {
            assert_eq!(at, 0, "only the version is looked at before the signature");
            continue;
        };
        assert_eq!(names(verdict.checks.iter()), ["signature"], "offset {at:#x}");
        assert_eq!((verdict.signature, verdict.passes()), (Some(false), false));
    }
}

#[test]
fn a_report_of_the_image_passes_under_rsa_and_p384_roots() {
    for name in ["rsa", "p384"] {
        let verdict = judge(&report(), &fixture::small(), &Chain::test(name).trust(), &Expected::default()).unwrap();
        assert!(verdict.passes(), "{verdict}");
        let text = verdict.to_string();
        assert!(text.contains("issued by ARK-Test: the root of --root"), "{text}");
        assert!(text.ends_with("verified: 5 fields agree\n"), "{text}");
        assert!(!text.contains(NOT_CHECKED));
        assert_eq!(verdict.to_json()["passes"], true);
    }
}

/// Who supplies the report often supplies the certificates too: a root is not trusted for lying in the folder.
#[test]
fn a_root_that_nobody_named_is_not_trusted() {
    let folder = vectors("rsa");
    let trust = Trust { root: None, ..Chain { folder: folder.clone(), root: None }.trust() }.now;
    let trust = Trust { certificates: Some(&folder), root: None, without_signature: false, now: trust };
    let verdict = judge(&report(), &fixture::small(), &trust, &Expected::default()).unwrap();
    assert_eq!((verdict.signature, verdict.passes()), (Some(false), false));
    assert!(verdict.checks[0].value.contains("the chain ends at ARK-Test"), "{verdict}");
    // Of the same name, but with another key.
    let other = Chain { folder, root: Some(vectors("p384/ark.pem")) };
    let verdict = judge(&report(), &fixture::small(), &other.trust(), &Expected::default()).unwrap();
    assert!(!verdict.passes());
    assert!(verdict.to_string().contains("expected the one of --root"), "{verdict}");
}

#[test]
fn a_chain_with_a_gap_or_out_of_date_is_refused() {
    let folder = std::env::temp_dir().join(format!("igvm-tools-chain-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(vectors("rsa/vcek.der"), folder.join("vcek.der")).unwrap();
    std::fs::write(folder.join("notes.txt"), "no certificate").unwrap();
    let gap = Chain { folder: folder.clone(), root: Some(vectors("rsa/ark.pem")) };
    let verdict = judge(&report(), &fixture::small(), &gap.trust(), &Expected::default()).unwrap();
    assert!(verdict.checks[0].value.contains("verifies SEV-VCEK, issued by SEV-Test"), "{verdict}");
    assert!(!verdict.passes());
    std::fs::write(folder.join("broken.pem"), b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
        .unwrap();
    let error = judge(&report(), &fixture::small(), &gap.trust(), &Expected::default()).unwrap_err();
    assert_eq!(error.exit_status(), 65);
    assert!(error.to_string().contains("broken.pem: not an X.509 certificate"), "{error}");
    std::fs::remove_dir_all(&folder).unwrap();
    let chain = Chain::test("rsa");
    for seconds in [1_000_000_000, 5_000_000_000] {
        let trust = Trust { now: UNIX_EPOCH + Duration::from_secs(seconds), ..chain.trust() };
        let verdict = judge(&report(), &fixture::small(), &trust, &Expected::default()).unwrap();
        assert!(!verdict.passes());
        assert!(verdict.checks[0].value.contains("is valid from 2020-01-01"), "{verdict}");
    }
}

#[test]
fn every_field_that_the_image_settles_is_held_against_it() {
    for (at, expected) in [
        (0x08, "policy"),
        (0x0a, "policy"),
        (0x90, "measurement"),
        (0xbf, "measurement"),
        (0x180, "key's TCB"),
        (0x186, "key's TCB"),
        (0x187, "key's TCB"),
        (0x1a0, "key's chip"),
        (0x1df, "key's chip"),
    ] {
        let verdict = of_small(&changed(at, 8));
        assert_eq!(names(verdict.differing()), [expected], "offset {at:#x}");
        assert!(!verdict.passes());
    }
    // Nothing is expected of these.
    for at in [0x04, 0x30, 0x50, 0xc0, 0xe0, 0x140, 0x1e0] {
        assert!(of_small(&changed(at, 1)).passes(), "offset {at:#x}");
    }
}

#[test]
fn a_signed_image_settles_the_keys_and_the_versions_too() {
    use crate::sign::{Block, Identity, Signer};
    let (path, bytes) = (Path::new("image"), fixture::small().bytes());
    let identity = Identity { svn: 7, family_id: [1; 16], image_id: [2; 16], ..Identity::default() };
    let key = vectors("vcek.p8");
    let block = Block::new(path, &bytes, &identity).unwrap();
    let signed = block.sign(path, &bytes, Signer::Ephemeral, Some(&key)).unwrap();
    let mut report = report();
    let mut put = |at: usize, bytes: &[u8]| report[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x04, &[7]);
    put(0x10, &[1; 16]);
    put(0x20, &[2; 16]);
    put(0xe0, &signed.id_key_digest);
    put(0x110, &signed.author_key_digest.unwrap());
    let judge = |report: &mut Vec<u8>| {
        sign(report);
        let chain = Chain::test("p384");
        verify((path, report), (path, &signed.image), &chain.trust(), &Expected::default()).unwrap()
    };
    let verdict = judge(&mut report);
    assert!(verdict.passes(), "{verdict}");
    assert!(verdict.to_string().ends_with("verified: 10 fields agree\n"), "{verdict}");
    for (at, name) in
        [(0x04, "guest SVN"), (0x10, "family ID"), (0x20, "image ID"), (0xe0, "ID key"), (0x110, "author key")]
    {
        let mut changed = report.clone();
        changed[at] ^= 1;
        assert_eq!(names(judge(&mut changed).differing()), [name]);
    }
}

#[test]
fn what_the_user_expects_is_held_against_the_report() {
    let (chain, launch) = (Chain::test("p384"), fixture::small());
    let passes = |expected: &Expected| judge(&report(), &launch, &chain.trust(), expected).unwrap().passes();
    let expected = Expected { report_data: Some(vec![0xdd; 64]), vmpl: Some(0), ..Expected::default() };
    assert!(passes(&expected));
    assert!(!passes(&Expected { report_data: Some(vec![0xde; 64]), ..Expected::default() }));
    assert!(!passes(&Expected { host_data: Some(vec![1; 32]), ..Expected::default() }));
    assert!(!passes(&Expected { vmpl: Some(2), ..Expected::default() }));
    let policy = |policy| Expected { policy: Some((Platform::Snp, policy)), ..Expected::default() };
    assert!(passes(&policy(fixture::SNP_POLICY)) && !passes(&policy(fixture::SNP_POLICY ^ 1 << 16)));
    let foreign = Expected { policy: Some((Platform::Tdx, 0)), ..Expected::default() };
    let error = judge(&report(), &launch, &chain.trust(), &foreign).unwrap_err();
    assert!(error.to_string().contains("report: from snp, but the policy to expect is for tdx"), "{error}");
    let wanted = Expected { policy: Some((Platform::Tdx, 3)), ..Expected::default() };
    let verdict = judge(&tdreport(), &fixture::every_kind(), &unsigned(true), &wanted).unwrap();
    assert_eq!(names(verdict.differing()), ["debug wanted"]);
}

#[test]
fn a_debug_policy_that_the_image_does_not_ask_for_is_refused() {
    let verdict = of_small(&changed(0x0a, 8));
    assert!(verdict.to_string().contains("debug = true") && !verdict.passes(), "{verdict}");
}

#[test]
fn an_unchecked_signature_is_said_and_refused_unless_waived() {
    let mut forged = report();
    forged[0x2a0] ^= 1;
    for (waived, passes) in [(false, false), (true, true)] {
        let verdict = judge(&forged, &fixture::small(), &unsigned(waived), &Expected::default()).unwrap();
        assert_eq!(verdict.passes(), passes);
        let text = verdict.to_string();
        assert!(text.lines().any(|line| line == NOT_CHECKED), "{text}");
        assert_eq!(verdict.to_json()["signature"], "not checked");
    }
}

#[test]
fn a_masked_chip_id_is_told_and_a_number_too_long_for_the_curve_refused() {
    let mut masked = report();
    masked[0x1a0..0x1e0].fill(0);
    sign(&mut masked);
    assert!(of_small(&masked).to_string().contains("chip ID masked"));
    let mut long = report();
    long[0x2a0 + 48] = 1;
    assert_eq!(of_small(&long).signature, Some(false));
}

#[test]
fn reports_of_other_lengths_versions_and_images_are_named() {
    let refusal = |evidence: &[u8], launch: &Launch| {
        let error = judge(evidence, launch, &unsigned(true), &Expected::default()).unwrap_err();
        assert_eq!(error.exit_status(), 65);
        error.to_string()
    };
    let (small, mut old) = (fixture::small(), report());
    assert!(refusal(&[1; 99], &small).contains("report: 99 bytes, expected an SNP report of 1184"));
    old[0] = 1;
    assert!(refusal(&old, &small).contains("version at offset 0x0 is 1, expected 2 to 5"));
    let mut other = report();
    other[0x34] = 2;
    assert!(refusal(&other, &small).contains("signature algorithm at offset 0x34 is 2"));
    assert!(refusal(&tdreport(), &small).contains("image: not an image for tdx"));
}

/// A verifier that runs unattended took "verified" for an answer about all that it had asked for.
#[test]
fn an_expectation_of_a_field_that_the_evidence_has_not_is_refused() {
    let (small, every) = (fixture::small(), fixture::every_kind());
    let rtmr = Expected { rtmrs: [None, None, None, Some(vec![0; 48])], ..Expected::default() };
    let error = judge(&report(), &small, &unsigned(true), &rtmr).unwrap_err();
    assert!(error.to_string().contains("report: from snp, but the RTMR to expect is for tdx"), "{error}");
    for (field, expected) in [
        ("VMPL", Expected { vmpl: Some(0), ..Expected::default() }),
        ("host data", Expected { host_data: Some(vec![0; 32]), ..Expected::default() }),
    ] {
        let error = judge(&tdreport(), &every, &unsigned(true), &expected).unwrap_err();
        assert!(error.to_string().contains(&format!("from tdx, but the {field} to expect is for snp")), "{error}");
    }
}

#[test]
fn cut_evidence_and_damaged_certificates_never_panic() {
    let (small, every_kind) = (fixture::small().bytes(), fixture::every_kind().bytes());
    let judge = |evidence: &[u8], image: &[u8], trust: &Trust<'_>| {
        verify((Path::new("report"), evidence), (Path::new("image"), image), trust, &Expected::default())
    };
    for evidence in [report(), tdreport(), quote(4), quote(5)] {
        for length in 0..evidence.len() {
            let _ = judge(&evidence[..length], &every_kind, &unsigned(true));
        }
    }
    let folder = std::env::temp_dir().join(format!("igvm-tools-damage-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let original = std::fs::read(vectors("p384/vcek.der")).unwrap();
    let chain = Chain { folder: folder.clone(), root: Some(vectors("p384/ark.pem")) };
    std::fs::copy(vectors("p384/ask.pem"), folder.join("ask.pem")).unwrap();
    std::fs::write(folder.join("vcek.der"), &original).unwrap();
    let report = report();
    assert!(judge(&report, &small, &chain.trust()).unwrap().passes());
    for at in 0..original.len() {
        let mut damaged = original.clone();
        damaged[at] ^= 0x41;
        std::fs::write(folder.join("vcek.der"), &damaged).unwrap();
        let verdict = judge(&report, &small, &chain.trust());
        assert!(!verdict.is_ok_and(|verdict| verdict.passes()), "byte {at}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// `(printf parados-nonce-1:; printf %s 000102030405060708090a0b0c0d0e0f | xxd -r -p) | sha512sum`
#[test]
fn what_a_report_says_for_a_nonce_can_be_made_with_other_tools() {
    let nonce: Vec<u8> = (0..16).collect();
    let data = hex::encode(report_data(&nonce).unwrap());
    assert!(data.starts_with("6b41bd10564b48979c38d780cf2b904b") && data.len() == 128, "{data}");
    assert!(report_data(&nonce[1..]).unwrap_err().contains("15 bytes, expected 16 to 64"));
    assert!(report_data(&[0; 65]).is_err() && report_data(&[0; 64]).is_ok());
}
