// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs an instruction on the host's processor and catches what it does.
//!
//! A signal handler carries the process in and out. INT3 in [`Host::run`] raises the first signal, whose handler replaces
//! the interrupted registers by the case's and returns into the instruction. INT3 after the instruction, or its fault,
//! raises the second; its handler takes the registers down and returns to where the first came from. Segments other than
//! the kernel's come from a local descriptor table.
//!
//! One case at a time: there is one thread's worth of state, which [`Host::new`] hands out once.

use core::arch::{asm, global_asm};
use std::io::Error;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use libc::{c_int, c_void, siginfo_t, ucontext_t};

use crate::layout::{self, CODE, CODE_SIZE, DATA, DATA_SIZE, Mode, READ_ONLY};
use crate::state::{Case, End, Ending, State};

/// Registers of the signal frame, in encoding order of the general-purpose registers.
const GPRS: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];
const SIGNALS: [c_int; 5] = [libc::SIGTRAP, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];
/// #BP.
const BREAKPOINT: i64 = 3;
/// Where the frame's XSAVE area holds XMM registers, its header, and the upper halves of YMM registers.
const XMM: usize = 160;
const HEADER: usize = 512;
const YMM_HIGH: usize = 576;
/// XSTATE_BV: SSE and AVX.
const VECTORS: u64 = 6;
/// The first address that is not the process's.
const KERNEL: u64 = 0x7fff_ffff_f000;
/// INT3.
const INT3: u8 = 0xcc;

/// What the handler works on.
struct Exchange {
    input: State,
    code: u16,
    stack: u16,
    code_base: u64,
    /// The interrupted registers of [`Host::run`], once the case is under way.
    host: Option<[i64; 23]>,
    ending: Option<Ending>,
}

static EXCHANGE: AtomicPtr<Exchange> = AtomicPtr::new(ptr::null_mut());
static TAKEN: AtomicBool = AtomicBool::new(false);

// The kernel leaves RFLAGS.AC as the case set it, which would make ordinary code of the handler fault.
global_asm!(
    ".global emulator_tests_signal_entry",
    "emulator_tests_signal_entry:",
    "pushfq",
    "and dword ptr [rsp], 0xfffbffff",
    "popfq",
    "jmp {handler}",
    handler = sym handler,
);

unsafe extern "C" {
    fn emulator_tests_signal_entry(signal: c_int, info: *mut siginfo_t, context: *mut c_void);
}

/// Goes into the case on the first signal and out of it on the second.
extern "C" fn handler(_signal: c_int, _info: *mut siginfo_t, context: *mut c_void) {
    let exchange = EXCHANGE.load(Ordering::Relaxed);
    // SAFETY: `Host::run` has stored a valid pointer, or none; it does not touch the value while signals can come.
    let Some(exchange) = (unsafe { exchange.as_mut() }) else {
        // A fault of the test program itself.
        // SAFETY: ends the process.
        unsafe { libc::_exit(101) }
    };
    // SAFETY: the kernel passes a valid context.
    let frame = Frame(unsafe { &mut *context.cast::<ucontext_t>() });
    match exchange.host {
        None => exchange.host = Some(frame.enter(exchange)),
        Some(host) => {
            exchange.ending = Some(frame.ending(exchange));
            frame.0.uc_mcontext.gregs = host;
        }
    }
}

/// A signal frame.
struct Frame<'a>(&'a mut ucontext_t);

impl Frame<'_> {
    fn get(&self, register: c_int) -> i64 {
        self.0.uc_mcontext.gregs[register as usize]
    }

    fn set(&mut self, register: c_int, value: u64) {
        self.0.uc_mcontext.gregs[register as usize] = value as i64;
    }

    /// `N` bytes at `at` in the XSAVE area.
    fn extended<const N: usize>(&self, at: usize) -> [u8; N] {
        let area = self.0.uc_mcontext.fpregs.cast::<u8>();
        // SAFETY: the area has an AVX part, as `Host::new` has checked, and every offset used lies in it.
        unsafe { area.wrapping_add(at).cast::<[u8; N]>().read_unaligned() }
    }

    fn set_extended<const N: usize>(&mut self, at: usize, value: [u8; N]) {
        let area = self.0.uc_mcontext.fpregs.cast::<u8>();
        // SAFETY: as in `extended`.
        unsafe { area.wrapping_add(at).cast::<[u8; N]>().write_unaligned(value) };
    }

    /// Puts the case's registers into the frame; returns those that were there.
    fn enter(mut self, exchange: &Exchange) -> [i64; 23] {
        let host = self.0.uc_mcontext.gregs;
        let state = &exchange.input;
        for (register, value) in GPRS.into_iter().zip(state.gprs) {
            self.set(register, value);
        }
        let rip = if exchange.code == layout::CS64 { exchange.code_base + state.rip } else { state.rip };
        self.set(libc::REG_RIP, rip);
        self.set(libc::REG_EFL, state.rflags);
        let selectors = self.get(libc::REG_CSGSFS) as u64 & 0x0000_ffff_ffff_0000;
        self.set(libc::REG_CSGSFS, selectors | u64::from(exchange.code) | u64::from(exchange.stack) << 48);
        let present = u64::from_le_bytes(self.extended(HEADER));
        self.set_extended(HEADER, (present | VECTORS).to_le_bytes());
        for (number, value) in state.vectors.iter().enumerate() {
            let (low, high) = value.split_at(16);
            self.set_extended::<16>(XMM + 16 * number, low.try_into().unwrap_or_default());
            self.set_extended::<16>(YMM_HIGH + 16 * number, high.try_into().unwrap_or_default());
        }
        host
    }

    /// Takes down what the case came to.
    fn ending(&self, exchange: &Exchange) -> Ending {
        let mut state = State { rflags: self.get(libc::REG_EFL) as u64, ..State::default() };
        for (register, value) in GPRS.into_iter().zip(&mut state.gprs) {
            *value = self.get(register) as u64;
        }
        let rip = self.get(libc::REG_RIP) as u64;
        state.rip = if exchange.code == layout::CS64 { rip.wrapping_sub(exchange.code_base) } else { rip };
        let present = u64::from_le_bytes(self.extended(HEADER));
        for (number, value) in state.vectors.iter_mut().enumerate() {
            if present & 2 != 0 {
                value[..16].copy_from_slice(&self.extended::<16>(XMM + 16 * number));
            }
            if present & 4 != 0 {
                value[16..].copy_from_slice(&self.extended::<16>(YMM_HIGH + 16 * number));
            }
        }
        let (ds, es, gs): (u16, u16, u16);
        // SAFETY: reading selectors has no effect. The kernel leaves these as the case left them.
        unsafe { asm!("mov {0:x}, ds", "mov {1:x}, es", "mov {2:x}, gs", out(reg) ds, out(reg) es, out(reg) gs) };
        (state.ds, state.es, state.gs) = (ds, es, gs);
        let vector = self.get(libc::REG_TRAPNO);
        if vector == BREAKPOINT {
            state.rip = state.rip.wrapping_sub(1);
            return Ending { end: End::Completed, state };
        }
        let address = if vector == 14 { self.get(libc::REG_CR2) as u64 } else { 0 };
        let mut code = self.get(libc::REG_ERR) as u32;
        if address >= KERNEL {
            // The kernel sets the bit for its own addresses, so as to give nothing away.
            code &= !1;
        }
        let end = End::Fault { vector: vector as u8, code, address };
        Ending { end, state }
    }
}

/// The host's processor, made ready.
#[derive(Debug)]
pub struct Host {
    /// The data through a mapping that can always be written.
    alias: *mut u8,
    used: usize,
}

impl Host {
    /// Maps code and data, sets up segments and signal handlers. Once per process; the caller must stay on its thread.
    pub fn new() -> Result<Self, Error> {
        if TAKEN.swap(true, Ordering::Relaxed) {
            return Err(Error::other("the host's processor is in use by another thread"));
        }
        if !std::arch::is_x86_feature_detected!("avx") {
            return Err(Error::other("the host's processor lacks AVX"));
        }
        map_code()?;
        let alias = map_data()?;
        for descriptor in &layout::DESCRIPTORS {
            install(descriptor)?;
        }
        catch_signals()?;
        Ok(Self { alias, used: 0 })
    }

    /// The data, all of what can be read.
    pub fn data(&mut self) -> &mut [u8] {
        // SAFETY: the mapping has this size and lives for ever; the other mapping of the same memory is accessed by the
        // cases' instructions alone, which run while `self` is borrowed by `run`.
        unsafe { core::slice::from_raw_parts_mut(self.alias, DATA_SIZE as usize) }
    }

    fn code(&mut self) -> &mut [u8] {
        // SAFETY: the mapping has this size and lives for ever; nobody else has a reference.
        unsafe { core::slice::from_raw_parts_mut(ptr::with_exposed_provenance_mut(CODE as usize), CODE_SIZE as usize) }
    }

    /// Runs a case. The data changes as it would in the guest.
    pub fn run(&mut self, case: &Case) -> Option<Ending> {
        let start = case.state.rip as usize;
        let old = self.used;
        self.code()[old..old + 15].fill(INT3);
        self.code()[start..start + case.bytes.len()].copy_from_slice(&case.bytes);
        self.used = start.min(CODE_SIZE as usize - 15);
        let (code, stack) = match case.mode {
            Mode::Long => (layout::CS64, layout::SS64),
            Mode::Compatibility32 => (layout::CS32.selector(), layout::SS.selector()),
            Mode::Compatibility16 => (layout::CS16.selector(), layout::SS.selector()),
            _ => return None,
        };
        let mut exchange = Exchange { input: case.state, code, stack, code_base: CODE, host: None, ending: None };
        EXCHANGE.store(&raw mut exchange, Ordering::Relaxed);
        // SAFETY:
        // 1. The handlers restore every general-purpose register; vector registers are declared lost.
        // 2. The selectors are of installed descriptors; 64-bit code depends on none of DS, ES and GS.
        // 3. A case reaches no memory but its code and data and addresses around these where nothing is mapped, because
        //    all of its addresses are made so.
        unsafe {
            asm!(
                "mov ds, {ds:x}",
                "mov es, {es:x}",
                "mov gs, {gs:x}",
                "int3",
                "mov ds, {zero:e}",
                "mov es, {zero:e}",
                ds = in(reg) case.state.ds,
                es = in(reg) case.state.es,
                gs = in(reg) case.state.gs,
                zero = in(reg) 0,
                clobber_abi("C"),
            );
        }
        EXCHANGE.store(ptr::null_mut(), Ordering::Relaxed);
        exchange.ending
    }
}

fn checked(result: *mut c_void) -> Result<*mut c_void, Error> {
    if result == libc::MAP_FAILED { Err(Error::last_os_error()) } else { Ok(result) }
}

fn map_code() -> Result<(), Error> {
    let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let wanted = ptr::without_provenance_mut(CODE as usize);
    // SAFETY: a new mapping where none is.
    let code = checked(unsafe { libc::mmap(wanted, CODE_SIZE as usize, protection, flags, -1, 0) })?;
    // SAFETY: the mapping is fresh and has this size.
    unsafe { code.cast::<u8>().write_bytes(INT3, CODE_SIZE as usize) };
    code.expose_provenance();
    Ok(())
}

/// Maps the data twice: for the cases, and for us. Returns the latter.
fn map_data() -> Result<*mut u8, Error> {
    // SAFETY: a name that ends in zero.
    let file = unsafe { libc::memfd_create(c"data".as_ptr(), 0) };
    // SAFETY: a plain call; a bad descriptor makes it fail.
    if unsafe { libc::ftruncate(file, DATA_SIZE as i64) } != 0 {
        return Err(Error::last_os_error());
    }
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let fixed = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE;
    let wanted = ptr::without_provenance_mut(DATA as usize);
    // SAFETY: a new mapping where none is.
    let data = checked(unsafe { libc::mmap(wanted, DATA_SIZE as usize, protection, fixed, file, 0) })?;
    let size = DATA_SIZE as usize;
    // SAFETY: a new mapping.
    let alias = checked(unsafe { libc::mmap(ptr::null_mut(), size, protection, libc::MAP_SHARED, file, 0) })?;
    // SAFETY: the mapping is fresh and has this size.
    unsafe { data.cast::<u8>().write_bytes(0, size) };
    // SAFETY: inside the mapping.
    let constant = unsafe { data.add(READ_ONLY as usize) };
    // SAFETY: our own mapping, to which there is no reference.
    if unsafe { libc::mprotect(constant, (DATA_SIZE - READ_ONLY) as usize, libc::PROT_READ) } != 0 {
        return Err(Error::last_os_error());
    }
    // The page is to be present, so that a write is a violation and not a first touch.
    // SAFETY: mapped readable.
    unsafe { constant.cast::<u8>().read_volatile() };
    Ok(alias.cast())
}

/// `struct user_desc` of `modify_ldt(2)`.
#[repr(C)]
struct UserDescriptor {
    entry_number: u32,
    base: u32,
    limit: u32,
    flags: u32,
}

fn install(descriptor: &layout::Descriptor) -> Result<(), Error> {
    let flags = u32::from(descriptor.big)
        | descriptor.contents << 1
        | u32::from(descriptor.restricted) << 3
        // Useable.
        | 1 << 6;
    let entry = UserDescriptor {
        entry_number: u32::from(descriptor.index),
        base: descriptor.base,
        limit: descriptor.limit,
        flags,
    };
    const WRITE: c_int = 0x11;
    // SAFETY: writes one descriptor of this process, which nothing else uses.
    let result = unsafe { libc::syscall(libc::SYS_modify_ldt, WRITE, &raw const entry, size_of::<UserDescriptor>()) };
    // The result is an `int` that the kernel does not extend.
    if result as i32 == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

fn catch_signals() -> Result<(), Error> {
    const STACK: usize = 1 << 18;
    let stack = Box::leak(vec![0_u8; STACK].into_boxed_slice());
    let stack = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: STACK };
    // SAFETY: the stack is leaked, so it lives for ever.
    if unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) } != 0 {
        return Err(Error::last_os_error());
    }
    for signal in SIGNALS {
        // SAFETY: all zero is a valid `sigaction`.
        let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
        action.sa_sigaction = emulator_tests_signal_entry as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the handler has the signature that SA_SIGINFO asks for.
        if unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } != 0 {
            return Err(Error::last_os_error());
        }
    }
    Ok(())
}
