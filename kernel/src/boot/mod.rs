//! From the loader's jump to `kmain`.
//!
//! `header.S` is what loaders read; UEFI calls [`efi`] first.
//! `head.S` runs first and calls [`early`] once Rust can run; `enable_mmu.S`
//! turns the MMU on and `head.S` jumps high.

use core::arch::global_asm;
use core::mem::offset_of;

use early_mmu::descriptor::TABLE_OR_PAGE;
use early_mmu::{Geometry as _, PAGE_KERNEL, PAGE_KERNEL_ROX};

use crate::arch::exception::ExceptionFrame;
use crate::blackbox::{self, offset};
use crate::mm::frames::STATIC_TABLES;
use crate::mm::layout::{IMAGE_MAX_BYTES, IdentityGeometry, KIMAGE_VADDR, PAGE_SIZE};
use crate::stage::Stage;

pub mod early;
mod efi;
pub mod info;

/// Where output goes before a device tree has been read: QEMU's `virt`.
pub const DEFAULT_UART_PA: u64 = 0x0900_0000;

/// Where QEMU's `virt` leaves its device tree if the loader passed none, as the
/// ELF loader does: at the start of RAM.
pub const DEFAULT_FDT_PA: u64 = 0x4000_0000;

/// Image header flags: bits 2:1, the granule; bit 3, any 2 MiB-aligned address will
/// do; bit 0 clear, little-endian.
const IMAGE_FLAGS: u64 = {
    let granule = match IdentityGeometry::GRANULE_SHIFT {
        12 => 1,
        14 => 2,
        _ => 3,
    };
    1 << 3 | granule << 1
};

/// What an entry of the identity map's root translates, log2 of bytes.
const IDMAP_ROOT_SHIFT: u32 =
    IdentityGeometry::GRANULE_SHIFT + IdentityGeometry::INDEX_BITS * (IdentityGeometry::LEVELS - 1);

/// MMU and caches off, little-endian; alignment checks of data and SP on, so
/// that an unaligned access faults under QEMU as it does on a core that treats
/// all memory as Device. The rest is RES1 in ARMv8.0 (Arm ARM, SCTLR_EL1).
const SCTLR_EL1_MMU_OFF: u64 = 0x30d0_080a;

/// The same for EL2 (Arm ARM, SCTLR_EL2: RES1 bits), where nothing is accessed.
const SCTLR_EL2_MMU_OFF: u64 = 0x30c5_0830;

/// SCTLR_ELx: the MMU, and the data cache.
const SCTLR_M: u64 = 1;
const SCTLR_C: u64 = 1 << 2;
/// SCTLR_ELx: data is big-endian.
const SCTLR_EE: u64 = 1 << 25;

/// HCR_EL2.RW: EL1 is AArch64.
const HCR_EL2_RW: u64 = 1 << 31;

// All assembly files, as one unit: they share macros and constants.
global_asm!(
    ".set KIMAGE_VADDR, {kimage_vaddr}",
    ".set IMAGE_FLAGS, {image_flags}",
    ".set SCTLR_EL1_MMU_OFF, {sctlr_el1}",
    ".set SCTLR_EL2_MMU_OFF, {sctlr_el2}",
    ".set HCR_EL2_RW, {hcr_el2}",
    ".set SCTLR_M, {sctlr_m}",
    ".set SCTLR_C, {sctlr_c}",
    ".set SCTLR_EE, {sctlr_ee}",
    ".set DESC_TABLE, {table}",
    ".set GRANULE_SHIFT, {granule_shift}",
    ".set GRANULE_BYTES, {granule_bytes}",
    ".set INDEX_BITS, {index_bits}",
    ".set INDEX_MASK, {index_mask}",
    ".set IDMAP_LEVELS, {idmap_levels}",
    ".set IDMAP_ROOT_SHIFT, {idmap_root_shift}",
    ".set STATIC_TABLES, {static_tables}",
    ".set PAGE_KERNEL, {page_kernel}",
    ".set PAGE_KERNEL_ROX, {page_kernel_rox}",
    ".set DEFAULT_UART_PA, {uart}",
    ".set STAGE_RELOCATE, {relocate}",
    ".set STAGE_IDMAP, {idmap}",
    ".set BB_NONCE, {nonce}",
    ".set BB_BOOT_NONCE, {boot_nonce}",
    ".set BB_STAGE, {stage}",
    ".set BB_ENTRY_EL, {entry_el}",
    ".set BB_DISPLACEMENT, {displacement}",
    ".set BB_IMAGE_PA, {image_pa}",
    ".set BB_CNTFRQ, {cntfrq}",
    ".set BB_STAGE_TICKS, {stage_ticks}",
    ".set BB_PREVIOUS, {previous}",
    ".set BB_KEPT_BYTES, {kept}",
    ".set BLACK_BOX_MAGIC, {magic}",
    ".set BLACK_BOX_VERSION, {version}",
    ".set BLACK_BOX_SIZE, {size}",
    ".set BB_NESTED, {nested}",
    ".set STAGE_FDT, {fdt}",
    ".set FRAME, {frame}",
    ".set FRAME_SP, {frame_sp}",
    ".set FRAME_ELR, {frame_elr}",
    ".set FRAME_ESR, {frame_esr}",
    ".set FRAME_VECTOR, {frame_vector}",
    ".set FRAME_STATE, {frame_state}",
    ".set FRAME_EL, {frame_el}",
    // linker.ld links there, and no more than that.
    ".global kimage_vaddr, image_max_bytes",
    ".set kimage_vaddr, {kimage_vaddr}",
    ".set image_max_bytes, {image_max_bytes}",
    include_str!("macros.S"),
    include_str!("header.S"),
    include_str!("head.S"),
    include_str!("el2.S"),
    include_str!("early_exception.S"),
    include_str!("cache.S"),
    include_str!("enable_mmu.S"),
    include_str!("efi/entry.S"),
    include_str!("../arch/vectors.S"),
    kimage_vaddr = const KIMAGE_VADDR,
    image_max_bytes = const IMAGE_MAX_BYTES,
    image_flags = const IMAGE_FLAGS,
    sctlr_el1 = const SCTLR_EL1_MMU_OFF,
    sctlr_el2 = const SCTLR_EL2_MMU_OFF,
    hcr_el2 = const HCR_EL2_RW,
    sctlr_m = const SCTLR_M,
    sctlr_c = const SCTLR_C,
    sctlr_ee = const SCTLR_EE,
    table = const TABLE_OR_PAGE,
    granule_shift = const IdentityGeometry::GRANULE_SHIFT,
    granule_bytes = const PAGE_SIZE,
    index_bits = const IdentityGeometry::INDEX_BITS,
    index_mask = const (1 << IdentityGeometry::INDEX_BITS) - 1,
    idmap_levels = const IdentityGeometry::LEVELS,
    idmap_root_shift = const IDMAP_ROOT_SHIFT,
    static_tables = const STATIC_TABLES,
    page_kernel = const PAGE_KERNEL.bits() | TABLE_OR_PAGE,
    page_kernel_rox = const PAGE_KERNEL_ROX.bits() | TABLE_OR_PAGE,
    uart = const DEFAULT_UART_PA,
    relocate = const Stage::Relocate as u8,
    idmap = const Stage::Idmap as u8,
    nonce = const offset::NONCE,
    boot_nonce = const offset::BOOT_NONCE,
    stage = const offset::STAGE,
    entry_el = const offset::ENTRY_EL,
    displacement = const offset::DISPLACEMENT,
    image_pa = const offset::IMAGE_PA,
    cntfrq = const offset::CNTFRQ,
    stage_ticks = const offset::STAGE_TICKS,
    previous = const offset::PREVIOUS,
    kept = const blackbox::KEPT_BYTES,
    magic = const blackbox::MAGIC,
    version = const blackbox::VERSION,
    size = const blackbox::SIZE_BYTES,
    nested = const offset::NESTED,
    fdt = const Stage::Fdt as u8,
    frame = const offset::EXCEPTION,
    frame_sp = const offset_of!(ExceptionFrame, sp),
    frame_elr = const offset_of!(ExceptionFrame, elr),
    frame_esr = const offset_of!(ExceptionFrame, esr),
    frame_vector = const offset_of!(ExceptionFrame, vector),
    frame_state = const offset_of!(ExceptionFrame, state),
    frame_el = const offset_of!(ExceptionFrame, el),
);
