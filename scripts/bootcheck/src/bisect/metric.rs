//! What can get worse without failing.

use std::str::FromStr;

use super::failure::Sight;

/// A number that a boot, or an image, has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Metric {
    /// Instructions of the whole boot, or from the start of a stage to the start of the next.
    Instructions(Option<String>),
    /// The size of the image's file.
    ImageBytes,
    /// Table frames that the kernel says it took.
    TableFrames,
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "instructions" => Ok(Self::Instructions(None)),
            None if text == "image-bytes" => Ok(Self::ImageBytes),
            None if text == "table-frames" => Ok(Self::TableFrames),
            Some(("instructions", stage)) if !stage.is_empty() => {
                Ok(Self::Instructions(Some(stage.to_owned())))
            }
            _ => {
                Err("not one of instructions, instructions:STAGE, image-bytes, table-frames".into())
            }
        }
    }
}

impl std::fmt::Display for Metric {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Instructions(None) => formatter.write_str("instructions"),
            Self::Instructions(Some(stage)) => write!(formatter, "instructions:{stage}"),
            Self::ImageBytes => formatter.write_str("image-bytes"),
            Self::TableFrames => formatter.write_str("table-frames"),
        }
    }
}

impl Metric {
    /// Whether the image alone tells.
    #[must_use]
    pub fn needs_no_boot(&self) -> bool {
        *self == Self::ImageBytes
    }

    /// The number of a boot that passed.
    ///
    /// # Errors
    /// Why the boot does not have it.
    pub fn of(&self, sight: &Sight) -> Result<u64, String> {
        match self {
            Self::ImageBytes => Err("a boot has no size".into()),
            Self::TableFrames => table_frames(&sight.console).ok_or_else(|| {
                "the console has no line `table frames: ...`; it needs loglevel=7".to_owned()
            }),
            Self::Instructions(None) => sight
                .instructions
                .or_else(|| start_of(sight, sight.stages.len().checked_sub(1)?))
                .ok_or_else(|| {
                    "the guest did not power off by itself, so where it stood is chance, and its \
                     stages carry no time"
                        .to_owned()
                }),
            Self::Instructions(Some(name)) => {
                let at = sight.stages.iter().position(|(stage, _)| stage == name);
                let at = at.ok_or_else(|| format!("the boot has no stage {name}"))?;
                let start = start_of(sight, at);
                let end = start_of(sight, at + 1);
                match (start, end) {
                    (Some(start), Some(end)) => Ok(end.saturating_sub(start)),
                    _ => Err(format!("the boot does not tell how long stage {name} took")),
                }
            }
        }
    }
}

/// With `-icount shift=0` an instruction takes one nanosecond of the guest's clock.
fn start_of(sight: &Sight, stage: usize) -> Option<u64> {
    sight.stages.get(stage)?.1
}

/// `table frames: 1 root, 10 static for image and fixmap, 3 for the linear map`
fn table_frames(console: &str) -> Option<u64> {
    let (_, counts) = console.split_once("table frames: ")?;
    let counts = counts.lines().next()?.split(',');
    let numbers = counts.map(|count| count.split_whitespace().next()?.parse::<u64>().ok());
    numbers.sum()
}

/// A share: `5%`, `99.99%`, or `0.05`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Percent(pub f64);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<f64>().ok();
        let share = match text.strip_suffix('%') {
            Some(percent) => number(percent).map(|percent| percent / 100.0),
            None => number(text).filter(|share| *share < 1.0),
        };
        let share = share.filter(|share| share.is_finite() && *share >= 0.0);
        share
            .map(Self)
            .ok_or_else(|| format!("{text:?} is no percentage: write 5%"))
    }
}

impl std::fmt::Display for Percent {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Enough digits for 99.9999 %, and none that only rounding put there.
        let percent = (self.0 * 1e8).round() / 1e6;
        write!(formatter, "{percent}%")
    }
}

#[cfg(test)]
mod tests {
    use super::super::failure::tests::sight;
    use super::*;
    use crate::verdict::Verdict;

    fn timed(stages: &[(&str, u64)]) -> Sight {
        let mut sight = sight(Verdict::Pass, "pass", Some("done"));
        sight.stages = stages
            .iter()
            .map(|(name, ns)| ((*name).to_owned(), Some(*ns)))
            .collect();
        sight
    }

    #[test]
    fn instructions_are_those_of_the_boot_or_of_a_stage() {
        let sight = timed(&[
            ("entry", 16),
            ("fdt", 1016),
            ("early_mmu", 5016),
            ("done", 9000),
        ]);
        let metric = |text: &str| text.parse::<Metric>().unwrap().of(&sight);
        assert_eq!(metric("instructions"), Ok(9000));
        assert_eq!(metric("instructions:fdt"), Ok(4000));
        assert!(
            metric("instructions:done")
                .unwrap_err()
                .contains("how long")
        );
        assert!(
            metric("instructions:heap")
                .unwrap_err()
                .contains("no stage heap")
        );
        assert!("instructions:".parse::<Metric>().is_err());
        assert!("speed".parse::<Metric>().is_err());
    }

    #[test]
    fn table_frames_are_added_up() {
        let mut sight = timed(&[]);
        sight.console =
            "[    0.03] INFO  mm: table frames: 1 root, 10 static for image and fixmap, \
                         3 for the linear map\nnext, 5\n"
                .into();
        assert_eq!(Metric::TableFrames.of(&sight), Ok(14));
        sight.console = "nothing".into();
        assert!(Metric::TableFrames.of(&sight).is_err());
    }

    #[test]
    fn percentages() {
        for (text, share, shown) in [
            ("5%", 0.05, "5%"),
            ("99.99%", 0.9999, "99.99%"),
            ("0.5", 0.5, "50%"),
            ("99.9999 %", 0.999_999, "99.9999%"),
        ] {
            let percent: Percent = text.parse().unwrap();
            assert!((percent.0 - share).abs() < 1e-12, "{text}");
            assert_eq!(percent.to_string(), shown);
        }
        for text in ["", "5", "x%", "-1%", "inf%"] {
            assert!(text.parse::<Percent>().is_err(), "{text:?}");
        }
    }
}
