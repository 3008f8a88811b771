// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about signed images. Keys and signatures are of the test key `tests/vectors/vcek.p8`.

use super::*;
use crate::launch_fixture::{self as fixture, Launch};
use igvm::{IgvmDirectiveHeader, IgvmFile};
use igvm_defs::{IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY, IGVM_VHS_SNP_ID_BLOCK_SIGNATURE};
use std::fs;
use std::path::PathBuf;

/// What `tests/vectors/id_block.py` prints: sev-snp-measure's block for the digest 00 01 … 2f.
const BLOCK: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f\
         000000000000000000000000000000000000000000000000000000000000000001000000000000000000030000000000";
const SIGNATURE: [&str; 2] = [
    "09fc268dbd465d9b94edbeb32ef1cdfecad5f2adcfef0e67b0e0b00cffc076694f3e632d34bebe1bf8466b66915cd552",
    "511e12fed41caa6c9b263c780a2fed07a51fd9a7248d048477e68a1e6825caa144bd6ded1aeb4d0cbbbd86f972d006fb",
];
const KEY_DIGEST: &str =
    "9ff91a33d41ac20e0108cff4e23390254efb8aee63df3f6b1b06ec5609adc1446ce3906eb40223c5e29c9795f026162b";

fn test_key() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/vcek.p8")
}

fn public() -> IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY {
    id_block::public_key(PrivateKey::read(&test_key()).unwrap().point()).unwrap()
}

/// A folder of its own for a test, removed afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("igvm-tools-sign-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn signed(bytes: &[u8], identity: &Identity, signer: Signer<'_>, author: Option<&Path>) -> Result<Signed, Error> {
    let path = Path::new("image");
    Block::new(path, bytes, identity)?.sign(path, bytes, signer, author)
}

/// All directives but the ID block, and that.
fn split(bytes: &[u8]) -> (Vec<IgvmDirectiveHeader>, Vec<IgvmDirectiveHeader>) {
    let file = IgvmFile::new_from_binary(bytes, None).unwrap();
    let is_block = |directive: &IgvmDirectiveHeader| matches!(directive, IgvmDirectiveHeader::SnpIdBlock { .. });
    let (blocks, others) = file.directives().iter().cloned().partition(is_block);
    (others, blocks)
}

#[test]
fn block_key_and_signature_are_those_of_sev_snp_measure() {
    let mut block = IGVM_VHS_SNP_ID_BLOCK::new_zeroed();
    block.version = VERSION;
    block.ld = std::array::from_fn(|at| at as u8);
    let structure = id_block::block_structure(&block, 0x3_0000);
    assert_eq!(hex::encode(structure), BLOCK);
    let key = public();
    assert_eq!(hex::encode(id_block::key_digest(&key)), KEY_DIGEST);
    let number = |text: &str| {
        let mut field = [0; 72];
        field[..48].copy_from_slice(&hex::decode(text).unwrap());
        field
    };
    let mut signature = IGVM_VHS_SNP_ID_BLOCK_SIGNATURE { r_comp: number(SIGNATURE[0]), s_comp: number(SIGNATURE[1]) };
    assert!(id_block::verifies(&key, &structure, &signature));
    signature.s_comp[0] ^= 1;
    assert!(!id_block::verifies(&key, &structure, &signature));
}

#[test]
fn a_signed_image_differs_in_its_id_block_alone() {
    let both = [fixture::small(), fixture::every_kind()];
    for launch in both {
        let bytes = launch.bytes();
        let identity = Identity { loader: Some(Loader::Qemu), svn: 7, family_id: [1; 16], image_id: [2; 16] };
        let result = signed(&bytes, &identity, Signer::Key(&test_key()), Some(&test_key())).unwrap();
        let ((before, none), (after, blocks)) = (split(&bytes), split(&result.image));
        assert!(none.is_empty() && before == after);
        let [IgvmDirectiveHeader::SnpIdBlock { ld, guest_svn, family_id, author_key_enabled, .. }] = &blocks[..] else {
            panic!("{blocks:?}")
        };
        assert_eq!((*ld, *guest_svn, *family_id), (result.launch_digest, 7, [1; 16]));
        assert_eq!(*author_key_enabled, 1);
        assert_eq!(hex::encode(result.id_key_digest), KEY_DIGEST);
        assert_eq!(result.author_key_digest, Some(result.id_key_digest));
        let measured = crate::measure(Path::new("image"), &result.image).unwrap();
        let snp = measured.snp().unwrap();
        assert_eq!(snp.digest(VmsaPlace::Kvm, Zeroes::Type), Some(&result.launch_digest));
        assert_eq!(snp.promised, Some(result.launch_digest));
        let promise = measured.to_string();
        assert!(promise.lines().any(|line| line.contains("ID block") && line.contains("VMSA as")), "{promise}");
    }
}

#[test]
fn signing_again_replaces_the_block() {
    let bytes = fixture::small().bytes();
    let once = signed(&bytes, &Identity::default(), Signer::Ephemeral, Some(&test_key())).unwrap();
    let twice = signed(&once.image, &Identity { svn: 9, ..Identity::default() }, Signer::Ephemeral, None).unwrap();
    assert_eq!(once.image.len(), twice.image.len());
    assert_ne!(once.id_key_digest, twice.id_key_digest);
    let (others, blocks) = split(&twice.image);
    assert!(blocks.len() == 1 && others == split(&bytes).0);
    let IgvmDirectiveHeader::SnpIdBlock { guest_svn: 9, author_key_enabled: 0, .. } = &blocks[0] else {
        panic!("{blocks:?}")
    };
}

#[test]
fn a_key_that_lies_elsewhere_signs_the_payload() {
    let (folder, bytes) = (Folder::new("elsewhere"), fixture::small().bytes());
    let identity = Identity::default();
    let payload = Block::new(Path::new("image"), &bytes, &identity).unwrap().payload();
    let key = PrivateKey::read(&test_key()).unwrap();
    let fixed = key.sign(&payload).unwrap();
    // id-ecPublicKey with secp384r1, then the point.
    let mut public = hex::decode("3076301006072a8648ce3d020106052b81040022036200").unwrap();
    public.extend(key.point());
    // DER has no needless zeroes in front, and one where a number would look negative.
    let number = |half: &[u8]| {
        let digits = &half[half.iter().take_while(|byte| **byte == 0).count()..];
        let zero = &[0][..usize::from(digits[0] >> 7)];
        [&[2, (digits.len() + zero.len()) as u8], zero, digits].concat()
    };
    let numbers = [number(&fixed[..48]), number(&fixed[48..])].concat();
    let der = [&[0x30, numbers.len() as u8][..], &numbers].concat();
    let public_key = folder.file("public.der", &public);
    let signatures = [folder.file("fixed", &fixed), folder.file("der", &der)];
    for signature in &signatures {
        let signer = Signer::Elsewhere { signature, public_key: &public_key };
        let result = signed(&bytes, &identity, signer, None).unwrap();
        assert_eq!(hex::encode(result.id_key_digest), KEY_DIGEST);
        // For another image it is worth nothing.
        let mut other = fixture::small();
        other.directives[0] = fixture::page(0x10_0000, igvm_defs::IgvmPageDataType::NORMAL, fixture::pattern(77));
        let error = signed(&other.bytes(), &identity, signer, None).unwrap_err();
        assert_eq!(error.exit_status(), 65);
        assert!(error.to_string().contains("not that of the public key"), "{error}");
    }
    let garbage = folder.file("garbage", [0x30, 3, 2, 1]);
    let error = signed(&bytes, &identity, Signer::Elsewhere { signature: &garbage, public_key: &public_key }, None);
    assert!(error.unwrap_err().to_string().contains("garbage: expected an ECDSA signature"));
    let error = signed(&bytes, &identity, Signer::Elsewhere { signature: &signatures[0], public_key: &garbage }, None);
    assert!(error.unwrap_err().to_string().contains("garbage: expected a P-384 public key"));
}

#[test]
fn der_signatures_are_taken_with_and_without_leading_zeroes() {
    let encode = |r: &[u8], s: &[u8]| {
        let mut der = vec![0x30, (r.len() + s.len() + 4) as u8, 2, r.len() as u8];
        der.extend([r, &[2, s.len() as u8], s].concat());
        der
    };
    let high = [&[0][..], &[0x80; 48]].concat();
    let fixed = key::signature_from(&encode(&high, &[5])).unwrap();
    assert_eq!((&fixed[..48], &fixed[48..95], fixed[95]), (&[0x80; 48][..], &[0; 47][..], 5));
    assert!(key::signature_from(&encode(&[1; 49], &[5])).is_err());
    assert!(key::signature_from(&encode(&[0x80], &[5])).is_err(), "a negative number");
}

#[test]
fn what_cannot_be_signed_is_named() {
    let refusal = |launch: &Launch, loader| {
        let identity = Identity { loader, ..Identity::default() };
        signed(&launch.bytes(), &identity, Signer::Ephemeral, None).unwrap_err().to_string()
    };
    assert!(refusal(&fixture::every_kind(), None).contains("image: loaders come to different digests of it"));
    let mut open = fixture::small();
    open.initialization.clear();
    assert!(refusal(&open, None).contains("no guest policy for snp"));
    let mut tdx = fixture::every_kind();
    tdx.platforms.remove(0);
    tdx.initialization.remove(0);
    tdx.directives.retain(|directive| !matches!(directive, IgvmDirectiveHeader::SnpVpContext { .. }));
    tdx.directives.iter_mut().filter_map(IgvmDirectiveHeader::compatibility_mask_mut).for_each(|mask| *mask = 2);
    assert!(refusal(&tdx, None).contains("not an image for snp"));
    let folder = Folder::new("keys");
    for (name, content) in
        [("empty", &b""[..]), ("pem", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")]
    {
        let key = folder.file(name, content);
        let bytes = fixture::small().bytes();
        let error = signed(&bytes, &Identity::default(), Signer::Key(&key), None).unwrap_err();
        assert!(error.exit_status() == 65 && error.to_string().contains(name), "{error}");
    }
}

/// As `openssl ecparam -genkey` writes them.
#[test]
fn keys_in_pem_and_of_rfc_5915_are_read() {
    let pkcs8 = fs::read(test_key()).unwrap();
    // PrivateKeyInfo: 3 bytes of header, version, algorithm, then the key in an OCTET STRING.
    let sec1 = &pkcs8[pkcs8.len() - 158..];
    assert_eq!(sec1[..3], [0x30, 0x81, 0x9b]);
    let folder = Folder::new("formats");
    let base64 = |bytes: &[u8]| {
        let text = x509_cert::der::pem::encode_string("EC PRIVATE KEY", Default::default(), bytes).unwrap();
        format!("-----BEGIN EC PARAMETERS-----\nBgUrgQQAIg==\n-----END EC PARAMETERS-----\n{text}")
    };
    let (der, pem) = (folder.file("sec1.der", sec1), folder.file("sec1.pem", base64(sec1)));
    let expected = PrivateKey::read(&test_key()).unwrap().point().to_vec();
    for path in [der, pem] {
        assert_eq!(PrivateKey::read(&path).unwrap().point(), expected);
    }
}

#[test]
fn a_file_with_headers_of_unknown_type_is_not_rearranged() {
    let mut bytes = fixture::small().bytes();
    let file = file::read(&bytes).unwrap();
    let header = file.headers.first().unwrap().offset;
    // The platform header stays; the policy behind it becomes something optional that nobody knows.
    let policy = file.headers[1].offset;
    assert!(header < policy);
    bytes[policy..policy + 4].copy_from_slice(&0x8000_0199u32.to_le_bytes());
    seal(&mut bytes);
    let file = file::read(&bytes).unwrap();
    let error = append(&file, &bytes, &[0; 8]).unwrap_err();
    assert!(error.to_string().contains("unknown type 0x80000199"), "{error}");
}
