// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `cargo xtask help` prints.

/// All verbs, their options and the statuses.
pub(crate) const TEXT: &str = "\
cargo xtask run     build everything, fetch what is missing, start a guest under Parados in QEMU
  --platform NAME          the platform: native or snp                    [native]
  --image FILE             run this image as it is, instead of building one
  --kernel FILE            a Linux bzImage, or a PVH or Multiboot ELF     [the distribution's stock kernel]
  --initrd FILE            its initial RAM disk                           [for Linux: busybox and a shell]
  --append TEXT            added to the default guest's command line; with an initrd or an ELF of your own, all of it
  --exec COMMAND           run COMMAND in the default guest's shell, print its output alone on stdout, power off
  --smp N                  processors, 1 to 255; for snp to 64            [1]
  --memory SIZE            what the VM has, 256M to 8G                    [1G]
  --cpu MODEL              QEMU's CPU model, with its ,+flag and ,-flag   [max; for snp EPYC, and phys-bits=52 is added]
  --timeout SECONDS        end the run with status 124 after that time
  --test-devices           kvm-unit-tests' devices; a write of V to port F4h ends the run with status (V<<1)|1
  --no-reboot              a guest reset ends the run with status 71
  --stats                  print what the guest's exits were, at the end
  --stats-json FILE        the same as JSON
  --guest-stats            let the guest read them, at address FEF00000h (docs/statistics.md)
  --page-conversion        let the guest share pages with the host, by hypercall (docs/page-conversion.md)
  --log LEVELS             how much Parados logs: off, error, warning, info, debug or trace, or MODULE=LEVEL,...  [info]
  --debug-log              let the host read Parados's log and crashes; a native image always does (docs/log.md)
  --status-file FILE       how the run ended, as one JSON object: kind, reason, status
  --qemu PATH              the QEMU to use                                [qemu-system-x86_64]
  --print-command          print the QEMU command instead of running it
  --attest NONCE --out FILE   write an attestation report for NONCE (16 to 64 bytes in hexadecimal) to FILE; snp alone
  --hostile NAME           the host attacks an SNP image (docs/hostile-hosts.md)
cargo xtask test    [unit|model|fuzz-smoke|boot|snp-model|hostile|kvm-unit-tests|reproducible ...]
                    [--platform NAME] [--slow] [--qemu PATH]               default: all
  --seed N                 hostile: this seed alone, which does the same again
  --seeds N                hostile: so many seeds, from --seed or 1 on    [28, on snp 4; with --slow 2048]
  --dir DIR                kvm-unit-tests' folder, configured and built, without which they are skipped; with
                           --platform snp the SNP image is compared with the native one
  --only NAME,...          of kvm-unit-tests these alone, by their names in unittests.cfg; of boot and
                           snp-model, by parts of names
cargo xtask image   [--platform native|snp|tdx|all] [--config FILE] [--out DIR]    [native; all: each, and one file for all of them]
cargo xtask bench   [exits|boot|snp-model|snp|memory|idle|clock|measure ...]
                    [--json FILE] [--plot FILE.svg] [--pairs N] [--qemu PATH]
  --strict                 status 1 if an aim is missed
cargo xtask symbolize [FILE] [--elf FILE]   the calls behind a crash of Parados, from what it printed (or standard input)
cargo xtask check   formatting, clippy, docs, licences, layering

Status of `run`: 0 the guest powered off (with --exec: COMMAND's own), 64 usage or unusable file, 65 corrupt or
foreign image, 69 something needed is missing here, 70 Parados or the host terminated the VM, 71 the guest crashed or
reset, 124 timeout. SIGTERM presses the guest's power button and ends the run 10 s later if the guest did not; a
second one, or SIGINT, ends it at once. In a terminal, Ctrl-A X ends QEMU and Ctrl-A H lists its other keys.
";
