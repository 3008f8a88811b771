// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes the TEST chain's certificates from its keys, and holds the committed files against them.
//!
//! Form: the certificates of AMD's Key Distribution Service for Milan (VCEK specification, 57230), as virtee/sev keeps
//! some in `tests/certs_data`: RSASSA-PSS with SHA-384 and 48 bytes of salt; patch levels and chip identifier in
//! extensions below 1.3.6.1.4.1.3704, the identifier without the tag that an extension's value should begin with.
//!
//! `PARADOS_WRITE_TEST_CHAIN=1 cargo test -p snp-psp --test test_chain` writes the files anew.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rsa::pkcs8::DecodePrivateKey;
use rsa::rand_core::{Infallible, TryCryptoRng, TryRng};
use rsa::signature::{Keypair, Verifier};
use rsa::{RsaPrivateKey, pss};
use sha2::{Digest, Sha384};
use snp_psp::test_chain;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder, CertificateBuilder, Result as BuilderResult};
use x509_cert::certificate::TbsCertificate;
use x509_cert::der::asn1::{Ia5String, ObjectIdentifier, OctetString, UtcTime};
use x509_cert::der::referenced::OwnedToRef;
use x509_cert::der::{DateTime, Decode, Encode};
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, BasicConstraints, KeyUsage, KeyUsages, SubjectKeyIdentifier};
use x509_cert::ext::{Extension, ToExtension};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::SubjectPublicKeyInfoRef;
use x509_cert::time::{Time, Validity};
use x509_cert::{Certificate, SubjectPublicKeyInfo};

const AMD: &str = "1.3.6.1.4.1.3704.1";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("test-chain")
}

/// Salts, so that the same certificates come out every time: SHA-384 of a counter.
struct Salts(u64);

impl TryRng for Salts {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.try_next_u64()? as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(48) {
            self.0 += 1;
            chunk.copy_from_slice(&Sha384::digest(self.0.to_le_bytes())[..chunk.len()]);
        }
        Ok(())
    }
}

impl TryCryptoRng for Salts {}

#[derive(Clone, Copy)]
enum Role {
    Ark,
    Ask,
    Vcek,
}

impl Role {
    fn name(self) -> Name {
        let common = match self {
            Self::Ark => "ARK-Milan",
            Self::Ask => "SEV-Milan",
            Self::Vcek => "SEV-VCEK",
        };
        // The last is the first in the certificate.
        let name = format!("CN={common},O=Parados TEST chain - never trust,ST=CA,L=Santa Clara,C=US,OU=Engineering");
        Name::from_str(&name).unwrap()
    }

    fn file(self) -> &'static str {
        match self {
            Self::Ark => "ark",
            Self::Ask => "ask",
            Self::Vcek => "vcek",
        }
    }

    fn serial(self) -> u32 {
        match self {
            Self::Ark => 0x10000,
            Self::Ask => 0x10001,
            Self::Vcek => 0,
        }
    }
}

impl BuilderProfile for Role {
    fn get_issuer(&self, _: &Name) -> Name {
        if let Self::Vcek = self { Self::Ask.name() } else { Self::Ark.name() }
    }

    fn get_subject(&self) -> Name {
        self.name()
    }

    fn build_extensions(
        &self,
        subject: SubjectPublicKeyInfoRef<'_>,
        issuer: SubjectPublicKeyInfoRef<'_>,
        tbs: &TbsCertificate,
    ) -> BuilderResult<Vec<Extension>> {
        if let Self::Vcek = self {
            return Ok(vcek_extensions());
        }
        let ask = matches!(self, Self::Ask);
        let usages = if ask { KeyUsages::KeyCertSign.into() } else { KeyUsages::KeyCertSign | KeyUsages::CRLSign };
        let constraints = BasicConstraints { ca: true, path_len_constraint: ask.then_some(0) };
        let mut extensions = vec![];
        let mut add = |extension: Extension| extensions.push(extension);
        add(extension(tbs, &SubjectKeyIdentifier::try_from(subject)?));
        if ask {
            add(extension(tbs, &AuthorityKeyIdentifier::try_from(issuer)?));
        }
        add(extension(tbs, &constraints));
        add(extension(tbs, &KeyUsage(usages)));
        Ok(extensions)
    }
}

fn extension(tbs: &TbsCertificate, value: impl ToExtension) -> Extension {
    value.to_extension(tbs.subject(), &[]).unwrap_or_else(|_| panic!("an extension that cannot be encoded"))
}

fn vcek_extensions() -> Vec<Extension> {
    let raw = |path: &str, value: Vec<u8>| Extension {
        extn_id: ObjectIdentifier::new(&format!("{AMD}.{path}")).unwrap(),
        critical: false,
        extn_value: OctetString::new(value).unwrap(),
    };
    let number = |path: &str, value: u8| raw(path, value.to_der().unwrap());
    let tcb = test_chain::TCB;
    vec![
        number("1", 0),
        raw("2", Ia5String::new("Milan-B1").unwrap().to_der().unwrap()),
        number("3.1", tcb.boot_loader),
        number("3.2", tcb.tee),
        number("3.4", 0),
        number("3.5", 0),
        number("3.6", 0),
        number("3.7", 0),
        number("3.3", tcb.snp),
        number("3.8", tcb.microcode),
        raw("4", test_chain::CHIP.id.to_vec()),
    ]
}

fn rsa_key(role: Role) -> RsaPrivateKey {
    let file = folder().join(format!("keys/{}-TEST-private-key.pem", role.file()));
    RsaPrivateKey::from_pkcs8_pem(&fs::read_to_string(file).unwrap()).unwrap()
}

fn certify(role: Role, key: SubjectPublicKeyInfo, issuer: &pss::SigningKey<Sha384>) -> Certificate {
    let time = |year, month, day| {
        Time::UtcTime(UtcTime::from_date_time(DateTime::new(year, month, day, 0, 0, 0).unwrap()).unwrap())
    };
    let validity = Validity::new(time(2026, 1, 1), time(2049, 12, 31));
    let builder = CertificateBuilder::new(role, SerialNumber::from(role.serial()), validity, key).unwrap();
    builder.build_with_rng::<_, pss::Signature, _>(issuer, &mut Salts(u64::from(role.serial()) << 32)).unwrap()
}

fn chain() -> [(Role, Certificate); 3] {
    let [ark, ask] = [Role::Ark, Role::Ask].map(|role| pss::SigningKey::<Sha384>::new(rsa_key(role)));
    let rsa = |key: &pss::SigningKey<Sha384>| SubjectPublicKeyInfo::from_key(&key.verifying_key()).unwrap();
    let vcek =
        SubjectPublicKeyInfo::from_key(&p384::PublicKey::from(test_chain::keys().vcek().verifying_key())).unwrap();
    [
        (Role::Ark, certify(Role::Ark, rsa(&ark), &ark)),
        (Role::Ask, certify(Role::Ask, rsa(&ask), &ark)),
        (Role::Vcek, certify(Role::Vcek, vcek, &ask)),
    ]
}

#[test]
fn the_committed_chain_is_what_its_keys_make() {
    for (role, certificate) in chain() {
        let file = folder().join(format!("certs/{}.der", role.file()));
        let der = certificate.to_der().unwrap();
        if std::env::var_os("PARADOS_WRITE_TEST_CHAIN").is_some() {
            fs::write(&file, &der).unwrap();
        }
        assert!(fs::read(&file).unwrap() == der, "{} is not what its keys make", file.display());
    }
}

#[test]
fn each_certificate_is_signed_by_the_one_above() {
    let [ark, ask, vcek] =
        [test_chain::ARK, test_chain::ASK, test_chain::VCEK].map(|der| Certificate::from_der(der).unwrap());
    for (signer, signee) in [(&ark, &ark), (&ark, &ask), (&ask, &vcek)] {
        let key = signer.tbs_certificate().subject_public_key_info();
        let key = rsa::RsaPublicKey::try_from(key.owned_to_ref()).unwrap();
        let signature = pss::Signature::try_from(signee.signature().raw_bytes()).unwrap();
        let verifier = pss::VerifyingKey::<Sha384>::new(key);
        let tbs = signee.tbs_certificate().to_der().unwrap();
        assert!(verifier.verify(&tbs, &signature).is_ok());
        assert!(verifier.verify(&tbs[1..], &signature).is_err());
        assert_eq!(signee.tbs_certificate().issuer(), signer.tbs_certificate().subject());
    }
}

#[test]
fn the_chain_says_that_it_is_a_test() {
    for der in [test_chain::ARK, test_chain::ASK, test_chain::VCEK] {
        let certificate = Certificate::from_der(der).unwrap();
        for name in [certificate.tbs_certificate().subject(), certificate.tbs_certificate().issuer()] {
            assert!(name.to_string().contains("O=Parados TEST chain - never trust"), "{name}");
        }
    }
}

#[test]
fn the_vcek_comes_from_its_label() {
    let scalar = test_chain::keys().vcek().to_bytes();
    assert_eq!(scalar.as_slice(), Sha384::digest(test_chain::VCEK_LABEL).as_slice());
}
