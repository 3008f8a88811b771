// SPDX-License-Identifier: MIT OR Apache-2.0
//! A Linux program, for a guest's RAM disk: asks `/dev/sev-guest` for a report and its certificates, and writes both to
//! standard output in hexadecimal. Busybox has no `ioctl`.
//!
//! Follows Linux's include/uapi/linux/sev-guest.h. It speaks to the kernel by itself, so that a build needs no C library.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

#[cfg(target_os = "none")]
mod program {
    use core::arch::{asm, naked_asm};

    const WRITE: u64 = 1;
    const OPEN: u64 = 2;
    const IOCTL: u64 = 16;
    const EXIT: u64 = 60;

    /// _IOWR('S', 2, 32 bytes).
    const GET_EXT_REPORT: u64 = 0xc020_5302;
    const CERTIFICATES: usize = 16 << 10;

    /// `snp_guest_request_ioctl`.
    #[repr(C)]
    struct Call {
        version: u8,
        request: u64,
        response: u64,
        error: u64,
    }

    /// `snp_ext_report_req`.
    #[repr(C)]
    struct Request {
        data: [u8; 64],
        vmpl: u32,
        reserved: [u8; 28],
        certificates: u64,
        certificate_bytes: u32,
    }

    #[repr(C, align(4096))]
    struct Pages<const N: usize>([u8; N]);

    static mut RESPONSE: Pages<4096> = Pages([0; 4096]);
    static mut CERTIFICATE_TABLE: Pages<CERTIFICATES> = Pages([0; CERTIFICATES]);

    /// A system call; errors are negative.
    ///
    /// # Safety
    /// What the call does to memory is what the caller wants.
    unsafe fn call(number: u64, a: u64, b: u64, c: u64) -> i64 {
        let result: i64;
        // SAFETY: the kernel's convention (AMD64 psABI, A.2.1); the rest is the caller's duty.
        unsafe {
            asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c,
                lateout("rcx") _, lateout("r11") _, options(nostack));
        }
        result
    }

    #[unsafe(naked)]
    #[unsafe(no_mangle)]
    extern "C" fn _start() -> ! {
        naked_asm!("and rsp, -16", "call {main}", "ud2", main = sym main)
    }

    fn say(bytes: &[u8]) {
        // SAFETY: the kernel reads the bytes.
        unsafe { call(WRITE, 1, bytes.as_ptr() as u64, bytes.len() as u64) };
    }

    fn line(name: &[u8], bytes: &[u8]) {
        say(b"attest: ");
        say(name);
        say(b" ");
        for byte in bytes {
            let digit = |n: u8| if n < 10 { b'0' + n } else { b'a' + n - 10 };
            say(&[digit(byte >> 4), digit(byte & 15)]);
        }
        say(b"\n");
    }

    extern "C" fn main() -> ! {
        let status = u64::from(!attest());
        loop {
            // SAFETY: ends the program.
            unsafe { call(EXIT, status, 0, 0) };
        }
    }

    fn attest() -> bool {
        let path = b"/dev/sev-guest\0";
        // SAFETY: the kernel reads the path; 2 is O_RDWR.
        let device = unsafe { call(OPEN, path.as_ptr() as u64, 2, 0) };
        if device < 0 {
            line(b"no device", &device.to_be_bytes());
            return false;
        }
        let (response, certificates) = (&raw mut RESPONSE, &raw mut CERTIFICATE_TABLE);
        let mut request = Request {
            data: [0x64; 64],
            vmpl: 0,
            reserved: [0; 28],
            certificates: certificates as u64,
            certificate_bytes: CERTIFICATES as u32,
        };
        let mut ioctl = Call { version: 1, request: &raw mut request as u64, response: response as u64, error: 0 };
        // Twice: messages are numbered, and the second answer is another one than the first.
        for _ in 0..2 {
            // SAFETY: the kernel reads and writes the structures, the response and the certificates, all of the size it
            // expects.
            let result = unsafe { call(IOCTL, device as u64, GET_EXT_REPORT, &raw mut ioctl as u64) };
            if result != 0 {
                line(b"error", &result.to_be_bytes());
                line(b"status", &ioctl.error.to_be_bytes());
                return false;
            }
        }
        // SAFETY: the program has one thread, and the kernel has finished with the static.
        let response = unsafe { &*response };
        // SAFETY: the same.
        let certificates = unsafe { &*certificates };
        line(b"response", response.0.get(..0x4c0).unwrap_or_default());
        line(b"certificates", certificates.0.get(..8192).unwrap_or_default());
        true
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {
            // SAFETY: ends the program.
            unsafe { call(EXIT, 101, 0, 0) };
        }
    }
}

/// Elsewhere there is nothing to run.
#[cfg(not(target_os = "none"))]
fn main() {}
