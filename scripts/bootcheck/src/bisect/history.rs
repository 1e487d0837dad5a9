//! The commits between GOOD and BAD as a graph: who is whose ancestor, nothing else.

/// Commits by number, parents before children; the last one is BAD. Ancestors of GOOD are left
/// out, so a commit without parents here stands right on something good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    parents: Vec<Vec<usize>>,
}

impl History {
    /// # Panics
    /// If there is no commit, or a parent does not come before its child.
    #[must_use]
    pub fn new(parents: Vec<Vec<usize>>) -> Self {
        assert!(!parents.is_empty(), "GOOD and BAD differ by a commit");
        for (child, parents) in parents.iter().enumerate() {
            assert!(parents.iter().all(|parent| *parent < child));
        }
        Self { parents }
    }

    /// How many commits there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always BAD")]
    pub fn len(&self) -> usize {
        self.parents.len()
    }

    /// BAD.
    #[must_use]
    pub fn tip(&self) -> usize {
        self.parents.len() - 1
    }

    /// The parents of a commit that are not ancestors of GOOD.
    #[must_use]
    pub fn parents(&self, commit: usize) -> &[usize] {
        &self.parents[commit]
    }

    /// Which commits are `commit` or an ancestor of it.
    #[must_use]
    pub fn ancestors(&self, commit: usize) -> Vec<bool> {
        let mut found = vec![false; self.len()];
        self.visit(commit, &mut found, |_| {});
        found
    }

    /// The sum of `weights` over each commit and its ancestors.
    #[must_use]
    pub fn sums(&self, weights: &[f64]) -> Vec<f64> {
        let mut sums = Vec::with_capacity(self.len());
        let mut seen = vec![false; self.len()];
        for (commit, parents) in self.parents.iter().enumerate() {
            let sum = match parents[..] {
                [] => weights[commit],
                [parent] => sums[parent] + weights[commit],
                // What both sides of a merge have in common counts once.
                _ => {
                    let mut sum = 0.0;
                    seen.fill(false);
                    self.visit(commit, &mut seen, |ancestor| sum += weights[ancestor]);
                    sum
                }
            };
            sums.push(sum);
        }
        sums
    }

    fn visit(&self, commit: usize, seen: &mut [bool], mut each: impl FnMut(usize)) {
        let mut open = vec![commit];
        while let Some(commit) = open.pop() {
            if !std::mem::replace(&mut seen[commit], true) {
                each(commit);
                open.extend(&self.parents[commit]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0 - 1 - 3 - 4, with 2 beside 1.
    fn diamond() -> History {
        History::new(vec![vec![], vec![0], vec![0], vec![1, 2], vec![3]])
    }

    #[test]
    fn what_two_sides_of_a_merge_share_counts_once() {
        let sums = diamond().sums(&[1.0, 10.0, 100.0, 1000.0, 10_000.0]);
        assert_eq!(sums, [1.0, 11.0, 101.0, 1111.0, 11_111.0]);
    }

    #[test]
    fn ancestors_include_the_commit_itself() {
        let ancestors = diamond().ancestors(2);
        assert_eq!(ancestors, [true, false, true, false, false]);
    }

    #[test]
    #[should_panic(expected = "parent")]
    fn a_child_before_its_parent_is_refused() {
        let _ = History::new(vec![vec![1], vec![]]);
    }
}
