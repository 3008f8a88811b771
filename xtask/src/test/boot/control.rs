// SPDX-License-Identifier: MIT OR Apache-2.0
//! Controls: the default guest on QEMU without Parados. If these fail, the other boot tests say nothing about Parados.

use std::time::{Duration, Instant};

use super::{Case, Context, Outcome, Verdict};
use crate::guest::{COMMAND_LINE, Files, Task, USER_MODE};
use crate::process::{self, Console, Ended, Event, Next, Streams};
use crate::qemu::{Machine, Qemu, Start};
use crate::scratch::Scratch;

pub(super) const ALL: &[Case] = &[
    Case { name: "control_the_guest_runs_a_command_on_bare_qemu", run: command },
    Case { name: "control_the_guest_reaches_user_mode_on_bare_qemu", run: user_mode },
];

fn bare(context: &Context, task: &Task) -> Result<(Ended, Vec<u8>), String> {
    let prepared = Scratch::new().and_then(|scratch| {
        let files = Files::get()?;
        Ok((scratch, Qemu::find(context.qemu.as_deref())?, files.initrd(task)?, files.kernel))
    });
    let (scratch, qemu, initrd, kernel) = prepared.map_err(|failure| failure.message)?;
    let file = scratch.file("initrd");
    std::fs::write(&file, initrd).map_err(|error| error.to_string())?;
    let start = Start::Bare { kernel, initrd: Some(file), append: COMMAND_LINE.into() };
    let deadline = Some(Instant::now() + Duration::from_secs(120));
    let command = matches!(task, Task::Command(_));
    let streams = Streams { console: Console::Kept, command, power_button: false, deadline };
    let mut output = Vec::new();
    let mut listener = |event: Event| {
        if let Event::Output(bytes) = event {
            output.extend(bytes);
        }
        Next::Continue
    };
    let ended = process::run(Machine::new(qemu.path, start), &streams, &mut listener);
    Ok((ended.map_err(|failure| failure.message)?, output))
}

fn command(context: &Context) -> Outcome {
    let (ended, output) = bare(context, &Task::Command("printf 'a\\r\\n\\0360\\n'; exit 7"))?;
    if ended.command == Some(7) && output == b"a\r\n\x1e0\n" {
        return Ok(Verdict::Passed);
    }
    Err(format!("status {:?}, output {output:?}, {:?} {}", ended.command, ended.cause, ended.qemu_said))
}

fn user_mode(context: &Context) -> Outcome {
    let (ended, _) = bare(context, &Task::Figure)?;
    let console = String::from_utf8_lossy(&ended.console);
    if console.contains(USER_MODE) { Ok(Verdict::Passed) } else { Err(format!("{:?}, {console}", ended.cause)) }
}
