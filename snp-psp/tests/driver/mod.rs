// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest's driver, written from the layout alone: offsets as Linux's driver has them, none of this crate's structures.
//! A wrong offset in the crate does not agree with itself here.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use snp_psp::{Guest, NoEntropy, PAGE_BYTES, Page, Psp};

/// The secrets page of a guest, and what it sends with VMPCK0.
pub(crate) struct Driver {
    secrets: Page,
    /// Number of the last message, either way.
    count: u64,
}

impl Driver {
    pub(crate) fn new(secrets: Page) -> Self {
        Self { secrets, count: 0 }
    }

    /// An attestation report for VMPL0.
    pub(crate) fn report(&mut self, psp: &Psp, guest: &mut Guest, data: &[u8; 64]) -> Vec<u8> {
        let mut request = [0; 96];
        request[..64].copy_from_slice(data);
        let mut response = [0; PAGE_BYTES];
        psp.guest_request(guest, &self.seal(self.count + 1, 5, &request), &mut response).unwrap();
        self.count += 2;
        assert_eq!(response[0x34], 6);
        assert_eq!(response[0x20..0x28], self.count.to_le_bytes());
        let answer = self.open(&response);
        assert_eq!(answer[..8], [0, 0, 0, 0, 0xa0, 4, 0, 0]);
        answer[0x20..].to_vec()
    }

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

/// The same bytes all over: launches that can be repeated.
pub(crate) fn entropy(byte: u8) -> impl FnMut(&mut [u8]) -> Result<(), NoEntropy> {
    move |bytes| {
        bytes.fill(byte);
        Ok(())
    }
}
