//! A matrix cut into parts, one for each of several machines.

use serde::{Deserialize, Serialize};

/// `2/4`: the second of four parts. A part has every fourth cell, so that the slow rows are
/// shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Shard {
    /// From 1.
    pub number: usize,
    /// How many there are.
    pub total: usize,
}

impl Shard {
    /// Whether the cell at this position belongs to this part.
    #[must_use]
    pub fn has(self, position: usize) -> bool {
        position % self.total == self.number - 1
    }
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(number, total)| {
            let (number, total) = (number.parse().ok()?, total.parse().ok()?);
            (1..=total)
                .contains(&number)
                .then_some(Self { number, total })
        });
        numbers.ok_or_else(|| format!("{text:?} is no part like 1/4, the first of four"))
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.number, self.total)
    }
}

impl TryFrom<String> for Shard {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Shard> for String {
    fn from(shard: Shard) -> Self {
        shard.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_is_in_exactly_one_part() {
        for total in 1..5 {
            for position in 0..20 {
                let parts = (1..=total).filter(|&number| Shard { number, total }.has(position));
                assert_eq!(parts.count(), 1);
            }
        }
    }

    #[test]
    fn only_parts_that_exist() {
        assert_eq!(
            "2/3".parse(),
            Ok(Shard {
                number: 2,
                total: 3
            })
        );
        for text in ["0/3", "4/3", "1/0", "1", "a/b", "-1/2", ""] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }
}
