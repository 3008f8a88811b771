// SPDX-License-Identifier: MIT OR Apache-2.0
//! The devices themselves, and the one `match` that leads an access to each.

use platform::Slip;
use vmm_interface::{Console, Device, DispatchError, Instant, Line, Machine, Register};

use super::PcConfig;
use super::map::Id;
use crate::chipset::{
    CrashPort, DelayPort, ExitPort, FwCfg, I8042, InterruptLines, IoMemory, Pci, Power, SystemControl, TestPorts,
};
use crate::pit::Pit;
use crate::rtc::Rtc;
use crate::uart::Uart;

/// COM1's wire.
const COM1_LINE: Line = Line(4);
/// COM2's wire.
const COM2_LINE: Line = Line(3);

/// What only kvm-unit-tests wants.
#[derive(Debug)]
struct TestDevices {
    exit: ExitPort,
    crash: CrashPort,
    ports: TestPorts,
    lines: InterruptLines,
    memory: IoMemory,
}

/// All devices but the interrupt controllers.
#[derive(Debug)]
pub(super) struct Parts {
    pit: Pit,
    rtc: Rtc,
    com1: Uart,
    com2: Option<Uart>,
    pub(super) power: Power,
    system_control: SystemControl,
    keyboard: I8042,
    pci: Pci,
    fw_cfg: FwCfg,
    debug_port: DelayPort,
    delay_port: DelayPort,
    test: Option<TestDevices>,
}

impl Parts {
    pub(super) fn new(config: &PcConfig) -> Result<Self, DispatchError> {
        let memory = config.memory_below_4g.saturating_add(config.memory_above_4g);
        let processors = u16::try_from(config.processors).unwrap_or(u16::MAX);
        let test = if config.test_devices {
            Some(TestDevices {
                exit: ExitPort,
                crash: CrashPort::default(),
                ports: TestPorts::default(),
                lines: InterruptLines,
                memory: IoMemory::new()?,
            })
        } else {
            None
        };
        Ok(Self {
            pit: Pit::default(),
            rtc: Rtc::new(config.unix_time, config.memory_below_4g, config.memory_above_4g),
            com1: Uart::new(Console::Terminal, COM1_LINE),
            com2: config.command_console.then(|| Uart::new(Console::Command, COM2_LINE)),
            power: Power::default(),
            system_control: SystemControl::default(),
            keyboard: I8042::default(),
            pci: Pci::default(),
            fw_cfg: FwCfg::new(memory, processors),
            debug_port: DelayPort::default(),
            delay_port: DelayPort::default(),
            test,
        })
    }

    pub(super) fn uart(&mut self, console: Console) -> Option<&mut Uart> {
        match console {
            Console::Terminal => Some(&mut self.com1),
            Console::Command => self.com2.as_mut(),
        }
    }

    pub(super) fn has_room(&self, console: Console) -> bool {
        match console {
            Console::Terminal => self.com1.has_room(),
            Console::Command => self.com2.as_ref().is_some_and(Uart::has_room),
        }
    }

    pub(super) const fn nmi_masked(&self) -> bool {
        self.rtc.nmi_masked()
    }

    /// Reads a device. The interrupt controllers are not among them: their ranges never come here, and read all-ones.
    ///
    /// The timer that guests poll is compiled into the caller; the other devices share a function, so that their registers
    /// need not be saved for it.
    #[inline]
    pub(super) fn read(&mut self, id: Id, at: Register, machine: &mut impl Machine) -> u64 {
        if id == Id::Power { self.power.read(at, machine) } else { self.read_other(id, at, machine) }
    }

    #[inline(never)]
    fn read_other(&mut self, id: Id, at: Register, machine: &mut impl Machine) -> u64 {
        match id {
            Id::Pic1 | Id::Pic2 | Id::EdgeLevel | Id::IoApic => at.ones(),
            Id::Pit => self.pit.read(at, machine),
            Id::PitControl => self.pit.read_control(machine).into(),
            Id::Rtc => self.rtc.read(at, machine),
            Id::Com1 => self.com1.read(at, machine),
            Id::Com2 => self.com2.as_mut().map_or_else(|| at.ones(), |uart| uart.read(at, machine)),
            Id::Power => self.power.read(at, machine),
            Id::SystemControl => self.system_control.read(at, machine),
            Id::KeyboardData => self.keyboard.data_port().read(at, machine),
            Id::KeyboardCommand => self.keyboard.command_port().read(at, machine),
            Id::PciPorts => self.pci.ports().read(at, machine),
            Id::Ecam => self.pci.ecam().read(at, machine),
            Id::FwCfg => self.fw_cfg.read(at, machine),
            Id::DebugPort => self.debug_port.read(at, machine),
            Id::DelayPort => self.delay_port.read(at, machine),
            Id::TestExit => self.test.as_mut().map_or_else(|| at.ones(), |test| test.exit.read(at, machine)),
            Id::TestCrash => self.test.as_mut().map_or_else(|| at.ones(), |test| test.crash.read(at, machine)),
            Id::TestPorts => self.test.as_mut().map_or_else(|| at.ones(), |test| test.ports.read(at, machine)),
            Id::TestLines => self.test.as_mut().map_or_else(|| at.ones(), |test| test.lines.read(at, machine)),
            Id::TestMemory => self.test.as_mut().map_or_else(|| at.ones(), |test| test.memory.read(at, machine)),
        }
    }

    /// Writes a device.
    pub(super) fn write(&mut self, id: Id, at: Register, value: u64, machine: &mut impl Machine) {
        let [byte, ..] = value.to_le_bytes();
        match (id, self.test.as_mut()) {
            (Id::Pic1 | Id::Pic2 | Id::EdgeLevel | Id::IoApic, _) => {}
            (Id::Pit, _) => self.pit.write(at, value, machine),
            (Id::PitControl, _) => self.pit.write_control(byte, machine),
            (Id::Rtc, _) => self.rtc.write(at, value, machine),
            (Id::Com1, _) => self.com1.write(at, value, machine),
            (Id::Com2, _) => {
                if let Some(uart) = &mut self.com2 {
                    uart.write(at, value, machine);
                }
            }
            (Id::Power, _) => self.power.write(at, value, machine),
            (Id::SystemControl, _) => self.system_control.write(at, value, machine),
            (Id::KeyboardData, _) => self.keyboard.data_port().write(at, value, machine),
            (Id::KeyboardCommand, _) => self.keyboard.command_port().write(at, value, machine),
            (Id::PciPorts, _) => self.pci.ports().write(at, value, machine),
            (Id::Ecam, _) => self.pci.ecam().write(at, value, machine),
            (Id::FwCfg, _) => self.fw_cfg.write(at, value, machine),
            (Id::DebugPort, _) => self.debug_port.write(at, value, machine),
            (Id::DelayPort, _) => self.delay_port.write(at, value, machine),
            (Id::TestExit, Some(test)) => test.exit.write(at, value, machine),
            (Id::TestCrash, Some(test)) => test.crash.write(at, value, machine),
            (Id::TestPorts, Some(test)) => test.ports.write(at, value, machine),
            (Id::TestLines, Some(test)) => test.lines.write(at, value, machine),
            (Id::TestMemory, Some(test)) => test.memory.write(at, value, machine),
            (Id::TestExit | Id::TestCrash | Id::TestPorts | Id::TestLines | Id::TestMemory, None) => {}
        }
    }

    /// The earliest deadline of all.
    pub(super) fn deadline(&self) -> Instant {
        let com2 = self.com2.as_ref().map_or(Instant::NEVER, Uart::deadline);
        self.pit.deadline().min(self.rtc.deadline()).min(self.com1.deadline()).min(com2).min(self.power.deadline())
    }

    /// Calls every device whose deadline has come.
    pub(super) fn expire(&mut self, machine: &mut impl Machine) {
        let now = machine.now();
        if self.pit.deadline() <= now {
            self.pit.expire(machine);
        }
        if self.rtc.deadline() <= now || Slip::EarlyUpdate.is_planted() {
            self.rtc.expire(machine);
        }
        if self.com1.deadline() <= now {
            self.com1.expire(machine);
        }
        if let Some(uart) = self.com2.as_mut().filter(|uart| uart.deadline() <= now) {
            uart.expire(machine);
        }
        if self.power.deadline() <= now {
            self.power.expire(machine);
        }
    }
}
