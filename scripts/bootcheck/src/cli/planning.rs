//! From options to the plan of a boot.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{BootArgs, DEFAULT_ELF, DEFAULT_IMAGE, GuestArgs};
use crate::blackbox;
use crate::image::{self, Form, Image};
use crate::loader::{self, Loader};
use crate::plan::{Entry, Plan, is_virt, machine_name};
use crate::size::Size;
use crate::symbols::Source;
use crate::verdict::Rule;

impl BootArgs {
    /// The ELF that belongs to the image, if we know one.
    #[must_use]
    pub fn elf(&self) -> Option<PathBuf> {
        match &self.elf {
            Some(elf) => Some(elf.clone()),
            None if self.guest.image == Path::new(DEFAULT_IMAGE) => Some(DEFAULT_ELF.into()),
            None => None,
        }
    }

    /// Plans the boot, with what the ELF tells.
    ///
    /// # Errors
    /// Why the image cannot boot.
    pub fn plan(&self) -> Result<Plan, String> {
        let mut plan = self.guest.plan_with(self.elf().as_deref())?;
        plan.source = Source::for_image(self.elf(), &self.guest.image).map(Arc::new);
        plan.reboots = self.reboots;
        Ok(plan)
    }
}

impl GuestArgs {
    /// Plans the boot, with what the ELF tells, if there is one.
    ///
    /// # Errors
    /// Why the image cannot boot.
    pub fn plan_with(&self, elf: Option<&Path>) -> Result<Plan, String> {
        let mut plan = self.plan()?;
        // Other projects' ELFs have no black box, and may be huge.
        let elf = elf.filter(|_| plan.image.is_ours);
        let bytes = elf.and_then(|elf| std::fs::read(elf).ok());
        if let Some(offset) = bytes.and_then(|bytes| blackbox::offset_in_image(&bytes)) {
            plan.black_box = plan.place_black_box(offset);
        }
        Ok(plan)
    }

    /// Plans the boot: what was not said depends on the image and the machine.
    ///
    /// # Errors
    /// Why the image cannot boot.
    pub fn plan(&self) -> Result<Plan, String> {
        let image = image::inspect(&self.image)?;
        if self.load_address.is_some() && image.form != Form::Raw {
            let path = self.image.display();
            return Err(format!(
                "{path} cannot boot: --load-address wants a raw Image"
            ));
        }
        let plan = self.plan_for(image);
        let cannot = |reason| format!("{} cannot boot: {reason}", self.image.display());
        if plan.loader == Loader::UefiDisk && (plan.append.is_some() || plan.initrd.is_some()) {
            return Err(cannot(
                "a loader that finds it on a disk has no command line and no initial RAM disk for \
                 it; --loader uefi has"
                    .into(),
            ));
        }
        loader::check(&plan).map_err(cannot)?;
        if let Some(ram) = plan.mem.filter(|_| is_virt(&plan.machine)) {
            image::check_extent_on_virt(&image, ram.0).map_err(cannot)?;
        }
        Ok(plan)
    }

    /// The firmware: what was named, or where the loader's own is installed.
    #[must_use]
    pub fn firmware(&self) -> Option<PathBuf> {
        let named = self.firmware.clone();
        named.or_else(|| self.loader.default_firmware())
    }

    /// The machine: UEFI passes a device tree on only where it has no ACPI tables to offer.
    fn machine(&self) -> String {
        if self.loader.is_uefi() && !self.machine.contains(",acpi=") {
            format!("{},acpi=off", self.machine)
        } else {
            self.machine.clone()
        }
    }

    fn plan_for(&self, image: Image) -> Plan {
        let (mem, timeout) = if image.is_ours { (128, 10) } else { (512, 60) };
        // Boards have one CPU model and a fixed amount of RAM.
        let is_virtual = is_virt(&self.machine) || machine_name(&self.machine) == "sbsa-ref";
        let cpu = if self.accel.starts_with("tcg") {
            "cortex-a72"
        } else {
            "host"
        };
        Plan {
            qemu: self.qemu.clone(),
            machine: self.machine(),
            cpu: self.cpu.clone().or(is_virtual.then(|| cpu.to_owned())),
            mem: match self.numa.iter().map(|size| size.0).sum() {
                0 => self.mem.or(is_virtual.then_some(Size(mem << 20))),
                sum => Some(Size(sum)),
            },
            smp: self.smp,
            numa: self.numa.clone(),
            accel: self.accel.clone(),
            loader: self.loader,
            entry: self.load_address.map_or(Entry::Kernel, Entry::Loader),
            dtb: self.dtb.clone(),
            initrd: self.initrd.clone(),
            firmware: self.firmware(),
            append: self.append.clone(),
            icount: self.icount,
            qemu_args: self.qemu_arg.clone(),
            path: self.image.clone(),
            image,
            source: None,
            reboots: 0,
            timeout: self.timeout.unwrap_or(Duration::from_secs(timeout)),
            quiet: self.quiet,
            patience: self.patience,
            black_box: None,
            rule: match (&self.pass_regex, self.until_exit) {
                (None, _) => Rule::LastLine,
                (Some(_), false) => Rule::Match,
                (Some(_), true) => Rule::MatchUntilExit,
            },
            pass_regex: self.pass_regex.clone(),
            fail_regex: self.fail_regex.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;
    use crate::guest::Guest;

    fn plan(options: &[&OsStr]) -> Plan {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("Image");
        std::fs::write(&image, Guest::default().power_off().image()).unwrap();
        let image = ["--image".as_ref(), image.as_os_str()];
        let options = options.iter().copied().chain(image);
        BootArgs::from_options(options).unwrap().plan().unwrap()
    }

    #[test]
    fn a_version_of_virt_has_its_defaults() {
        for machine in ["virt", "virt-7.2", "virt-10.0,gic-version=3"] {
            let plan = plan(&["--machine", machine].map(OsStr::new));
            assert_eq!(plan.cpu.as_deref(), Some("cortex-a72"), "{machine}");
            assert_eq!(plan.mem, Some(Size(512 << 20)), "{machine}");
        }
        let board = plan(&["--machine", "virtual-board"].map(OsStr::new));
        assert_eq!((board.cpu, board.mem), (None, None));
    }

    /// What a Linux without a console died of is read by its names, in a matrix and a bisection as
    /// well: those plan their boots by this alone.
    #[test]
    fn a_plan_knows_the_elf_that_was_named() {
        assert!(plan(&["--elf", "vmlinux"].map(OsStr::new)).source.is_some());
    }
}
