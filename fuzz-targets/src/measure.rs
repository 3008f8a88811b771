// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fuzzes `igvm-tools measure`: any file, read, examined and measured.
//!
//! Claimed:
//! - what `inspect` refuses, `measure` refuses with the same words; a refusal of its own is one line that names the file and an
//!   offset in it;
//! - every launch digest and MRTD is what a second reader comes to, who walks through the raw headers here and hashes with
//!   another library; policies are the file's first for that platform;
//! - there is no other platform and no other digest than that reader has;
//! - text and JSON hold each digest; memory is taken in proportion to the file.
//!
//! Sources of the second reader: the IGVM format, SNPABI (SNP_LAUNCH_UPDATE) and TDXABI (TDH.MEM.PAGE.ADD, TDH.MR.EXTEND).

use std::collections::BTreeMap;
use std::path::Path;

use igvm_tools::measure::{LaunchDigest, Value, VmsaPlace, Zeroes};
use igvm_tools::{Kind, Measurements, inspect, measure};
use platform::Slip;
use sha2::{Digest as _, Sha384};

use crate::input::Input;
use crate::{Target, loader, memory_use};

/// The fuzzer.
pub const TARGET: Target = Target {
    name: "measure",
    run: play,
    planted: &[
        ("an unmeasured page is measured", |data| Slip::Measured.planted(|| play(data))),
        ("KVM's VMSAs are measured in the file's order", |data| Slip::FileOrder.planted(|| play(data))),
        ("a VMSA is measured as an ordinary page", |data| Slip::PlainVmsa.planted(|| play(data))),
        ("a page goes to every platform", |data| Slip::AnyPlatform.planted(|| play(data))),
    ],
    longest: 2048,
    mutations: 20_000,
};

const PAGE: usize = 4096;

/// Files of more pages take seconds: they are only read, unless they have more than may be measured.
const MANY_PAGES: u64 = 1024;
const MOST_PAGES: u64 = 1 << 20;

/// As for `inspect`, and for each processor a digest.
const HEAP_PER_BYTE: usize = 96;
const HEAP_AT_LEAST: usize = 64 << 10;

type Hash = [u8; 48];

fn play(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.byte();
    let file = loader::file(kind, input.rest());
    let path = Path::new("input.igvm");
    if let Err(refusal) = inspect(path, &file) {
        let error = measure(path, &file).expect_err("measured what inspect refuses");
        assert_eq!((error.to_string(), error.kind()), (refusal.to_string(), Kind::Data));
        return;
    }
    let reader = Reader::new(&file);
    let pages: Vec<_> = reader.platforms().iter().map(|platform| reader.pages(platform.mask)).collect();
    let measured = |platform: &&Platform| matches!(platform.kind, SNP | TDX);
    let too_many = reader.platforms().iter().zip(&pages).any(|(it, pages)| measured(&it) && *pages > MOST_PAGES);
    if !too_many && pages.iter().any(|pages| *pages > MANY_PAGES) {
        return;
    }
    let limit = HEAP_AT_LEAST + HEAP_PER_BYTE * file.len();
    match memory_use::at_most(limit, || measure(path, &file)) {
        Ok(measurements) => {
            assert!(!too_many, "more pages are measured than may be");
            check(&reader, &measurements);
        }
        Err(error) => {
            let text = error.to_string();
            assert!(error.kind() == Kind::Data && text.starts_with("input.igvm: "), "{text}");
            assert!(text.contains("header at offset") && !text.contains('\n') && text.len() < 300, "{text}");
            assert!(too_many || reader.is_odd(), "{text}");
        }
    }
}

fn check(reader: &Reader<'_>, measurements: &Measurements) {
    let platforms = reader.platforms();
    assert_eq!(measurements.platforms.len(), platforms.len());
    let (text, json) = (measurements.to_string(), measurements.to_json().to_string());
    let shown = |digest: &Hash| {
        let digits = digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert!(text.contains(&digits) && json.contains(&digits), "{digits} is not shown");
    };
    for (platform, measurement) in platforms.iter().zip(&measurements.platforms) {
        assert_eq!(platform.mask, measurement.mask);
        let policy = reader.policy(platform.mask);
        match (&measurement.value, platform.kind) {
            (Value::Snp(snp), SNP) => {
                assert_eq!(snp.policy, policy);
                for LaunchDigest { vmsa, zeroes, digest } in &snp.digests {
                    let expected = reader.launch_digest(platform.mask, *vmsa, *zeroes);
                    assert_eq!(*digest, expected, "{vmsa:?}, {zeroes:?}");
                    shown(digest);
                }
                assert!(matches!(snp.digests.len(), 2 | 4), "{} launch digests", snp.digests.len());
                let as_data = reader.launch_digest(platform.mask, VmsaPlace::File, Zeroes::Data);
                let as_type = reader.launch_digest(platform.mask, VmsaPlace::File, Zeroes::Type);
                assert_eq!(snp.digests.len() == 4, as_data != as_type, "a loader's habit makes no difference");
            }
            (Value::Tdx(tdx), TDX) => {
                assert_eq!((tdx.mrtd, tdx.policy), (reader.mrtd(platform.mask), policy));
                assert_eq!(tdx.rtmr, [[0; 48]; 4]);
                shown(&tdx.mrtd);
            }
            (Value::None, kind) => assert!(!matches!(kind, SNP | TDX)),
            (value, kind) => panic!("platform type {kind} gets {value:?}"),
        }
    }
}

/// `IgvmPlatformType`.
const SNP: u8 = 2;
const TDX: u8 = 3;

/// Header types.
const PLATFORM: u32 = 0x1;
const POLICY: u32 = 0x101;
const AREA: u32 = 0x301;
const PAGE_DATA: u32 = 0x302;
const INSERT: u32 = 0x303;
const CONTEXT: u32 = 0x304;

/// Page flags.
const LARGE: u32 = 1 << 0;
const UNMEASURED: u32 = 1 << 1;
const SHARED: u32 = 1 << 2;

struct Platform {
    mask: u32,
    kind: u8,
}

/// One page or processor state, as a platform gets it.
enum Step<'a> {
    Page { gpa: u64, kind: u16, flags: u32, content: Option<&'a [u8]> },
    Parameter { gpa: u64 },
    Context { gpa: u64, processor: u16, page: &'a [u8] },
}

/// The second reader, of files that the first one has taken.
struct Reader<'a> {
    file: &'a [u8],
    /// Where each header is, of which type, and what it says.
    headers: Vec<(usize, u32, &'a [u8])>,
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl<'a> Reader<'a> {
    fn new(file: &'a [u8]) -> Self {
        let (mut at, mut headers) = (word(file, 8) as usize, Vec::new());
        let end = at + word(file, 12) as usize;
        while at < end {
            let length = word(file, at + 4) as usize;
            headers.push((at, word(file, at), &file[at + 8..at + 8 + length]));
            at += 8 + length.next_multiple_of(8);
        }
        Self { file, headers }
    }

    fn of(&self, kind: u32) -> impl Iterator<Item = &'a [u8]> + '_ {
        self.headers.iter().filter(move |(_, own, _)| *own == kind).map(|(_, _, body)| *body)
    }

    fn platforms(&self) -> Vec<Platform> {
        self.of(PLATFORM).map(|body| Platform { mask: word(body, 0), kind: body[5] }).collect()
    }

    fn policy(&self, mask: u32) -> Option<u64> {
        self.of(POLICY).find(|body| word(body, 8) & mask != 0).map(|body| long(body, 0))
    }

    /// How many pages a platform gets.
    fn pages(&self, mask: u32) -> u64 {
        let areas: BTreeMap<u32, u64> =
            self.of(AREA).map(|body| (word(body, 8), long(body, 0) / PAGE as u64)).collect();
        let own = |body: &&[u8]| word(body, 8) & mask != 0;
        let inserted: u64 = self.of(INSERT).filter(own).map(|body| areas[&word(body, 12)]).sum();
        let pages = self.of(PAGE_DATA).filter(own).filter(|body| word(body, 16) & SHARED == 0);
        inserted + pages.map(|body| if word(body, 16) & LARGE != 0 { 512 } else { 1 }).sum::<u64>()
    }

    /// Whether something in the file can be read but not measured: page types that nobody has, contexts without a page.
    fn is_odd(&self) -> bool {
        self.of(PAGE_DATA).any(|body| half(body, 20) > 3)
            || self.of(CONTEXT).any(|body| self.context(body).is_none())
            || self.of(INSERT).any(|body| long(body, 0) > u64::MAX - (16 << 20))
    }

    fn context(&self, body: &[u8]) -> Option<&'a [u8]> {
        let offset = word(body, 12) as usize;
        self.file.get(offset..offset + PAGE).filter(|_| offset != 0)
    }

    /// What a platform gets, in the file's order.
    fn walk(&self, mask: u32, mut each: impl FnMut(Step<'a>)) {
        let mut areas = BTreeMap::new();
        for (_, kind, body) in &self.headers {
            let (gpa, own) = match *kind {
                PAGE_DATA | INSERT | CONTEXT => (long(body, 0), word(body, 8) & mask != 0),
                _ => (0, false),
            };
            match *kind {
                AREA => drop(areas.insert(word(body, 8), long(body, 0))),
                INSERT if own => {
                    let bytes = areas[&word(body, 12)] as usize;
                    (0..bytes).step_by(PAGE).for_each(|at| each(Step::Parameter { gpa: gpa + at as u64 }));
                }
                CONTEXT if own => {
                    let page = self.context(body).expect("a context that was measured");
                    each(Step::Context { gpa, processor: half(body, 16), page });
                }
                PAGE_DATA if own && word(body, 16) & SHARED == 0 => {
                    let (offset, flags) = (word(body, 12) as usize, word(body, 16));
                    let bytes = if flags & LARGE != 0 { 512 * PAGE } else { PAGE };
                    for at in (0..bytes).step_by(PAGE) {
                        let content = (offset != 0).then(|| &self.file[offset + at..offset + at + PAGE]);
                        each(Step::Page { gpa: gpa + at as u64, kind: half(body, 20), flags, content });
                    }
                }
                _ => {}
            }
        }
    }

    fn launch_digest(&self, mask: u32, vmsa: VmsaPlace, zeroes: Zeroes) -> Hash {
        const FIXED: u64 = 0xffff_ffff_f000;
        let (mut digest, mut last) = ([0; 48], BTreeMap::<u16, Vec<Hash>>::new());
        let mut extend = |kind: u8, gpa: u64, content: Hash| {
            digest = hash(&[&digest[..], &content, &[0x70, 0, kind, 0, 0, 0, 0, 0], &gpa.to_le_bytes()].concat());
        };
        self.walk(mask, |step| match step {
            Step::Page { gpa, kind: 0, flags, .. } if flags & UNMEASURED != 0 => extend(4, gpa, [0; 48]),
            Step::Page { gpa, kind: 0, content: Some(content), .. } => extend(1, gpa, hash(content)),
            Step::Page { gpa, kind: 0, .. } if zeroes == Zeroes::Type => extend(3, gpa, [0; 48]),
            Step::Page { gpa, kind: 0, .. } => extend(1, gpa, hash(&[0; PAGE])),
            Step::Page { gpa, kind: 1, .. } => extend(5, gpa, [0; 48]),
            Step::Page { gpa, .. } => extend(6, gpa, [0; 48]),
            Step::Parameter { gpa } => extend(4, gpa, [0; 48]),
            Step::Context { gpa, page, .. } if vmsa == VmsaPlace::File => extend(2, gpa, hash(page)),
            Step::Context { processor, page, .. } => last.entry(processor).or_default().push(hash(page)),
        });
        last.into_values().flatten().for_each(|content| extend(2, FIXED, content));
        digest
    }

    fn mrtd(&self, mask: u32) -> Hash {
        let mut hasher = Sha384::new();
        let record = |name: &str, gpa: u64| {
            let mut bytes = [0; 128];
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            bytes[16..24].copy_from_slice(&gpa.to_le_bytes());
            bytes
        };
        self.walk(mask, |step| match step {
            Step::Page { gpa, flags, content, .. } => {
                hasher.update(record("MEM.PAGE.ADD", gpa));
                let content = content.unwrap_or(&[0; PAGE]);
                for (at, chunk) in (gpa..).step_by(256).zip(content.chunks(256)).filter(|_| flags & UNMEASURED == 0) {
                    hasher.update(record("MR.EXTEND", at));
                    hasher.update(chunk);
                }
            }
            Step::Parameter { gpa } => hasher.update(record("MEM.PAGE.ADD", gpa)),
            Step::Context { .. } => {}
        });
        hasher.finalize().into()
    }
}

fn hash(bytes: &[u8]) -> Hash {
    Sha384::digest(bytes).into()
}
