//! What the early stage hands to the kernel: plain data, addresses physical.

use platform::fdt::Firmware;
use platform::range::PhysRange;

use crate::mm::linear::LinearMap;

/// Filled in by the early stage, never changed after.
pub struct BootInfo {
    /// What the device tree says, with the boot's own reservations added.
    pub firmware: Firmware,
    /// Physical address of `_text`.
    pub image_pa: u64,
    /// Exception level the loader entered at.
    pub entry_el: u64,
    /// The device tree.
    pub fdt: PhysRange,
    /// Physical address of the kernel's level-0 table.
    pub swapper_pa: u64,
    /// Width of the physical addresses in use, in bits.
    pub pa_bits: u32,
    /// Where RAM is mapped.
    pub linear: LinearMap,
    /// Table frames that map image and fixmap.
    pub static_frames: usize,
    /// Table frames that map RAM.
    pub linear_frames: usize,
}

static mut BOOT_INFO: BootInfo = BootInfo {
    firmware: Firmware::new(),
    image_pa: 0,
    entry_el: 0,
    fdt: PhysRange { start: 0, end: 0 },
    swapper_pa: 0,
    pa_bits: 0,
    linear: LinearMap::new(),
    static_frames: 0,
    linear_frames: 0,
};

/// For the early stage, which fills it in.
///
/// # Safety
/// Once, before [`boot_info`] is called.
pub unsafe fn boot_info_mut() -> &'static mut BootInfo {
    // SAFETY: the caller makes this the only reference.
    unsafe { &mut *(&raw mut BOOT_INFO) }
}

/// What the early stage found; valid from `kmain` on.
pub fn boot_info() -> &'static BootInfo {
    // SAFETY: the only mutable reference died with the early stage.
    unsafe { &*(&raw const BOOT_INFO) }
}
