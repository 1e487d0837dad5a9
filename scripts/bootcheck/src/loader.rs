//! Who puts the image into memory and enters it: QEMU's own few instructions, or a boot loader as
//! boards and servers have one. None is ever typed at: what it shall do lies ready in files.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use tempfile::TempDir;

use crate::image::{Form, Header};
use crate::plan::{Plan, is_virt};

/// What starts the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Loader {
    /// QEMU's own boot code
    Qemu,
    /// U-Boot, by `booti`
    Uboot,
    /// UEFI firmware, which gets image, command line and initial RAM disk from QEMU
    Uefi,
    /// UEFI firmware, which finds the image on a disk as EFI/BOOT/BOOTAA64.EFI
    UefiDisk,
}

/// Where U-Boot is told to load the image: where its own environment would, and where it stays.
pub const UBOOT_KERNEL: u64 = 0x4040_0000;

/// The second flash bank of `virt`, in which U-Boot looks for its environment, and how much of it.
pub const UBOOT_ENV: u64 = 0x0400_0000;
const UBOOT_ENV_SIZE: usize = 256 << 10;

/// The files of [`prepare`], by name.
pub const UBOOT_ENV_FILE: &str = "uboot.env";
/// The directory that the firmware sees as a disk.
pub const ESP: &str = "esp";
const BOOT_FILE: &str = "EFI/BOOT/BOOTAA64.EFI";

impl Loader {
    /// Whether it is UEFI.
    #[must_use]
    pub fn is_uefi(self) -> bool {
        matches!(self, Loader::Uefi | Loader::UefiDisk)
    }

    /// Its firmware, where distributions install it; the first such place if there is none.
    #[must_use]
    pub fn default_firmware(self) -> Option<PathBuf> {
        let places: &[&str] = match self {
            Loader::Qemu => return None,
            Loader::Uboot => &["/usr/lib/u-boot/qemu_arm64/u-boot.bin"],
            Loader::Uefi | Loader::UefiDisk => &[
                "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd", // Debian, Ubuntu
                "/usr/share/edk2/aarch64/QEMU_EFI.fd",     // Fedora
                "/usr/share/edk2/aarch64/QEMU_CODE.fd",    // Arch
            ],
        };
        let found = places.iter().map(PathBuf::from).find(|path| path.exists());
        found.or_else(|| places.first().map(PathBuf::from))
    }

    /// What to do where that is missing.
    fn remedy(self) -> &'static str {
        match self {
            Loader::Qemu => "--firmware names it",
            Loader::Uboot => {
                "`scripts/setup --all` installs Debian's u-boot-qemu; --firmware names another U-Boot"
            }
            Loader::Uefi | Loader::UefiDisk => {
                "`scripts/setup --all` installs Debian's qemu-efi-aarch64; --firmware names another"
            }
        }
    }
}

/// Why this host cannot boot so: a file that belongs to the machine is missing.
#[must_use]
pub fn missing(loader: Loader, firmware: Option<&Path>, dtb: Option<&Path>) -> Option<String> {
    if let Some(path) = firmware.filter(|path| !path.exists()) {
        let remedy = loader.remedy();
        return Some(format!("there is no firmware {}: {remedy}", path.display()));
    }
    let dtb = dtb.filter(|path| !path.exists())?;
    Some(format!(
        "there is no device tree {} (`scripts/setup --all` fetches those of boards)",
        dtb.display()
    ))
}

/// Whether the loader can start the image at all.
///
/// # Errors
/// Why not.
pub fn check(plan: &Plan) -> Result<(), String> {
    if plan.image.form == Form::Zboot && !plan.loader.is_uefi() {
        return Err(
            "an EFI zboot image, which only UEFI starts: --loader uefi, or unpack the Image in it"
                .into(),
        );
    }
    if plan.loader == Loader::Qemu {
        return Ok(());
    }
    if !is_virt(&plan.machine) {
        return Err("--loader is for the machine virt: its firmware knows no other".into());
    }
    if !matches!(plan.image.form, Form::Raw | Form::Zboot) {
        return Err("this loader wants a raw Image".into());
    }
    if plan.loader.is_uefi() {
        let image = fs::read(&plan.path).map_err(|error| error.to_string())?;
        if !has_pe_header(&image) {
            return Err(
                "it is no EFI application (no PE header), and UEFI starts nothing else".into(),
            );
        }
    }
    Ok(())
}

fn has_pe_header(image: &[u8]) -> bool {
    let offset = image.get(0x3c..0x40).and_then(|it| it.try_into().ok());
    let offset = offset.map_or(0, u32::from_le_bytes) as usize;
    let header = image.get(offset..).unwrap_or_default();
    image.starts_with(b"MZ") && header.starts_with(b"PE\0\0")
}

/// Makes the files that the loader reads, in a directory that goes with the value.
///
/// # Errors
/// What is missing, or cannot be written.
pub fn prepare(plan: &Plan) -> Result<Option<TempDir>, String> {
    let lacking = missing(plan.loader, plan.firmware.as_deref(), plan.dtb.as_deref());
    if let Some(reason) = lacking {
        return Err(reason);
    }
    let make = |fill: fn(&Plan, &Path) -> io::Result<()>| {
        let directory = tempfile::Builder::new().prefix("bootcheck-").tempdir()?;
        fill(plan, directory.path())?;
        Ok(Some(directory))
    };
    match plan.loader {
        Loader::Qemu | Loader::Uefi => Ok(None),
        Loader::Uboot => make(write_uboot_env),
        Loader::UefiDisk => make(fill_esp),
    }
    .map_err(|error: io::Error| format!("cannot make the loader's files: {error}"))
}

/// U-Boot's environment: boots at once what QEMU's firmware configuration device offers.
fn write_uboot_env(plan: &Plan, directory: &Path) -> io::Result<()> {
    let image = fs::read(&plan.path)?;
    let needed = Header::read(&image).map_or(0, |header| header.image_size);
    let end = UBOOT_KERNEL + needed.max(image.len() as u64);
    let initrd_at = end.next_multiple_of(2 << 20);
    let initrd = match &plan.initrd {
        Some(path) => format!("{initrd_at:x}:{:x}", fs::metadata(path)?.len()),
        None => "-".into(),
    };
    let command = format!(
        "qfw load {UBOOT_KERNEL:x} {initrd_at:x}; \
         booti {UBOOT_KERNEL:x} {initrd} $fdtcontroladdr"
    );
    let env = uboot_env(&[("bootdelay", "-2"), ("bootcmd", &command)]);
    fs::write(directory.join(UBOOT_ENV_FILE), env)
}

/// An environment as U-Boot keeps it: a CRC-32 of the whole area, then `name=value` with a NUL
/// behind each. What is zero at its end is left out: so is the flash.
fn uboot_env(variables: &[(&str, &str)]) -> Vec<u8> {
    let mut text = Vec::new();
    for (name, value) in variables {
        text.extend(format!("{name}={value}\0").into_bytes());
    }
    let mut area = text.clone();
    area.resize(UBOOT_ENV_SIZE - 4, 0);
    let mut crc = flate2::Crc::new();
    crc.update(&area);
    [&crc.sum().to_le_bytes()[..], &text].concat()
}

fn fill_esp(plan: &Plan, directory: &Path) -> io::Result<()> {
    let file = directory.join(ESP).join(BOOT_FILE);
    fs::create_dir_all(file.parent().unwrap_or(directory))?;
    symlink(fs::canonicalize(&plan.path)?, file)
}

/// Shell commands that make the directory which the shown QEMU command wants.
#[must_use]
pub fn shell_preparation(plan: &Plan) -> Option<String> {
    let image = plan.path.to_string_lossy();
    let image = shlex::try_quote(&image).ok()?;
    (plan.loader == Loader::UefiDisk)
        .then(|| format!("mkdir -p {ESP}/EFI/BOOT && cp {image} {ESP}/{BOOT_FILE} && "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_is_what_u_boot_checks() {
        let env = uboot_env(&[("a", "b"), ("bootcmd", "x; y $z")]);
        assert_eq!(&env[4..], b"a=b\0bootcmd=x; y $z\0");
        // As `zlib.crc32(b"a=b\0bootcmd=x; y $z\0" + bytes(0x40000 - 4 - 20))` in Python.
        let crc = u32::from_le_bytes(env[..4].try_into().unwrap());
        assert_eq!(crc, 0x773d_6130);
    }
}
