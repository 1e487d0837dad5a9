//! Which instructions to break, out of those that execute.

use std::ops::Range;

use anyhow::{Context, ensure};

use crate::cli::{InjectArgs, Kinds};
use crate::fingerprint::hash;
use crate::symbols::{Meaning, Symbols};

/// What an instruction is replaced by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `udf #0`
    Udf,
    /// `b .`
    Loop,
}

impl Kind {
    /// The instruction's code.
    #[must_use]
    pub fn word(self) -> u32 {
        match self {
            Kind::Udf => 0,
            Kind::Loop => 0x1400_0000,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Udf => "udf",
            Kind::Loop => "loop",
        }
    }
}

/// One instruction to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shot {
    /// Its offset into the image.
    pub offset: u64,
    /// By what.
    pub kind: Kind,
}

/// The shots that were asked for, in order.
///
/// # Errors
/// The arguments make no sense for this ELF.
pub fn select(
    args: &InjectArgs,
    offsets: impl Iterator<Item = u64>,
    symbols: &Symbols,
) -> anyhow::Result<Vec<Shot>> {
    let base = symbols.base();
    let mut offsets: Vec<u64> = offsets.collect();
    if let Some(range) = &args.range {
        let range = parse_range(range, symbols)?;
        offsets.retain(|offset| range.contains(&(base + offset)));
    }
    if let Some(glob) = &args.symbols {
        let glob = globset::Glob::new(glob)?.compile_matcher();
        offsets.retain(|offset| {
            let place = symbols.resolve(base + offset, Meaning::Executing);
            place.symbol.is_some_and(|name| glob.is_match(name))
        });
    }
    let kinds: &[Kind] = match args.kind {
        Kinds::Udf => &[Kind::Udf],
        Kinds::Loop => &[Kind::Loop],
        Kinds::Both => &[Kind::Udf, Kind::Loop],
    };
    let mut shots: Vec<Shot> = offsets
        .into_iter()
        .flat_map(|offset| {
            kinds.iter().map(move |kind| Shot {
                offset,
                kind: *kind,
            })
        })
        .collect();
    if let Some(count) = args.sample {
        draw(&mut shots, count, &args.seed);
    }
    Ok(shots)
}

/// Keeps `count` of the shots: those that come first in an order that depends on the seed and on
/// nothing else, so that a shot stays drawn when others come and go.
fn draw(shots: &mut Vec<Shot>, count: usize, seed: &str) {
    let lot = |shot: &Shot| {
        let hash = hash(&format!("{seed} {} {:x}", shot.kind.name(), shot.offset));
        // Words that differ in a letter only lie close together: spread them (MurmurHash3's end).
        let hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        let hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^ hash >> 33
    };
    shots.sort_by_cached_key(lot);
    shots.truncate(count);
    shots.sort_by_key(|shot| (shot.offset, shot.kind));
}

fn parse_range(text: &str, symbols: &Symbols) -> anyhow::Result<Range<u64>> {
    let (start, end) = text
        .split_once("..")
        .with_context(|| format!("{text:?} is no range: write A..B"))?;
    let range = parse_address(start, symbols)?..parse_address(end, symbols)?;
    ensure!(
        range.start < range.end,
        "there is nothing in the range {text}"
    );
    Ok(range)
}

/// A symbol, or a number with 0x: an address as linked, or an offset if it lies below the image.
fn parse_address(text: &str, symbols: &Symbols) -> anyhow::Result<u64> {
    let base = symbols.base();
    match text.strip_prefix("0x") {
        Some(digits) => {
            let number = u64::from_str_radix(digits, 16).with_context(|| text.to_owned())?;
            Ok(if number < base {
                base.saturating_add(number)
            } else {
                number
            })
        }
        None => symbols
            .address_of(text)
            .with_context(|| format!("there is no symbol {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testelf::{self, BASE};
    use clap::Parser;

    fn selected(options: &[&str]) -> anyhow::Result<Vec<(u64, &'static str)>> {
        let words = ["bootcheck", "inject"]
            .into_iter()
            .chain(options.iter().copied());
        let cli = crate::cli::Cli::try_parse_from(words)?;
        let crate::cli::Command::Inject(args) = cli.command else {
            unreachable!("that was asked for");
        };
        let elf = testelf::image(&[("head", 0, 16), ("mm::map", 16, 16)], &[0; 8]);
        let symbols = Symbols::parse(elf.into()).unwrap();
        let shots = select(&args, (0..8).map(|n| 4 * n), &symbols)?;
        Ok(shots
            .into_iter()
            .map(|shot| (shot.offset, shot.kind.name()))
            .collect())
    }

    #[test]
    fn everything_or_what_was_asked_for() {
        assert_eq!(selected(&[]).unwrap().len(), 16);
        assert_eq!(selected(&["--kind", "udf"]).unwrap().len(), 8);
        let both = [(16, "udf"), (16, "loop"), (20, "udf"), (20, "loop")];
        let address = format!("{:#x}", BASE + 24);
        for range in ["mm::map..0x18", "0x10..0x18", &format!("0x10..{address}")] {
            assert_eq!(selected(&["--range", range]).unwrap(), both, "{range}");
        }
        let named = selected(&["--symbols", "mm::*", "--kind", "loop"]).unwrap();
        assert_eq!(
            named,
            [(16, "loop"), (20, "loop"), (24, "loop"), (28, "loop")]
        );
        for wrong in ["", "0x10", "0x10..0x10", "nowhere..0x10", "0x..0x1"] {
            assert!(selected(&["--range", wrong]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_sample_is_the_same_for_the_same_seed() {
        let draw = |seed: &str| selected(&["--sample", "6", "--seed", seed]).unwrap();
        assert_eq!(draw("a"), draw("a"));
        assert_ne!(draw("a"), draw("b"));
        assert_eq!(draw("a").len(), 6);
        assert!(draw("a").is_sorted_by_key(|(offset, _)| *offset));
        let of_one_kind = |seed: &str| draw(seed).iter().filter(|(_, kind)| *kind == "udf").count();
        let seeds = (0..200).map(|seed| of_one_kind(&seed.to_string()));
        assert!((500..700).contains(&seeds.sum::<usize>()), "half of 1200");
        assert_eq!(selected(&["--sample", "99"]).unwrap().len(), 16);
    }
}
