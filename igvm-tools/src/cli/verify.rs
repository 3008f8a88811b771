// SPDX-License-Identifier: MIT OR Apache-2.0
//! `igvm-tools verify`.

use super::{decode, print};
use clap::Args;
use igvm_tools::verify::{Expected, Trust, report_data};
use igvm_tools::{Config, Error, Platform, input, verify};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

/// Checks an attestation report against the image that a guest should have been launched from.
///
/// Takes an SNP report, a TDREPORT or a TDX quote (version 4 or 5). First the signature and its certificates, then every
/// field. Nobody vouches for a report whose signature was not checked: then the answer is no, unless --no-signature.
/// A TDREPORT can be checked by its own machine alone. Revocation lists, and which versions are current, are not looked at.
///
/// Status 0: everything that was expected was found. 1: something differs, or the signature does not hold. Example:
/// igvm-tools verify report.bin --image parados-snp.igvm --certs certs/ --report-data 00112233…
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Options {
    /// The report, TDREPORT or quote.
    #[arg(value_name = "REPORT")]
    evidence: PathBuf,
    /// The image.
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// A folder with the certificates of VCEK or VLEK, ASK and ARK, PEM or DER. The chain has to end at a root of AMD's. A
    /// quote brings its certificates along, so the folder may be empty; its chain has to end at Intel's root.
    #[arg(long, value_name = "DIR")]
    certs: Option<PathBuf>,
    /// The root that the chain has to end at instead, such as a test root.
    #[arg(long, value_name = "FILE", requires = "certs")]
    root: Option<PathBuf>,
    /// Do without a checked signature.
    #[arg(long, conflicts_with = "certs")]
    no_signature: bool,
    /// The REPORT_DATA to expect, in hexadecimal; missing bytes are zero.
    #[arg(long, value_name = "HEX")]
    report_data: Option<String>,
    /// The nonce that Parados was asked to report (`cargo xtask run --attest`), in hexadecimal: the REPORT_DATA that is made of
    /// it, and VMPL 0.
    #[arg(long, value_name = "HEX", conflicts_with_all = ["report_data", "vmpl"])]
    nonce: Option<String>,
    /// The HOST_DATA to expect (SNP), in hexadecimal; missing bytes are zero.
    #[arg(long, value_name = "HEX")]
    host_data: Option<String>,
    /// The VMPL to expect (SNP).
    #[arg(long, value_name = "0-3", value_parser = clap::value_parser!(u32).range(0..4))]
    vmpl: Option<u32>,
    /// An image configuration whose guest policy to expect, besides the image's.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A runtime register to expect (TDX), as NUMBER=HEX; missing bytes are zero. Can be given for each. Without it, zeroes are
    /// expected of Parados's images, which extend none.
    #[arg(long, value_name = "N=HEX")]
    rtmr: Vec<String>,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode, Error> {
    let expected = expected(options)?;
    let trust = Trust {
        certificates: options.certs.as_deref(),
        root: options.root.as_deref(),
        without_signature: options.no_signature,
        now: SystemTime::now(),
    };
    let (evidence, image) = (input::read_evidence(&options.evidence)?, input::read_image(&options.image)?);
    let verdict = verify((&options.evidence, &evidence), (&options.image, &image), &trust, &expected)?;
    if options.json {
        print(format_args!("{:#}", verdict.to_json()))?;
    } else {
        print(format_args!("{}: {}", options.evidence.display(), verdict.to_string().trim_end()))?;
    }
    Ok(if verdict.passes() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The guest policy of a configuration.
fn policy(path: &Path) -> Result<(Platform, u64), Error> {
    let config = Config::read(path)?;
    let policy = config.guest_policy.map(|policy| (config.platform, policy));
    policy.ok_or_else(|| Error::usage(format_args!("--config {}: a platform without guest policy", path.display())))
}

/// The REPORT_DATA for a nonce.
fn nonce(text: &str) -> Result<Vec<u8>, Error> {
    let bad = |why: &dyn std::fmt::Display| Error::usage(format_args!("--nonce {text}: {why}"));
    let nonce = hex::decode(text).map_err(|error| bad(&error))?;
    report_data(&nonce).map_err(|error| bad(&error))
}

fn expected(options: &Options) -> Result<Expected, Error> {
    let bytes =
        |name: &str, text: &Option<String>, length| text.as_ref().map(|text| decode(name, text, length)).transpose();
    let mut rtmrs = [None, None, None, None];
    for text in &options.rtmr {
        let bad = || Error::usage(format_args!("--rtmr {text}: expected NUMBER=HEX, such as 0=00112233…"));
        let (number, value) = text.split_once('=').ok_or_else(bad)?;
        let slot = number.parse::<usize>().ok().and_then(|number| rtmrs.get_mut(number)).ok_or_else(bad)?;
        if slot.replace(decode("--rtmr", value, 48)?).is_some() {
            return Err(Error::usage(format_args!("--rtmr {text}: RTMR{number} was given before")));
        }
    }
    let policy = options.config.as_deref().map(policy).transpose()?;
    let nonce = options.nonce.as_deref().map(nonce).transpose()?;
    let vmpl = if nonce.is_some() { Some(0) } else { options.vmpl };
    Ok(Expected {
        policy,
        report_data: bytes("--report-data", &options.report_data, 64)?.or(nonce),
        host_data: bytes("--host-data", &options.host_data, 32)?,
        vmpl,
        rtmrs,
    })
}
