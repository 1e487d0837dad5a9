//! The list of cells, read from TOML and expanded.
//!
//! ```toml
//! [images]                        # the builds, by name; the first row of defaults picks one
//! release = { image = "target/kernel/Image", elf = "target/kernel/kernel.elf" }
//!
//! [defaults]                      # what a cell does not say
//! image = "release"
//!
//! [[cells]]
//! name = "cpu"                    # becomes cpu/cortex-a53 and cpu/max
//! cpu = ["cortex-a53", "max"]     # every value of an array is a cell, of two arrays every pair
//! ```
//!
//! A cell is nothing but options of `bootcheck boot`, so each can be repeated alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::{Args, FromArgMatches};
use serde::Deserialize;

use crate::cli::BootArgs;
use crate::plan::{Plan, Size};
use crate::verdict::Verdict;

/// One boot of the matrix.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Its name, unique in the matrix.
    pub name: String,
    /// The options of `bootcheck boot` that make it.
    pub options: Vec<String>,
    /// The same, understood.
    pub args: BootArgs,
    /// The verdict it must come to.
    pub expect: Verdict,
    /// An initial RAM disk to make, of this size.
    pub initrd: Option<Size>,
}

impl Cell {
    /// Plans the boot.
    ///
    /// # Errors
    /// Why the image cannot boot.
    pub fn plan(&self) -> Result<Plan, String> {
        self.args.plan()
    }

    /// The command that repeats this cell alone.
    #[must_use]
    pub fn command(&self) -> String {
        let words = ["bootcheck", "boot"]
            .into_iter()
            .chain(self.options.iter().map(String::as_str));
        shlex::try_join(words).unwrap_or_default()
    }

    /// Makes the files that the cell needs.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn make_files(&self) -> anyhow::Result<()> {
        if let (Some(size), Some(path)) = (self.initrd, &self.args.guest.initrd) {
            // Zeros that take no room on the disk; no guest looks into it.
            File::create(path)
                .and_then(|file| file.set_len(size.0))
                .with_context(|| format!("cannot make {}", path.display()))?;
        }
        Ok(())
    }
}

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Matrix {
    images: BTreeMap<String, Build>,
    #[serde(default)]
    defaults: Row,
    #[serde(default)]
    cells: Vec<Row>,
}

/// One build of a kernel.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Build {
    image: String,
    elf: Option<String>,
}

/// One table of the file. Each key but the name is an axis, in the order of the values in a
/// cell's name.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Row {
    name: Option<String>,
    image: Option<Axis>,
    /// `image` (default), or `elf`: what `-kernel` gets.
    form: Option<Axis>,
    load_address: Option<Axis>,
    machine: Option<Axis>,
    cpu: Option<Axis>,
    mem: Option<Axis>,
    smp: Option<Axis>,
    numa: Option<Axis>,
    initrd: Option<Axis>,
    append: Option<Axis>,
    timeout: Option<Axis>,
    expect: Option<Axis>,
}

/// One value, or several of which each makes a cell.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "a string or number, or an array of them")]
enum Axis {
    One(Scalar),
    Many(Vec<Scalar>),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Number(i64),
    Text(String),
}

impl Scalar {
    fn text(&self) -> String {
        match self {
            Scalar::Number(number) => number.to_string(),
            Scalar::Text(text) => text.clone(),
        }
    }
}

/// The values of one cell, by key.
type Values = BTreeMap<&'static str, String>;

/// Reads the file and expands it: every cell on every QEMU. Files that cells need will lie in
/// `out`.
///
/// # Errors
/// What is wrong with the file, and where.
pub fn read(text: &str, qemus: &[PathBuf], out: &Path) -> anyhow::Result<Vec<Cell>> {
    let matrix: Matrix = toml::from_str(text)?;
    let mut cells: Vec<Cell> = Vec::new();
    for (number, row) in matrix.cells.iter().enumerate() {
        let name = row
            .name
            .as_deref()
            .with_context(|| format!("cell {} has no name", number + 1))?;
        for (suffix, values) in expand(row, &matrix.defaults) {
            for qemu in qemus {
                let mut name = name.to_owned() + &suffix;
                if qemus.len() > 1 {
                    name.push_str(&format!(" on {}", qemu.display()));
                }
                let cell = cell(&name, &values, &matrix.images, qemu, out)
                    .with_context(|| format!("cell {name}"))?;
                ensure!(
                    cells.iter().all(|other| other.name != name),
                    "two cells have the name {name}"
                );
                cells.push(cell);
            }
        }
    }
    Ok(cells)
}

/// Every combination of a row's values, with what the arrays add to the name.
fn expand(row: &Row, defaults: &Row) -> Vec<(String, Values)> {
    let mut combinations: Vec<(Vec<String>, Values)> = vec![Default::default()];
    for (key, axis, default) in [
        ("image", &row.image, &defaults.image),
        ("form", &row.form, &defaults.form),
        ("load-address", &row.load_address, &defaults.load_address),
        ("machine", &row.machine, &defaults.machine),
        ("cpu", &row.cpu, &defaults.cpu),
        ("mem", &row.mem, &defaults.mem),
        ("smp", &row.smp, &defaults.smp),
        ("numa", &row.numa, &defaults.numa),
        ("initrd", &row.initrd, &defaults.initrd),
        ("append", &row.append, &defaults.append),
        ("timeout", &row.timeout, &defaults.timeout),
        ("expect", &row.expect, &defaults.expect),
    ] {
        let (values, is_named) = match axis.as_ref().or(default.as_ref()) {
            None => continue,
            Some(Axis::One(value)) => (vec![value.text()], false),
            Some(Axis::Many(values)) => (values.iter().map(Scalar::text).collect(), true),
        };
        combinations = combinations
            .iter()
            .flat_map(|(names, cell)| {
                values.iter().map(move |value| {
                    let mut names = names.clone();
                    if is_named {
                        names.push(if value.is_empty() {
                            "none".into()
                        } else {
                            value.clone()
                        });
                    }
                    let mut cell = cell.clone();
                    cell.insert(key, value.clone());
                    (names, cell)
                })
            })
            .collect();
    }
    let suffix = |names: Vec<String>| match names.is_empty() {
        true => String::new(),
        false => format!("/{}", names.join(" ")),
    };
    combinations
        .into_iter()
        .map(|(names, cell)| (suffix(names), cell))
        .collect()
}

/// Makes the options of one cell, and has clap read them as it would from a shell.
fn cell(
    name: &str,
    values: &Values,
    images: &BTreeMap<String, Build>,
    qemu: &Path,
    out: &Path,
) -> anyhow::Result<Cell> {
    let label = values
        .get("image")
        .context("no image is named, neither here nor in [defaults]")?;
    let build = images
        .get(label)
        .with_context(|| format!("[images] has no {label}"))?;
    let image = match values.get("form").map_or("image", String::as_str) {
        "image" => &build.image,
        "elf" => build
            .elf
            .as_ref()
            .with_context(|| format!("image {label} has no elf"))?,
        other => anyhow::bail!("form {other:?} is neither image nor elf"),
    };
    let mut options = vec!["--image".to_owned(), image.clone()];
    let mut initrd = None;
    for (key, value) in values {
        match *key {
            "image" | "form" => continue,
            "initrd" => {
                let size: Size = value.parse().map_err(anyhow::Error::msg)?;
                initrd = Some(size);
                let path = out.join(format!("initrd-{size}"));
                options.extend(["--initrd".into(), path.to_string_lossy().into_owned()]);
            }
            _ if value.is_empty() => continue,
            _ => options.extend([format!("--{key}"), value.clone()]),
        }
    }
    options.extend(["--qemu".to_owned(), qemu.to_string_lossy().into_owned()]);

    let command = BootArgs::augment_args(clap::Command::new("boot").no_binary_name(true));
    let matches = command.try_get_matches_from(&options)?;
    let args = BootArgs::from_arg_matches(&matches)?;
    Ok(Cell {
        name: name.to_owned(),
        expect: args.expect,
        options,
        args,
        initrd,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = r#"
        [images]
        release = { image = "Image", elf = "kernel.elf" }
        debug = { image = "debug/Image" }
        [defaults]
        image = "release"
        cpu = "cortex-a72"
    "#;

    fn cells(text: &str) -> anyhow::Result<Vec<Cell>> {
        read(&format!("{HEAD}{text}"), &["qemu".into()], Path::new("out"))
    }

    fn names(text: &str) -> Vec<String> {
        cells(text)
            .unwrap()
            .into_iter()
            .map(|cell| cell.name)
            .collect()
    }

    #[test]
    fn an_array_makes_a_cell_of_each_value() {
        let row = "[[cells]]\nname = 'cpu'\ncpu = ['cortex-a53', 'max']";
        assert_eq!(names(row), ["cpu/cortex-a53", "cpu/max"]);
        let row = "[[cells]]\nname = 'm'\nmem = ['64M', '1G']\nsmp = [1, 4]\nappend = 'x y'";
        assert_eq!(names(row), ["m/64M 1", "m/64M 4", "m/1G 1", "m/1G 4"]);
        assert_eq!(names("[[cells]]\nname = 'plain'\nmem = '64M'"), ["plain"]);
        let row = "[[cells]]\nname = 'a'\nappend = ['', 'linear=page']";
        assert_eq!(names(row), ["a/none", "a/linear=page"]);
    }

    #[test]
    fn a_cell_is_options_of_boot() {
        let row =
            "[[cells]]\nname = 'x'\nmem = '1G'\nappend = 'a b'\nexpect = 'panic'\nform = 'elf'";
        let cell = &cells(row).unwrap()[0];
        assert_eq!(
            cell.command(),
            "bootcheck boot --image kernel.elf --append 'a b' --cpu cortex-a72 --expect panic \
             --mem 1G --qemu qemu"
        );
        assert_eq!(cell.args.guest.mem, Some(Size(1 << 30)));
        assert_eq!(
            cell.args.guest.cpu.as_deref(),
            Some("cortex-a72"),
            "from the defaults"
        );
        assert_eq!(cell.expect, Verdict::Panic);
    }

    #[test]
    fn several_qemus_make_cells_of_their_own() {
        let text = format!("{HEAD}[[cells]]\nname = 'x'");
        let cells = read(&text, &["a".into(), "b".into()], Path::new("out")).unwrap();
        let names: Vec<_> = cells.iter().map(|cell| cell.name.as_str()).collect();
        assert_eq!(names, ["x on a", "x on b"]);
    }

    #[test]
    fn mistakes_are_named() {
        for (row, complaint) in [
            ("[[cells]]\nname = 'x'\ncpus = 'max'", "cpus"),
            ("[[cells]]\ncpu = 'max'", "no name"),
            ("[[cells]]\nname = 'x'\nimage = 'beta'", "beta"),
            ("[[cells]]\nname = 'x'\nmem = 'lots'", "lots"),
            ("[[cells]]\nname = 'x'\nexpect = 'win'", "win"),
            ("[[cells]]\nname = 'x'\nform = 'tar'", "tar"),
            (
                "[[cells]]\nname = 'x'\nimage = 'debug'\nform = 'elf'",
                "no elf",
            ),
            ("[[cells]]\nname = 'x'\ncpu = true", "a string or number"),
            ("[[cells]]\nname = 'x'\n[[cells]]\nname = 'x'", "two cells"),
        ] {
            let error = format!("{:#}", cells(row).unwrap_err());
            assert!(error.contains(complaint), "{error:?} lacks {complaint:?}");
        }
    }
}
