// SPDX-License-Identifier: MIT OR Apache-2.0
//! What measuring an image for SNP and for TDX costs, against one SHA-384 over the same bytes by the same library; and of how many
//! crates the program is made that does it.

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use igvm_tools::file::seal;
use igvm_tools::measure::{measure as measurements, sha384};

use super::figure::Figure;
use super::lines;
use crate::failure::Result;
use crate::say;

const PAGE: usize = 4096;

/// Pages of an image of 32 MiB.
const PAGES: usize = 8192;

const AIM: f64 = 2.0;

/// Types of platforms in an IGVM file.
const SNP: u8 = 2;
const TDX: u8 = 3;

pub(super) fn measure(pairs: usize, figures: &mut Vec<Figure>) -> Result<()> {
    say::progress("bench measure: an image of 32 MiB");
    for (name, platform) in [("measure.snp.vs_sha384", SNP), ("measure.tdx.vs_sha384", TDX)] {
        let image = image(platform);
        let mut ratios = Vec::new();
        for _ in 0..pairs {
            let start = Instant::now();
            black_box(sha384(black_box(&image)));
            let once = start.elapsed();
            let start = Instant::now();
            black_box(measurements(Path::new("image"), black_box(&image))?);
            ratios.push(start.elapsed().as_secs_f64() / once.as_secs_f64());
        }
        figures.extend(Figure::median(name, &ratios, "ratio", Some(AIM)));
    }
    lines::measure_closure(figures)
}

/// An IGVM file, version 1, of one platform header and nothing but pages, no two of them alike.
fn image(platform: u8) -> Vec<u8> {
    let headers = 24 + PAGES * (8 + 24);
    let data = (24 + headers).next_multiple_of(PAGE);
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let mut image = words(&[0x4d56_4749, 1, 24, headers as u32, (data + PAGES * PAGE) as u32, 0]);
    // Supported platform: mask 1, VTL 0, type, version 1, no boundary.
    image.extend(words(&[1, 16, 1, 0x0001_0000 | u32::from(platform) << 8, 0, 0]));
    for page in 0..PAGES {
        image.extend(words(&[0x302, 24, (page * PAGE) as u32, 0, 1, (data + page * PAGE) as u32, 0, 0]));
    }
    image.resize(data, 0);
    image.extend((0..PAGES * PAGE).map(|at| (at / PAGE) as u8 ^ (at >> 20) as u8 ^ at as u8));
    seal(&mut image);
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_images_are_for_their_platform_with_all_pages() {
        let images = [SNP, TDX].map(image);
        for image in &images {
            let inspection = igvm_tools::inspect(Path::new("image"), image).unwrap();
            assert_eq!((inspection.pages.data, inspection.pages.unmeasured), (PAGES as u64, 0));
        }
        let [snp, tdx] = images.map(|image| measurements(Path::new("image"), &image).unwrap());
        assert!(snp.snp().is_some() && tdx.tdx().is_some());
    }
}
