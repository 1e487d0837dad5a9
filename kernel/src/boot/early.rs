//! The early stage: Rust with the MMU off, at the physical address.
//!
//! Called by `head.S` after relocation. Reads the device tree, builds the
//! kernel's tables, and says what `enable_mmu.S` shall write. All memory is
//! Device memory here: no unaligned access and no exclusives, so no locks.
//! Nothing that points into the image may be kept: it moves.

use early_mmu::{
    Flags, Mapping, PAGE_KERNEL, PROT_DEVICE_nGnRE, PageTable, PhysAddr, VaRange, VirtAddr,
};
use platform::cmdline::{self, Fault, Options};
use platform::fdt::{self, FdtError, HEADER_BYTES};
use platform::range::PhysRange;

use super::info::{BootInfo, EarlyCell, boot_info_mut};
use super::{DEFAULT_FDT_PA, DEFAULT_UART_PA, efi};
use crate::arch::mmu::{MmuRegisters, TableWindow};
use crate::arch::{cache, cpu, debug, exception, guarded, power};
use crate::logger::{early_info, early_warn};
use crate::mm::frames::{Frames, static_frames};
use crate::mm::layout::{IdentityGeometry, PAGE_SIZE};
use crate::mm::linear::{self, LinearMap};
use crate::mm::{KernelTables, fixmap, for_each_table, heap, image};
use crate::stage::{self, Stage};
use crate::{console, fault, logger};

static MMU_REGISTERS: EarlyCell<MmuRegisters> = EarlyCell::new(MmuRegisters::new());

#[unsafe(no_mangle)]
extern "C" fn early_main(passed_pa: u64, image_pa: u64, current_el: u64) -> *const MmuRegisters {
    // SAFETY: head.S calls this once, before anything reads it.
    let boot = unsafe { boot_info_mut() };
    boot.image_pa = image_pa;
    boot.entry_el = current_el >> 2 & 3;

    // Without the MMU no page below the stack can be a hole.
    debug::watch(image::runtime_init_stack_guard());

    stage::enter(Stage::Fdt);
    boot.swapper_pa = swapper_pa().as_u64();
    let handoff = efi::handoff();
    if let Some(handoff) = handoff {
        boot.firmware.memblock.memory = handoff.ram.banks;
        boot.firmware.dropped_banks = handoff.ram.dropped;
    }
    let fdt_pa = match passed_pa {
        0 => DEFAULT_FDT_PA,
        _ => passed_pa,
    };
    let fdt = read_device_tree(fdt_pa, boot);
    if let Some(handoff) = handoff.filter(|handoff| !handoff.bootargs.as_str().is_empty()) {
        boot.firmware.bootargs = handoff.bootargs;
    }
    boot.options = cmdline::parse(&boot.firmware.bootargs, &mut |_| {});
    let options = boot.options;
    logger::set_level(options.log_level);
    power::configure(&boot.firmware, options.exit);
    open_console(boot, &options);
    boot.fdt = match fdt {
        Ok(range) => range,
        Err(error) => {
            // What could be read of it may name the console, or not.
            if boot.firmware.uart.is_none() {
                // SAFETY: as in open_console().
                let _ = unsafe { console::open(DEFAULT_UART_PA) };
            }
            panic!("no usable device tree at {fdt_pa:#x} (x0 was {passed_pa:#x}): {error}")
        }
    };
    // Once more, now that somebody can read what is wrong with it.
    cmdline::parse(&boot.firmware.bootargs, &mut |ignored| {
        early_warn!("command line: {ignored}");
    });
    if boot.firmware.bootargs.is_cut() {
        early_warn!("command line: too long, its last words are ignored");
    }
    early_info!(
        "Booting at EL{}, image at {image_pa:#x}, MIDR {:#010x}",
        boot.entry_el,
        cpu::midr()
    );

    choose_fault(options.fault(&boot.firmware.bootargs));
    fault::at(Stage::Fdt);

    let ips = check_cpu();
    reserve(boot);

    stage::enter(Stage::EarlyMmu);
    boot.pa_bits = cpu::pa_bits(ips);
    build_tables(boot, &options);

    // SAFETY: nobody else refers to it; head.S reads it through the pointer.
    let registers = unsafe { MMU_REGISTERS.get_mut() };
    registers.set(
        PhysAddr::new(image_pa + image::idmap_pg_dir_offset()),
        swapper_pa(),
        ips,
    );
    stage::enter(Stage::MmuOn);
    // Nothing uses the stack until the hole in the kernel's tables guards it; and enable_mmu
    // drops all lines of the image by DC IVAC, which to a watchpoint is a store.
    debug::unwatch();
    registers
}

/// Physical address of `swapper_pg_dir`, while the MMU is off.
fn swapper_pa() -> PhysAddr {
    PhysAddr::new(image::runtime_text().start + image::swapper_pg_dir_offset())
}

/// The kernel's tables as they are now, while the MMU is off.
pub fn early_tables() -> KernelTables {
    // SAFETY: with the MMU off every table is at its physical address.
    let window = unsafe { TableWindow::new(0) };
    PageTable::new(swapper_pa(), VaRange::Upper, window)
}

fn choose_fault(wanted: Option<Fault<'_>>) {
    match wanted {
        Some(fault) if fault.name == "help" => fault::help(),
        Some(fault) if !fault::choose(fault) => {
            early_warn!(
                "fault={}@{}: no such fault or stage",
                fault.name,
                fault.stage
            );
        }
        _ => {}
    }
}

/// Finds the device tree, reads it into `boot`, and returns where it is.
fn read_device_tree(fdt_pa: u64, boot: &mut BootInfo) -> Result<PhysRange, Unusable> {
    let range = locate(fdt_pa, image::phys(boot.image_pa))?;
    // SAFETY: locate() saw a device tree there, which is not the image, and
    // nobody writes to it while the early stage runs.
    let blob = unsafe {
        core::slice::from_raw_parts(range.start as *const u8, range.size_bytes() as usize)
    };
    fdt::read(blob, &mut boot.firmware).map_err(Unusable::Fdt)?;
    Ok(range)
}

/// Why there is no device tree.
enum Unusable {
    /// Not 8-byte aligned, as the boot protocol wants it.
    Misaligned,
    /// Nothing answers at the address.
    Unreachable,
    /// It lies where the kernel is.
    InImage,
    /// What is there is no device tree.
    Fdt(FdtError),
}

impl core::fmt::Display for Unusable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Misaligned => f.write_str("not 8-byte aligned"),
            Self::Unreachable => f.write_str("reading it aborts"),
            Self::InImage => f.write_str("it overlaps the kernel image"),
            Self::Fdt(error) => error.fmt(f),
        }
    }
}

fn locate(fdt_pa: u64, image: PhysRange) -> Result<PhysRange, Unusable> {
    if !fdt_pa.is_multiple_of(8) {
        return Err(Unusable::Misaligned);
    }
    let header = PhysRange::new(fdt_pa, HEADER_BYTES as u64).ok_or(Unusable::Unreachable)?;
    probe(fdt_pa)?;
    // The loader wrote the tree, maybe through its caches: header first, as it
    // tells how long the rest is.
    cache::clean(header);
    // SAFETY: readable, as just seen, and any bytes will do.
    let bytes = unsafe { (fdt_pa as *const [u8; HEADER_BYTES]).read() };
    let size = fdt::total_size(&bytes).map_err(Unusable::Fdt)? as u64;
    let range = PhysRange::new(fdt_pa, size).ok_or(Unusable::Unreachable)?;
    if range.intersect(image).is_some() {
        return Err(Unusable::InImage);
    }
    probe((range.end - 1) & !3)?;
    let end = fdt_pa + size.min(fdt::used_size(&bytes) as u64);
    cache::clean(PhysRange { end, ..range });
    Ok(range)
}

/// Whether memory answers at `pa`, 4-byte aligned.
fn probe(pa: u64) -> Result<(), Unusable> {
    // SAFETY: a read of memory; if nothing is there, the abort is caught.
    match unsafe { guarded::load32(pa) } {
        Ok(_) => Ok(()),
        Err(_) => Err(Unusable::Unreachable),
    }
}

/// Opens the console that the command line or the device tree names.
fn open_console(boot: &mut BootInfo, options: &Options) {
    boot.firmware.uart = options.earlycon.or(boot.firmware.uart);
    let opened = boot.firmware.uart.map(|uart_pa| {
        // SAFETY: only ID registers are read before it is known for a PL011.
        unsafe { console::open(uart_pa) }
    });
    if exception::serror_is_pending() {
        early_warn!("an SError is pending: from the firmware, or from looking for a console");
    }
    if opened != Some(Ok(())) {
        if let Some(uart_pa) = boot.firmware.uart {
            early_warn!("no PL011 answers at {uart_pa:#x}: no console"); // for the black box
        }
        boot.firmware.uart = None;
        console::disable();
    }
}

/// Checks that the CPU can use the tables about to be built, and returns what
/// TCR_EL1.IPS shall be.
fn check_cpu() -> u64 {
    if let Err(cpu::NoGranule { field, value }) = cpu::check_granule() {
        panic!(
            "this CPU has no {} KiB granule (ID_AA64MMFR0_EL1.{field} = {value:#x}): \
             it takes another CPU, or a kernel built for another granule",
            PAGE_SIZE >> 10
        );
    }
    match cpu::ips() {
        Ok(ips) => ips,
        Err(pa_range) => panic!("ID_AA64MMFR0_EL1.PARange = {pa_range:#x} is a reserved value"),
    }
}

/// Notes what is in use already.
fn reserve(boot: &mut BootInfo) {
    let image = image::phys(boot.image_pa);
    if let Some(conflict) = boot.firmware.initrd_conflict(image, boot.fdt) {
        early_warn!("the initrd {conflict}");
    }
    let memblock = &mut boot.firmware.memblock;
    if !memblock.mappable(1).any(|part| part.contains(image)) {
        panic!("the kernel image at {image} is not in RAM that the device tree lets it use");
    }
    for range in [Some(image), Some(boot.fdt), boot.firmware.initrd]
        .into_iter()
        .flatten()
    {
        if let Err(full) = memblock.reserved.insert(range) {
            panic!("cannot reserve {range}: {full}");
        }
    }
}

/// Builds everything TTBR1 will show: image, fixmap, linear map; and adds the
/// devices to the identity map.
fn build_tables(boot: &mut BootInfo, options: &Options) {
    let pa_bits = boot.pa_bits;
    let mut tables = early_tables().with_output_bits(pa_bits);
    let window = *tables.memory();
    // SAFETY: taken here and only here.
    let mut frames = unsafe { static_frames(window) };

    map_image(&mut tables, &mut frames, boot.image_pa);
    match fixmap::init(&mut tables, &mut frames) {
        Ok(flush) => flush.ignore_because("the MMU is off"),
        Err(error) => panic!("fixmap: {error}"),
    }
    // The first call that must not allocate: the high stage starts by reading
    // the device tree, and only this window shows it.
    match fixmap::map_fdt(&mut tables, boot.fdt, PAGE_KERNEL) {
        Ok(flush) => flush.ignore_because("the MMU is off"),
        Err(error) => panic!("device tree: {error}"),
    }
    let idmap_pa = PhysAddr::new(boot.image_pa + image::idmap_pg_dir_offset());
    let mut idmap = IdentityMap::new(idmap_pa, VaRange::Lower, window).with_output_bits(pa_bits);
    check_identity_map(&idmap, boot.image_pa);
    for (slot, pa) in [
        (fixmap::FIX_EARLYCON, boot.firmware.uart),
        (fixmap::FIX_POWER, boot.firmware.power_manager),
    ] {
        if let Some(pa) = pa {
            match fixmap::map_device(&mut tables, slot, pa) {
                Ok(flush) => flush.ignore_because("the MMU is off"),
                Err(error) => panic!("device at {pa:#x}: {error}"),
            }
            identity_map_device(&mut idmap, &mut frames, pa);
        }
    }
    boot.static_frames = frames.count();

    boot.linear = LinearMap::for_banks(&boot.firmware.memblock, pa_bits);
    let reach = boot.linear.reach(pa_bits);
    // Taking frames changes what is reserved, never what is to be mapped.
    let memory = boot.firmware.memblock;
    // SAFETY: what the device tree declares as RAM and nobody reserved is free.
    let mut frames = unsafe { Frames::of_ram(&mut boot.firmware.memblock, window, reach) };
    if let Err((piece, error)) = linear::map(
        &mut tables,
        &mut frames,
        &memory,
        boot.linear,
        reach,
        boot.image_pa,
        options,
    ) {
        panic!("linear map of {piece}: {error}");
    }
    boot.linear_frames = frames.count();
    boot.heap = heap::reserve(&mut boot.firmware.memblock, reach);

    for_each_table(&tables, &mut |pa| {
        // The walker, whose reads are cached, must not find a table as it was before.
        // Now, as one is written to long after it was linked. Those of the identity
        // map are in the image, which enable_mmu.S sees to.
        // SAFETY: its lines were clean when the frame was taken, and everybody wrote
        // it with the caches off.
        unsafe {
            cache::invalidate(PhysRange {
                start: pa,
                end: pa + PAGE_SIZE,
            })
        };
    });
}

/// Maps each segment where the image is linked; the stack guards stay holes.
fn map_image(tables: &mut KernelTables, frames: &mut Frames<'_>, image_pa: u64) {
    for segment in image::segments() {
        // Relocation writes rodata once more, at its virtual address; the
        // protect stage then takes that right away.
        let prot = if segment.name == image::rodata().name {
            PAGE_KERNEL
        } else {
            segment.prot
        };
        let mapping = Mapping {
            va: VirtAddr::new(segment.va()),
            pa: PhysAddr::new(image_pa + segment.start),
            size_bytes: segment.size_bytes(),
            prot,
        };
        match tables.create_mapping(mapping, Flags::NONE, frames) {
            Ok(flush) => flush.ignore_because("the MMU is off"),
            Err(error) => panic!("image segment {}: {error}", segment.name),
        }
    }
}

type IdentityMap = PageTable<IdentityGeometry, TableWindow>;

/// Looks with other eyes at what head.S has built: where a page is missing, the
/// first fault with the MMU on could not be told.
fn check_identity_map(idmap: &IdentityMap, image_pa: u64) {
    for segment in image::segments() {
        let range = segment.phys(image_pa);
        for pa in [range.start, range.end - PAGE_SIZE] {
            let to = idmap.translate(VirtAddr::new(pa));
            assert!(
                to == Some(PhysAddr::new(pa)),
                "identity map of {}: {pa:#x} translates to {to:?}",
                segment.name
            );
        }
    }
}

/// Adds a device's page to the identity map, for the way to the high stage.
fn identity_map_device(idmap: &mut IdentityMap, frames: &mut Frames<'_>, pa: u64) {
    let page = fixmap::page_of(pa);
    let mapping = Mapping {
        va: VirtAddr::new(page),
        pa: PhysAddr::new(page),
        size_bytes: PAGE_SIZE,
        prot: PROT_DEVICE_nGnRE,
    };
    match idmap.create_mapping(mapping, Flags::NONE, frames) {
        Ok(flush) => flush.ignore_because("the MMU is off"),
        Err(error) => panic!("identity map of the device at {pa:#x}: {error}"),
    }
}
