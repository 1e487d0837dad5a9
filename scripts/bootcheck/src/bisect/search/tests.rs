//! Random histories with a known culprit, simulated boot by boot.

use super::*;

/// splitmix64: the same histories everywhere.
struct Lots(u64);

impl Lots {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.draw() % bound as u64) as usize
    }

    fn chance(&mut self, share: f64) -> bool {
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64 > 1.0 - share
    }
}

/// A line of commits with side branches that are merged again.
fn random_history(lots: &mut Lots, length: usize) -> History {
    let mut parents: Vec<Vec<usize>> = vec![vec![]];
    let mut line: usize = 0;
    while parents.len() < length {
        if lots.chance(0.1) && parents.len() + 6 < length {
            let fork = line.saturating_sub(lots.below(4));
            let mut side = fork;
            for _ in 0..=lots.below(4) {
                parents.push(vec![side]);
                side = parents.len() - 1;
            }
            parents.push(vec![line, side]);
        } else {
            parents.push(vec![line]);
        }
        line = parents.len() - 1;
    }
    History::new(parents)
}

/// What a bisection meets.
struct World {
    history: History,
    culprit: usize,
    /// Not built, or failing in another way.
    mute: Vec<bool>,
    /// How often a bad revision fails, and a good one.
    rates: (f64, f64),
}

impl World {
    fn random(lots: &mut Lots, length: usize, mute: f64, rates: (f64, f64)) -> Self {
        let history = random_history(lots, length);
        let tip = history.tip();
        Self {
            culprit: lots.below(length),
            mute: (0..length)
                .map(|commit| commit != tip && lots.chance(mute))
                .collect(),
            history,
            rates,
        }
    }

    /// Those that no boot could tell from the culprit.
    fn answer(&self) -> Vec<usize> {
        let tests: Vec<Vec<bool>> = (0..self.history.len())
            .filter(|commit| !self.mute[*commit])
            .map(|commit| self.history.ancestors(commit))
            .collect();
        let alike = |suspect: &usize| {
            tests
                .iter()
                .all(|test| test[*suspect] == test[self.culprit])
        };
        (0..self.history.len()).filter(alike).collect()
    }

    fn boot(&self, lots: &mut Lots, is_bad: bool) -> Tally {
        let failed = lots.chance(if is_bad { self.rates.0 } else { self.rates.1 });
        Tally {
            failed: failed.into(),
            passed: (!failed).into(),
        }
    }
}

/// Failures of BAD that are awaited before the search begins; GOOD is booted as often.
const ENDS: u32 = 10;

struct Outcome {
    found: Vec<usize>,
    /// Builds that were tried, both ends left out.
    builds: u32,
    boots: u32,
}

fn bisect(world: &World, lots: &mut Lots, exact: bool) -> Outcome {
    let (mut good, mut bad) = (Tally::default(), Tally::default());
    while bad.failed < ENDS {
        bad += world.boot(lots, true);
    }
    while good.boots() < bad.boots() {
        good += world.boot(lots, false);
    }
    let mut boots = good.boots() + bad.boots();
    let mut builds = 0;
    let mut built = vec![false; world.history.len()];
    built[world.history.tip()] = true;
    let mut search = Search::new(world.history.clone(), good, bad, exact, 0.9999);
    loop {
        match search.next(Costs {
            build: 20.0,
            boot: 1.0,
        }) {
            Next::Contradiction => panic!("contradiction"),
            Next::Found(mut found) => {
                found.sort_unstable();
                return Outcome {
                    found,
                    builds,
                    boots,
                };
            }
            Next::Try(commit) => {
                if !std::mem::replace(&mut built[commit], true) {
                    builds += 1;
                }
                if world.mute[commit] {
                    search.skip(commit);
                    continue;
                }
                boots += 1;
                let is_bad = world.history.ancestors(commit)[world.culprit];
                search.record(commit, world.boot(lots, is_bad));
            }
        }
    }
}

/// The demand: 20 % that cannot be built, 10 % that fail in another way, and a failure that
/// occurs in 30 % of boots.
#[test]
fn a_flaky_failure_is_found_in_100_of_100_histories() {
    let mut most_boots = 0;
    for seed in 0..100 {
        let mut lots = Lots(seed);
        let length = 2 + lots.below(300);
        let world = World::random(&mut lots, length, 0.3, (0.3, 0.0));
        let outcome = bisect(&world, &mut lots, false);
        assert_eq!(outcome.found, world.answer(), "seed {seed}");
        most_boots = most_boots.max(outcome.boots);
    }
    eprintln!("boots: at most {most_boots}");
}

#[test]
fn so_is_one_that_good_revisions_show_at_times() {
    let (mut right, mut most_boots) = (0, 0);
    for seed in 0..50 {
        let mut lots = Lots(1000 + seed);
        let length = 2 + lots.below(100);
        let world = World::random(&mut lots, length, 0.1, (0.8, 0.1));
        let outcome = bisect(&world, &mut lots, false);
        right += u32::from(outcome.found == world.answer());
        most_boots = most_boots.max(outcome.boots);
    }
    eprintln!("boots: at most {most_boots}");
    assert_eq!(right, 50);
}

/// Never more builds than a binary search needs, plus one.
#[test]
fn a_failure_that_always_occurs_costs_no_more_builds_than_halving() {
    let mut boots = 0;
    for seed in 0..100 {
        let mut lots = Lots(2000 + seed);
        let length = 2 + lots.below(300);
        for exact in [false, true] {
            let world = World::random(&mut lots, length, 0.0, (1.0, 0.0));
            let outcome = bisect(&world, &mut lots, exact);
            assert_eq!(outcome.found, [world.culprit], "seed {seed}");
            let halving = (length as f64).log2().ceil() as u32;
            assert!(
                outcome.builds <= halving + 1,
                "seed {seed}: {} builds of {length}",
                outcome.builds
            );
            boots += if exact { 0 } else { outcome.boots };
            if exact {
                assert!(
                    outcome.boots <= 2 * ENDS + halving + 1,
                    "seed {seed}: {} boots",
                    outcome.boots
                );
            }
        }
    }
    eprintln!("boots: {} on average", f64::from(boots) / 100.0);
}

#[test]
fn where_only_skipped_commits_are_left_they_are_the_candidates() {
    for exact in [false, true] {
        let history = History::new(
            (0_usize..10)
                .map(|n| n.checked_sub(1).into_iter().collect())
                .collect(),
        );
        let mut mute = vec![false; 10];
        mute[4..8].fill(true);
        let world = World {
            history,
            culprit: 6,
            mute,
            rates: (1.0, 0.0),
        };
        let outcome = bisect(&world, &mut Lots(1), exact);
        assert_eq!(outcome.found, [4, 5, 6, 7, 8]);
        assert!(outcome.builds <= 8, "{}", outcome.builds);
    }
}

#[test]
fn a_long_broken_range_is_not_tried_commit_by_commit() {
    let history = History::new(
        (0_usize..300)
            .map(|n| n.checked_sub(1).into_iter().collect())
            .collect(),
    );
    let mut mute = vec![false; 300];
    mute[100..200].fill(true);
    let world = World {
        history,
        culprit: 230,
        mute,
        rates: (1.0, 0.0),
    };
    let outcome = bisect(&world, &mut Lots(1), true);
    assert_eq!(outcome.found, [230]);
    assert!(outcome.builds <= 12, "{}", outcome.builds);
}

#[test]
fn images_alike_put_nothing_between_them() {
    let line = History::new(vec![vec![], vec![0], vec![1], vec![2]]);
    let five = |failed: u32| Tally {
        failed: 5 * failed,
        passed: 5 * (1 - failed),
    };
    let mut search = Search::new(line, five(0), five(1), true, 0.9999);
    search.twin(2, Some(3));
    assert_eq!(
        search.suspicion()[3],
        0.0,
        "2 and 3 are alike: 3 broke nothing"
    );
    search.twin(0, None);
    assert_eq!(search.suspicion(), [0.0, 0.5, 0.5, 0.0]);
    search.record(
        1,
        Tally {
            failed: 0,
            passed: 1,
        },
    );
    assert_eq!(
        search.next(Costs {
            build: 1.0,
            boot: 1.0
        }),
        Next::Found(vec![2])
    );
}

#[test]
fn boots_that_contradict_each_other_under_icount_are_noticed() {
    let line = History::new(vec![vec![], vec![0], vec![1]]);
    let one = |failed| Tally {
        failed,
        passed: 1 - failed,
    };
    let mut search = Search::new(line, one(0), one(1), true, 0.9999);
    search.record(1, one(0));
    search.record(0, one(1));
    assert_eq!(
        search.next(Costs {
            build: 1.0,
            boot: 1.0
        }),
        Next::Contradiction
    );
}

#[test]
fn the_confidence_that_is_stated_is_reached() {
    let (mut right, mut runs) = (0, 0);
    for seed in 0..200 {
        let mut lots = Lots(3000 + seed);
        let world = World::random(&mut lots, 16, 0.0, (0.5, 0.0));
        runs += 1;
        right += u32::from(bisect(&world, &mut lots, false).found == [world.culprit]);
    }
    assert_eq!((right, runs), (200, 200));
}

/// However little certainty is asked for: of two that are alike, neither is the culprit.
#[test]
fn candidates_that_are_equally_likely_stay_together() {
    let line = History::new(vec![vec![], vec![0]]);
    let one = |failed| Tally {
        failed,
        passed: 1 - failed,
    };
    let mut search = Search::new(line, one(0), one(1), true, 0.5);
    search.skip(0);
    let costs = Costs {
        build: 1.0,
        boot: 1.0,
    };
    assert_eq!(search.next(costs), Next::Found(vec![0, 1]));
}
