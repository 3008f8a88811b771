// SPDX-License-Identifier: MIT OR Apache-2.0
//! Image configurations: TOML files like `configs/native.toml`; the one of each platform documents every key of it.
//!
//! Policy is written in words, never in numbers. A key that is not known is refused with its line: a misspelt
//! `debug_log = false` must not leave debugging on. Paths are relative to the file's folder.

use crate::build::{ImageSpec, Platform};
use crate::error::Error;
use crate::{input, policy};
use image_abi::{flag, log_level};
use platform::Slip;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The keys of `[policy]`, each with its bit of the launch block.
pub const POLICY: [(&str, u32); 7] = [
    ("test_devices", flag::TEST_DEVICES),
    ("command", flag::COMMAND),
    ("statistics", flag::STATISTICS),
    ("debug_log", flag::DEBUG_LOG),
    ("canary", flag::CANARY),
    ("guest_statistics", flag::GUEST_STATISTICS),
    ("page_conversion", flag::PAGE_CONVERSION),
];

/// The key of SNP's `[policy]` that is no bit.
pub(crate) const MINIMUM_ABI: &str = "minimum_abi";

/// The keys of `[payload]`.
pub(crate) const PAYLOAD: [&str; 4] = ["kernel", "initrd", "command_line", "measured"];

/// The keys outside any table.
const TOP: [&str; 5] = ["platform", "paravisor", "payload", "policy", "log"];

/// What a configuration file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What the image is started by.
    pub platform: Platform,
    /// The paravisor's ELF file, if the file names one.
    pub paravisor: Option<PathBuf>,
    /// The guest's kernel.
    pub kernel: Option<PathBuf>,
    /// Its RAM disk.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub command_line: String,
    /// Whether kernel and RAM disk are measured page by page instead of by their digests.
    pub measured: bool,
    /// Bits of `image_abi::flag`.
    pub flags: u32,
    /// What the platform's firmware is told to allow; `None` where there is none.
    pub guest_policy: Option<u64>,
}

/// A table of the file, and how to complain about it.
struct Table<'a> {
    path: &'a Path,
    text: &'a str,
    name: &'a str,
    table: &'a DeTable<'a>,
}

impl Config {
    /// Reads a configuration file.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = input::read(path)?;
        let text = String::from_utf8(bytes).map_err(|error| {
            Error::data(path, format_args!("not UTF-8 text at offset {:#x}", error.utf8_error().valid_up_to()))
        })?;
        Self::parse(path, &text)
    }

    /// Parses a configuration; `path` names it in messages, and its folder is where relative paths begin.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let document = DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            Error::data(path, format_args!("line {line}: {}", error.message()))
        })?;
        let top = Table { path, text, name: "", table: document.get_ref() };
        top.only(&TOP)?;
        let platform = match top.string("platform")? {
            Some(name) => name.parse().map_err(|error| top.complaint("platform", error))?,
            None => return Err(Error::data(path, "no key 'platform', expected platform = \"native\"")),
        };
        let (payload, policy) = (top.table("payload")?, top.table("policy")?);
        let log = top.table("log")?;
        if let Some(payload) = &payload {
            payload.only(&PAYLOAD)?;
        }
        let file = |key| match &payload {
            Some(payload) => payload.file(key),
            None => Ok(None),
        };
        let command_line = payload.as_ref().map(|payload| payload.string("command_line")).transpose()?.flatten();
        Ok(Self {
            platform,
            paravisor: top.file("paravisor")?,
            kernel: file("kernel")?,
            initrd: file("initrd")?,
            command_line: command_line.unwrap_or_default().to_owned(),
            measured: match &payload {
                Some(payload) => payload.flag("measured")?,
                None => None,
            }
            .unwrap_or(platform.measures_payload()),
            flags: policy.as_ref().map(|policy| policy.flags(platform)).transpose()?.unwrap_or(0)
                | log.map(|log| log.levels()).transpose()?.unwrap_or(0),
            guest_policy: guest_policy(platform, policy.as_ref())?,
        })
    }

    /// The image that the configuration describes.
    pub fn to_spec(&self, paravisor: PathBuf) -> ImageSpec {
        ImageSpec {
            platform: self.platform,
            paravisor,
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            command_line: self.command_line.clone(),
            measured: self.measured,
            flags: self.flags,
            guest_policy: self.guest_policy,
        }
    }
}

impl<'a> Table<'a> {
    /// Refuses keys other than the listed ones.
    fn only(&self, known: &[&str]) -> Result<(), Error> {
        for key in self.table.keys() {
            if !known.contains(&key.get_ref().as_ref()) {
                let place = if self.name.is_empty() { String::new() } else { format!(" in [{}]", self.name) };
                return Err(self.at(
                    key.span().start,
                    format_args!("unknown key '{}'{place}, expected one of: {}", key.get_ref(), known.join(", ")),
                ));
            }
        }
        Ok(())
    }

    fn at(&self, offset: usize, what: impl std::fmt::Display) -> Error {
        if Slip::NoLine.is_planted() {
            return Error::data(self.path, what);
        }
        Error::data(self.path, format_args!("line {}: {what}", line_of(self.text, offset)))
    }

    /// A complaint about a key's value.
    fn complaint(&self, key: &str, what: impl std::fmt::Display) -> Error {
        self.at(self.value(key).map_or(0, |value| value.span().start), what)
    }

    fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table.get(key)
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        get: impl Fn(&'a DeValue<'a>) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match get(value.get_ref()) {
            Some(found) => Ok(Some(found)),
            None => {
                let kind = value.get_ref().type_str();
                Err(self.at(value.span().start, format_args!("'{key}' is of type {kind}, expected {expected}")))
            }
        }
    }

    fn string(&self, key: &str) -> Result<Option<&'a str>, Error> {
        self.typed(key, "a string", DeValue::as_str)
    }

    fn file(&self, key: &str) -> Result<Option<PathBuf>, Error> {
        let name = self.string(key)?;
        if name == Some("") {
            return Err(self.complaint(key, format_args!("'{key}' is empty, expected a file name or no such key")));
        }
        Ok(name.map(|name| self.path.parent().unwrap_or(Path::new("")).join(name)))
    }

    fn table(&self, key: &'a str) -> Result<Option<Table<'a>>, Error> {
        let table = self.typed(key, "a table", DeValue::as_table)?;
        Ok(table.map(|table| Table { path: self.path, text: self.text, name: key, table }))
    }

    /// The levels of `[log]`, as flags.
    fn levels(&self) -> Result<u32, Error> {
        self.only(&log_level::MODULES)?;
        let mut flags = 0;
        for (module, key) in log_level::MODULES.into_iter().enumerate() {
            if let Some(name) = self.string(key)? {
                flags |= level_flags(module, name).ok_or_else(|| {
                    let known = log_level::NAMES.join(", ");
                    self.complaint(key, format_args!("unknown level '{name}', expected one of: {known}"))
                })?;
            }
        }
        Ok(flags)
    }

    /// Parados's own policy.
    fn flags(&self, platform: Platform) -> Result<u32, Error> {
        let more = format_of(platform).map_or(&[][..], |format| format.bits).iter().map(|(name, _)| *name);
        let abi = (platform == Platform::Snp).then_some(MINIMUM_ABI);
        self.only(&POLICY.iter().map(|(name, _)| *name).chain(more).chain(abi).collect::<Vec<_>>())?;
        let mut flags = 0;
        for (name, bit) in POLICY {
            if self.boolean(name)? || Slip::AnyPolicy.is_planted() && self.flag(name)?.is_some() {
                flags |= bit;
            }
        }
        Ok(flags)
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, Error> {
        self.typed(name, "true or false", DeValue::as_bool)
    }

    /// A key that is false unless it is there.
    fn boolean(&self, name: &str) -> Result<bool, Error> {
        Ok(self.flag(name)?.unwrap_or(false))
    }

    /// The least version of the firmware's interface, as the policy has it.
    fn minimum_abi(&self) -> Result<u64, Error> {
        let Some(text) = self.string(MINIMUM_ABI)? else { return Ok(0) };
        let numbers = text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        let (major, minor): (u8, u8) = numbers.ok_or_else(|| {
            let expected = "expected two numbers up to 255, such as \"1.51\"";
            self.complaint(MINIMUM_ABI, format_args!("'{MINIMUM_ABI}' is \"{text}\", {expected}"))
        })?;
        Ok(u64::from(major) << 8 | u64::from(minor))
    }
}

/// The platform's own keys of `[policy]`.
fn format_of(platform: Platform) -> Option<&'static policy::Format> {
    match platform {
        Platform::Native => None,
        Platform::Snp => Some(&policy::SNP),
        Platform::Tdx => Some(&policy::TDX),
    }
}

fn guest_policy(platform: Platform, table: Option<&Table<'_>>) -> Result<Option<u64>, Error> {
    let Some(format) = format_of(platform) else { return Ok(None) };
    let mut value = format.least();
    let Some(table) = table else { return Ok(Some(value)) };
    for (name, bit) in format.bits {
        value |= u64::from(table.boolean(name)?) << bit;
    }
    if platform == Platform::Snp {
        value |= table.minimum_abi()?;
    }
    Ok(Some(value))
}

/// The flags that give a module, by its index, the level of that name.
fn level_flags(module: usize, name: &str) -> Option<u32> {
    let level = log_level::NAMES.iter().position(|known| *known == name)?;
    Some(log_level::flags(module, level))
}

/// The flags for levels as a command line has them: one level for all modules, or `MODULE=LEVEL` several times, with commas
/// between them.
pub fn parse_levels(text: &str) -> Result<u32, String> {
    let mut flags = 0;
    for part in text.split(',') {
        let (modules, name) = match part.split_once('=') {
            Some((module, name)) => {
                let index = log_level::MODULES.iter().position(|known| *known == module).ok_or_else(|| {
                    format!("unknown module '{module}', expected one of: {}", log_level::MODULES.join(", "))
                })?;
                (index..index + 1, name)
            }
            None => (0..log_level::MODULES.len(), part),
        };
        for module in modules {
            let level = level_flags(module, name)
                .ok_or_else(|| format!("unknown level '{name}', expected one of: {}", log_level::NAMES.join(", ")))?;
            flags = log_level::overruled(flags, level);
        }
    }
    Ok(flags)
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}
