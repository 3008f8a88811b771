// SPDX-License-Identifier: MIT OR Apache-2.0
//! Certificates of the keys that sign reports, up to a root that is trusted for a reason.
//!
//! AMD's chain is VCEK or VLEK (P-384), ASK or ASVK and ARK (RSA-4096, PSS with SHA-384); a model's may be P-384
//! throughout. Intel's is P-256, and comes with the quote. What lies in the folder or in a quote proves nothing by lying there:
//! the chain has to end at one of the vendor's roots, or at the one that the user names.
//!
//! Deliberately missing: revocation lists, which only the vendors' servers have.

use crate::error::{Error, Flaw, ensure};
use crate::input;
use crate::measure::{Digest, sha384};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, RSA_PSS_2048_8192_SHA384, UnparsedPublicKey, VerificationAlgorithm,
};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use x509_cert::der::asn1::{ObjectIdentifier, PrintableStringRef, Utf8StringRef};
use x509_cert::der::{Decode, Encode, Reader, SliceReader, pem};
use x509_cert::ext::pkix::BasicConstraints;
use x509_cert::name::Name;

/// The largest file that may hold certificates, and the most of them. AMD's chains have three, of less than 2 KiB each.
const FILE_LIMIT: u64 = 64 << 10;
const COUNT_LIMIT: usize = 64;

/// The longest chain, with its ends.
const CHAIN_LIMIT: usize = 4;

/// RFC 4055, id-RSASSA-PSS.
const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
/// RFC 8017, rsaEncryption.
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// RFC 5758, ecdsa-with-SHA256 and ecdsa-with-SHA384.
const ECDSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_WITH_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
/// RFC 5480, id-ecPublicKey, secp256r1 and secp384r1.
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SECP256R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
/// X.520, commonName.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// A certificate.
#[derive(Debug)]
pub(crate) struct Certificate {
    der: Vec<u8>,
    /// The part that is signed, byte for byte.
    signed: Vec<u8>,
    fields: x509_cert::Certificate,
}

impl Certificate {
    fn parse(der: &[u8]) -> Result<Self, Flaw> {
        let bad = |error| Flaw::new(format_args!("not an X.509 certificate: {error}"));
        let fields = x509_cert::Certificate::from_der(der).map_err(bad)?;
        let mut reader = SliceReader::new(der).map_err(bad)?;
        let signed = reader.sequence(|body| {
            let signed = body.tlv_bytes()?.to_vec();
            body.drain(body.remaining_len())?;
            Ok(signed)
        });
        Ok(Self { der: der.to_vec(), signed: signed.map_err(bad)?, fields })
    }

    /// The subject's common name.
    pub(crate) fn name(&self) -> String {
        common_name(self.fields.tbs_certificate().subject())
    }

    fn issuer(&self) -> String {
        common_name(self.fields.tbs_certificate().issuer())
    }

    fn is_own_issuer(&self) -> bool {
        let fields = self.fields.tbs_certificate();
        fields.subject() == fields.issuer()
    }

    /// Whether the key may sign certificates; one that may does not sign reports.
    fn is_authority(&self) -> bool {
        let constraints = self.fields.tbs_certificate().get_extension::<BasicConstraints>();
        matches!(constraints, Ok(Some((_, BasicConstraints { ca: true, .. }))))
    }

    /// The key's whole structure, hashed: what tells one root from another.
    fn fingerprint(&self) -> Option<Digest> {
        let key = self.fields.tbs_certificate().subject_public_key_info();
        key.to_der().ok().map(|der| sha384(&der))
    }

    /// The point of a P-384 key, uncompressed.
    pub(crate) fn p384_key(&self) -> Option<&[u8]> {
        self.key_on(SECP384R1)
    }

    /// The same of a P-256 key.
    pub(crate) fn p256_key(&self) -> Option<&[u8]> {
        self.key_on(SECP256R1)
    }

    fn key_on(&self, wanted: ObjectIdentifier) -> Option<&[u8]> {
        let key = self.fields.tbs_certificate().subject_public_key_info();
        let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.decode_as::<ObjectIdentifier>().ok());
        let fits = key.algorithm.oid == EC_PUBLIC_KEY && curve == Some(wanted);
        key.subject_public_key.as_bytes().filter(|_| fits)
    }

    fn rsa_key(&self) -> Option<&[u8]> {
        let key = self.fields.tbs_certificate().subject_public_key_info();
        let fits = [RSA_ENCRYPTION, RSASSA_PSS].contains(&key.algorithm.oid);
        key.subject_public_key.as_bytes().filter(|_| fits)
    }

    /// Whether this one's key signed another certificate.
    fn signed(&self, other: &Self) -> bool {
        let named = other.fields.signature_algorithm();
        let (algorithm, key): (&'static dyn VerificationAlgorithm, _) = match named.oid {
            RSASSA_PSS => (&RSA_PSS_2048_8192_SHA384, self.rsa_key()),
            ECDSA_WITH_SHA256 => (&ECDSA_P256_SHA256_ASN1, self.p256_key()),
            ECDSA_WITH_SHA384 => (&ECDSA_P384_SHA384_ASN1, self.p384_key()),
            _ => return false,
        };
        // RFC 5280 4.1.1.2: both mentions of the algorithm agree.
        let (Some(key), true) = (key, named == other.fields.tbs_certificate().signature()) else { return false };
        let Some(signature) = other.fields.signature().as_bytes() else { return false };
        UnparsedPublicKey::new(algorithm, key).verify(&other.signed, signature).is_ok()
    }

    fn check_time(&self, now: SystemTime) -> Result<(), Flaw> {
        let validity = self.fields.tbs_certificate().validity();
        let (from, until) = (validity.not_before, validity.not_after);
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        ensure!(
            from.to_unix_duration() <= now && now <= until.to_unix_duration(),
            "the certificate of {} is valid from {from} to {until} only",
            self.name()
        );
        Ok(())
    }

    /// The content of an extension; `None` if it is not there exactly once.
    pub(crate) fn extension(&self, id: ObjectIdentifier) -> Option<&[u8]> {
        let extensions = self.fields.tbs_certificate().extensions()?;
        let mut found = extensions.iter().filter(|extension| extension.extn_id == id);
        let value = found.next()?.extn_value.as_bytes();
        if found.next().is_some() { None } else { Some(value) }
    }
}

fn common_name(name: &Name) -> String {
    let parts = name.iter();
    let text = parts.filter(|part| part.oid == COMMON_NAME).find_map(|part| {
        let utf8 = part.value.decode_as::<Utf8StringRef<'_>>().map(|text| text.as_str().to_owned());
        utf8.or_else(|_| part.value.decode_as::<PrintableStringRef<'_>>().map(|text| text.as_str().to_owned())).ok()
    });
    text.unwrap_or_else(|| name.to_string())
}

/// Whose processors, and where chains of their keys end.
#[derive(Debug)]
pub(crate) struct Vendor {
    pub(crate) name: &'static str,
    /// SHA-384 of the public key structures (SubjectPublicKeyInfo, DER).
    pub(crate) roots: &'static [&'static str],
}

/// Certificates to choose from, and the root to end at.
#[derive(Debug)]
pub(crate) struct Store {
    certificates: Vec<Certificate>,
    /// The user's root; without one, the vendor's.
    root: Option<Certificate>,
    vendor: &'static Vendor,
    folder: PathBuf,
}

impl Store {
    /// Reads all certificates of a folder; files of other kinds are skipped.
    pub(crate) fn read(folder: &Path, root: Option<&Path>, vendor: &'static Vendor) -> Result<Self, Error> {
        let mut certificates = Vec::new();
        for path in input::files_of(folder, COUNT_LIMIT)? {
            certificates.append(&mut read_file(&path)?);
            if certificates.len() > COUNT_LIMIT {
                return Err(Error::data(folder, format_args!("more than {COUNT_LIMIT} certificates")));
            }
        }
        let root = root.map(one_of).transpose()?;
        Ok(Self { certificates, root, vendor, folder: folder.to_owned() })
    }

    /// Adds what came along with evidence, PEM.
    pub(crate) fn add(&mut self, pem: &[u8]) -> Result<(), Flaw> {
        let mut found = certificates_of(pem)?;
        ensure!(found.len() <= COUNT_LIMIT, "more than {COUNT_LIMIT} certificates");
        self.certificates.append(&mut found);
        Ok(())
    }

    /// The chain of the key that signed something, from that key's certificate to the root.
    pub(crate) fn chain(
        &self,
        now: SystemTime,
        signed: impl Fn(&Certificate) -> bool,
    ) -> Result<Vec<&Certificate>, Flaw> {
        let leaf = self.certificates.iter().find(|leaf| !leaf.is_authority() && !leaf.is_own_issuer() && signed(leaf));
        let leaf = leaf.ok_or_else(|| {
            let names: Vec<_> = self.certificates.iter().map(Certificate::name).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let folder = self.folder.display();
            Flaw::new(format_args!("no key of {folder} made it (certificates there: {names})"))
        })?;
        let mut chain = vec![leaf];
        let mut last = leaf;
        while !last.is_own_issuer() {
            ensure!(chain.len() < CHAIN_LIMIT, "the chain has more than {CHAIN_LIMIT} certificates");
            last = self.issuer_of(last)?;
            chain.push(last);
        }
        ensure!(last.signed(last), "the root {} does not verify itself", last.name());
        self.check_root(last)?;
        chain.iter().try_for_each(|certificate| certificate.check_time(now))?;
        Ok(chain)
    }

    fn issuer_of(&self, certificate: &Certificate) -> Result<&Certificate, Flaw> {
        let name = certificate.fields.tbs_certificate().issuer();
        let mut fits = self.certificates.iter().chain(&self.root).filter(|issuer| {
            issuer.is_authority() && issuer.fields.tbs_certificate().subject() == name && issuer.signed(certificate)
        });
        fits.next().ok_or_else(|| {
            let (folder, issuer) = (self.folder.display(), certificate.issuer());
            Flaw::new(format_args!("nothing in {folder} verifies {}, issued by {issuer}", certificate.name()))
        })
    }

    fn check_root(&self, root: &Certificate) -> Result<(), Flaw> {
        let trusted = match &self.root {
            Some(own) => own.der == root.der,
            None => root.fingerprint().is_some_and(|print| self.vendor.roots.contains(&hex::encode(print).as_str())),
        };
        let expected = match &self.root {
            Some(_) => "the one of --root".to_owned(),
            None => format!("{}'s, or one named by --root", self.vendor.name),
        };
        ensure!(trusted, "the chain ends at {}, expected {expected}", root.name());
        Ok(())
    }

    /// Whether chains end at the vendor's roots.
    pub(crate) fn is_vendors(&self) -> bool {
        self.root.is_none()
    }

    /// Where chains end, in words.
    pub(crate) fn whose_root(&self) -> String {
        if self.is_vendors() { format!("{}'s root", self.vendor.name) } else { "the root of --root".to_owned() }
    }
}

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The certificates of a file, PEM or DER; none if it holds something else.
fn read_file(path: &Path) -> Result<Vec<Certificate>, Error> {
    let Some(bytes) = input::read_small(path, FILE_LIMIT)? else { return Ok(Vec::new()) };
    certificates_of(&bytes).map_err(|flaw| flaw.of(path))
}

fn certificates_of(bytes: &[u8]) -> Result<Vec<Certificate>, Flaw> {
    // A DER certificate is a SEQUENCE of 256 to 65535 bytes.
    if bytes.starts_with(&[0x30, 0x82]) {
        return Ok(vec![Certificate::parse(bytes)?]);
    }
    let text = String::from_utf8_lossy(bytes);
    let blocks = text.split(BEGIN).skip(1).filter_map(|block| block.split_once(END));
    blocks
        .map(|(body, _)| {
            let block = format!("{BEGIN}{body}{END}\n");
            let bad = |error| Flaw::new(format_args!("bad PEM block: {error}"));
            Certificate::parse(&pem::decode_vec(block.as_bytes()).map_err(bad)?.1)
        })
        .collect()
}

/// The one certificate of a file.
fn one_of(path: &Path) -> Result<Certificate, Error> {
    let mut all = read_file(path)?;
    match (all.pop(), all.is_empty()) {
        (Some(only), true) => Ok(only),
        _ => Err(Error::data(path, "expected exactly one certificate, PEM or DER, of at most 64 KiB")),
    }
}
