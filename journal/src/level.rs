// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much each module says.

use core::sync::atomic::{AtomicU8, Ordering};

use image_abi::log_level;
use log::Level;

/// The modules that have a level of their own: the image's crates, in the order of [`log_level::MODULES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Module {
    /// `paravisor`, and everything that has no place of its own.
    Image,
    /// `paravisor-core`.
    Core,
    /// `vc-handlers`.
    Handlers,
    /// `devices` and `vmm-interface`.
    Devices,
    /// The backend.
    Platform,
}

impl Module {
    /// All of them.
    pub const ALL: [Self; log_level::MODULES.len()] =
        [Self::Image, Self::Core, Self::Handlers, Self::Devices, Self::Platform];

    /// The module that a `log` macro stands in, by its path.
    pub fn of(target: &str) -> Self {
        let name = target.split("::").next().unwrap_or_default();
        match name {
            "paravisor_core" => Self::Core,
            "vc_handlers" => Self::Handlers,
            "devices" | "vmm_interface" => Self::Devices,
            name if name.starts_with("platform") => Self::Platform,
            _ => Self::Image,
        }
    }

    /// The name in configurations and lines.
    pub fn name(self) -> &'static str {
        log_level::MODULES.get(self as usize).copied().unwrap_or_default()
    }
}

const DEFAULT: u8 = log_level::DEFAULT as u8;

/// A level for each module, each as its difference from the default: a new journal is all zero, and the image holds none of
/// its 32 KiB.
#[derive(Debug)]
pub struct Levels([AtomicU8; Module::ALL.len()]);

impl Levels {
    /// What images say that say nothing about it.
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU8::new(0) }; Module::ALL.len()])
    }

    /// Whether entries of this level are wanted.
    #[inline]
    pub fn allow(&self, module: Module, level: Level) -> bool {
        self.0.get(module as usize).is_some_and(|limit| level as u8 <= limit.load(Ordering::Relaxed) ^ DEFAULT)
    }

    /// Takes the levels from the launch block's flags.
    pub fn set(&self, flags: u32) {
        for (index, limit) in self.0.iter().enumerate() {
            limit.store(log_level::of(flags, index) as u8 ^ DEFAULT, Ordering::Relaxed);
        }
    }
}

const _: () = assert!(Level::Error as usize == 1 && Level::Trace as usize == log_level::NAMES.len() - 1);
