//! The firmware's services, as far as they are needed (UEFI Specification 2.10,
//! chapters 4, 7, 9 and 12).

use core::ffi::c_void;
use core::fmt::{self, Write};
use core::ptr::{self, NonNull};

use platform::cmdline::CommandLine;
use r_efi::efi::protocols::{loaded_image, simple_text_output};
use r_efi::efi::{self, BootServices, Handle, MemoryDescriptor, Status, SystemTable};

use crate::boot::info::EarlyCell;

const EFI_PAGE_SIZE: u64 = 4096;

/// Room for a memory map: not allocated, since that would change the map.
const MAP_BYTES: usize = 32 << 10;

#[repr(C, align(8))]
struct MapBuffer([u8; MAP_BYTES]);

static MAP: EarlyCell<MapBuffer> = EarlyCell::new(MapBuffer([0; MAP_BYTES]));

/// A memory map as GetMemoryMap returns it.
pub struct MemoryMap<'a> {
    /// The descriptors.
    pub bytes: &'a [u8],
    /// How far they are apart.
    pub descriptor_bytes: usize,
    /// What ExitBootServices wants to see.
    pub key: usize,
}

/// Boot services, while there are any.
pub struct Services {
    image: Handle,
    system: &'static SystemTable,
    boot: &'static BootServices,
}

impl Services {
    /// The services that `system` leads to.
    ///
    /// # Safety
    /// What UEFI passed to the application, once, before boot services end.
    pub unsafe fn new(image: Handle, system: *const SystemTable) -> Self {
        // SAFETY: the caller's; both tables stay where they are.
        let system = unsafe { &*system };
        Self {
            image,
            system,
            // SAFETY: as above.
            boot: unsafe { &*system.boot_services },
        }
    }

    /// Writes to the firmware's console, if it has one.
    pub fn print(&mut self, text: fmt::Arguments<'_>) {
        if let Some(console) = NonNull::new(self.system.con_out) {
            // It cannot fail but by the text's own Display.
            let _ = Console(console).write_fmt(text);
        }
    }

    /// The device tree, if the firmware has installed one.
    pub fn device_tree(&self) -> Option<u64> {
        let tables = NonNull::new(self.system.configuration_table)?;
        // SAFETY: so many tables stand there.
        let tables = unsafe {
            core::slice::from_raw_parts(tables.as_ptr(), self.system.number_of_table_entries)
        };
        let table = tables
            .iter()
            .find(|table| table.vendor_guid == efi::DTB_TABLE_GUID)?;
        Some(table.vendor_table as u64)
    }

    /// Takes memory of at least `size_bytes`, and returns where it is.
    ///
    /// # Errors
    /// What AllocatePages said.
    pub fn allocate(&mut self, size_bytes: u64) -> Result<u64, Status> {
        let pages = size_bytes.div_ceil(EFI_PAGE_SIZE) as usize;
        let mut address = 0;
        let allocate = self.boot.allocate_pages;
        let (how, kind) = (efi::ALLOCATE_ANY_PAGES, efi::LOADER_DATA);
        // SAFETY: boot services last; it writes to `address`.
        let status = unsafe { allocate(how, kind, pages, &raw mut address) };
        check(status).map(|()| address)
    }

    /// The command line.
    ///
    /// # Errors
    /// What HandleProtocol said.
    pub fn load_options(&self) -> Result<CommandLine, Status> {
        let mut guid = loaded_image::PROTOCOL_GUID;
        let mut protocol: *mut c_void = ptr::null_mut();
        let handle_protocol = self.boot.handle_protocol;
        // SAFETY: boot services last; it writes to `protocol`.
        check(unsafe { handle_protocol(self.image, &raw mut guid, &raw mut protocol) })?;
        // SAFETY: the firmware found it, and it stays while the application runs.
        let loaded = unsafe { &*protocol.cast::<loaded_image::Protocol>() };
        let units = loaded.load_options.cast::<u16>();
        if units.is_null() {
            return Ok(CommandLine::EMPTY);
        }
        // SAFETY: so many bytes are there; they need not be aligned.
        let unit = |index| unsafe { units.add(index).read_unaligned() };
        let count = loaded.load_options_size as usize / 2;
        Ok(CommandLine::from_utf16((0..count).map(unit)))
    }

    /// The memory map as it is now.
    ///
    /// # Errors
    /// What GetMemoryMap said.
    pub fn memory_map(&mut self) -> Result<MemoryMap<'_>, Status> {
        let mut size = MAP_BYTES;
        let (mut key, mut descriptor_bytes, mut version) = (0, 0, 0);
        let buffer = MAP.as_ptr();
        // SAFETY: boot services last; it writes to these, and `size` bytes to the buffer.
        check(unsafe {
            (self.boot.get_memory_map)(
                &raw mut size,
                buffer.cast::<MemoryDescriptor>(),
                &raw mut key,
                &raw mut descriptor_bytes,
                &raw mut version,
            )
        })?;
        // SAFETY: nobody writes to it while `self` is borrowed.
        let bytes = unsafe { &(*buffer).0 };
        Ok(MemoryMap {
            bytes: bytes.get(..size).unwrap_or(bytes),
            descriptor_bytes,
            key,
        })
    }

    /// Ends boot services, if `key` is of the current map. Whatever else is called
    /// after a success is not there any more.
    pub fn exit_boot_services(&mut self, key: usize) -> Status {
        // SAFETY: boot services last until this succeeds.
        unsafe { (self.boot.exit_boot_services)(self.image, key) }
    }
}

fn check(status: Status) -> Result<(), Status> {
    match status {
        Status::SUCCESS => Ok(()),
        status => Err(status),
    }
}

/// The firmware's console.
struct Console(NonNull<simple_text_output::Protocol>);

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let console = self.0.as_ptr();
        for unit in text.encode_utf16() {
            let mut units = match unit {
                0x0a => [0x0d, 0x0a, 0],
                unit => [unit, 0, 0],
            };
            // SAFETY: the system table names a console, and the text ends with a NUL.
            unsafe { ((*console).output_string)(console, units.as_mut_ptr()) };
        }
        Ok(())
    }
}
