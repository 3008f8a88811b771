// SPDX-License-Identifier: MIT OR Apache-2.0
//! One QEMU process: started, listened to, bounded in time, and always ended.
//!
//! Every stream has a thread that reads it to its end, and a channel brings all pieces to one loop. QEMU connects to
//! sockets that are listened on before it starts, so what it wrote just before it ended is still there to read.

use std::collections::VecDeque;
use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeValLike;
use nix::unistd::Pid;
use serde_json::{Map, Value};

use crate::command_output::Filter;
use crate::failure::{Failure, Result};
use crate::power_button::PowerButton;
use crate::qemu::{Channel, Machine};
use crate::record::{End, Message, Splitter};
use crate::scratch::Scratch;
use crate::{packages, signals};

/// How often the loop looks at the clock and at the process while nothing arrives.
const TICK: Duration = Duration::from_millis(10);

/// QEMU ends within microseconds of the record, and within this after SIGTERM.
const GRACE: Duration = Duration::from_secs(3);

/// How long a guest may take to power off after the button was pressed: as long as container runtimes give.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// How much of a console that nobody watches is kept.
const CONSOLE_KEPT: usize = 256 << 10;

/// Where the guest's console goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Console {
    /// To our own stdin and stdout; with QEMU's monitor if they are a terminal.
    Inherited { terminal: bool },
    /// Kept for later; no input.
    Kept,
}

/// What a run tells while it goes on.
pub(crate) enum Event<'a> {
    /// QEMU runs, as this process.
    Started(u32),
    /// A line of Parados or of the host.
    Line(&'a str),
    /// Bytes of the command that `--exec` runs.
    Output(&'a [u8]),
    /// Bytes of a console that is kept.
    Console(&'a [u8]),
    /// A record of Parados that is not its last.
    Facts(&'a Map<String, Value>),
}

/// The listener's answer.
#[derive(PartialEq, Eq)]
pub(crate) enum Next {
    Continue,
    /// Nobody is there any more to hear it.
    Stop,
}

/// Why the run is over.
#[derive(Debug)]
pub(crate) enum Cause {
    /// QEMU ended by itself.
    Exited(ExitStatus),
    Timeout,
    Signal(u8),
    /// [`Next::Stop`].
    Stopped,
}

/// Everything that a run left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) cause: Cause,
    /// The last record of Parados; without it the VM did not end in order.
    pub(crate) end: Option<End>,
    pub(crate) facts: Map<String, Value>,
    /// With `--exec`: the command's status, if it came to its end.
    pub(crate) command: Option<u8>,
    pub(crate) console: Vec<u8>,
    pub(crate) qemu_said: String,
    /// User and system time of the process.
    pub(crate) cpu_seconds: f64,
}

/// What a machine needs beside its command line.
pub(crate) struct Streams {
    pub(crate) console: Console,
    /// Whether there is a second serial port with a command's output.
    pub(crate) command: bool,
    /// Whether the first SIGTERM presses the guest's power button.
    pub(crate) power_button: bool,
    pub(crate) deadline: Option<Instant>,
}

#[derive(Clone, Copy)]
enum Stream {
    Log,
    Command,
    Console,
    Complaint,
}

/// Runs a machine to its end. `machine`'s channels are filled in here.
pub(crate) fn run(mut machine: Machine, streams: &Streams, listener: &mut dyn FnMut(Event) -> Next) -> Result<Ended> {
    let scratch = Scratch::new()?;
    let (sender, receiver) = channel();
    let mut sockets = vec![listen(&scratch, "log", Stream::Log, &sender)?];
    machine.log = Channel::Socket(scratch.file("log"));
    if streams.command {
        sockets.push(listen(&scratch, "command", Stream::Command, &sender)?);
        machine.command = Some(Channel::Socket(scratch.file("command")));
    }
    let mut session = Session::default();
    if streams.power_button {
        let (button, socket) = PowerButton::new(&scratch)?;
        machine.monitor = Some(Channel::Socket(socket));
        session.button = Some(button);
    }
    machine.console = match streams.console {
        Console::Inherited { terminal: true } => Channel::Terminal,
        Console::Inherited { terminal: false } | Console::Kept => Channel::Stdio,
    };
    signals::catch();
    let before = children_seconds();
    let mut child = start(&machine, streams.console, &sender)?;
    drop(sender);
    session.tell(listener, Event::Started(child.id()));
    let cause = session.follow(&mut child, &receiver, streams.deadline, &sockets, listener);
    let cpu_seconds = children_seconds() - before;
    Ok(session.ended(cause?, cpu_seconds, listener))
}

fn start(machine: &Machine, console: Console, sender: &Sender<(Stream, Vec<u8>)>) -> Result<Child> {
    let mut command = tied(&machine.qemu);
    command.args(machine.arguments()).stderr(Stdio::piped());
    if console != (Console::Inherited { terminal: true }) {
        // A signal to our whole group, as `timeout` sends it, is for us to obey; only a terminal needs one group.
        command.process_group(0);
    }
    if console == Console::Kept {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
    }
    let spawned = command.spawn();
    let mut child = spawned.map_err(|error| Failure::system(machine.qemu.display(), error))?;
    if let Some(stdout) = child.stdout.take() {
        forward(stdout, Stream::Console, sender.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        forward(stderr, Stream::Complaint, sender.clone());
    }
    Ok(child)
}

/// A command that gets SIGTERM when we end, however we end. `setpriv` is part of every Debian and Ubuntu.
pub(crate) fn tied(program: &Path) -> Command {
    match packages::program("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "TERM", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

fn listen(scratch: &Scratch, name: &str, stream: Stream, sender: &Sender<(Stream, Vec<u8>)>) -> Result<PathBuf> {
    let path = scratch.file(name);
    let listener = UnixListener::bind(&path).map_err(|error| Failure::system(path.display(), error))?;
    let sender = sender.clone();
    thread::spawn(move || {
        if let Ok((connection, _)) = listener.accept() {
            pump(connection, stream, &sender);
        }
    });
    Ok(path)
}

fn forward(from: impl Read + Send + 'static, stream: Stream, sender: Sender<(Stream, Vec<u8>)>) {
    thread::spawn(move || pump(from, stream, &sender));
}

fn pump(mut from: impl Read, stream: Stream, sender: &Sender<(Stream, Vec<u8>)>) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                let piece = buffer.get(..count).unwrap_or_default().to_vec();
                if sender.send((stream, piece)).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[derive(Default)]
struct Session {
    log: Splitter,
    filter: Filter,
    console: VecDeque<u8>,
    complaint: Vec<u8>,
    end: Option<End>,
    facts: Map<String, Value>,
    stopped: bool,
    button: Option<PowerButton>,
    /// When it was.
    pressed: Option<Instant>,
}

impl Session {
    /// Until QEMU has ended and every stream is read to its end.
    fn follow(
        &mut self,
        child: &mut Child,
        receiver: &Receiver<(Stream, Vec<u8>)>,
        deadline: Option<Instant>,
        sockets: &[PathBuf],
        listener: &mut dyn FnMut(Event) -> Next,
    ) -> Result<Cause> {
        let mut ending: Option<(Option<Cause>, Instant)> = None;
        let status = loop {
            if let Ok((stream, piece)) = receiver.recv_timeout(TICK) {
                self.take(stream, &piece, listener);
            }
            if let Some(status) = child.try_wait().map_err(|error| Failure::system("waiting for QEMU", error))? {
                break status;
            }
            match &ending {
                None => ending = self.reason_to_end(child, deadline),
                Some((_, since)) if since.elapsed() > GRACE => {
                    let _ = child.kill();
                }
                Some(_) => {}
            }
        };
        // A thread may still wait for a connection that QEMU did not live to make.
        for socket in sockets {
            drop(UnixStream::connect(socket));
        }
        while let Ok((stream, piece)) = receive_rest(receiver) {
            self.take(stream, &piece, listener);
        }
        Ok(ending.and_then(|(cause, _)| cause).unwrap_or(Cause::Exited(status)))
    }

    /// Asks QEMU to end if it should; a record alone gives it the time to do so by itself.
    fn reason_to_end(&mut self, child: &Child, deadline: Option<Instant>) -> Option<(Option<Cause>, Instant)> {
        if self.end.is_some() {
            return Some((None, Instant::now()));
        }
        let cause = if let Some(signal) = self.signal() {
            Cause::Signal(signal)
        } else if self.stopped {
            Cause::Stopped
        } else if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            Cause::Timeout
        } else {
            return None;
        };
        if let Ok(pid) = i32::try_from(child.id()) {
            // SIGTERM lets QEMU give the terminal back as it was.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        Some((Some(cause), Instant::now()))
    }

    /// The signal that ends the run now. The first SIGTERM only asks the guest to power off.
    fn signal(&mut self) -> Option<u8> {
        if self.button.is_some() && self.pressed.is_none() && signals::take_termination() {
            let pressed = self.button.as_mut().is_some_and(PowerButton::press);
            self.pressed = pressed.then(Instant::now);
            return if pressed { None } else { Some(signals::TERMINATION) };
        }
        let patience_is_over = self.pressed.is_some_and(|pressed| pressed.elapsed() > SHUTDOWN);
        signals::caught().or(patience_is_over.then_some(signals::TERMINATION))
    }

    fn take(&mut self, stream: Stream, piece: &[u8], listener: &mut dyn FnMut(Event) -> Next) {
        match stream {
            Stream::Log => {
                for message in self.log.push(piece) {
                    self.message(message, listener);
                }
            }
            Stream::Command => {
                let output = self.filter.push(piece);
                self.tell(listener, Event::Output(&output));
            }
            Stream::Console => {
                self.tell(listener, Event::Console(piece));
                self.console.extend(piece);
                self.console.drain(..self.console.len().saturating_sub(CONSOLE_KEPT));
            }
            Stream::Complaint => self.complaint.extend(piece),
        }
    }

    fn message(&mut self, message: Message, listener: &mut dyn FnMut(Event) -> Next) {
        match message {
            Message::Line(line) => self.tell(listener, Event::Line(&line)),
            // The first word counts: what follows is how the host saw the end that the image has told.
            Message::End(end) => drop(self.end.get_or_insert(end)),
            Message::Facts(facts) => {
                self.tell(listener, Event::Facts(&facts));
                self.facts(facts);
            }
        }
    }

    /// Of most facts the last one counts; vCPUs are collected.
    fn facts(&mut self, facts: Map<String, Value>) {
        for (name, value) in facts {
            if name != "vcpu" {
                self.facts.insert(name, value);
            } else if let Value::Array(vcpus) = self.facts.entry("vcpus").or_insert_with(|| Value::Array(vec![])) {
                vcpus.push(value);
            }
        }
    }

    fn tell(&mut self, listener: &mut dyn FnMut(Event) -> Next, event: Event) {
        self.stopped |= listener(event) == Next::Stop;
    }

    fn ended(mut self, cause: Cause, cpu_seconds: f64, listener: &mut dyn FnMut(Event) -> Next) -> Ended {
        if let Some(message) = self.log.take() {
            self.message(message, listener);
        }
        let command = match std::mem::take(&mut self.filter).finish() {
            Ok(status) => Some(status),
            Err(rest) => {
                self.tell(listener, Event::Output(&rest));
                None
            }
        };
        Ended {
            cause,
            end: self.end,
            facts: self.facts,
            command,
            console: self.console.into(),
            qemu_said: String::from_utf8_lossy(&self.complaint).into_owned(),
            cpu_seconds,
        }
    }
}

/// The next piece of a stream whose writer has ended; an error once all are read.
fn receive_rest(receiver: &Receiver<(Stream, Vec<u8>)>) -> std::result::Result<(Stream, Vec<u8>), RecvTimeoutError> {
    // Only something that QEMU itself started could hold a stream open for longer, and it starts nothing.
    receiver.recv_timeout(GRACE)
}

/// CPU seconds of all children that have ended.
fn children_seconds() -> f64 {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return 0.0 };
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    microseconds as f64 / 1e6
}
