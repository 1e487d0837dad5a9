//! One boot, planned: which QEMU, which machine, which image, and how it is judged.
//!
//! This is the only place that writes QEMU arguments. The tester's own run and the command shown
//! to repeat it differ in nothing but where console and monitor go.

use std::ffi::OsString;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use regex::Regex;

use crate::image::{Form, Image, VIRT_RAM};
use crate::loader::{self, Loader};
use crate::size::Size;
use crate::symbols::Source;
use crate::verdict::Rule;

/// Everything about one boot.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The QEMU to start.
    pub qemu: PathBuf,
    /// `-machine`.
    pub machine: String,
    /// `-cpu`; `None` leaves it to the machine.
    pub cpu: Option<String>,
    /// `-m`; `None` leaves it to the machine.
    pub mem: Option<Size>,
    /// `-smp`.
    pub smp: u32,
    /// Sizes of NUMA memory nodes, which must add up to `mem`.
    pub numa: Vec<Size>,
    /// `-accel`.
    pub accel: String,
    /// What starts the image.
    pub loader: Loader,
    /// How the image gets into memory, where QEMU itself starts it.
    pub entry: Entry,
    /// `-dtb`.
    pub dtb: Option<PathBuf>,
    /// `-initrd`.
    pub initrd: Option<PathBuf>,
    /// `-bios`.
    pub firmware: Option<PathBuf>,
    /// `-append`: the kernel's command line.
    pub append: Option<String>,
    /// Count instructions instead of time, so that every run is the same.
    pub icount: bool,
    /// More QEMU arguments, last on its command line.
    pub qemu_args: Vec<String>,
    /// The image.
    pub path: PathBuf,
    /// What the image is.
    pub image: Image,
    /// The ELF that it was made from.
    pub source: Option<Arc<Source>>,
    /// How often the machine is reset, with its RAM kept, before the boot that is judged.
    pub reboots: u32,
    /// The deadline, in guest time ([`crate::clock`]).
    pub timeout: Duration,
    /// What makes it a pass.
    pub rule: Rule,
    /// How long a busy guest may do nothing new, in time that its CPUs ran.
    pub quiet: Duration,
    /// How long QEMU may take to answer.
    pub patience: Duration,
    /// Where our kernel's black box will be, and the number that marks it as this boot's.
    pub black_box: Option<BlackBox>,
    /// `--pass-regex`.
    pub pass_regex: Option<Regex>,
    /// `--fail-regex`.
    pub fail_regex: Option<Regex>,
}

/// The place of a black box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlackBox {
    /// Its physical address.
    pub address: u64,
    /// The number.
    pub nonce: u64,
}

/// How the image gets into the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// QEMU's own loader, `-kernel`.
    Kernel,
    /// Copied to this physical address by a loader device, and entered there with x0 = 0.
    Loader(u64),
}

/// Where QEMU's console and monitor go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wiring<'a> {
    /// To the tester: QMP is standard input, the console standard output, both sockets. Nothing
    /// in the file system, nothing that could be left behind; the guest waits for `cont`. With the
    /// directory of a loader's files.
    Tester(&'a Path),
    /// To a person: the console on the terminal.
    Terminal,
}

impl Plan {
    /// QEMU's arguments.
    #[must_use]
    pub fn arguments(&self, wiring: Wiring<'_>) -> Vec<OsString> {
        let mut list: Vec<OsString> = Vec::new();
        let mut add = |words: &[&dyn AsRef<std::ffi::OsStr>]| {
            list.extend(words.iter().map(|word| word.as_ref().to_owned()));
        };
        add(&[&"-no-user-config", &"-nodefaults", &"-display", &"none"]);
        add(&[&"-machine", &self.machine]);
        if let Some(cpu) = &self.cpu {
            add(&[&"-cpu", cpu]);
        }
        add(&[&"-accel", &self.accel]);
        if let Some(mem) = self.mem {
            add(&[&"-m", &mem.to_string()]);
        }
        if self.smp != 1 {
            add(&[&"-smp", &self.smp.to_string()]);
        }
        for (node, size) in self.numa.iter().enumerate() {
            add(&[
                &"-object",
                &format!("memory-backend-ram,id=ram{node},size={size}"),
            ]);
            add(&[&"-numa", &format!("node,memdev=ram{node}")]);
        }
        if self.icount {
            // One instruction is one nanosecond; neither the host's clock nor its load counts.
            add(&[&"-icount", &"shift=0,sleep=off"]);
            add(&[&"-rtc", &"base=2024-01-01,clock=vm", &"-seed", &"1"]);
        }
        match wiring {
            Wiring::Tester(_) => {
                add(&[&"-chardev", &"socket,id=qmp,fd=0"]);
                add(&[&"-mon", &"chardev=qmp,mode=control"]);
                add(&[&"-chardev", &"file,id=console,path=/dev/fd/1"]);
                add(&[&"-serial", &"chardev:console"]);
                // A guest that ended stays readable, and the event says how it ended.
                add(&[&"-action", &"reboot=shutdown,shutdown=pause", &"-S"]);
                if self.has_exception_log() {
                    // To standard error; nothing in the file system, and no second pipe.
                    add(&[&"-d", &"int"]);
                }
                if self.marks_by_loader()
                    && let Some(BlackBox { address, nonce }) = self.black_box
                {
                    let address = address + crate::blackbox::NONCE;
                    let data = format!("data={nonce:#x},data-len=8");
                    add(&[&"-device", &format!("loader,addr={address:#x},{data}")]);
                }
            }
            Wiring::Terminal => add(&[&"-serial", &"stdio", &"-no-reboot"]),
        }
        if self.has_word("exit=semihosting") {
            // Lets the guest open files of the host: only where it was asked for.
            add(&[&"-semihosting-config", &"enable=on,target=native"]);
        }
        for (option, file) in [
            ("-dtb", &self.dtb),
            ("-initrd", &self.initrd),
            ("-bios", &self.firmware),
        ] {
            if let Some(file) = file {
                add(&[&option, file]);
            }
        }
        match (self.loader, wiring) {
            (Loader::Uboot, Wiring::Tester(files)) => {
                // Else it boots the same, after a countdown.
                let file = option_value(&files.join(loader::UBOOT_ENV_FILE));
                let address = loader::UBOOT_ENV;
                let load = format!("loader,file={file},addr={address:#x},force-raw=on");
                add(&[&"-device", &load]);
            }
            (Loader::UefiDisk, wiring) => {
                let directory = match wiring {
                    Wiring::Tester(files) => files.join(loader::ESP),
                    Wiring::Terminal => loader::ESP.into(),
                };
                let disk = option_value(&directory);
                let drive = format!("if=none,id=esp,format=raw,readonly=on,file=fat:{disk}");
                add(&[&"-drive", &drive, &"-device", &"virtio-blk-pci,drive=esp"]);
                // It would wait five seconds for a key.
                add(&[&"-boot", &"menu=on,splash-time=0"]);
            }
            _ => {}
        }
        match self.entry {
            Entry::Kernel if self.loader == Loader::UefiDisk => {}
            Entry::Kernel => {
                add(&[&"-kernel", &self.path]);
                if let Some(append) = &self.append {
                    add(&[&"-append", append]);
                }
            }
            Entry::Loader(address) => {
                let file = option_value(&self.path);
                let load = format!("loader,file={file},addr={address:#x},force-raw=on");
                add(&[&"-device", &load]);
                add(&[&"-device", &format!("loader,addr={address:#x},cpu-num=0")]);
            }
        }
        list.extend(self.qemu_args.iter().map(OsString::from));
        list
    }

    /// The QEMU command for a shell that shows this boot on a terminal.
    #[must_use]
    pub fn shell_command(&self) -> String {
        let mut words = vec![self.qemu.to_string_lossy().into_owned()];
        let arguments = self.arguments(Wiring::Terminal);
        words.extend(
            arguments
                .iter()
                .map(|word| word.to_string_lossy().into_owned()),
        );
        let command = shlex::try_join(words.iter().map(String::as_str))
            .unwrap_or_else(|_| format!("{words:?} (has a NUL byte)"));
        loader::shell_preparation(self).unwrap_or_default() + &command
    }

    /// Whether a word stands on the kernel's command line.
    #[must_use]
    pub fn has_word(&self, word: &str) -> bool {
        has_word(self.append.as_deref(), word)
    }

    /// Whether the guest may leave through semihosting, which ends QEMU: our kernel was told to, or QEMU was
    /// told to let it.
    #[must_use]
    pub fn exits_by_semihosting(&self) -> bool {
        let opens = |arg: &String| arg.trim_start_matches('-').starts_with("semihosting");
        self.has_word("exit=semihosting") || self.qemu_args.iter().any(opens)
    }

    /// Where the image's first byte will be in physical memory.
    #[must_use]
    pub fn load_address(&self) -> Option<u64> {
        match (self.entry, self.image.form) {
            _ if self.loader == Loader::Uboot => Some(loader::UBOOT_KERNEL),
            // Firmware loads the image wherever it likes.
            _ if self.firmware.is_some() => None,
            (Entry::Loader(address), _) => Some(address),
            (Entry::Kernel, Form::Elf) => Some(self.image.extent?.0),
            (Entry::Kernel, _) => ram_start(&self.machine)?.checked_add(self.image.load_offset?),
        }
    }

    /// Where the black box will be, if it is so far from the image's first byte.
    #[must_use]
    pub fn place_black_box(&self, offset: u64) -> Option<BlackBox> {
        let base = self.load_address()?;
        Some(BlackBox {
            address: base.checked_add(offset)?,
            nonce: random(),
        })
    }

    /// Whether QEMU's loader leaves the number in the black box. It allows nothing where an ELF
    /// wants its memory cleared: there the number is written once the machine stands ready.
    #[must_use]
    pub fn marks_by_loader(&self) -> bool {
        self.image.form != Form::Elf
    }

    /// Whether RAM is a file that may hold what a boot in another QEMU has left there.
    #[must_use]
    pub fn has_ram_of_before(&self) -> bool {
        let mut arguments = self.qemu_args.iter();
        arguments.any(|word| word.contains("memory-backend-file") || word.contains("-mem-path"))
    }

    /// Whether QEMU logs exceptions: hardware that runs the guest does not.
    #[must_use]
    pub fn has_exception_log(&self) -> bool {
        self.accel.starts_with("tcg")
    }

    /// Whether the guest was told to park instead of powering off.
    #[must_use]
    pub fn parks_at_end(&self) -> bool {
        self.has_word("exit=halt")
    }
}

/// Whether a word stands on a command line.
#[must_use]
pub fn has_word(append: Option<&str>, word: &str) -> bool {
    let mut words = append.unwrap_or_default().split_ascii_whitespace();
    words.any(|other| other == word)
}

/// A number that nobody else has, and not 0.
#[must_use]
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish() | 1
}

/// A path inside an option of QEMU's that has other parts.
fn option_value(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// The name of a machine, without its options.
#[must_use]
pub fn machine_name(machine: &str) -> &str {
    machine.split(',').next().unwrap_or_default()
}

/// Whether it is `virt`, in whichever of its versions: `virt-7.2` is one.
#[must_use]
pub fn is_virt(machine: &str) -> bool {
    let name = machine_name(machine);
    name == "virt" || name.starts_with("virt-")
}

/// Where RAM begins on the machines that our kernel boots on.
#[must_use]
pub fn ram_start(machine: &str) -> Option<u64> {
    match machine_name(machine) {
        "raspi3ap" | "raspi3b" | "raspi4b" => Some(0),
        _ => is_virt(machine).then_some(VIRT_RAM),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plan in which everything is said.
    fn full() -> Plan {
        Plan {
            qemu: "qemu".into(),
            machine: "virt,gic-version=3".into(),
            cpu: Some("max".into()),
            mem: Some(Size(100 << 20)),
            smp: 4,
            numa: vec![Size(33 << 20), Size(67 << 20)],
            accel: "tcg".into(),
            loader: Loader::Qemu,
            entry: Entry::Kernel,
            dtb: Some("a.dtb".into()),
            initrd: Some("rd".into()),
            firmware: Some("bios".into()),
            append: Some("it's quiet".into()),
            icount: true,
            qemu_args: vec!["-d".into(), "int".into()],
            path: "an Image,1".into(),
            image: Image {
                form: Form::Raw,
                is_ours: false,
                extent: None,
                load_offset: None,
                cut: None,
                linux: None,
            },
            source: None,
            reboots: 0,
            timeout: Duration::from_secs(1),
            rule: Rule::LastLine,
            quiet: Duration::from_secs(3),
            patience: Duration::from_secs(60),
            black_box: None,
            pass_regex: None,
            fail_regex: None,
        }
    }

    #[test]
    fn the_command_says_everything_and_survives_a_shell() {
        assert_eq!(
            full().shell_command(),
            "qemu -no-user-config -nodefaults -display none -machine 'virt,gic-version=3' -cpu max \
             -accel tcg -m 100M -smp 4 -object 'memory-backend-ram,id=ram0,size=33M' -numa \
             'node,memdev=ram0' -object 'memory-backend-ram,id=ram1,size=67M' -numa \
             'node,memdev=ram1' -icount 'shift=0,sleep=off' -rtc 'base=2024-01-01,clock=vm' \
             -seed 1 -serial stdio -no-reboot -dtb a.dtb -initrd rd -bios bios -kernel \
             'an Image,1' -append \"it's quiet\" -d int"
        );
        let tester = full().arguments(Wiring::Tester(Path::new("files")));
        assert!(tester.contains(&"-S".into()) && tester.ends_with(&["-d".into(), "int".into()]));
    }

    #[test]
    fn a_loader_device_replaces_the_kernel_option() {
        let plan = Plan {
            entry: Entry::Loader(0x4400_0000),
            ..full()
        };
        let command = plan.shell_command();
        assert!(command.contains(
            "-device 'loader,file=an Image,,1,addr=0x44000000,force-raw=on' \
             -device 'loader,addr=0x44000000,cpu-num=0'"
        ));
        assert!(!command.contains("-kernel"));
    }

    #[test]
    fn loaders_have_their_files() {
        let plan = |loader| Plan { loader, ..full() };
        let words = |loader| {
            let words = plan(loader).arguments(Wiring::Tester(Path::new("a,b")));
            let words = words.iter().map(|word| word.to_string_lossy());
            words.collect::<Vec<_>>().join(" ")
        };
        let uboot = words(Loader::Uboot);
        assert!(uboot.contains("loader,file=a,,b/uboot.env,addr=0x4000000,force-raw=on"));
        assert!(uboot.contains("-kernel") && uboot.contains("-append"));
        let disk = words(Loader::UefiDisk);
        assert!(disk.contains("file=fat:a,,b/esp ") && !disk.contains("-kernel"));
        // What is shown needs nothing that is gone by then.
        assert!(!plan(Loader::Uboot).shell_command().contains("uboot.env"));
        let command = plan(Loader::UefiDisk).shell_command();
        let made = "mkdir -p esp/EFI/BOOT && cp 'an Image,1' esp/EFI/BOOT/BOOTAA64.EFI && qemu ";
        assert!(command.starts_with(made), "{command}");
        assert!(command.contains("file=fat:esp'"), "{command}");
    }

    #[test]
    fn semihosting_is_open_only_to_guests_that_were_told_so() {
        let has_semihosting = |append: &str| {
            let plan = Plan {
                append: Some(append.into()),
                ..full()
            };
            plan.shell_command().contains("semihosting-config")
        };
        assert!(has_semihosting("loglevel=4 exit=semihosting"));
        assert!(!has_semihosting("noexit=semihosting"));
        assert!(!has_semihosting("exit=psci"));
    }
}
