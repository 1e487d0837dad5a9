//! Links only if no panic can be reached from the public interface of `early_mmu`.
//!
//! Compiled as the kernel is, for the bare-metal target. Everything public is called with values that
//! the compiler cannot know, through each granule; the panic handler calls a function that is nowhere.
//! If the optimiser leaves a way to it, the linker says so. `scripts/no-panic` runs it, and checks that
//! no public function is missing here.
//!
//! What prints (`Display`) is called too; `Debug` is not, it is for tests.
#![no_std]
#![no_main]

mod calls;
#[path = "../../examples/kernel_side/cpu.rs"]
mod cpu;
mod outside;

use early_mmu::{Granule4K, Granule4KLpa2, Granule16K, Granule16KLpa2, Granule64K, Granule64KLpa};
use outside::Outside;

unsafe extern "C" {
    /// Nowhere.
    fn a_panic_is_reachable() -> !;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: this never links, so it never runs.
    unsafe { a_panic_is_reachable() }
}

/// The entry point, so that nothing it calls is thrown away. Nobody runs it.
#[unsafe(no_mangle)]
pub extern "C" fn _start(outside: &Outside) {
    calls::values(outside);
    calls::tables::<Granule4K<48>>(outside);
    calls::tables::<Granule4K<39>>(outside);
    calls::tables::<Granule4KLpa2<52>>(outside);
    calls::tables::<Granule16K<36>>(outside);
    calls::tables::<Granule16K<47>>(outside);
    calls::tables::<Granule16KLpa2<52>>(outside);
    calls::tables::<Granule64K<42>>(outside);
    calls::tables::<Granule64K<48>>(outside);
    calls::tables::<Granule64KLpa<52>>(outside);
    #[cfg(feature = "panics")]
    outside.sink([1, 2, 3][outside.word() as usize]);
}
