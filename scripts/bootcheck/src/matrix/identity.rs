//! What was booted, so that the results of two kernels or two matrices are not taken for one run's.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::cell::{Cell, MadeFile};
use crate::digest;
use crate::fingerprint;

/// What parts of one run have in common, of all cells before they were cut into parts. What is not
/// known, as in older results, is like anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// A digest of the names of all cells.
    #[serde(default)]
    pub list: String,
    /// The SHA-256 of the matrix file.
    #[serde(default)]
    pub config: Option<String>,
    /// The SHA-256 of each image that was there, by its path in that file.
    #[serde(default)]
    pub images: BTreeMap<String, String>,
}

impl Identity {
    /// Of these cells, from a file with this text.
    #[must_use]
    pub fn of(config: &str, cells: &[Cell]) -> Self {
        let names: Vec<&str> = cells.iter().map(|cell| cell.name.as_str()).collect();
        let mut images = BTreeMap::new();
        for cell in cells {
            let path = image(cell);
            let name = path.to_string_lossy().into_owned();
            // One that is missing, or is no file, is told when its cell boots.
            if !images.contains_key(&name)
                && path.is_file()
                && let Ok(digest) = digest::of_file(path)
            {
                images.insert(name, digest);
            }
        }
        Self {
            list: format!("{:016x}", fingerprint::hash(&names.join("\n"))),
            config: Some(digest::of_bytes(config)),
            images,
        }
    }

    /// Why results cannot be of one build of the kernel, booted by one matrix.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<String> {
        let is_other = |(one, other): (&String, &String)| one != other;
        if self
            .config
            .as_ref()
            .zip(other.config.as_ref())
            .is_some_and(is_other)
        {
            return Some("their matrix files differ".into());
        }
        let differs = |(path, one): &(&String, &String)| {
            let other = other.images.get(*path);
            other.is_some_and(|other| other != *one)
        };
        let (path, one) = self.images.iter().find(differs)?;
        let other = &other.images[path];
        let short = |digest: &str| digest.chars().take(12).collect::<String>();
        let (one, other) = (short(one), short(other));
        Some(format!(
            "{path} is {one}… in one, {other}… in the other (SHA-256)"
        ))
    }

    /// What is true of all of them.
    #[must_use]
    pub fn common(all: &[&Self]) -> Self {
        let first = all.first().copied().cloned().unwrap_or_default();
        let agreed = |(path, digest): &(&String, &String)| {
            let mut others = all.iter().filter_map(|it| it.images.get(*path));
            others.all(|other| other == *digest)
        };
        let images = all.iter().flat_map(|it| &it.images).filter(agreed);
        Self {
            config: first
                .config
                .filter(|_| all.iter().all(|it| it.config == all[0].config)),
            images: images
                .map(|(path, digest)| (path.clone(), digest.clone()))
                .collect(),
            list: first.list,
        }
    }
}

/// The image that a cell boots, before it was packed.
fn image(cell: &Cell) -> &Path {
    let packed = cell.makes.iter().find_map(|made| match made {
        MadeFile::Gzip(from, _) => Some(from.as_path()),
        MadeFile::Initrd(..) => None,
    });
    packed.unwrap_or(&cell.args.guest.image)
}
