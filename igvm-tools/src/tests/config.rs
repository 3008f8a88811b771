// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about configurations.

use super::*;
use crate::config::{Config, PAYLOAD, POLICY};

fn parse(text: &str) -> Result<Config, Error> {
    Config::parse(Path::new("configs/x.toml"), text)
}

#[test]
fn the_native_configuration_documents_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/native.toml");
    let config = Config::read(&path).unwrap();
    assert_eq!(config.platform, Platform::Native);
    assert_eq!(config.flags & !image_abi::log_level::MASK, flag::DEBUG_LOG);
    assert!((0..5).all(|module| image_abi::log_level::of(config.flags, module) == image_abi::log_level::DEFAULT));
    let text = fs::read_to_string(&path).unwrap();
    let keys = ["platform", "paravisor"].into_iter().chain(PAYLOAD);
    for key in keys.chain(POLICY.map(|(key, _)| key)).chain(image_abi::log_level::MODULES) {
        let set = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
        assert!(text.lines().any(set), "{key}");
    }
    // What is only shown is valid too.
    let uncommented = text.replace("\n# paravisor =", "\nparavisor =").replace("\n# kernel =", "\nkernel =");
    let uncommented =
        uncommented.replace("\n# initrd =", "\ninitrd =").replace("\n# command_line =", "\ncommand_line =");
    let full = parse(&uncommented).unwrap();
    assert!(full.paravisor.is_some() && full.kernel.is_some() && full.initrd.is_some());
    assert_eq!(full.command_line, "console=ttyS0");
}

#[test]
fn the_configurations_of_snp_and_tdx_document_every_key() {
    for (name, platform, format) in
        [("snp", Platform::Snp, &crate::policy::SNP), ("tdx", Platform::Tdx, &crate::policy::TDX)]
    {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../configs/{name}.toml"));
        let config = Config::read(&path).unwrap();
        assert_eq!((config.platform, config.flags & !image_abi::log_level::MASK), (platform, 0));
        let text = fs::read_to_string(&path).unwrap();
        let own = format.bits.iter().map(|(key, _)| *key).chain((name == "snp").then_some("minimum_abi"));
        let keys = ["platform", "paravisor"].into_iter().chain(PAYLOAD);
        for key in keys.chain(POLICY.map(|(key, _)| key)).chain(own) {
            let set = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
            assert!(text.lines().any(set), "{name}: {key}");
        }
    }
}

#[test]
fn a_guest_policy_is_made_of_words() {
    let policy = |text: &str| parse(text).unwrap().guest_policy;
    assert_eq!(policy("platform = \"native\"\n"), None);
    assert_eq!(policy("platform = \"snp\"\n"), Some(1 << 17));
    let text = "platform = \"snp\"\n[policy]\nsmt = true\ndebug = false\nminimum_abi = \"1.51\"\n";
    assert_eq!(policy(text), Some(crate::launch_fixture::SNP_POLICY));
    assert_eq!(policy("platform = \"tdx\"\n[policy]\nsept_ve_disable = true\ndebug_log = true\n"), Some(2));
}

#[test]
fn policy_is_words_and_paths_are_relative_to_the_file() {
    let text = "platform = \"native\"\nparavisor = \"/p\"\n[payload]\nkernel = \"k\"\ncommand_line = \"a b\"\n\
                [policy]\ntest_devices = true\nstatistics = true\ndebug_log = false\n";
    let config = parse(text).unwrap();
    assert_eq!(config.paravisor.as_deref(), Some(Path::new("/p")));
    assert_eq!(config.kernel.as_deref(), Some(Path::new("configs/k")));
    assert_eq!(config.command_line, "a b");
    assert_eq!(config.flags, flag::TEST_DEVICES | flag::STATISTICS);
}

#[test]
fn what_is_not_said_of_the_payload_is_measured_where_nobody_measures() {
    for (platform, default) in [("native", true), ("snp", false), ("tdx", false)] {
        let measured = |rest: &str| parse(&format!("platform = \"{platform}\"\n{rest}")).unwrap().measured;
        assert_eq!([measured(""), measured("[payload]\n")], [default; 2], "{platform}");
        assert!(measured("[payload]\nmeasured = true\n") && !measured("[payload]\nmeasured = false\n"));
    }
}

#[test]
fn levels_are_per_module() {
    use crate::config::parse_levels;
    use image_abi::log_level::{MASK, of};
    let config = parse("platform = \"native\"\n[log]\ncore = \"trace\"\ndevices = \"off\"\n").unwrap();
    assert_eq!([0, 1, 2, 3, 4].map(|module| of(config.flags, module)), [3, 5, 3, 0, 3]);
    let flags = parse_levels("debug,core=error").unwrap();
    assert_eq!([0, 1, 2, 3, 4].map(|module| of(flags, module)), [4, 1, 4, 4, 4]);
    assert_eq!(flags & !MASK, 0);
    for wrong in ["", "loud", "core", "core=", "kernel=info", "core=info,"] {
        assert!(parse_levels(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn mistakes_are_refused_with_their_line() {
    for (text, expected) in [
        ("platform = \"native\"\n\ndebug = true\n", "line 3: unknown key 'debug', expected one of: platform"),
        ("platform = \"native\"\n[policy]\ndebug_logs = true\n", "line 3: unknown key 'debug_logs' in [policy]"),
        (
            "platform = \"native\"\n[policy]\ndebug_log = 1\n",
            "line 3: 'debug_log' is of type integer, expected true or",
        ),
        ("platform = \"native\"\n[log]\ncore = \"loud\"\n", "line 3: unknown level 'loud', expected one of: off"),
        ("platform = \"native\"\n[log]\nkernel = \"info\"\n", "line 3: unknown key 'kernel' in [log]"),
        ("platform = \"native\"\n[payload]\nimage = \"x\"\n", "line 3: unknown key 'image' in [payload]"),
        (
            "platform = \"native\"\n[payload]\nmeasured = \"no\"\n",
            "line 3: 'measured' is of type string, expected true or false",
        ),
        ("platform = \"native\"\npolicy = 3\n", "line 2: 'policy' is of type integer, expected a table"),
        ("platform = \"native\"\n[payload]\nkernel = \"\"\n", "line 3: 'kernel' is empty"),
        ("platform = \"snp\"\n[policy]\nsmtt = true\n", "line 3: unknown key 'smtt' in [policy], expected one of"),
        ("platform = \"snp\"\n[policy]\nsmt = 1\n", "line 3: 'smt' is of type integer, expected true or false"),
        ("platform = \"snp\"\n[policy]\n\nminimum_abi = 1.51\n", "line 4: 'minimum_abi' is of type float, expected a"),
        ("platform = \"snp\"\n[policy]\nminimum_abi = \"1.256\"\n", "line 3: 'minimum_abi' is \"1.256\", expected two"),
        ("platform = \"tdx\"\n[policy]\nsmt = true\n", "line 3: unknown key 'smt' in [policy]"),
        ("platform = \"native\"\n[policy]\ndebug = false\n", "line 3: unknown key 'debug' in [policy]"),
        ("\nplatform = \"vmx\"\n", "line 2: unknown platform 'vmx'"),
        ("\nplatform = \n", "line 2: "),
        ("", "no key 'platform'"),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.exit_status(), 65);
        assert!(error.to_string().contains(&format!("configs/x.toml: {expected}")), "{error}");
    }
}
