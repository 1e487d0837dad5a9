//! Builds and boots on demand, each of them once: what is known already is not done again.
//!
//! - A revision is built once; its image and ELF are kept until the bisection is over, so that it
//!   can be booted again without a build.
//! - What boots of an image came to is kept beyond that, by everything that could matter: the bytes
//!   of image, device tree, initial RAM disk, firmware and QEMU, the options, and the tester itself.
//!   What the host may be to blame for (`infra`, `timeout`) is not.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::builder::{Builder, Products};
use super::failure::Sight;
use super::search::Costs;
use crate::build::NotBuilt;
use crate::cli::BootArgs;
use crate::digest;
use crate::files;
use crate::run::boot_unseen;
use crate::verdict::Verdict;

/// How often a boot is tried that QEMU or the host spoilt.
const ATTEMPTS: u32 = 3;

/// A revision, built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Built {
    /// It has an image, of this name in the store.
    Image(String),
    /// It cannot be built, for this reason.
    Broken(String),
    /// Its build has no end, as this says.
    Hung(String),
}

/// What is known about one revision.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    built: Built,
    seconds: f64,
}

/// What a stopped bisection goes on from.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Journal {
    /// What was asked for: another question starts anew.
    question: Vec<String>,
    revisions: BTreeMap<String, Entry>,
}

/// What was done and how long it took.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Effort {
    /// Builds, both ends and the revert included.
    pub builds: u32,
    /// Seconds that they took.
    pub build_seconds: f64,
    /// Boots of this run.
    pub boots: u32,
    /// Seconds that they took.
    pub boot_seconds: f64,
    /// Boots that were known from before.
    pub remembered: u32,
}

/// Builds and boots.
#[derive(Debug)]
pub struct Lab {
    builder: Builder,
    boot: BootArgs,
    /// Everything about a boot but the image.
    conditions: String,
    directory: PathBuf,
    observations: PathBuf,
    journal: Journal,
    /// What boots of each image came to, and how many of them were asked for.
    sights: HashMap<String, (Vec<Sight>, usize)>,
    effort: Effort,
}

impl Lab {
    /// Works in `directory`, with what it finds there if `question` is the same. Observations are
    /// kept in `observations`.
    ///
    /// # Errors
    /// QEMU or a file that the guest needs cannot be read.
    pub fn open(
        builder: Builder,
        boot: BootArgs,
        directory: &Path,
        observations: PathBuf,
        question: Vec<String>,
    ) -> anyhow::Result<Self> {
        for directory in [&directory.join("images"), &observations] {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let old = fs::read(directory.join("journal.json")).ok();
        let old: Option<Journal> = old.and_then(|text| serde_json::from_slice(&text).ok());
        let journal = old.filter(|journal| journal.question == question);
        let lab = Self {
            conditions: conditions(&boot)?,
            builder,
            boot,
            directory: directory.to_owned(),
            observations,
            journal: journal.unwrap_or(Journal {
                question,
                ..Journal::default()
            }),
            sights: HashMap::new(),
            effort: Effort::default(),
        };
        lab.write_journal()?;
        Ok(lab)
    }

    fn write_journal(&self) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(&self.journal)?;
        files::write_atomically(&self.directory.join("journal.json"), &text)
    }

    /// The question of the bisection that was stopped in `directory`.
    #[must_use]
    pub fn stopped(directory: &Path) -> Option<Vec<String>> {
        let text = fs::read(directory.join("journal.json")).ok()?;
        let journal: Journal = serde_json::from_slice(&text).ok()?;
        Some(journal.question)
    }

    /// How many revisions are known from before.
    #[must_use]
    pub fn known(&self) -> usize {
        self.journal.revisions.len()
    }

    /// What was done.
    #[must_use]
    pub fn effort(&self) -> Effort {
        self.effort
    }

    /// The builder.
    #[must_use]
    pub fn builder(&mut self) -> &mut Builder {
        &mut self.builder
    }

    /// The verdict of a good boot.
    #[must_use]
    pub fn expected(&self) -> Verdict {
        self.boot.expect
    }

    /// Whether QEMU counts instructions, so that each image always does the same.
    #[must_use]
    pub fn is_icount(&self) -> bool {
        self.boot.guest.icount
    }

    /// What one more build and one more boot will take.
    #[must_use]
    pub fn costs(&self) -> Costs {
        // The first build of all makes everything; later ones only what has changed.
        let mut builds: Vec<f64> = self.journal.revisions.values().map(|e| e.seconds).collect();
        builds.sort_by(f64::total_cmp);
        let build = builds.get(builds.len() / 2).copied().unwrap_or(10.0);
        let sights = self.sights.values().flat_map(|(sights, _)| sights);
        let (count, sum) = sights.fold((0, 0.0), |(count, sum), sight| {
            (count + 1, sum + sight.seconds)
        });
        Costs {
            build: build.max(0.01),
            boot: if count == 0 {
                0.1
            } else {
                (sum / f64::from(count)).max(0.001)
            },
        }
    }

    /// Whether a revision would have to be built.
    #[must_use]
    pub fn is_built(&self, name: &str) -> bool {
        self.journal.revisions.contains_key(name)
    }

    /// Builds a commit, unless that was done.
    ///
    /// # Errors
    /// The tester, git or the host failed.
    pub fn build(&mut self, sha: &str) -> anyhow::Result<Built> {
        self.build_with(sha, |builder| builder.build(sha))
    }

    /// Builds what `make` puts together under a name of its own, unless that was done.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn build_with(
        &mut self,
        name: &str,
        make: impl FnOnce(&mut Builder) -> anyhow::Result<Result<Products, NotBuilt>>,
    ) -> anyhow::Result<Built> {
        if let Some(entry) = self.journal.revisions.get(name) {
            let is_there = match &entry.built {
                Built::Image(key) => self.image(key).exists(),
                Built::Broken(_) | Built::Hung(_) => true,
            };
            if is_there {
                return Ok(entry.built.clone());
            }
        }
        let started = Instant::now();
        let built = match make(&mut self.builder)? {
            Ok(products) => Built::Image(self.keep(&products)?),
            Err(NotBuilt { reason, hung: true }) => Built::Hung(reason),
            Err(NotBuilt { reason, .. }) => Built::Broken(reason),
        };
        let seconds = started.elapsed().as_secs_f64();
        self.effort.builds += 1;
        self.effort.build_seconds += seconds;
        let entry = Entry {
            built: built.clone(),
            seconds,
        };
        self.journal.revisions.insert(name.to_owned(), entry);
        self.write_journal()?;
        Ok(built)
    }

    /// Puts a build's products into the store.
    fn keep(&self, products: &Products) -> anyhow::Result<String> {
        let key = digest::of_file(&products.image)?;
        let place = self.image(&key);
        let directory = place.parent().unwrap_or(&place);
        let copy = |from: &Path, to: &Path| {
            fs::copy(from, to).with_context(|| format!("cannot keep {}", from.display()))
        };
        fs::create_dir_all(directory)?;
        if let Some(elf) = &products.elf {
            copy(elf, &self.elf(&key))?;
        }
        copy(&products.image, &place)?;
        Ok(key)
    }

    /// Where an image is kept.
    #[must_use]
    pub fn image(&self, key: &str) -> PathBuf {
        self.directory.join("images").join(key).join("Image")
    }

    fn elf(&self, key: &str) -> PathBuf {
        self.directory.join("images").join(key).join("kernel.elf")
    }

    /// The options that boot an image.
    #[must_use]
    pub fn boot_args(&self, key: &str) -> BootArgs {
        let mut args = self.boot.clone();
        args.guest.image = self.image(key);
        let elf = self.elf(key);
        args.elf = elf.exists().then_some(elf);
        args
    }

    /// The size of an image.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn image_bytes(&self, key: &str) -> anyhow::Result<u64> {
        let path = self.image(key);
        let data = fs::metadata(&path).with_context(|| format!("no {}", path.display()))?;
        Ok(data.len())
    }

    /// One more boot of an image; one that is remembered counts as well.
    ///
    /// # Errors
    /// QEMU, the host or the tester failed, again and again.
    pub fn boot(&mut self, key: &str) -> anyhow::Result<Sight> {
        if !self.sights.contains_key(key) {
            let remembered = fs::read(self.observations_of(key)).ok();
            let remembered = remembered.and_then(|text| serde_json::from_slice(&text).ok());
            self.sights
                .insert(key.to_owned(), (remembered.unwrap_or_default(), 0));
        }
        if let Some((sights, asked)) = self.sights.get_mut(key)
            && let Some(sight) = sights.get(*asked)
        {
            *asked += 1;
            self.effort.remembered += 1;
            return Ok(sight.clone());
        }
        let sight = self.boot_now(key)?;
        if sight.verdict != Verdict::Timeout
            && let Some((sights, asked)) = self.sights.get_mut(key)
        {
            sights.push(sight.clone());
            *asked += 1;
            let text = serde_json::to_vec(&*sights)?;
            files::write_atomically(&self.observations_of(key), &text)?;
        }
        Ok(sight)
    }

    fn boot_now(&mut self, key: &str) -> anyhow::Result<Sight> {
        let args = self.boot_args(key);
        let mut trouble = String::new();
        for attempt in 0..ATTEMPTS {
            // What troubles the host may be over soon.
            std::thread::sleep(Duration::from_secs(attempt.into()));
            let started = Instant::now();
            let report = boot_unseen(args.plan())?;
            self.effort.boots += 1;
            self.effort.boot_seconds += started.elapsed().as_secs_f64();
            let mut sight = Sight::from(report);
            sight.seconds = started.elapsed().as_secs_f64();
            if sight.verdict != Verdict::Infra {
                return Ok(sight);
            }
            trouble = sight.message.unwrap_or_default();
        }
        bail!(
            "no boot came about in {ATTEMPTS} attempts, which says nothing about the revision: {trouble}"
        )
    }

    fn observations_of(&self, key: &str) -> PathBuf {
        let name = digest::of_bytes(format!("{key}\n{}", self.conditions));
        self.observations.join(format!("{name}.json"))
    }

    /// Removes the images and the journal: the bisection is over.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn close(self) -> anyhow::Result<()> {
        let _ = fs::remove_file(self.directory.join("journal.json"));
        super::tree::remove(&self.directory.join("images"))
    }
}

/// Everything but the image that a boot depends on, as text.
fn conditions(boot: &BootArgs) -> anyhow::Result<String> {
    let mut guest = boot.guest.clone();
    guest.image = PathBuf::new();
    let mut text = format!("{guest:?} expect {}\n", boot.expect);
    let qemu = program(&guest.qemu);
    let tester = std::env::current_exe().context("cannot tell where the tester is")?;
    let files = [Some(tester), qemu, guest.dtb, guest.initrd, guest.firmware];
    for file in files.into_iter().flatten() {
        text.push_str(&format!("{} {}\n", file.display(), digest::of_file(&file)?));
    }
    Ok(text)
}

/// Where a program is that is started by this name.
fn program(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return name.exists().then(|| name.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}
