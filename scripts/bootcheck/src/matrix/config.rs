//! The list of cells, read from TOML and expanded.
//!
//! ```toml
//! [images]                        # the builds, by name
//! release = { image = "target/kernel/Image", elf = "target/kernel/kernel.elf" }
//!
//! [machines]                      # short names for `machine`, if wanted
//! el2 = "virt,virtualization=on"
//!
//! [defaults]                      # what a row does not say
//! image = "release"
//!
//! [[cells]]
//! name = "cpu"                    # becomes cpu/cortex-a53, cpu/cortex-a57 and cpu/max
//! cpu = ["cortex-a53", "cortex-a57", "max"]
//!
//! [[exclude]]                     # takes cells away again, from every row
//! why = "no such hardware"
//! cpu = "cortex-a5*"
//! machine = "el2"
//! ```
//!
//! Every value of an array is a cell, of two arrays every pair. Any option of `bootcheck boot`
//! that tells what to boot and how to judge it is a key. A cell is nothing but such options, so
//! each can be repeated alone. These keys mean something else here:
//!
//! - `image`: a name of `[images]`; `form`: `image` (default), `elf` or `gzip`, what `-kernel`
//!   gets;
//! - `initrd`: the size of one that is made;
//! - `expect`: the verdict, with `stage`, `ec` and `says` (a text on the console) where these
//!   matter too;
//! - `faults`: a catalogue of faults; each of them, in every stage of `stage`, becomes a cell that
//!   must come to what the catalogue says.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use globset::{Glob, GlobMatcher};
use serde::Deserialize;
use toml::{Spanned, Table, Value};

use super::cell::{Cell, Expected, MadeFile};
use crate::cli::BootArgs;
use crate::faults::{Answer, Catalogue};
use crate::size::Size;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Matrix {
    images: BTreeMap<String, Build>,
    #[serde(default)]
    machines: BTreeMap<String, String>,
    #[serde(default)]
    defaults: Table,
    #[serde(default)]
    cells: Vec<Spanned<Table>>,
    #[serde(default)]
    exclude: Vec<Table>,
    /// What the rows name as `faults`, by path.
    #[serde(skip)]
    catalogues: BTreeMap<String, Catalogue>,
}

/// One build of a kernel.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Build {
    image: String,
    elf: Option<String>,
}

/// The values of one cell by key, in the order of the file.
type Values = Vec<(String, String)>;

/// The name of one fault of `faults`.
const FAULT: &str = "name of the fault";

/// Options of `bootcheck boot` that mean nothing in a matrix.
const NOT_KEYS: [&str; 5] = ["build", "console", "json", "no-decode", "repeat"];

/// Reads the file and expands it: every cell on every QEMU. Files that cells need will lie in
/// `out`.
///
/// # Errors
/// What is wrong with the file, and where.
pub fn read(text: &str, qemus: &[PathBuf], out: &Path) -> anyhow::Result<Vec<Cell>> {
    let mut matrix: Matrix = toml::from_str(text)?;
    matrix.read_catalogues()?;
    let mut excluded = exclusions(&matrix.exclude)?;
    let mut cells: Vec<Cell> = Vec::new();
    for row in &matrix.cells {
        let line = 1 + text[..row.span().start].matches('\n').count();
        let row = row.get_ref();
        let Some(Value::String(group)) = row.get("name") else {
            bail!("the cells of line {line} have no name");
        };
        let combinations = matrix
            .expand(row)
            .with_context(|| format!("line {line}: cells {group}"))?;
        for (names, values) in combinations {
            if excluded.iter_mut().any(|it| it.excludes(group, &values)) {
                continue;
            }
            for qemu in qemus {
                let mut name = match names.is_empty() {
                    true => group.clone(),
                    false => format!("{group}/{}", names.join(" ")),
                };
                if qemus.len() > 1 {
                    name.push_str(&format!(" on {}", qemu.display()));
                }
                let cell = Builder::new(&matrix, out)
                    .build(&name, group, (&names, &values), qemu)
                    .with_context(|| format!("line {line}: cell {name}"))?;
                ensure!(
                    cells.iter().all(|other| other.name != name),
                    "line {line}: two cells have the name {name}"
                );
                cells.push(cell);
            }
        }
    }
    for exclusion in &excluded {
        ensure!(
            exclusion.has_excluded,
            "[[exclude]] {:?} excludes no cell",
            exclusion.why
        );
    }
    Ok(cells)
}

impl Matrix {
    fn read_catalogues(&mut self) -> anyhow::Result<()> {
        let rows = self.cells.iter();
        let paths = rows.filter_map(|row| row.get_ref().get("faults").and_then(Value::as_str));
        for path in paths {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
            let catalogue = toml::from_str(&text).with_context(|| format!("in {path}"))?;
            self.catalogues.insert(path.to_owned(), catalogue);
        }
        Ok(())
    }

    /// Every combination of a row's values, after those that set it apart.
    fn expand(&self, row: &Table) -> anyhow::Result<Vec<(Vec<String>, Values)>> {
        let said = row.iter().filter(|(key, _)| *key != "name");
        let unsaid = self
            .defaults
            .iter()
            .filter(|(key, _)| !row.contains_key(*key));
        let mut combinations: Vec<(Vec<String>, Values)> = vec![Default::default()];
        for (key, axis) in said.chain(unsaid) {
            let (values, is_named) = axis_values(axis).with_context(|| {
                format!("{key}: wanted a string, number or boolean, or an array of them")
            })?;
            combinations = cross(combinations, key, &values, is_named);
            if key == "faults" {
                ensure!(row.contains_key("stage"), "faults: in which `stage`?");
                let catalogue = self.catalogues.get(&values[0]);
                let names: Vec<String> = catalogue
                    .context("faults: one file is wanted")?
                    .keys()
                    .cloned()
                    .collect();
                combinations = cross(combinations, FAULT, &names, true);
            }
        }
        // Not every fault can be had in every stage.
        combinations
            .retain(|(_, values)| get(values, FAULT).is_none() || self.answer(values).is_some());
        Ok(combinations)
    }

    /// What a cell with a fault must come to; `None` if it cannot be.
    fn answer(&self, values: &Values) -> Option<Answer> {
        let fault = self
            .catalogues
            .get(get(values, "faults")?)?
            .get(get(values, FAULT)?)?;
        fault.answer(get(values, "stage")?).ok()
    }
}

/// Each combination with each of the values.
fn cross(
    combinations: Vec<(Vec<String>, Values)>,
    key: &str,
    values: &[String],
    is_named: bool,
) -> Vec<(Vec<String>, Values)> {
    let with = |(names, cell): &(Vec<String>, Values), value: &String| {
        let (mut names, mut cell) = (names.clone(), cell.clone());
        if is_named {
            names.push(match value.is_empty() {
                true => "none".to_owned(),
                false => value.clone(),
            });
        }
        cell.push((key.to_owned(), value.clone()));
        (names, cell)
    };
    combinations
        .iter()
        .flat_map(|combination| values.iter().map(move |value| with(combination, value)))
        .collect()
}

/// The values of a key, and whether they set cells apart.
fn axis_values(axis: &Value) -> Option<(Vec<String>, bool)> {
    match axis {
        Value::Array(values) => {
            let values: Option<Vec<String>> = values.iter().map(scalar).collect();
            Some((values?, true))
        }
        value => Some((vec![scalar(value)?], false)),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(is_set) => Some(is_set.to_string()),
        _ => None,
    }
}

fn get<'a>(values: &'a Values, key: &str) -> Option<&'a str> {
    let mut of_key = values.iter().filter(|(other, _)| other == key);
    of_key.next().map(|(_, value)| value.as_str())
}

/// One `[[exclude]]`.
struct Exclusion {
    why: String,
    patterns: Vec<(String, Vec<GlobMatcher>)>,
    has_excluded: bool,
}

fn exclusions(tables: &[Table]) -> anyhow::Result<Vec<Exclusion>> {
    tables
        .iter()
        .map(|table| {
            let Some(Value::String(why)) = table.get("why") else {
                bail!("an [[exclude]] does not say why");
            };
            let mut patterns = Vec::new();
            for (key, axis) in table.iter().filter(|(key, _)| *key != "why") {
                let (values, _) = axis_values(axis)
                    .with_context(|| format!("[[exclude]] {why:?}: {key} is no pattern"))?;
                let globs: Result<Vec<_>, _> = values.iter().map(|it| Glob::new(it)).collect();
                let globs = globs.with_context(|| format!("[[exclude]] {why:?}"))?;
                patterns.push((
                    key.clone(),
                    globs.iter().map(Glob::compile_matcher).collect(),
                ));
            }
            ensure!(!patterns.is_empty(), "[[exclude]] {why:?} names no cells");
            Ok(Exclusion {
                why: why.clone(),
                patterns,
                has_excluded: false,
            })
        })
        .collect()
}

impl Exclusion {
    /// Whether all of its keys match the cell.
    fn excludes(&mut self, group: &str, values: &Values) -> bool {
        let matches = self.patterns.iter().all(|(key, globs)| {
            let value = match key.as_str() {
                "name" => Some(group),
                key => get(values, key),
            };
            value.is_some_and(|value| globs.iter().any(|glob| glob.is_match(value)))
        });
        self.has_excluded |= matches;
        matches
    }
}

/// Makes the options of one cell.
struct Builder<'a> {
    matrix: &'a Matrix,
    out: &'a Path,
    options: Vec<String>,
    makes: Vec<MadeFile>,
}

impl<'a> Builder<'a> {
    fn new(matrix: &'a Matrix, out: &'a Path) -> Self {
        Self {
            matrix,
            out,
            options: Vec::new(),
            makes: Vec::new(),
        }
    }

    /// Makes the options, and has clap read them as it would from a shell.
    fn build(
        mut self,
        name: &str,
        group: &str,
        (names, values): (&[String], &Values),
        qemu: &Path,
    ) -> anyhow::Result<Cell> {
        let form = get(values, "form").unwrap_or("image");
        let image = get(values, "image");
        self.image(
            image.context("no image is named, neither here nor in [defaults]")?,
            form,
        )?;
        let mut expect = "pass".to_owned();
        let mut append = String::new();
        for (key, value) in values {
            match key.as_str() {
                "image" | "form" | "faults" | FAULT | "stage" | "ec" | "says" => {}
                "initrd" => self.initrd(value)?,
                "expect" => expect.clone_from(value),
                "append" => append.clone_from(value),
                "machine" => {
                    let machine = self.matrix.machines.get(value).unwrap_or(value).clone();
                    self.option(key, &machine)?;
                }
                _ => self.option(key, value)?,
            }
        }
        let mut stage = get(values, "stage").map(str::to_owned);
        let mut ec = get(values, "ec")
            .map(str::parse)
            .transpose()
            .context("ec")?;
        if let (Some(answer), Some(fault), Some(at)) =
            (self.matrix.answer(values), get(values, FAULT), &stage)
        {
            append = format!("fault={fault}@{at} {append}");
            expect = answer.verdict.to_string();
            (stage, ec) = (Some(answer.stage(at).to_owned()), answer.ec);
        }
        self.option("append", append.trim())?;
        if expect != "pass" {
            self.option("expect", &expect)?;
        }
        self.options
            .extend(["--qemu".to_owned(), qemu.to_string_lossy().into_owned()]);

        let args = BootArgs::from_options(self.options.iter().map(OsStr::new));
        let args = args.map_err(|error| anyhow::Error::msg(in_short(&error)))?;
        Ok(Cell {
            name: name.to_owned(),
            group: group.to_owned(),
            values: names.to_vec(),
            expect: Expected {
                verdict: args.expect,
                stage,
                ec,
                says: get(values, "says").map(str::to_owned),
            },
            options: self.options,
            args,
            makes: self.makes,
        })
    }

    /// The image of that name, in that form.
    fn image(&mut self, label: &str, form: &str) -> anyhow::Result<()> {
        let build = self.matrix.images.get(label);
        let build = build.with_context(|| format!("[images] has no {label}"))?;
        let elf = build.elf.as_deref();
        let image = match form {
            "image" => build.image.clone(),
            "elf" => elf
                .with_context(|| format!("image {label} has no elf"))?
                .to_owned(),
            "gzip" => {
                let path = self.out.join(format!("{label}.gz"));
                self.makes
                    .push(MadeFile::Gzip(build.image.clone().into(), path.clone()));
                path.to_string_lossy().into_owned()
            }
            other => bail!("form {other:?} is none of image, elf and gzip"),
        };
        self.options.extend(["--image".to_owned(), image.clone()]);
        if let Some(elf) = elf.filter(|elf| *elf != image) {
            self.options.extend(["--elf".to_owned(), elf.to_owned()]);
        }
        Ok(())
    }

    fn initrd(&mut self, size: &str) -> anyhow::Result<()> {
        if size.is_empty() {
            return Ok(());
        }
        let size: Size = size.parse().map_err(anyhow::Error::msg)?;
        let path = self.out.join(format!("initrd-{size}"));
        self.option("initrd", &path.to_string_lossy())?;
        self.makes.push(MadeFile::Initrd(size, path));
        Ok(())
    }

    /// `--key value`; a switch that is on stands alone, and one that is off nowhere.
    fn option(&mut self, key: &str, value: &str) -> anyhow::Result<()> {
        ensure!(!NOT_KEYS.contains(&key), "{key} is no key of a cell");
        match value {
            "" | "false" => {}
            "true" => self.options.push(format!("--{key}")),
            _ => self.options.extend([format!("--{key}"), value.to_owned()]),
        }
        Ok(())
    }
}

/// What clap complains about, in one line: without the usage of a command line.
fn in_short(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.split("\nUsage:").next().unwrap_or_default();
    let text = text.split("\nFor more information").next();
    let words: Vec<&str> = text.unwrap_or_default().split_whitespace().collect();
    let words = words.join(" ").replace(" tip: ", "; ");
    words.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests;
