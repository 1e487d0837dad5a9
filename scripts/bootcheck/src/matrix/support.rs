//! What a QEMU can do: asked of itself, so that a cell it cannot have is skipped with the reason.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::cell::Cell;
use crate::interrupt::Interrupted;
use crate::loader;
use crate::process::Tethered;
use crate::qemu::explain_spawn;
use crate::qmp::{self, Qmp};

/// How long a QEMU may take to end once told to. It takes milliseconds.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

/// Several QEMUs, each asked once.
#[derive(Debug, Default)]
pub struct Supports(BTreeMap<PathBuf, Support>);

/// One QEMU, and what it has answered.
#[derive(Debug)]
struct Support {
    qemu: PathBuf,
    process: Tethered,
    qmp: Qmp,
    version: String,
    cpus: BTreeSet<String>,
    /// By name: the QOM type, and the most CPUs.
    machines: BTreeMap<String, (String, u64)>,
    accelerators: BTreeSet<String>,
    /// Names of options, by QOM type.
    options: BTreeMap<String, BTreeSet<String>>,
    /// Accelerators that were tried, and what was wrong.
    tried: BTreeMap<String, Option<String>>,
}

impl Supports {
    /// The version of the cell's QEMU, and what it lacks for the cell, if anything.
    ///
    /// # Errors
    /// There is no such QEMU, or it does not talk.
    pub fn ask(&mut self, cell: &Cell) -> anyhow::Result<(String, Option<String>)> {
        let guest = &cell.args.guest;
        let support = match self.0.entry(guest.qemu.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Support::ask(&guest.qemu)?),
        };
        let lacking = support.lacks(
            &guest.machine,
            guest.cpu.as_deref(),
            guest.smp,
            &guest.accel,
        );
        let version = support.version.clone();
        let lacking = lacking.map_err(unless_interrupted)?;
        let lacking = lacking.map(|what| format!("QEMU {version} {what}"));
        let firmware = guest.firmware();
        let lacking = lacking
            .or_else(|| loader::missing(guest.loader, firmware.as_deref(), guest.dtb.as_deref()));
        Ok((version, lacking))
    }
}

impl Support {
    fn ask(qemu: &Path) -> anyhow::Result<Self> {
        let (mut process, socket) = start(qemu, "tcg")?;
        let mut qmp = Qmp::new(socket, qmp::PATIENCE)?;
        let version = match qmp.greet() {
            Ok(version) => version,
            Err(error) => {
                let said = match error {
                    qmp::Error::Closed => messages(&mut process),
                    _ => String::new(),
                };
                process.kill();
                let complaint = format!("{} is no QEMU that talks", qemu.display());
                if !said.is_empty() {
                    bail!("{complaint}: {said}");
                }
                return Err(unless_interrupted(error)).context(complaint);
            }
        };
        let mut ask = |command| qmp.execute(command, json!({})).map_err(unless_interrupted);
        let cpus = names(&ask("query-cpu-definitions")?, "name");
        let list = ask("query-machines")?;
        let accelerators = qmp
            .execute("qom-list-types", json!({ "implements": "accel" }))
            .map_err(unless_interrupted)?;
        Ok(Self {
            qemu: qemu.to_owned(),
            process,
            qmp,
            version: version.split(' ').next().unwrap_or_default().to_owned(),
            cpus: cpus.into_iter().collect(),
            machines: machines(&list),
            accelerators: names(&accelerators, "name").into_iter().collect(),
            options: BTreeMap::new(),
            tried: BTreeMap::new(),
        })
    }

    fn lacks(
        &mut self,
        machine: &str,
        cpu: Option<&str>,
        smp: u32,
        accel: &str,
    ) -> Result<Option<String>, qmp::Error> {
        let (name, options) = machine.split_once(',').unwrap_or((machine, ""));
        let Some((kind, most)) = self.machines.get(name).cloned() else {
            return Ok(Some(format!("has no machine {name}")));
        };
        if u64::from(smp) > most {
            return Ok(Some(format!("gives {name} {most} CPUs at most")));
        }
        if let Some(option) = self.lacks_option(&kind, options)? {
            return Ok(Some(format!("knows no option {option} of {name}")));
        }
        if let Some(cpu) = cpu {
            let (model, options) = cpu.split_once(',').unwrap_or((cpu, ""));
            if !self.cpus.contains(model) {
                return Ok(Some(format!("has no CPU model {model}")));
            }
            if let Some(option) = self.lacks_option(&format!("{model}-arm-cpu"), options)? {
                return Ok(Some(format!("knows no option {option} of {model}")));
            }
        }
        let accel = accel.split(',').next().unwrap_or_default();
        if !self.accelerators.contains(&format!("{accel}-accel")) {
            return Ok(Some(format!("is built without {accel}")));
        }
        Ok(self.try_accelerator(accel)?.map(|said| {
            let said = said.lines().next().unwrap_or_default();
            format!("cannot use {accel}: {said}")
        }))
    }

    /// The first of `name=value,…` that objects of the QOM type do not have.
    fn lacks_option(&mut self, kind: &str, options: &str) -> Result<Option<String>, qmp::Error> {
        if options.is_empty() {
            return Ok(None);
        }
        if !self.options.contains_key(kind) {
            let of_kind = json!({ "typename": kind });
            let list = self.qmp.execute("qom-list-properties", of_kind)?;
            let known = names(&list, "name").into_iter().collect();
            self.options.insert(kind.to_owned(), known);
        }
        let known = &self.options[kind];
        let mut asked = options
            .split(',')
            .map(|option| option.split(['=', '.']).next().unwrap_or_default());
        Ok(asked
            .find(|option| !known.contains(*option))
            .map(str::to_owned))
    }

    /// Hardware acceleration may be built in, and not there.
    fn try_accelerator(&mut self, accel: &str) -> Result<Option<String>, qmp::Error> {
        if accel == "tcg" {
            return Ok(None);
        }
        if let Some(known) = self.tried.get(accel) {
            return Ok(known.clone());
        }
        let complaint = match start(&self.qemu, accel) {
            Ok((mut process, socket)) => {
                let mut qmp = Qmp::new(socket, qmp::PATIENCE).map_err(|_| qmp::Error::Closed)?;
                match qmp.greet() {
                    Ok(_) => None,
                    Err(qmp::Error::Interrupted) => return Err(qmp::Error::Interrupted),
                    Err(_) => Some(messages(&mut process)),
                }
            }
            Err(error) => Some(error.to_string()),
        };
        self.tried.insert(accel.to_owned(), complaint.clone());
        Ok(complaint)
    }
}

impl Drop for Support {
    fn drop(&mut self) {
        let _ = self.qmp.execute("quit", json!({}));
        let _ = self.process.wait(LAST_PATIENCE);
    }
}

/// Starts a QEMU with no machine, only to be asked; its QMP socket.
fn start(qemu: &Path, accel: &str) -> anyhow::Result<(Tethered, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(qemu);
    command
        .args(["-no-user-config", "-nodefaults", "-display", "none"])
        .args(["-machine", "none", "-accel", accel])
        .args(["-chardev", "socket,id=qmp,fd=0"])
        .args(["-mon", "chardev=qmp,mode=control"])
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    match Tethered::spawn(&mut command) {
        Ok(process) => Ok((process, ours)),
        Err(error) => bail!(explain_spawn(qemu, &error)),
    }
}

/// What a QEMU that is ending has written to its standard error.
fn messages(process: &mut Tethered) -> String {
    let _ = process.wait(LAST_PATIENCE);
    process.kill();
    let mut text = String::new();
    if let Some(mut stderr) = process.child().stderr.take() {
        let _ = std::io::Read::read_to_string(&mut stderr, &mut text);
    }
    crate::escape::escape(text.trim().as_bytes())
}

fn unless_interrupted(error: qmp::Error) -> anyhow::Error {
    match error {
        qmp::Error::Interrupted => Interrupted.into(),
        error => error.into(),
    }
}

fn names(list: &Value, key: &str) -> Vec<String> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .filter_map(|item| item[key].as_str().map(str::to_owned))
        .collect()
}

fn machines(list: &Value) -> BTreeMap<String, (String, u64)> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut machines = BTreeMap::new();
    for machine in list {
        let name = machine["name"].as_str().unwrap_or_default();
        let most = machine["cpu-max"].as_u64().unwrap_or(1);
        for known in [Some(name), machine["alias"].as_str()]
            .into_iter()
            .flatten()
        {
            machines.insert(known.to_owned(), (format!("{name}-machine"), most));
        }
    }
    machines
}
