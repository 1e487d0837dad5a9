//! What the early stage hands to the kernel: plain data, addresses physical.

use core::cell::UnsafeCell;

use platform::cmdline::Options;
use platform::fdt::Firmware;
use platform::range::PhysRange;

use crate::mm::linear::LinearMap;

/// Filled in by the early stage, never changed after.
pub struct BootInfo {
    /// What the device tree says, with the boot's own reservations added.
    pub firmware: Firmware,
    /// What the command line asks for.
    pub options: Options,
    /// Physical address of `_text`.
    pub image_pa: u64,
    /// Exception level the loader entered at.
    pub entry_el: u64,
    /// The device tree.
    pub fdt: PhysRange,
    /// Physical address of the kernel's root table.
    pub swapper_pa: u64,
    /// Width of the physical addresses in use, in bits.
    pub pa_bits: u32,
    /// Where RAM is mapped.
    pub linear: LinearMap,
    /// The heap's memory.
    pub heap: PhysRange,
    /// Table frames that map image and fixmap.
    pub static_frames: usize,
    /// Table frames that map RAM.
    pub linear_frames: usize,
}

/// A static that the early stage fills in and nobody changes after.
pub struct EarlyCell<T>(UnsafeCell<T>);

// SAFETY: one CPU; whoever writes does so through `get_mut`, whose caller
// promises to be alone.
unsafe impl<T> Sync for EarlyCell<T> {}

impl<T> EarlyCell<T> {
    /// Holding `value` to begin with.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Its address.
    pub fn as_ptr(&self) -> *mut T {
        self.0.get()
    }

    /// To fill it in.
    ///
    /// # Safety
    /// No other reference to the content may be in use.
    #[expect(clippy::mut_from_ref, reason = "that is what the cell is for")]
    pub unsafe fn get_mut(&self) -> &mut T {
        // SAFETY: the caller is alone.
        unsafe { &mut *self.0.get() }
    }
}

static BOOT_INFO: EarlyCell<BootInfo> = EarlyCell::new(BootInfo {
    firmware: Firmware::new(),
    options: Options::DEFAULT,
    image_pa: 0,
    entry_el: 0,
    fdt: PhysRange { start: 0, end: 0 },
    swapper_pa: 0,
    pa_bits: 0,
    linear: LinearMap::new(),
    heap: PhysRange { start: 0, end: 0 },
    static_frames: 0,
    linear_frames: 0,
});

/// For the early stage, which fills it in.
///
/// # Safety
/// Once, before [`boot_info`] is called.
pub unsafe fn boot_info_mut() -> &'static mut BootInfo {
    // SAFETY: the caller makes this the only reference.
    unsafe { BOOT_INFO.get_mut() }
}

/// What the early stage found; valid from `kmain` on.
pub fn boot_info() -> &'static BootInfo {
    // SAFETY: the only mutable reference died with the early stage.
    unsafe { &*BOOT_INFO.as_ptr() }
}
