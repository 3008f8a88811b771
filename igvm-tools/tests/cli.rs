// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about the command: statuses, streams, files left behind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The least ELF64 that is a paravisor: one page of code at 128 MiB.
fn paravisor() -> Vec<u8> {
    let base = 0x0800_0000u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([2u16, 62].map(u16::to_le_bytes).concat());
    file.extend(1u32.to_le_bytes());
    file.extend([base, 64, 0].map(u64::to_le_bytes).concat());
    file.extend(0u32.to_le_bytes());
    file.extend([64u16, 56, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
    file.extend([1u32, 5].map(u32::to_le_bytes).concat());
    file.extend([120, base, base, 1, 1, 4096].map(u64::to_le_bytes).concat());
    file.push(0xf4);
    file
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("native.toml"), "platform = \"native\"\nparavisor = \"p.elf\"\n").unwrap();
        fs::write(path.join("p.elf"), paravisor()).unwrap();
        Self(path)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_igvm-tools")).current_dir(&self.0).args(arguments).output().unwrap()
    }

    fn refused(&self, arguments: &[&str], status: i32) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(status));
        assert!(output.stdout.is_empty());
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(message.lines().count(), 1, "{message}");
        message
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

const BUILD: [&str; 5] = ["build", "--config", "native.toml", "--out", "out.igvm"];

#[test]
fn build_writes_an_image_that_inspect_reads() {
    let folder = Folder::new("build");
    let output = folder.run(&[&BUILD[..], &["--report", "out.json"]].concat());
    assert!(output.status.success(), "{output:?}");
    assert_eq!(folder.names(), ["native.toml", "out.igvm", "out.json", "p.elf"]);
    let text = folder.run(&["inspect", "out.igvm"]);
    assert!(String::from_utf8(text.stdout).unwrap().contains("platform    native"));
    let json = folder.run(&["inspect", "--json", "out.igvm"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&fs::read(folder.0.join("out.json")).unwrap()).unwrap();
    assert!(json.as_object().unwrap().iter().all(|(name, value)| report[name] == *value), "{report}");
    assert_eq!(json["file"], "out.igvm");
    assert_eq!(report["measurements"][0]["measured"], false);
    let input = &report["inputs"][0];
    assert_eq!((input["what"].as_str(), input["bytes"].as_u64()), (Some("paravisor"), Some(121)));
    let digest = |name: &str| igvm_tools::measure::sha384(&fs::read(folder.0.join(name)).unwrap()).to_vec();
    for (said, name) in [(&report["sha384"], "out.igvm"), (&input["sha384"], "p.elf")] {
        assert_eq!(hex::decode(said.as_str().unwrap()).unwrap(), digest(name), "{name}");
    }
}

#[test]
fn inspect_shows_a_platform_that_the_file_is_for_and_no_other() {
    let folder = Folder::new("inspect");
    assert!(folder.run(&BUILD).status.success());
    let all = folder.run(&["inspect", "out.igvm"]).stdout;
    assert!(folder.run(&["inspect", "--platform", "native", "out.igvm"]).stdout == all);
    let message = folder.refused(&["inspect", "--platform", "snp", "out.igvm"], 65);
    assert!(message.ends_with("out.igvm: not for platform snp, but for: native\n"), "{message}");
}

#[test]
fn measure_says_that_nobody_measures_a_native_image() {
    let folder = Folder::new("measure");
    assert!(folder.run(&BUILD).status.success());
    let text = folder.run(&["measure", "out.igvm"]);
    assert_eq!(String::from_utf8(text.stdout).unwrap(), "out.igvm\nnative, mask 0x1: not measured\n");
    let json: serde_json::Value =
        serde_json::from_slice(&folder.run(&["measure", "--json", "out.igvm"]).stdout).unwrap();
    assert_eq!(json["measurements"][0]["measured"], false);
    assert!(folder.refused(&["measure", "p.elf"], 65).contains("p.elf: not an IGVM file"));
}

#[test]
fn verify_answers_no_with_1_and_bad_evidence_with_65() {
    let folder = Folder::new("verify");
    assert!(folder.run(&BUILD).status.success());
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    fs::copy(vectors.join("milan/report.bin"), folder.0.join("report.bin")).unwrap();
    let message = folder.refused(&["verify", "p.elf", "--image", "out.igvm"], 65);
    assert!(message.contains("p.elf: 121 bytes, expected an SNP report"), "{message}");
    let message = folder.refused(&["verify", "report.bin", "--image", "out.igvm"], 65);
    assert!(message.contains("out.igvm: not an image for snp"), "{message}");
    let both = ["verify", "report.bin", "--image", "out.igvm", "--certs", ".", "--no-signature"];
    folder.refused(&both, 64);
    folder.refused(&["verify", "report.bin", "--image", "out.igvm", "--vmpl", "4"], 64);
    folder.refused(&["verify", "report.bin", "--image", "out.igvm", "--report-data", "xy"], 64);
    folder.refused(&["verify", "report.bin", "--image", "out.igvm", "--rtmr", "4=00"], 64);
    let rtmr = ["verify", "report.bin", "--image", "out.igvm", "--rtmr", "0=00", "--rtmr", "0=11"];
    assert!(folder.refused(&rtmr, 64).contains("--rtmr 0=11: RTMR0 was given before"));
    let message = folder.refused(&rtmr[..6], 64);
    assert!(message.contains("report.bin: from snp, but the RTMR to expect is for tdx"), "{message}");
    fs::create_dir(folder.0.join("empty")).unwrap();
    let output = folder.run(&["verify", "report.bin", "--image", "out.igvm", "--certs", "empty"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && text.contains("(certificates there: none)"), "{text}");
    // The test chain did not sign it: nothing else is said then.
    let (certs, root) = (vectors.join("rsa"), vectors.join("rsa/ark.pem"));
    let options = ["--certs", certs.to_str().unwrap(), "--root", root.to_str().unwrap()];
    let output = folder.run(&[&["verify", "report.bin", "--image", "out.igvm"], &options[..]].concat());
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.ends_with("REFUSED: signature\n"), "{text}");
}

#[test]
fn sign_needs_a_signer_and_an_image_for_snp() {
    let folder = Folder::new("sign");
    assert!(folder.run(&BUILD).status.success());
    let message = folder.refused(&["sign", "out.igvm", "--out", "signed.igvm"], 64);
    assert!(message.contains("--key") && message.contains("--ephemeral"), "{message}");
    folder.refused(&["sign", "out.igvm", "--ephemeral"], 64);
    folder.refused(&["sign", "out.igvm", "--out", "x", "--signature", "p.elf"], 64);
    folder.refused(&["sign", "out.igvm", "--out", "x", "--ephemeral", "--key", "p.elf"], 64);
    folder.refused(&["sign", "out.igvm", "--out", "x", "--ephemeral", "--image-id", &"00".repeat(17)], 64);
    let message = folder.refused(&["sign", "out.igvm", "--out", "signed.igvm", "--ephemeral"], 65);
    assert!(message.contains("out.igvm: not an image for snp"), "{message}");
    assert_eq!(folder.names(), ["native.toml", "out.igvm", "p.elf"]);
}

#[test]
fn diff_ends_with_1_if_images_differ() {
    let folder = Folder::new("diff");
    assert!(folder.run(&BUILD).status.success());
    fs::write(
        folder.0.join("debug.toml"),
        "platform = \"native\"\nparavisor = \"p.elf\"\n[policy]\ndebug_log = true\n",
    )
    .unwrap();
    assert!(folder.run(&["build", "--config", "debug.toml", "--out", "debug.igvm"]).status.success());
    let same = folder.run(&["diff", "out.igvm", "out.igvm"]);
    assert_eq!(same.status.code(), Some(0));
    assert_eq!(String::from_utf8(same.stdout).unwrap(), "the files are identical\n");
    let output = folder.run(&["diff", "--json", "out.igvm", "debug.igvm"]);
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["changes"][0]["what"].as_str().unwrap().contains("launch block, 1 page: content"), "{json}");
    assert!(folder.refused(&["diff", "out.igvm", "p.elf"], 65).contains("p.elf: not an IGVM file"));
}

#[test]
fn extract_creates_a_folder_or_leaves_nothing() {
    let folder = Folder::new("extract");
    assert!(folder.run(&BUILD).status.success());
    let output = folder.run(&["extract", "out.igvm", "--out", "pieces"]);
    assert!(String::from_utf8(output.stdout).unwrap().contains("0000000008000000-code.bin"));
    assert_eq!(fs::read(folder.0.join("pieces/0000000008000000-code.bin")).unwrap()[0], 0xf4);
    assert!(folder.refused(&["extract", "out.igvm", "--out", "pieces"], 64).contains("exists already"));
    folder.refused(&["extract", "out.igvm", "--out", "no/where"], 64);
    folder.refused(&["extract", "p.elf", "--out", "other"], 65);
    folder.refused(&["extract", "out.igvm", "--out", "other", "--platform", "snp"], 65);
    assert_eq!(folder.names(), ["native.toml", "out.igvm", "p.elf", "pieces"]);
}

#[test]
fn completions_know_every_verb() {
    let folder = Folder::new("completions");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = String::from_utf8(folder.run(&["completions", shell]).stdout).unwrap();
        for verb in ["build", "inspect", "measure", "verify", "diff", "sign", "extract", "completions"] {
            assert!(script.contains(verb), "{shell} {verb}");
        }
    }
    folder.refused(&["completions", "csh"], 64);
}

/// Files' times, names of folders, umask, time zone, language, home and user: none of it may show in an image.
#[test]
fn folder_time_zone_umask_and_user_do_not_change_an_image() {
    let (one, other) = (Folder::new("one"), Folder::new("other/deeper"));
    assert!(one.run(&[&BUILD[..], &["--report", "out.json"]].concat()).status.success());
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
    fs::File::options().write(true).open(other.0.join("p.elf")).unwrap().set_modified(old).unwrap();
    let arguments = [&["-c", "umask 0; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_igvm-tools")], &BUILD[..]].concat();
    let mut command = Command::new("sh");
    command.current_dir(&other.0).args(arguments).args(["--report", "out.json"]).env_clear();
    command.envs([
        ("PATH", "/usr/bin:/bin"),
        ("TZ", "Asia/Kathmandu"),
        ("LC_ALL", "tr_TR.UTF-8"),
        ("HOME", "/nowhere"),
    ]);
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        // Nobody; whether it may come here at all depends on where the repository lies.
        fs::set_permissions(&other.0, fs::Permissions::from_mode(0o777)).unwrap();
        let mut look = Command::new("test");
        if look.args(["-x", env!("CARGO_BIN_EXE_igvm-tools")]).uid(65534).gid(65534).status().unwrap().success() {
            command.uid(65534).gid(65534);
        }
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    for name in ["out.igvm", "out.json"] {
        assert!(fs::read(one.0.join(name)).unwrap() == fs::read(other.0.join(name)).unwrap());
    }
}

#[test]
fn a_failed_build_leaves_nothing_behind_and_spares_an_older_image() {
    let folder = Folder::new("failed");
    fs::write(folder.0.join("bad"), b"not a kernel").unwrap();
    fs::write(folder.0.join("out.igvm"), b"older").unwrap();
    let message = folder.refused(&[&BUILD[..], &["--kernel", "bad"]].concat(), 65);
    assert!(message.contains("bad: not a bzImage, PVH ELF or Multiboot ELF"), "{message}");
    assert_eq!(fs::read(folder.0.join("out.igvm")).unwrap(), b"older");
    let message = folder.refused(&["build", "--config", "native.toml", "--out", "no/where.igvm"], 64);
    assert!(message.contains("no/where.igvm: cannot be written"), "{message}");
    let message = folder.refused(&["build", "--config", "native.toml", "--out", "/dev/null"], 64);
    assert!(message.contains("not a regular file"), "{message}");
    // The image was there without its report, or the report in the image's place.
    let message = folder.refused(&[&BUILD[..], &["--report", "no/where.json"]].concat(), 64);
    assert!(message.contains("no/where.json: cannot be written"), "{message}");
    for same in ["out.igvm", "./out.igvm", "link"] {
        std::os::unix::fs::symlink("out.igvm", folder.0.join("link")).ok();
        let message = folder.refused(&[&BUILD[..], &["--report", same]].concat(), 64);
        assert!(message.contains("to be written twice"), "{message}");
    }
    fs::remove_file(folder.0.join("link")).unwrap();
    assert_eq!(fs::read(folder.0.join("out.igvm")).unwrap(), b"older");
    assert_eq!(folder.names(), ["bad", "native.toml", "out.igvm", "p.elf"]);
}

#[test]
fn bad_usage_ends_with_64_and_bad_data_with_65() {
    let folder = Folder::new("statuses");
    for arguments in [&["frobnicate"][..], &["build"], &["inspect"], &["inspect", "nowhere"], &[]] {
        folder.refused(arguments, 64);
    }
    assert!(folder.refused(&[], 64).contains("expected one of: build, inspect, measure"));
    assert!(folder.refused(&["diff"], 64).ends_with("not provided: <OLD> <NEW>\n"));
    let message = folder.refused(&["completions", "tcsh"], 64);
    assert!(message.contains("possible values: bash") && !message.contains("For more information"), "{message}");
    assert!(folder.refused(&["build", "--config", "native.toml"], 64).contains("--out"));
    assert!(folder.refused(&["inspect", "p.elf"], 65).contains("p.elf: not an IGVM file"));
    // 4 GiB of memory were filled with it before anybody looked.
    let message = folder.refused(&["measure", "/dev/zero"], 65);
    assert!(message.contains("/dev/zero: not an IGVM file: magic at offset 0x0 is 0x00000000"), "{message}");
    assert!(folder.run(&["--help"]).status.success());
}
