// SPDX-License-Identifier: MIT OR Apache-2.0
//! The image for TDX: what differs from the native one.

use super::*;
use igvm::{IgvmInitializationHeader, IgvmPlatformHeader};
use igvm_defs::IgvmPlatformType;
use image_abi::{Digest, Mailbox, NOTE_NAME, RESET_MAGIC, RESET_PAGE, ResetParameters};
use serde_json::json;

/// debug and migratable, in IGVM's bits.
const POLICY: u64 = 0b101;

fn paravisor() -> Program {
    let mut program = fixture::paravisor();
    let mut page = RESET_MAGIC.to_vec();
    page.resize(0xff0, 0);
    page.extend([0xcc; 16]);
    program.segments.push(Segment::load(5, RESET_PAGE, page));
    program
}

fn inputs() -> Inputs {
    Inputs { paravisor: paravisor().bytes(), measured: false, ..Inputs::linux() }
}

fn spec(inputs: &Inputs, folder: &Folder) -> ImageSpec {
    ImageSpec { platform: Platform::Tdx, guest_policy: Some(POLICY), ..inputs.spec(folder) }
}

fn built() -> Built {
    Built::new(build(&spec(&inputs(), &Folder::new())).unwrap().bytes)
}

fn parameters(image: &Built) -> ResetParameters {
    ResetParameters::read_from_prefix(&image.pages[&RESET_PAGE]).unwrap().0
}

fn block(image: &Built) -> LaunchBlock {
    LaunchBlock::read_from_prefix(&image.pages[&parameters(image).launch_block.into()]).unwrap().0
}

fn access(image: &Built, address: u64) -> Option<Mapping> {
    let word = |at: u64| {
        let page = image.pages.get(&(at & !0xfff))?;
        Some(u64::from_le_bytes(page[(at & 0xfff) as usize..][..8].try_into().unwrap()))
    };
    walk(word, block(image).page_tables.start, address)
}

#[test]
fn the_reset_page_is_the_paravisors_and_knows_where_to_go() {
    let image = built();
    let page = &image.pages[&RESET_PAGE];
    let ResetParameters { magic, entry, launch_block } = parameters(&image);
    assert_eq!((magic, u64::from(entry)), (RESET_MAGIC, IMAGE_BASE + 0x40));
    assert_eq!(block(&image).magic, image_abi::MAGIC);
    assert_eq!(u64::from(launch_block), block(&image).stack.end());
    assert!(page[size_of::<ResetParameters>()..0xff0].iter().all(|byte| *byte == 0));
    assert_eq!(page[0xff0..], [0xcc; 16]);
    assert!(access(&image, RESET_PAGE).is_none(), "nobody needs it with paging on");
    assert!(access(&image, RESET_PAGE - (2 << 20)).is_some());
}

#[test]
fn processors_meet_at_a_mailbox_that_is_empty() {
    let image = built();
    let mailbox = block(&image).mailbox;
    assert_eq!((mailbox.bytes, mailbox.start % 4096), (4096, 0));
    let content = Mailbox::read_from_prefix(&image.memory(mailbox)).unwrap().0;
    assert_eq!(content, Mailbox::default());
    let mapping = access(&image, mailbox.start).unwrap();
    assert_eq!((mapping.bytes, mapping.writable, mapping.executable), (4096, true, false));
}

/// Its processors have only one first state.
#[test]
fn no_processor_has_a_context_and_the_page_tables_no_shared_bit() {
    let image = built();
    assert!(image.igvm.directives().iter().all(|directive| {
        !matches!(directive, IgvmDirectiveHeader::X64NativeVpContext { .. } | IgvmDirectiveHeader::SnpVpContext { .. })
    }));
    let tables = image.memory(block(&image).page_tables);
    let entries = tables.chunks(8).map(|entry| u64::from_le_bytes(entry.try_into().unwrap()));
    assert!(entries.clone().any(|entry| entry & 1 != 0));
    assert!(entries.clone().all(|entry| entry & 0x000f_ffff_0000_0000 == 0), "nothing above 4 GiB");
}

#[test]
fn platform_policy_and_attributes_are_named() {
    let image = built();
    let [IgvmPlatformHeader::SupportedPlatform(platform)] = image.igvm.platforms() else { panic!() };
    assert_eq!((platform.platform_type, platform.platform_version), (IgvmPlatformType::TDX, 1));
    assert_eq!(platform.shared_gpa_boundary, 1 << 47);
    let [IgvmInitializationHeader::GuestPolicy { policy: POLICY, .. }] = image.igvm.initializations() else { panic!() };
    assert_eq!(block(&image).td_attributes, 1 << 0 | 1 << 29);
}

#[test]
fn the_launch_block_lists_the_payloads_pages_and_its_digests() {
    let image = built();
    let block = block(&image);
    let own = |page: &u64| (block.image.start..block.image.end()).contains(page) || *page == RESET_PAGE;
    let filled: Vec<u64> = image.pages.keys().copied().filter(|page| !own(page)).collect();
    let placed = block.placed.iter().filter(|range| range.bytes != 0);
    assert_eq!(placed.flat_map(|range| (range.start..range.end()).step_by(4096)).collect::<Vec<_>>(), filled);
    let digests = block.digests.iter().filter(|digest| digest.range.bytes > 0);
    for Digest { range, sha384 } in digests.clone() {
        assert_eq!(*sha384, crate::measure::sha384(&image.memory(*range)));
    }
    assert_eq!(digests.count(), 2);
}

/// Two independent implementations: ours, and the `igvm` crate's, which measures what it writes.
#[test]
fn its_mrtd_is_the_igvm_crates() {
    let image = built();
    let ours = crate::measure::measure(Path::new("x"), &image.bytes).unwrap();
    let mask = crate::build::COMPATIBILITY_MASK;
    let theirs = igvm::measurement::generate_tdx_measurement(image.igvm.directives(), mask);
    assert_eq!(ours.tdx().unwrap().mrtd, theirs.unwrap());
    assert_eq!(ours.tdx().unwrap().rtmr, [[0; 48]; 4], "the image extends none of them");
}

#[test]
fn inspection_draws_the_pages_that_only_tdx_has() {
    let inspection = built().inspection();
    let find = |what: &str| inspection.map.iter().find(|extent| extent.what == what).unwrap();
    assert_eq!((find("reset page").start, find("reset page").access), (RESET_PAGE, "---"));
    assert_eq!((find("mailbox").access, find("launch block").access, find("code").access), ("rw-", "r--", "r-x"));
    assert!(inspection.memory_end < 1 << 30, "the reset page is no part of a VM's memory");
    let alone = Inputs { kernel: None, initrd: None, command_line: "", ..inputs() };
    let alone = Built::new(build(&spec(&alone, &Folder::new())).unwrap().bytes).inspection();
    assert_eq!(alone.image_bytes, Some(alone.file_bytes), "all of it is the image's");
}

#[test]
fn inspection_says_where_and_how_every_processor_starts() {
    let image = built();
    let ResetParameters { entry, launch_block, .. } = parameters(&image);
    let wanted = format!(
        "start       tdx, every processor: 32-bit mode without paging, rip 0xfffffff0, cr0 0x21, cr4 0x2040, efer 0x901, \
         entry {entry:#x}, launch block {launch_block:#x}\n"
    );
    let text = image.inspection().to_string();
    assert!(text.contains(&wanted), "{text}");
    let json = image.inspection().to_json();
    assert_eq!(
        (&json["starts"][0]["processor"], &json["starts"][0]["registers"]["entry"]),
        (&json!(null), &json!(entry))
    );
}

#[test]
fn a_paravisor_for_another_platform_is_refused() {
    let folder = Folder::new();
    for (image, platform, expected) in [
        (
            fixture::paravisor(),
            Platform::Tdx,
            "paravisor.elf: lacks a page at the reset vector, so it is not a paravisor for tdx",
        ),
        (paravisor(), Platform::Native, "has a page at the reset vector, so it is not a paravisor for native"),
        (paravisor(), Platform::Snp, "has a page at the reset vector, so it is not a paravisor for snp"),
    ] {
        let inputs = Inputs { paravisor: image.bytes(), ..Inputs::linux() };
        let error = build(&ImageSpec { platform, ..spec(&inputs, &folder) }).map(|_| ()).unwrap_err();
        assert_eq!(error.exit_status(), 65, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// An SNP image was made of the native paravisor, which the configuration's own comment named.
#[test]
fn a_paravisor_that_says_its_platform_is_taken_for_no_other() {
    let folder = Folder::new();
    let built = |descriptor: &[u8], platform| {
        let note = [&[8, 0, 0, 0, descriptor.len() as u8, 0, 0, 0, 1, 0, 0, 0], &NOTE_NAME[..], descriptor].concat();
        let mut program = if platform == Platform::Tdx { paravisor() } else { fixture::paravisor() };
        program.segments.push(Segment::note(note));
        let inputs = Inputs { paravisor: program.bytes(), ..Inputs::linux() };
        build(&ImageSpec { platform, ..spec(&inputs, &folder) }).map(|_| ()).map_err(|error| error.to_string())
    };
    for (name, own) in
        [(b"native\0\0", Platform::Native), (b"snp\0\0\0\0\0", Platform::Snp), (b"tdx\0\0\0\0\0", Platform::Tdx)]
    {
        for platform in Platform::ALL {
            let expected = format!("a paravisor for {}, expected one for {}", own.name(), platform.name());
            match built(name, platform) {
                Ok(()) => assert_eq!(own, platform),
                Err(error) => assert!(own != platform && error.contains(&expected), "{error}"),
            }
        }
    }
    for malformed in [&b"vmx"[..], b"", b"snp\0x", b"\0\0\0\0"] {
        assert!(built(malformed, Platform::Snp).unwrap_err().contains("malformed"), "{malformed:?}");
    }
}

#[test]
fn a_reset_page_of_somebody_elses_is_refused() {
    let folder = Folder::new();
    let wrong = |change: fn(&mut Segment)| {
        let mut program = paravisor();
        change(program.segments.last_mut().unwrap());
        let inputs = Inputs { paravisor: program.bytes(), ..Inputs::linux() };
        let error = build(&spec(&inputs, &folder)).map(|_| ()).unwrap_err();
        assert_eq!(error.exit_status(), 65, "{error}");
        error.to_string()
    };
    let errors = [
        (wrong(|segment| segment.flags = 7), "p_flags 0x7, expected a page of code"),
        (wrong(|segment| segment.memory_bytes = 0x2000), "0x2000 bytes at the reset vector"),
        (wrong(|segment| segment.data[0] ^= 1), "does not begin as one of Parados's"),
        (wrong(|segment| segment.data.clear()), "does not begin as one of Parados's"),
    ];
    for (error, expected) in errors {
        assert!(error.contains(expected), "{error}");
    }
}
