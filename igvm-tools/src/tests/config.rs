// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about configurations.

use super::*;
use crate::config::{Config, POLICY};

fn parse(text: &str) -> Result<Config, Error> {
    Config::parse(Path::new("configs/x.toml"), text)
}

#[test]
fn the_native_configuration_documents_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/native.toml");
    let config = Config::read(&path).unwrap();
    assert_eq!(config.platform, Platform::Native);
    assert_eq!(config.flags, flag::DEBUG_LOG);
    let text = fs::read_to_string(&path).unwrap();
    let keys = ["platform", "paravisor", "kernel", "initrd", "command_line"];
    for key in keys.into_iter().chain(POLICY.map(|(key, _)| key)) {
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
fn mistakes_are_refused_with_their_line() {
    for (text, expected) in [
        ("platform = \"native\"\n\ndebug = true\n", "line 3: unknown key 'debug', expected one of: platform"),
        ("platform = \"native\"\n[policy]\ndebug_logs = true\n", "line 3: unknown key 'debug_logs' in [policy]"),
        (
            "platform = \"native\"\n[policy]\ndebug_log = 1\n",
            "line 3: 'debug_log' is of type integer, expected true or",
        ),
        ("platform = \"native\"\n[payload]\nimage = \"x\"\n", "line 3: unknown key 'image' in [payload]"),
        ("platform = \"native\"\npolicy = 3\n", "line 2: 'policy' is of type integer, expected a table"),
        ("platform = \"native\"\n[payload]\nkernel = \"\"\n", "line 3: 'kernel' is empty"),
        ("\nplatform = \"vmx\"\n", "line 2: unknown platform 'vmx'"),
        ("\nplatform = \n", "line 2: "),
        ("", "no key 'platform'"),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.exit_status(), 65);
        assert!(error.to_string().contains(&format!("configs/x.toml: {expected}")), "{error}");
    }
}
