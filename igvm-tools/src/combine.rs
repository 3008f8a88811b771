// SPDX-License-Identifier: MIT OR Apache-2.0
//! One file for several platforms, made of an image for each.
//!
//! Each platform gets a bit of the compatibility mask, and every directive the bits of those platforms that it is for; what
//! several load alike, in an order that suits them all, stands in the file once, and so does content that is the same. What a
//! platform loads, and in which order, stays as it was, so it measures what it would measure of its own file: that is checked
//! before the file is handed out.
//!
//! Nothing here is hostile: the images were built a moment ago.

use crate::build::Image;
use crate::error::{Error, Flaw};
use crate::file;
use crate::inspect::examine;
use crate::measure::{Measurement, compute};
use igvm::IgvmFile;

/// Makes one file of several images, each for another platform.
pub fn combine(images: &[Image]) -> Result<Image, Error> {
    merge(images).map_err(|flaw| Error::usage(format_args!("images cannot be combined: {flaw}")))
}

fn merge(images: &[Image]) -> Result<Image, Flaw> {
    let refused = |error: igvm::Error| Flaw::new(format_args!("the igvm crate refuses: {error}"));
    let (mut merged, mut expected) = (None::<IgvmFile>, Vec::new());
    for image in images {
        expected.extend(measurements(&image.bytes)?);
        let part = IgvmFile::new_from_binary(&image.bytes, None).map_err(refused)?;
        match &mut merged {
            None => merged = Some(part),
            Some(merged) => merged.merge(part).map_err(refused)?,
        }
    }
    let merged = merged.ok_or_else(|| Flaw::new("there is none, expected one or more"))?;
    let mut bytes = Vec::new();
    merged.serialize(&mut bytes).map_err(refused)?;
    if measurements(&bytes)? != expected {
        return Err(Flaw::new("a platform would not measure what it measures of its own image"));
    }
    let report = examine(&file::read(&bytes)?, file::EVERYBODY)?;
    let inputs = images.iter().flat_map(|image| &image.inputs).cloned().collect();
    Ok(Image { bytes, report, inputs })
}

/// What each platform measures, whatever bit it has.
fn measurements(bytes: &[u8]) -> Result<Vec<Measurement>, Flaw> {
    let measurements = compute(&file::read(bytes)?)?;
    Ok(measurements.platforms.into_iter().map(|platform| Measurement { mask: 0, ..platform }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch_fixture::{Launch, every_kind, page, parameters, pattern, platform};
    use crate::tests;
    use igvm_defs::{IgvmPageDataType, IgvmPlatformType};

    fn image(bytes: Vec<u8>) -> Image {
        let report = examine(&file::read(&bytes).unwrap(), file::EVERYBODY).unwrap();
        Image { bytes, report, inputs: Vec::new() }
    }

    /// An image of version 2, as native ones are.
    fn version_2(launch: &Launch) -> Image {
        let revision = igvm::IgvmRevision::V2 { arch: igvm::Arch::X64, page_size: 4096 };
        let (platforms, initialization) = (launch.platforms.clone(), launch.initialization.clone());
        let file = IgvmFile::new(revision, platforms, initialization, launch.directives.clone()).unwrap();
        let mut bytes = Vec::new();
        file.serialize(&mut bytes).unwrap();
        image(bytes)
    }

    fn snp() -> Image {
        version_2(&every_kind().only_snp())
    }

    fn names(image: &Image) -> Vec<&str> {
        image.report.platforms.iter().map(|platform| platform.name.as_str()).collect()
    }

    #[test]
    fn each_platform_finds_in_the_whole_what_its_own_image_has() {
        let native = image(tests::images("a", "b").0);
        let parts = [native, snp()];
        let whole = combine(&parts).unwrap();
        assert_eq!(names(&whole), ["native", "snp"]);
        assert_eq!(whole.report.to_json()["figures"][0]["name"], "image.all.bytes");
        let [first, second] = whole.report.platforms.as_slice() else { panic!("two platforms") };
        assert_eq!((first.mask, second.mask), (1, 2));
        let whole = file::read(&whole.bytes).unwrap();
        for (part, mask) in parts.iter().zip([1, 2]) {
            let part = file::read(&part.bytes).unwrap();
            let pages = |file: &file::File<'_>, mask: u32| -> Vec<_> {
                let own = file.pages().filter(|(_, page)| page.compatibility_mask & mask != 0);
                let content =
                    |page: &igvm_defs::IGVM_VHS_PAGE_DATA| file.data(page.file_offset, 4096).map(<[u8]>::to_vec);
                own.map(|(_, page)| (page.gpa, page.data_type, page.flags.into_bits(), content(&page))).collect()
            };
            assert!(pages(&whole, mask) == pages(&part, 1), "mask {mask}");
        }
    }

    /// Two of Parados's images may well have their launch blocks, stacks and payloads elsewhere.
    #[test]
    fn one_platform_of_the_whole_is_shown_as_its_own_image_is() {
        let parts = [image(tests::images("a", "b").0), snp()];
        let whole = combine(&parts).unwrap();
        let whole_report = &whole.report;
        let file = file::read(&whole.bytes).unwrap();
        for (part, platform) in parts.iter().zip(&whole.report.platforms) {
            let own = examine(&file, platform.mask).unwrap();
            assert_eq!(own.platforms, std::slice::from_ref(platform));
            let shown = whole_report.parts.iter().find(|part| part.platforms == own.platforms).unwrap();
            assert_eq!(shown.to_json(), own.to_json());
            assert!(whole_report.to_string().contains(&format!("\nfor {}\npages ", platform.name)));
            assert_eq!(
                (own.pages, &own.map, own.memory_end),
                (part.report.pages, &part.report.map, part.report.memory_end)
            );
            assert_eq!((own.launch_block, own.starts), (part.report.launch_block, part.report.starts.clone()));
        }
    }

    #[test]
    fn content_that_is_the_same_lies_in_the_file_once() {
        let pages = |kind, own: usize| {
            let common =
                (0..64).map(|at| page(0x10_0000 + at * 0x1000, IgvmPageDataType::NORMAL, pattern(at as usize)));
            let mut directives: Vec<_> = common.collect();
            directives.push(page(0x20_0000, IgvmPageDataType::NORMAL, pattern(own)));
            let launch = Launch { platforms: vec![platform(1, kind)], initialization: vec![], directives };
            version_2(&launch.only_snp())
        };
        let parts = [pages(IgvmPlatformType::SEV_SNP, 100), pages(IgvmPlatformType::TDX, 101)];
        let whole = combine(&parts).unwrap();
        assert!(whole.bytes.len() < parts[0].bytes.len() + 0x1000 + 0x100, "{} bytes", whole.bytes.len());
        assert_eq!(whole.report.pages.data, 64 + 2);
    }

    #[test]
    fn parameters_of_one_platform_stay_its_own() {
        let launch = |kind, gpa| {
            let mut directives = parameters(gpa).to_vec();
            directives.push(page(0x1000, IgvmPageDataType::NORMAL, pattern(1)));
            version_2(&Launch { platforms: vec![platform(1, kind)], initialization: vec![], directives }.only_snp())
        };
        let whole =
            combine(&[launch(IgvmPlatformType::SEV_SNP, 0x10_0000), launch(IgvmPlatformType::TDX, 0x20_0000)]).unwrap();
        let what: Vec<_> = whole.report.map.iter().map(|extent| (extent.start, extent.what)).collect();
        let map = "memory map parameter";
        assert_eq!(what, [(0x1000, "pages"), (0x10_0000, map), (0x20_0000, map)]);
    }

    #[test]
    fn what_cannot_be_one_file_is_refused_in_one_line() {
        for (images, expected) in [
            (vec![], "there is none"),
            (vec![snp(), snp()], "the igvm crate refuses"),
            (vec![image(every_kind().bytes()), image(tests::images("a", "b").0)], "the igvm crate refuses"),
        ] {
            let error = combine(&images).unwrap_err();
            assert_eq!(error.exit_status(), 64);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
