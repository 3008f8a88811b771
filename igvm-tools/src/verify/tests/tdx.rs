// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about TDX evidence: on the quote of a real machine, and on quotes that the test chain signed.

use super::*;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, KeyPair};

/// The chain of quotes that bring all but the root along.
fn chain_of_quotes() -> Chain {
    Chain { folder: vectors("foreign"), root: Some(vectors("p256/root.pem")) }
}

/// A TDREPORT of a launch of `fixture::every_kind`.
pub(super) fn tdreport() -> Vec<u8> {
    let measured = crate::measure(Path::new("image"), &fixture::every_kind().bytes()).unwrap();
    let mut report = vec![0; 1024];
    report[0] = 0x81;
    report[128..192].fill(0xdd);
    // SEPT_VE_DISABLE, as the image's policy says.
    report[515] = 0x10;
    report[528..576].copy_from_slice(&measured.tdx().unwrap().mrtd);
    report[720..768].fill(0x11);
    reseal(&mut report);
    report
}

fn reseal(report: &mut [u8]) {
    let hash = crate::measure::sha384(&report[512..]);
    report[80..128].copy_from_slice(&hash);
}

/// The same as a quote, signed by a key for which the test's processor vouches; `enclave` changes what its key signs.
fn quote_of(version: u8, enclave: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref(), &random).unwrap();
    let processor = include_bytes!("../../../tests/vectors/pck.p8");
    let processor = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, processor, &random).unwrap();
    let mut quote = unsigned_quote(version);
    let signature = key.sign(&random, &quote).unwrap();
    let (point, authentication) = (&key.public_key().as_ref()[1..], [7; 32]);
    let mut report = vec![0; 320];
    report.extend(ring::digest::digest(&ring::digest::SHA256, &[point, &authentication].concat()).as_ref());
    report.resize(384, 0);
    enclave(&mut report);
    let vouched = processor.sign(&random, &report).unwrap();
    let chain =
        ["pck", "ca", "root"].map(|name| std::fs::read(vectors("p256").join(name).with_extension("pem")).unwrap());
    let chain = chain.concat();
    let inner = [&report[..], vouched.as_ref(), &[32, 0], &authentication, &[5, 0], &le(chain.len()), &chain].concat();
    let data = [signature.as_ref(), point, &[6, 0], &le(inner.len()), &inner].concat();
    quote.extend([&le(data.len())[..], &data, &[0; 16]].concat());
    quote
}

fn le(length: usize) -> [u8; 4] {
    (length as u32).to_le_bytes()
}

pub(super) fn quote(version: u8) -> Vec<u8> {
    quote_of(version, |_| ())
}

/// Header and body.
fn unsigned_quote(version: u8) -> Vec<u8> {
    let report = tdreport();
    let mut quote = vec![version, 0, 2, 0, 0x81, 0, 0, 0];
    quote.resize(48, 0);
    if version == 5 {
        quote.extend([2, 0, 0x48, 2, 0, 0]);
    }
    quote.extend(&report[264..264 + 112]);
    quote.extend([0; 8]);
    quote.extend(&report[512..528]);
    quote.extend(&report[528..912]);
    quote.extend(&report[128..192]);
    quote
}

#[test]
fn evidence_of_a_td_is_held_against_mrtd_and_attributes() {
    let launch = fixture::every_kind();
    let expected = Expected {
        report_data: Some(vec![0xdd; 64]),
        rtmrs: [Some(vec![0x11; 48]), None, None, None],
        ..Expected::default()
    };
    for evidence in [tdreport(), quote(4), quote(5)] {
        let verdict = judge(&evidence, &launch, &unsigned(true), &expected).unwrap();
        assert!(verdict.passes(), "{verdict}");
        assert!(verdict.to_string().contains(NOT_CHECKED));
        assert!(!judge(&evidence, &launch, &unsigned(false), &expected).unwrap().passes());
    }
    let error = judge(&tdreport(), &launch, &chain_of_quotes().trust(), &expected).unwrap_err();
    assert!(error.to_string().contains("only its own machine can check a TDREPORT"), "{error}");
    for (at, byte, name) in [
        (512, 1, "debug"),
        (515, 0x10, "sept_ve_disable"),
        (515, 0x20, "migratable"),
        (528, 1, "MRTD"),
        (720, 1, "RTMR0"),
    ] {
        let mut report = tdreport();
        report[at] ^= byte;
        reseal(&mut report);
        let verdict = judge(&report, &launch, &unsigned(true), &expected).unwrap();
        assert_eq!(names(verdict.differing()), [name], "offset {at}");
        report[80] ^= 1;
        let verdict = judge(&report, &launch, &unsigned(true), &expected).unwrap();
        assert_eq!(names(verdict.differing()), ["TEE info hash", name]);
    }
}

/// A register that somebody had extended was only told.
#[test]
fn registers_that_parados_does_not_extend_are_zero_unless_others_are_expected() {
    let mut launch = fixture::every_kind();
    let mut content = fixture::pattern(0);
    content[..8].copy_from_slice(&image_abi::RESET_MAGIC);
    launch.directives.push(fixture::page(image_abi::RESET_PAGE, igvm_defs::IgvmPageDataType::NORMAL, content));
    let measured = crate::measure(Path::new("image"), &launch.bytes()).unwrap();
    assert!(measured.to_string().contains("at launch and later: Parados extends none"), "{measured}");
    let mut report = tdreport();
    report[528..576].copy_from_slice(&measured.tdx().unwrap().mrtd);
    reseal(&mut report);
    let differing = |rtmrs| {
        let expected = Expected { rtmrs, ..Expected::default() };
        let verdict = judge(&report, &launch, &unsigned(true), &expected).unwrap();
        verdict.differing().map(|check| check.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(differing([None, None, None, None]), ["RTMR0"]);
    assert_eq!(differing([Some(vec![0x11; 48]), None, None, Some(vec![1; 48])]), ["RTMR3"]);
}

#[test]
fn a_real_machines_quote_is_verified_up_to_intels_root() {
    let chain = Chain { folder: vectors("foreign"), root: None };
    let quote = std::fs::read(vectors("tdx/quote.bin")).unwrap();
    let judge = |quote: &[u8]| judge(quote, &fixture::every_kind(), &chain.trust(), &Expected::default());
    let verdict = judge(&quote).unwrap();
    assert_eq!(verdict.signature, Some(true));
    let signature = &verdict.checks[0];
    assert!(signature.value.ends_with("issued by Intel SGX Root CA: Intel's root"), "{}", signature.value);
    let settled: Vec<_> = verdict.checks[..3].iter().map(|check| (check.name.as_str(), check.outcome)).collect();
    assert_eq!(settled, ["signature", "signing key", "quoting enclave"].map(|name| (name, Outcome::Agrees)));
    // It was launched from something else.
    assert_eq!(names(verdict.differing()), ["MRTD"]);
    assert!(verdict.to_string().contains("not judged: revocations") && !verdict.passes());
    // Header, MRTD, report data; signature and key; the enclave's report, its signature, the authentication data.
    for at in [8, 0xb8, 0x26f, 0x27c, 0x2bc, 0x302, 0x481, 0x482, 0x4c4] {
        let mut changed = quote.clone();
        changed[at] ^= 1;
        let verdict = judge(&changed).unwrap();
        assert_eq!(names(verdict.checks.iter()), ["signature"], "offset {at:#x}");
        assert_eq!((verdict.signature, verdict.passes()), (Some(false), false));
    }
    for length in 0..quote.len() - 70 {
        let error = judge(&quote[..length]).unwrap_err();
        assert!(error.exit_status() == 65 || error.exit_status() == 64, "{length} bytes: {error}");
    }
}

#[test]
fn a_signed_quote_of_the_image_passes_under_the_root_that_the_user_names() {
    let (chain, launch) = (chain_of_quotes(), fixture::every_kind());
    for version in [4, 5] {
        let verdict = judge(&quote(version), &launch, &chain.trust(), &Expected::default()).unwrap();
        assert!(verdict.passes(), "{verdict}");
        assert!(
            verdict.to_string().contains("PCK Test, issued by PCK CA Test, issued by Root Test: the root of --root")
        );
        assert!(!verdict.to_string().contains(NOT_CHECKED));
    }
    let refusal = |quote: &[u8], trust: &Trust<'_>| {
        let verdict = judge(quote, &launch, trust, &Expected::default()).unwrap();
        assert_eq!((names(verdict.checks.iter()), verdict.passes()), (vec!["signature"], false));
        verdict.checks[0].value.clone()
    };
    // The quote brings its own root along, and so does a forger's.
    let nobodys = Trust { root: None, ..chain.trust() };
    assert!(refusal(&quote(4), &nobodys).contains("ends at Root Test, expected Intel's"));
    let later = Trust { now: UNIX_EPOCH, ..chain.trust() };
    assert!(refusal(&quote(4), &later).contains("is valid from"));
    // The processor's key vouches for an enclave, but that one has another key.
    let foreign = quote_of(4, |report| report[320] ^= 1);
    assert!(refusal(&foreign, &chain.trust()).contains("vouches for another key"));
    let longer = quote_of(4, |report| report[383] = 1);
    assert!(refusal(&longer, &chain.trust()).contains("vouches for another key"));
    let mut changed = quote(5);
    changed[60] ^= 1;
    assert!(refusal(&changed, &chain.trust()).contains("key did not make it"));
    let malformed = |at: usize, byte, expected: &str| {
        let mut quote = quote(5);
        quote[at] = byte;
        let error = judge(&quote, &launch, &chain.trust(), &Expected::default()).unwrap_err();
        assert!(error.exit_status() == 65 && error.to_string().contains(expected), "{error}");
    };
    malformed(2, 3, "attestation key type at offset 0x2 is 3");
    malformed(50, 0x49, "body length at offset 0x32 is 585, expected 584 for type 2");
    malformed(54 + 584 + 3, 1, "signature data at offset 0x282 takes");
    malformed(54 + 584 + 4 + 128, 7, "certification data type at offset 0x302 is 7, expected 6");
}

/// Nobody here has a key that Intel certified, so the check stands alone.
#[test]
fn an_enclave_that_is_not_intels_is_refused_under_intels_root() {
    let quote = std::fs::read(vectors("tdx/quote.bin")).unwrap();
    let store = |root: Option<&Path>| certificates::Store::read(&vectors("foreign"), root, &quote::INTEL).unwrap();
    let outcome = |at: usize, bits, store: &certificates::Store| {
        let mut quote = quote.clone();
        quote[0x302 + at] ^= bits;
        let mut verdict =
            Verdict { evidence: String::new(), signature: None, without_signature: false, checks: vec![] };
        quote::Signature::parse(&quote).unwrap().check_enclave(store, &mut verdict);
        verdict.checks[0].outcome
    };
    // Nothing, ATTRIBUTES.DEBUG, MRSIGNER, ISVPRODID.
    for (at, bits, expected) in [
        (0, 0, Outcome::Agrees),
        (48, 2, Outcome::Differs),
        (128, 1, Outcome::Differs),
        (159, 0x80, Outcome::Differs),
        (256, 1, Outcome::Differs),
        (257, 1, Outcome::Differs),
    ] {
        assert_eq!(outcome(at, bits, &store(None)), expected, "offset {at}");
        assert_eq!(outcome(at, bits, &store(Some(&vectors("p256/root.pem")))), Outcome::Told);
    }
}
