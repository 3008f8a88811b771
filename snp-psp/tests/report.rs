// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest's driver, written from the layout alone: offsets as Linux's driver has them, none of this crate's structures.
//!
//! The report that it gets is the committed `vectors/report.bin`, so that verifiers have one to try. With
//! `PARADOS_WRITE_REPORT=1` the file is written anew.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::Path;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use p384::ecdsa::signature::hazmat::PrehashVerifier;
use p384::ecdsa::{Signature, VerifyingKey};
use sha2::{Digest, Sha384};
use snp_psp::{
    CpuidResult, LaunchFinish, LaunchPage, LaunchStart, PAGE_BYTES, Page, PageType, Platform, Policy, Psp,
    certificates, test_chain,
};
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// The secrets page of a guest, and what it sends with VMPCK0.
struct Driver {
    secrets: Page,
}

impl Driver {
    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new_from_slice(&self.secrets[0x20..0x40]).unwrap()
    }

    fn seal(&self, sequence: u64, kind: u8, payload: &[u8]) -> Page {
        let mut page = [0; PAGE_BYTES];
        page[0x20..0x28].copy_from_slice(&sequence.to_le_bytes());
        (page[0x30], page[0x31], page[0x32], page[0x34], page[0x35]) = (1, 1, 0x60, kind, 1);
        page[0x36..0x38].copy_from_slice(&(payload.len() as u16).to_le_bytes());
        let (header, text) = page.split_at_mut(0x60);
        text[..payload.len()].copy_from_slice(payload);
        let text = &mut text[..payload.len()];
        let tag = self.cipher().encrypt_inout_detached(&nonce(sequence), &header[0x30..], text.into()).unwrap();
        header[..16].copy_from_slice(&tag);
        page
    }

    fn open(&self, page: &Page) -> Vec<u8> {
        let sequence = u64::from_le_bytes(page[0x20..0x28].try_into().unwrap());
        let bytes = usize::from(u16::from_le_bytes(page[0x36..0x38].try_into().unwrap()));
        let mut text = page[0x60..0x60 + bytes].to_vec();
        let tag = Tag::try_from(&page[..16]).unwrap();
        let text_in_place = text.as_mut_slice().into();
        self.cipher().decrypt_inout_detached(&nonce(sequence), &page[0x30..0x60], text_in_place, &tag).unwrap();
        text
    }
}

fn nonce(sequence: u64) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&sequence.to_le_bytes());
    nonce.into()
}

fn report() -> Vec<u8> {
    let psp = Psp::new(Platform::default(), test_chain::keys());
    let start = LaunchStart { policy: Policy(0x30000), ..LaunchStart::default() };
    let mut entropy = |bytes: &mut [u8]| {
        bytes.fill(0x5e);
        Ok(())
    };
    let mut launch = psp.launch_start(&start, &mut entropy).unwrap();
    let mut driver = Driver { secrets: [0; PAGE_BYTES] };
    let page = LaunchPage::new(PageType::Secrets, 0x1000);
    psp.launch_update(&mut launch, &page, &mut driver.secrets, &|_, _| CpuidResult::default()).unwrap();
    let finish = LaunchFinish { host_data: [0x40; 32], ..LaunchFinish::default() };
    let mut guest = psp.launch_finish(launch, &finish).unwrap();

    let mut request = [0; 96];
    request[..64].copy_from_slice(b"Parados: a report of the TEST chip, made by tests/report.rs!!!!!");
    let mut response = [0; PAGE_BYTES];
    psp.guest_request(&mut guest, &driver.seal(1, 5, &request), &mut response).unwrap();
    assert_eq!((response[0x34], response[0x20]), (6, 2));
    let answer = driver.open(&response);
    assert_eq!(answer[..8], [0, 0, 0, 0, 0xa0, 4, 0, 0]);
    answer[0x20..].to_vec()
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
