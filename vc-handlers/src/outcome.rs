// SPDX-License-Identifier: MIT OR Apache-2.0
//! What shall become of a guest after an exit, as plain data.

use platform::{Exception, Reason};
use vmm_interface::Lifecycle;

use crate::Token;

/// The verdict of a handler. Registers are already written; control flow is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Enter the guest again where it stands: the instruction is retried, or RIP was set by the handler.
    Resume,
    /// The instruction was completed in software: go on at this RIP.
    Complete(u64),
    /// The instruction faulted, as hardware would have.
    Inject(Exception),
    /// HLT or MWAIT was completed: go on at this RIP once an event for the guest arrives.
    Wait(u64),
    /// A device outside this process has to answer first; the rest of the instruction was given to [`crate::Env::park`].
    Defer(Token),
    /// The guest ended the VM, and goes on at no RIP.
    End(Lifecycle),
    /// The guest triple-faulted.
    TripleFault,
    /// Parados cannot go on, with a detail for the log.
    Terminate(Reason, u64),
}
