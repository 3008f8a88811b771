// SPDX-License-Identifier: MIT OR Apache-2.0
//! A report as a guest's driver gets it, verified by other people's cryptography.
//!
//! It is the committed `vectors/report.bin`, so that verifiers have one to try. With
//! `PARADOS_WRITE_REPORT=1` the file is written anew.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod driver;

use std::fs;
use std::path::Path;

use driver::Driver;
use p384::ecdsa::signature::hazmat::PrehashVerifier;
use p384::ecdsa::{Signature, VerifyingKey};
use sha2::{Digest, Sha384};
use snp_psp::{
    CpuidResult, LaunchFinish, LaunchPage, LaunchStart, PAGE_BYTES, PageType, Platform, Policy, Psp, certificates,
    test_chain,
};
use x509_cert::Certificate;
use x509_cert::der::Decode;

fn report() -> Vec<u8> {
    let psp = Psp::new(Platform::default(), test_chain::keys());
    let start = LaunchStart { policy: Policy(0x30000), ..LaunchStart::default() };
    let mut launch = psp.launch_start(&start, &mut driver::entropy(0x5e)).unwrap();
    let mut secrets = [0; PAGE_BYTES];
    let page = LaunchPage::new(PageType::Secrets, 0x1000);
    psp.launch_update(&mut launch, &page, &mut secrets, &|_, _| CpuidResult::default()).unwrap();
    let finish = LaunchFinish { host_data: [0x40; 32], ..LaunchFinish::default() };
    let mut guest = psp.launch_finish(launch, &finish).unwrap();
    let data = b"Parados: a report of the TEST chip, made by tests/report.rs!!!!!";
    Driver::new(secrets).report(&psp, &mut guest, data)
}

#[test]
fn a_driver_gets_the_committed_report() {
    let (file, report) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/report.bin"), report());
    if std::env::var_os("PARADOS_WRITE_REPORT").is_some() {
        fs::write(&file, &report).unwrap();
    }
    assert_eq!(report.len(), 0x4a0);
    assert!(fs::read(file).unwrap() == report);
}

/// The signature by the key in the certificate, and what the certificate says about the chip.
#[test]
fn the_certificate_of_the_table_verifies_the_report() {
    let chain = [
        (certificates::Kind::Vcek, test_chain::VCEK),
        (certificates::Kind::Ask, test_chain::ASK),
        (certificates::Kind::Ark, test_chain::ARK),
    ];
    let mut table = vec![0; 2 * PAGE_BYTES];
    certificates::write(&chain, &mut table).unwrap();
    let number = |at: usize| u32::from_le_bytes(table[at..at + 4].try_into().unwrap()) as usize;
    let vcek = Certificate::from_der(&table[number(16)..number(16) + number(20)]).unwrap();

    let report = report();
    let key = vcek.tbs_certificate().subject_public_key_info().subject_public_key.raw_bytes();
    let number = |at: usize| {
        let mut bytes: [u8; 48] = report[at..at + 48].try_into().unwrap();
        bytes.reverse();
        bytes
    };
    let signature = Signature::from_scalars(number(0x2a0), number(0x2e8)).unwrap();
    let digest = Sha384::digest(&report[..0x2a0]);
    assert!(VerifyingKey::from_sec1_bytes(key).unwrap().verify_prehash(&digest, &signature).is_ok());

    let extensions = vcek.tbs_certificate().extensions().unwrap();
    let extension = |path: &str| {
        let id = format!("1.3.6.1.4.1.3704.1.{path}");
        extensions.iter().find(|extension| extension.extn_id.to_string() == id).unwrap().extn_value.as_bytes()
    };
    assert_eq!(extension("4"), &report[0x1a0..0x1e0]);
    for (path, at) in [("3.1", 0x180), ("3.2", 0x181), ("3.3", 0x186), ("3.8", 0x187)] {
        assert_eq!(u8::from_der(extension(path)).unwrap(), report[at], "{path}");
    }
}
