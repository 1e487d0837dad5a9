//! The MMU's registers, and how the kernel reaches its translation tables.

use core::arch::asm;

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{
    PAR_EL1, ReadWriteable, Readable, SCTLR_EL1, TCR_EL1, TTBR0_EL1, Writeable,
};

use early_mmu::{Geometry as _, MAIR_EL1, PhysAddr, TableMemory};

use crate::mm::layout::{Geometry, IdentityGeometry, PAGE_SIZE, Table};

use super::tlb;

/// What `enable_mmu.S` writes, in its order.
#[repr(C)]
#[derive(Debug)]
pub struct MmuRegisters {
    mair: u64,
    tcr: u64,
    ttbr0: u64,
    ttbr1: u64,
    sctlr: u64,
}

impl MmuRegisters {
    /// All off; for a static.
    pub const fn new() -> Self {
        Self {
            mair: 0,
            tcr: 0,
            ttbr0: 0,
            ttbr1: 0,
            sctlr: 0,
        }
    }

    /// Each half with its tables' geometry, walks cacheable and inner shareable,
    /// `ips` as `TCR_EL1.IPS` takes it; caches, translation and alignment checks, of
    /// data and SP, on.
    pub fn set(&mut self, idmap: PhysAddr, swapper: PhysAddr, ips: u64) {
        let walks = TCR_EL1::ORGN0::WriteBack_ReadAlloc_WriteAlloc_Cacheable
            + TCR_EL1::IRGN0::WriteBack_ReadAlloc_WriteAlloc_Cacheable
            + TCR_EL1::ORGN1::WriteBack_ReadAlloc_WriteAlloc_Cacheable
            + TCR_EL1::IRGN1::WriteBack_ReadAlloc_WriteAlloc_Cacheable;
        // The low 16 bits are TTBR0's.
        let geometry = Geometry::TCR_EL1 & !0xffff | IdentityGeometry::TCR_EL1 & 0xffff;
        self.mair = MAIR_EL1;
        self.tcr = geometry | (walks + TCR_EL1::IPS.val(ips)).value;
        self.ttbr0 = idmap.as_u64();
        self.ttbr1 = swapper.as_u64();
        // RES1 of ARMv8.0 as in boot::SCTLR_EL1_MMU_OFF. A stays set: this target
        // makes no unaligned access, so one is a bug; and QEMU translates the code
        // that runs on both sides of the jump only once if it may not change here.
        self.sctlr = 0x30d0_0800
            | (SCTLR_EL1::M::SET
                + SCTLR_EL1::A::SET
                + SCTLR_EL1::C::SET
                + SCTLR_EL1::I::SET
                + SCTLR_EL1::SA::SET)
                .value;
    }
}

/// Stops all translation through TTBR0, and forgets what it gave.
///
/// # Safety
/// Nothing that is used from here on may be at an address of the lower half.
pub unsafe fn drop_identity_map() {
    TCR_EL1.modify(TCR_EL1::EPD0::DisableTTBR0Walks);
    // No walk may start from the old TTBR0 once it may hold something else.
    barrier::isb(barrier::SY);
    TTBR0_EL1.set(0);
    // TTBR0 is changed before what it gave is forgotten.
    barrier::isb(barrier::SY);
    tlb::flush_all_local();
}

/// What a read of `va` at EL1 translates to, `None` if it would fault.
pub fn translate_read(va: u64) -> Option<Translated> {
    // SAFETY: AT changes nothing but PAR_EL1.
    unsafe { asm!("at s1e1r, {}", in(reg) va, options(nostack, preserves_flags)) };
    translation_result(va)
}

/// The same for a write.
pub fn translate_write(va: u64) -> Option<Translated> {
    // SAFETY: AT changes nothing but PAR_EL1.
    unsafe { asm!("at s1e1w, {}", in(reg) va, options(nostack, preserves_flags)) };
    translation_result(va)
}

/// What the MMU makes of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// Physical address.
    pub pa: u64,
    /// Memory type, as a byte of `MAIR_EL1`.
    pub attr: u8,
    /// Shareability: 2 outer, 3 inner.
    pub shareability: u8,
}

fn translation_result(va: u64) -> Option<Translated> {
    // PAR_EL1 holds the result only after a context synchronization event.
    barrier::isb(barrier::SY);
    let par = PAR_EL1.extract();
    let attr = (par.get() >> 56) as u8;
    // Device memory is always outer shareable; QEMU before 8 repeats what the
    // descriptor says.
    let is_device = attr & 0xf0 == 0;
    let shareability = if is_device {
        2
    } else {
        (par.get() >> 7 & 0b11) as u8
    };
    (!par.is_set(PAR_EL1::F)).then_some(Translated {
        // PA holds bits from 12 up whatever the granule.
        pa: (par.read(PAR_EL1::PA) << 12) + (va & 0xfff),
        attr,
        shareability,
    })
}

/// Whether TTBR0 is out of use: no walks, and nothing in it.
pub fn lower_half_is_off() -> bool {
    TCR_EL1.is_set(TCR_EL1::EPD0) && TTBR0_EL1.get() == 0
}

/// Translation tables as the kernel sees them: at their physical address plus
/// an offset, 0 with the MMU off, that of the linear map after.
#[derive(Clone, Copy, Debug)]
pub struct TableWindow {
    offset: u64,
}

impl TableWindow {
    /// Tables are at `offset` (wrapping) from their physical address.
    ///
    /// # Safety
    /// Every page that is reached through the window, which is every table
    /// linked in the tables it is used for and every frame made by
    /// [`TableWindow::frame`], must be writable RAM there while it is used, and
    /// used for nothing else.
    pub const unsafe fn new(offset: u64) -> Self {
        Self { offset }
    }

    /// The frame at `pa`, to become a table.
    ///
    /// # Safety
    /// Nobody else uses the page.
    pub unsafe fn frame(self, pa: PhysAddr) -> &'static mut Table {
        // SAFETY: RAM by new(), exclusive by the caller; u64s of any content
        // are valid, and a page is aligned for them.
        unsafe { &mut *(self.virt(pa) as *mut Table) }
    }

    fn virt(self, pa: PhysAddr) -> u64 {
        pa.as_u64().wrapping_add(self.offset)
    }
}

// The kernel's tables and the identity map's.
impl<G: early_mmu::Geometry<Table = Table>> TableMemory<G> for TableWindow {
    type Frame = &'static mut Table;

    fn table(&self, pa: PhysAddr) -> Option<&Table> {
        if !pa.is_aligned(PAGE_SIZE) {
            return None;
        }
        // SAFETY: new()'s caller vouches for every linked table; entries are
        // atomics, as the walker may read while the kernel writes.
        Some(unsafe { &*(self.virt(pa) as *const Table) })
    }

    fn before_link(&self) {
        // The entries of a new table, in order before the descriptor that links
        // it, for the walkers of all CPUs (Arm ARM, "Ordering and translation
        // table walks").
        barrier::dsb(barrier::ISHST);
    }
}
