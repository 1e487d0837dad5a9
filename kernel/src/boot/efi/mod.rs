//! UEFI: from the firmware's call to `head.S`.
//!
//! To UEFI the Image is an application (`header.S`). The firmware calls `efi_entry`
//! (`entry.S`) with the MMU on and memory mapped one to one, and that calls
//! [`efi_main`]. It asks for what only the firmware knows: which memory is free,
//! the command line, where the device tree is, and room at a multiple of 2 MiB;
//! then it ends boot services. `entry.S` copies the image to that room, turns the
//! MMU off, and enters it like any other loader. The early stage finds what was
//! learnt in [`Handoff`], which was copied along.
//!
//! Until boot services end, whatever goes wrong is told on the firmware's console
//! and given back to it as a status.

mod services;

use core::fmt;

use platform::cmdline::CommandLine;
use platform::efi::{self, Ram};
use platform::fdt::{self, FdtError, HEADER_BYTES};
use r_efi::efi::{Handle, Status, SystemTable};

use self::services::Services;
use super::info::EarlyCell;
use crate::mm::image;

/// A place for the image: any multiple of this (Linux arm64 boot protocol).
const IMAGE_ALIGN: u64 = 2 << 20;

/// How often ExitBootServices may say that the memory map is out of date.
const EXIT_TRIES: u32 = 8;

/// What the early stage is told.
pub struct Handoff {
    /// RAM, in place of the device tree's memory nodes: those know nothing of what
    /// the firmware keeps.
    pub ram: Ram,
    /// The command line, in place of the device tree's unless empty.
    pub bootargs: CommandLine,
}

/// In .data: it must be copied with the image, and outlive the zeroing of .bss.
#[unsafe(link_section = ".data.efi_handoff")]
static HANDOFF: EarlyCell<Option<Handoff>> = EarlyCell::new(None);

/// What UEFI told; `None` if it did not start this boot. For the early stage.
pub fn handoff() -> Option<&'static Handoff> {
    // SAFETY: only efi_main() writes to it, in the copy that is not running any more.
    unsafe { &*HANDOFF.as_ptr() }.as_ref()
}

/// x0 and x1 for `entry.S`.
#[repr(C)]
struct Next {
    /// Where the image shall run; 0 to go back to the firmware.
    image_pa: u64,
    /// Physical address of the device tree, or the status for the firmware.
    fdt_or_status: u64,
}

#[unsafe(no_mangle)]
extern "C" fn efi_main(image: Handle, system: *const SystemTable) -> Next {
    // SAFETY: entry.S passes on what the firmware called it with.
    let mut services = unsafe { Services::new(image, system) };
    match prepare(&mut services) {
        Ok((image_pa, fdt_pa)) => Next {
            image_pa,
            fdt_or_status: fdt_pa,
        },
        Err(failure) => {
            services.print(format_args!("boot: UEFI: {failure}\nboot: FAIL\n"));
            Next {
                image_pa: 0,
                fdt_or_status: failure.status().as_usize() as u64,
            }
        }
    }
}

/// Learns and takes all that the kernel needs, and ends boot services. Returns where
/// the image shall run and where the device tree is.
fn prepare(services: &mut Services) -> Result<(u64, u64), Failure> {
    let fdt_pa = find_device_tree(services)?;
    let size = image::phys(0).size_bytes();
    let room = services
        .allocate(size + IMAGE_ALIGN)
        .map_err(|status| Failure::Refused("AllocatePages", status))?;
    let image_pa = room.next_multiple_of(IMAGE_ALIGN);
    let bootargs = services
        .load_options()
        .map_err(|status| Failure::Refused("the loaded image protocol", status))?;
    // What follows starts on a line of its own, wherever the firmware left the cursor.
    services.print(format_args!(
        "boot: UEFI: image to {image_pa:#x}, device tree at {fdt_pa:#x}, command line {:?}\n",
        bootargs.as_str()
    ));

    let ram = exit_boot_services(services)?;
    // SAFETY: nobody refers to it yet.
    *unsafe { HANDOFF.get_mut() } = Some(Handoff { ram, bootargs });
    Ok((image_pa, fdt_pa))
}

fn find_device_tree(services: &Services) -> Result<u64, Failure> {
    let fdt_pa = services.device_tree().ok_or(Failure::NoDeviceTree)?;
    if !fdt_pa.is_multiple_of(8) {
        return Err(Failure::Misaligned(fdt_pa));
    }
    // SAFETY: the firmware's table says that a device tree is there.
    let header = unsafe { (fdt_pa as *const [u8; HEADER_BYTES]).read() };
    fdt::total_size(&header).map_err(Failure::Fdt)?;
    Ok(fdt_pa)
}

/// Ends boot services with the memory map in hand that was right at that moment.
fn exit_boot_services(services: &mut Services) -> Result<Ram, Failure> {
    let mut last = Status::INVALID_PARAMETER;
    for _ in 0..EXIT_TRIES {
        let map = services
            .memory_map()
            .map_err(|status| Failure::Refused("GetMemoryMap", status))?;
        let ram = efi::ram(map.bytes, map.descriptor_bytes).ok_or(Failure::BadMap)?;
        let key = map.key;
        match services.exit_boot_services(key) {
            Status::SUCCESS => return Ok(ram),
            // Something was allocated since, by a timer of the firmware's, say.
            status => last = status,
        }
    }
    Err(Failure::Refused("ExitBootServices", last))
}

/// Why the firmware gets the machine back.
enum Failure {
    NoDeviceTree,
    Misaligned(u64),
    Fdt(FdtError),
    BadMap,
    Refused(&'static str, Status),
}

impl Failure {
    fn status(&self) -> Status {
        match self {
            Self::Refused(_, status) => *status,
            Self::NoDeviceTree => Status::UNSUPPORTED,
            Self::Misaligned(_) | Self::Fdt(_) | Self::BadMap => Status::LOAD_ERROR,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDeviceTree => f.write_str(
                "the firmware offers no device tree, and this kernel reads no ACPI tables \
                 (QEMU: -machine virt,acpi=off)",
            ),
            Self::Misaligned(pa) => write!(f, "the device tree at {pa:#x} is not 8-byte aligned"),
            Self::Fdt(error) => write!(f, "no usable device tree: {error}"),
            Self::BadMap => f.write_str("the memory map's descriptors are too small"),
            Self::Refused(what, status) => {
                write!(f, "{what} failed with status {:#x}", status.as_usize())
            }
        }
    }
}
