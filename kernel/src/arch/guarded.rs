//! Accesses that may fault, and say whether they did.

use core::fmt;

use super::exception::{Expected, Syndrome, arm, class, disarm};

core::arch::global_asm!(
    "
.section .text.guarded, \"ax\"

// Each: x0 = address, x1 = value. Returns 0 in x0 and what was read in x1; or,
// if the instruction at the `_access` label faulted as expected, what the
// handler put there: 1 and the syndrome.
.global guarded_load32
.type guarded_load32, %function
guarded_load32:
.global guarded_load32_access
guarded_load32_access:
	ldr	w1, [x0]
	mov	x0, xzr
	ret
.size guarded_load32, . - guarded_load32

.global guarded_store8
.type guarded_store8, %function
guarded_store8:
.global guarded_store8_access
guarded_store8_access:
	strb	w1, [x0]
	mov	x0, xzr
	ret
.size guarded_store8, . - guarded_store8

// Branches to x0, where a RET may be. The fault is taken at the target.
.global guarded_branch
.type guarded_branch, %function
guarded_branch:
	stp	x29, x30, [sp, #-16]!
	mov	x29, sp
	blr	x0
	mov	x0, xzr
	b	1f
.global guarded_branch_faulted
guarded_branch_faulted:
1:	ldp	x29, x30, [sp], #16
	ret
.size guarded_branch, . - guarded_branch

.global guarded_fault_return
guarded_fault_return:
	ret
"
);

unsafe extern "C" {
    fn guarded_load32(address: u64, _: u64) -> Outcome;
    fn guarded_load32_access();
    fn guarded_store8(address: u64, value: u64) -> Outcome;
    fn guarded_store8_access();
    fn guarded_branch(address: u64, _: u64) -> Outcome;
    fn guarded_branch_faulted();
    fn guarded_fault_return();
}

/// x0 and x1, as the assembly or the exception handler leaves them.
#[repr(C)]
struct Outcome {
    faulted: u64,
    /// What was read, or the syndrome.
    value: u64,
}

impl Outcome {
    fn into_result(self) -> Result<u64, Fault> {
        if self.faulted == 0 {
            Ok(self.value)
        } else {
            Err(Fault { esr: self.value })
        }
    }
}

/// The access faulted, with this syndrome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `ESR_EL1`.
    pub esr: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Syndrome(self.esr).fmt(f)
    }
}

fn address_of(label: unsafe extern "C" fn()) -> u64 {
    label as *const () as u64
}

/// Runs `access`, expecting a data abort at its one instruction or nothing.
fn expecting_data_abort<T>(
    address: u64,
    instruction: unsafe extern "C" fn(),
    access: impl FnOnce() -> T,
) -> T {
    arm(Expected {
        class: class::DATA_ABORT,
        far: address,
        elr: address_of(instruction),
        resume: address_of(guarded_fault_return),
    });
    let result = access();
    disarm();
    result
}

/// Reads a word; `address` is 4-byte aligned.
///
/// # Errors
/// [`Fault`], if the read raised a data abort. Any other exception is fatal.
///
/// # Safety
/// A read of `address` must have no side effect that matters.
pub unsafe fn load32(address: u64) -> Result<u32, Fault> {
    let outcome = expecting_data_abort(address, guarded_load32_access, || {
        // SAFETY: the caller answers for the read; a fault is caught.
        unsafe { guarded_load32(address, 0) }
    });
    outcome.into_result().map(|value| value as u32)
}

/// Writes a byte.
///
/// # Errors
/// [`Fault`], if the write raised a data abort. Any other exception is fatal.
///
/// # Safety
/// If the write succeeds, nothing may depend on what was there.
pub unsafe fn store8(address: u64, value: u8) -> Result<(), Fault> {
    let outcome = expecting_data_abort(address, guarded_store8_access, || {
        // SAFETY: the caller answers for the write; a fault is caught.
        unsafe { guarded_store8(address, value.into()) }
    });
    outcome.into_result().map(drop)
}

/// Branches to `address` and comes back.
///
/// # Errors
/// [`Fault`], if the fetch raised an instruction abort. Any other exception
/// is fatal.
///
/// # Safety
/// What can be executed at `address` must be a RET.
pub unsafe fn branch(address: u64) -> Result<(), Fault> {
    arm(Expected {
        class: class::INSTRUCTION_ABORT,
        far: address,
        elr: address,
        resume: address_of(guarded_branch_faulted),
    });
    // SAFETY: the caller answers for what is there; a fault is caught.
    let outcome = unsafe { guarded_branch(address, 0) };
    disarm();
    outcome.into_result().map(drop)
}
