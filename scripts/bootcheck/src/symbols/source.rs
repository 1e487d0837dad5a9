//! An ELF that is opened when it is first needed.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::Symbols;
use crate::image::{self, Header};

/// The ELF that belongs to an image; shared by whoever shows addresses of it.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    image: Option<PathBuf>,
    opened: OnceLock<Opened>,
}

/// What was found.
#[derive(Debug)]
struct Opened {
    symbols: Result<Symbols, String>,
    /// How the image falls short of the ELF.
    cut: Option<String>,
}

impl Source {
    /// Nothing is opened yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            image: None,
            opened: OnceLock::new(),
        }
    }

    /// The ELF of an image that boots: the one that was named, else `kernel.elf` beside it, else
    /// the image itself, if it is one. It is used only if the image was made from it.
    #[must_use]
    pub fn for_image(named: Option<PathBuf>, image: &Path) -> Option<Self> {
        let beside = image.with_file_name("kernel.elf");
        let path = named
            .or_else(|| beside.exists().then_some(beside))
            .or_else(|| is_elf(image).then(|| image.to_owned()))?;
        Some(Self {
            image: Some(image.to_owned()),
            ..Self::new(path)
        })
    }

    /// The symbols, if the file has any. Until the first call the file may still change.
    ///
    /// # Errors
    /// Why there are none, with the file's name.
    pub fn get(&self) -> Result<&Symbols, &str> {
        self.opened().symbols.as_ref().map_err(String::as_str)
    }

    /// That the image is only the beginning of what the ELF holds, in a sentence.
    #[must_use]
    pub fn cut(&self) -> Option<&str> {
        self.opened().cut.as_deref()
    }

    /// The symbols, for a command that can do nothing without.
    ///
    /// # Errors
    /// Why there are none.
    pub fn require(&self) -> anyhow::Result<&Symbols> {
        self.get().map_err(|reason| anyhow::anyhow!("{reason}"))
    }

    fn opened(&self) -> &Opened {
        self.opened.get_or_init(|| self.open())
    }

    fn open(&self) -> Opened {
        let mut opened = Opened {
            symbols: Symbols::open(&self.path),
            cut: None,
        };
        if let Ok(symbols) = &opened.symbols
            && let Some(path) = &self.image
            && let Ok(image) = fs::read(path)
            && Header::read(&image).is_some()
        {
            let (elf, shown, there) = (self.path.display(), path.display(), image.len());
            // One that ends with a section was perhaps made so, unless its own header tells of more.
            let is_sure = image::cut(&image).is_some() || !symbols.has_section_end(there);
            let whole = symbols.whole_length(&image).filter(|_| is_sure);
            opened.cut = whole.map(|length| {
                format!("{shown} is cut short: {there} of the {length} bytes that {elf} holds")
            });
            if !symbols.is_of(&image) {
                opened.symbols = Err(format!("{shown} was not made from {elf}"));
            }
        }
        opened
    }
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    // To open a pipe would be to wait for whoever writes into it.
    fs::metadata(path).is_ok_and(|data| data.is_file())
        && fs::File::open(path)
            .and_then(|mut file| file.read_exact(&mut magic))
            .is_ok_and(|()| magic == object::elf::ELFMAG)
}
