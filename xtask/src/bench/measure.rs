// SPDX-License-Identifier: MIT OR Apache-2.0
//! What measuring an image for SNP costs, against one SHA-384 over the same bytes by the same library.

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use igvm_tools::file::seal;
use igvm_tools::measure::{measure as measurements, sha384};

use super::figure::Figure;
use crate::failure::Result;
use crate::say;

const PAGE: usize = 4096;

/// Pages of an image of 32 MiB.
const PAGES: usize = 8192;

const AIM: f64 = 2.0;

pub(super) fn measure(pairs: usize, figures: &mut Vec<Figure>) -> Result<()> {
    say::progress("bench measure: an image of 32 MiB");
    let image = image();
    let mut ratios = Vec::new();
    for _ in 0..pairs {
        let start = Instant::now();
        black_box(sha384(black_box(&image)));
        let once = start.elapsed();
        let start = Instant::now();
        black_box(measurements(Path::new("image"), black_box(&image))?);
        ratios.push(start.elapsed().as_secs_f64() / once.as_secs_f64());
    }
    figures.extend(Figure::median("measure.snp.vs_sha384", &ratios, "ratio", Some(AIM)));
    Ok(())
}

/// An IGVM file, version 1, of one SNP platform header and nothing but pages, no two of them alike.
fn image() -> Vec<u8> {
    let headers = 24 + PAGES * (8 + 24);
    let data = (24 + headers).next_multiple_of(PAGE);
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let mut image = words(&[0x4d56_4749, 1, 24, headers as u32, (data + PAGES * PAGE) as u32, 0]);
    // Supported platform: mask 1, VTL 0, type 2, version 1, no boundary.
    image.extend(words(&[1, 16, 1, 0x0001_0200, 0, 0]));
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
    fn the_image_is_one_for_snp_with_all_its_pages() {
        let image = image();
        let inspection = igvm_tools::inspect(Path::new("image"), &image).unwrap();
        assert_eq!((inspection.pages.data, inspection.pages.unmeasured), (PAGES as u64, 0));
        assert!(measurements(Path::new("image"), &image).unwrap().snp().is_some());
    }
}
