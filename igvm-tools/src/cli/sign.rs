// SPDX-License-Identifier: MIT OR Apache-2.0
//! `igvm-tools sign`.

use super::{decode, print};
use clap::{ArgGroup, Args, ValueEnum};
use igvm_tools::sign::{Block, Identity, Loader, Signed, Signer};
use igvm_tools::{Error, input, write_atomically};
use serde_json::json;
use std::path::PathBuf;

/// Puts a signed SNP ID block into an image: the firmware then launches nothing else under that identity.
///
/// The key is a file (P-384; PEM or DER), made for this and forgotten (--ephemeral), or elsewhere: --payload writes what it
/// has to sign with ECDSA P-384 and SHA-384, --signature and --public-key take the result. Nothing else in the image
/// changes. With a key at hand, and with one elsewhere:
///
///   igvm-tools sign parados-snp.igvm --out signed.igvm --key id.pem --author-key author.pem --svn 3
///
///   igvm-tools sign parados-snp.igvm --payload block.bin --svn 3
///   openssl dgst -sha384 -sign id.pem -out block.sig block.bin
///   igvm-tools sign parados-snp.igvm --out signed.igvm --svn 3 --signature block.sig --public-key id.pub
#[derive(Args)]
#[command(verbatim_doc_comment)]
#[command(group = ArgGroup::new("signer").required(true).args(["key", "ephemeral", "signature", "payload"]))]
pub(crate) struct Options {
    /// The IGVM file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The signed image to write.
    #[arg(long, value_name = "FILE", required_unless_present = "payload", conflicts_with = "payload")]
    out: Option<PathBuf>,
    /// The private key that signs the ID block.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Sign with a key that is made for this and forgotten.
    #[arg(long)]
    ephemeral: bool,
    /// The signature over the payload, in DER or as r and s, big-endian.
    #[arg(long, value_name = "FILE", requires = "public_key")]
    signature: Option<PathBuf>,
    /// The key of --signature.
    #[arg(long, value_name = "FILE", requires = "signature")]
    public_key: Option<PathBuf>,
    /// Write what an ID key has to sign, and nothing else.
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
    /// The private key of an author who vouches for the ID key.
    #[arg(long, value_name = "FILE", conflicts_with = "payload")]
    author_key: Option<PathBuf>,
    /// The guest's security version.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    svn: u32,
    /// The family of images, in hexadecimal; missing bytes are zero.
    #[arg(long, value_name = "HEX", default_value = "")]
    family_id: String,
    /// The image, in hexadecimal; missing bytes are zero.
    #[arg(long, value_name = "HEX", default_value = "")]
    image_id: String,
    /// Whose launch digest to promise; needed if loaders come to different ones (see `measure`).
    #[arg(long, value_name = "LOADER")]
    loader: Option<LoaderName>,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum LoaderName {
    /// One that does what the file says
    File,
    /// QEMU with KVM
    Qemu,
}

pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let id = |name, text| decode(name, text, 16).map(|bytes| bytes.try_into().unwrap_or_default());
    let identity = Identity {
        loader: options.loader.map(|loader| match loader {
            LoaderName::File => Loader::File,
            LoaderName::Qemu => Loader::Qemu,
        }),
        svn: options.svn,
        family_id: id("--family-id", &options.family_id)?,
        image_id: id("--image-id", &options.image_id)?,
    };
    let bytes = input::read_image(&options.file)?;
    let block = Block::new(&options.file, &bytes, &identity)?;
    if let Some(payload) = &options.payload {
        write_atomically(payload, &block.payload())?;
        return say(options, json!({ "payload": hex::encode(block.payload()) }), "payload");
    }
    let signer = match (&options.key, &options.signature, &options.public_key) {
        (Some(key), ..) => Signer::Key(key),
        (_, Some(signature), Some(public_key)) => Signer::Elsewhere { signature, public_key },
        _ => Signer::Ephemeral,
    };
    let signed = block.sign(&options.file, &bytes, signer, options.author_key.as_deref())?;
    if let Some(out) = &options.out {
        write_atomically(out, &signed.image)?;
    }
    let Signed { launch_digest, id_key_digest, author_key_digest, .. } = signed;
    let report = json!({
        "launch_digest": hex::encode(launch_digest),
        "id_key_digest": hex::encode(id_key_digest),
        "author_key_digest": author_key_digest.map(hex::encode),
    });
    say(options, report, "signed")
}

/// The JSON, or its members in lines.
fn say(options: &Options, report: serde_json::Value, what: &str) -> Result<(), Error> {
    if options.json {
        return print(format_args!("{report:#}"));
    }
    let members = report.as_object().into_iter().flatten();
    let lines =
        members.filter_map(|(name, value)| Some(format!("\n{:<18} {}", name.replace('_', " "), value.as_str()?)));
    let path = options.out.as_ref().or(options.payload.as_ref()).map(|path| path.display().to_string());
    print(format_args!("{}: {what}{}", path.unwrap_or_default(), lines.collect::<String>()))
}
