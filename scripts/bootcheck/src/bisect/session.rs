//! One run of `bootcheck bisect`, from the command line to the report.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail, ensure};

use super::builder::{Builder, Settings};
use super::ends::{End, Ends, confirm};
use super::first_difference;
use super::git::{Commit, Git};
use super::hunt::{Found, Hunt, Trial};
use super::lab::Lab;
use super::options::BisectArgs;
use super::outcome::{EndReport, Failure, Outcome, changes, steps};
use super::progress::Progress;
use super::prove::{Proof, prove};
use super::report;
use super::room;
use super::submodules;
use super::tree::Tree;
use super::work::Work;
use crate::ci;
use crate::interrupt::Interrupted;
use crate::output;

/// Runs the command; the exit status: 0 the culprit is proved, 1 candidates only.
///
/// # Errors
/// The question is wrong, or the tester, git, the host or QEMU failed: 129 (or [`Interrupted`]).
pub fn run(args: &BisectArgs) -> anyhow::Result<u8> {
    let git = Git::open(&args.repo)?;
    let mut work = Work::open(args.work.as_deref(), &git)?;
    let resumed;
    let args = match (args.resume, Lab::stopped(work.directory()), &args.good) {
        (true, Some(question), None) => {
            resumed = args.resumed(&question)?;
            &resumed
        }
        (true, None, None) => bail!("no bisection was stopped in {}", work.directory().display()),
        _ => args,
    };
    let result = bisect(args, &git, &work);
    match result {
        Err(error) if error.is::<Interrupted>() => {
            work.keep_tree = true;
            let _ = writeln!(
                anstream::stderr(),
                "bisect: interrupted; {}",
                going_on(args, &work)
            );
            Err(error)
        }
        Err(error) if room::is_lacking(&format!("{error:#}")) => Err(error.context(format!(
            "no space left; make some, and {}",
            going_on(args, &work)
        ))),
        _ => result,
    }
}

/// How to go on where this bisection stops.
fn going_on(args: &BisectArgs, work: &Work) -> String {
    let repo = args.repo.display();
    match (Lab::stopped(work.directory()), &args.work) {
        (None, _) => format!("start again in {repo}: nothing was built yet"),
        (Some(_), None) => format!("`bootcheck bisect --resume` in {repo} goes on"),
        (Some(_), Some(directory)) => {
            let directory = directory.display();
            format!("`bootcheck bisect --resume --work {directory}` in {repo} goes on")
        }
    }
}

/// The range, and the two ends of it.
struct Range {
    good: Commit,
    bad: Commit,
    commits: Vec<Commit>,
}

fn bisect(args: &BisectArgs, git: &Git, work: &Work) -> anyhow::Result<u8> {
    let started = Instant::now();
    for path in args.results().into_iter().flatten() {
        output::check_result(path)?;
    }
    let boot_args = args.boot_args()?;
    ensure!(
        args.confidence.0 < 1.0 && args.confidence.0 >= 0.5,
        "--confidence {}: no boots make it certain; from 50% to below 100%",
        args.confidence
    );
    let range = range(args, git)?;
    let question = args.question(&range.good.sha, &range.bad.sha);
    if !args.resume {
        work.forget()?;
    } else if Lab::stopped(work.directory()).is_some_and(|stopped| stopped != question) {
        bail!(
            "the bisection that was stopped asked something else: say --resume alone, or leave it out"
        );
    }
    let mut progress = Progress::start();
    progress.say(&introduction(&range));
    if args.bad == "HEAD" && git.is_dirty() {
        progress
            .say("what is not committed in the checkout belongs to no revision, and is not tested");
    }

    let left = submodules::missing(git, &range.bad.sha);
    if !left.is_empty() {
        progress.say(&format!(
            "not checked out in your clone, and so not for the builds: the submodules {}",
            left.join(", ")
        ));
    }

    let settings = Settings {
        command: &args.build,
        image: &args.image,
        elf: args.elf.as_deref(),
        patience: args.build_timeout,
        env: &args.env,
        toolchain_from_rev: args.toolchain_from_rev,
        epoch: range.good.committed,
    };
    let tree = Tree::make(&work.tree(), git)?;
    let builder = Builder::new(tree, git, &settings, work.directory().join("builds"))?;
    let mut lab = Lab::open(
        builder,
        boot_args,
        work.directory(),
        work.observations(),
        question,
    )?;
    if lab.known() > 0 {
        progress.say(&format!("{} revisions are built already", lab.known()));
    }

    let ends = confirm(args, &mut lab, &progress, &range.good, &range.bad)?;
    progress.say(&format!("BAD  {}: {}", range.bad.shown(), ends.bad.shown()));
    progress.say(&format!(
        "GOOD {}: {}",
        range.good.shown(),
        ends.good.shown()
    ));
    let mut hunt = Hunt::new(
        &range.commits,
        &ends,
        &mut lab,
        &mut progress,
        args.confidence.0,
    );
    let (found, proof) = hunt_down(&mut hunt)?;
    let outcome = outcome(args, &range, &mut hunt, &found, proof, started)?;
    progress.end();
    tell(args, &outcome)?;
    lab.close()?;
    Ok(u8::from(!outcome.proved))
}

/// Searches until what is found can be proved, or there are candidates only.
fn hunt_down(hunt: &mut Hunt<'_>) -> anyhow::Result<(Found, Option<Proof>)> {
    loop {
        let found = hunt.search()?;
        let [culprit] = found.suspects[..] else {
            return Ok((found, None));
        };
        if let Some(proof) = prove(hunt, culprit)? {
            return Ok((found, Some(proof)));
        }
    }
}

/// What is between GOOD and BAD.
fn range(args: &BisectArgs, git: &Git) -> anyhow::Result<Range> {
    let name = args.good.as_deref().context("--good is missing")?;
    let good = git.resolve(name).context("GOOD")?;
    let bad = git.resolve(&args.bad).context("BAD")?;
    ensure!(
        good.sha != bad.sha,
        "GOOD and BAD are the same commit, {}",
        good.shown()
    );
    if !git.is_ancestor(&good.sha, &bad.sha)? {
        if git.is_ancestor(&bad.sha, &good.sha)? {
            bail!(
                "BAD, {}, comes before GOOD, {}: good and bad are in the wrong order. To find what \
                 repaired it, exchange them and say what was usual before: -- --expect panic",
                bad.shown(),
                good.shown()
            );
        }
        if git.is_shallow()? {
            bail!(
                "GOOD, {}, is no ancestor of BAD, {}, as far as this shallow clone goes: \
                 `git fetch --unshallow` gets the rest",
                good.shown(),
                bad.shown()
            );
        }
        let base = git.text(&["merge-base", &good.sha, &bad.sha]).ok();
        let advice = match base.and_then(|base| git.resolve(&base).ok()) {
            Some(base) => format!(
                "both come from {}; boot that, and take it for GOOD if it passes",
                base.shown()
            ),
            None => "they have nothing in common".to_owned(),
        };
        bail!(
            "GOOD, {}, is no ancestor of BAD, {}: {advice}",
            good.shown(),
            bad.shown()
        );
    }
    let mut commits = git.between(&good, &bad, args.first_parent, &args.path)?;
    refuse_cut_history(git, &commits)?;
    // With paths, the last commit that touches them stands for BAD; what is seen at BAD, is seen
    // there.
    if let Some(last) = commits.last_mut()
        && last.sha != bad.sha
    {
        let parents = vec![last.sha.clone()];
        commits.push(Commit {
            parents,
            ..bad.clone()
        });
    }
    Ok(Range { good, bad, commits })
}

/// Commits at the edge of a shallow clone look as if they had no parents.
fn refuse_cut_history(git: &Git, commits: &[Commit]) -> anyhow::Result<()> {
    if !git.is_shallow()? {
        return Ok(());
    }
    let edge = git.path(&["--git-path", "shallow"])?;
    let edge = std::fs::read_to_string(&edge).unwrap_or_default();
    if let Some(cut) = commits
        .iter()
        .find(|commit| edge.lines().any(|sha| sha == commit.sha))
    {
        bail!(
            "this clone is shallow, and {} is where it is cut off: `git fetch --unshallow` gets the rest",
            cut.shown()
        );
    }
    Ok(())
}

fn introduction(range: &Range) -> String {
    let count = range.commits.len();
    let commits = match count {
        1 => "1 commit".to_owned(),
        _ => format!("{count} commits"),
    };
    let steps = (count as f64).log2().ceil() as u32 + 2;
    format!(
        "{commits} from GOOD {} to BAD {}: about {steps} builds",
        range.good.short, range.bad.short
    )
}

fn outcome(
    args: &BisectArgs,
    range: &Range,
    hunt: &mut Hunt<'_>,
    found: &Found,
    proof: Option<Proof>,
    started: Instant,
) -> anyhow::Result<Outcome> {
    let commit = |number: usize| range.commits[number].clone();
    let culprit = match found.suspects[..] {
        [culprit] => Some(culprit),
        _ => None,
    };
    let first_bad = culprit.unwrap_or(hunt.history().tip());
    let bad_trial = hunt.trials.get(&first_bad).cloned().unwrap_or_default();
    let good_key = match culprit.map(|culprit| hunt.history().parents(culprit)) {
        Some([parent, ..]) => hunt.trials.get(parent).and_then(|trial| trial.key.clone()),
        _ => hunt.good().key.clone(),
    };
    let mut first_difference = None;
    if let (Some(good), Some(bad), Some(_)) = (good_key, &bad_trial.key, &bad_trial.sight) {
        hunt.progress()
            .doing("comparing the last good boot with the first bad one");
        first_difference = first_difference::find(hunt.lab(), &good, bad)?;
    }
    let ends: &Ends = hunt.ends;
    let steps = steps(hunt, &found.suspects);
    let culprit = culprit.map(commit);
    Ok(Outcome {
        schema: 1,
        proved: proof.as_ref().is_some_and(Proof::holds),
        confidence: found.confidence.min(1.0),
        candidates: found
            .suspects
            .iter()
            .map(|number| commit(*number))
            .collect(),
        sought: ends.sought.shown(),
        failure: failure(&bad_trial),
        good: end(&range.good, &ends.good),
        bad: end(&range.bad, &ends.bad),
        proof,
        fingerprints: changes(hunt),
        first_difference,
        fixes: culprit.as_ref().map(report::fixes),
        reproduce: reproduce(args, culprit.as_ref().unwrap_or(&range.bad)),
        bisect_log: report::bisect_log(
            &range.good,
            &range.bad,
            &steps,
            culprit.as_ref(),
            args.first_parent,
            &args.path,
        ),
        culprit,
        steps,
        commits: range.commits.len(),
        effort: hunt.lab().effort(),
        seconds: started.elapsed().as_secs_f64(),
        qemu: bad_trial.sight.and_then(|sight| sight.qemu),
        tester: env!("CARGO_PKG_VERSION").into(),
    })
}

fn end(commit: &Commit, end: &End) -> EndReport {
    EndReport {
        commit: commit.clone(),
        told: end.told.clone(),
        boots: end.tally,
        value: end.value,
    }
}

fn failure(trial: &Trial) -> Failure {
    let Some(sight) = trial.sight.clone() else {
        return Failure {
            told: trial.told.clone(),
            ..Failure::default()
        };
    };
    Failure {
        told: trial.told.clone(),
        message: sight.message,
        stage: sight.stage,
        symbol: sight.symbol,
        place: sight.place,
        silent: sight.silent,
        trace: sight.trace,
        fingerprint: sight.fingerprint,
    }
}

/// A shell command that checks out, builds and boots.
fn reproduce(args: &BisectArgs, commit: &Commit) -> String {
    let image = args.image.to_string_lossy().into_owned();
    let mut words = vec![
        "bootcheck",
        "boot",
        "--build",
        &args.build,
        "--image",
        &image,
    ];
    let elf = args
        .elf
        .as_ref()
        .map(|elf| elf.to_string_lossy().into_owned());
    if let Some(elf) = &elf {
        words.extend(["--elf", elf]);
    }
    let boot_words = args.boot_words();
    words.extend(boot_words.iter().map(String::as_str));
    let boot = shlex::try_join(words).unwrap_or_default();
    format!("git checkout --detach {} && {boot}", commit.sha)
}

/// Writes the reports.
fn tell(args: &BisectArgs, outcome: &Outcome) -> anyhow::Result<()> {
    let [json, markdown, log] = args.results();
    if let Some(path) = json {
        output::write_json(path, outcome)?;
    }
    if let Some(path) = markdown {
        output::write_result(path, &outcome.markdown())?;
    }
    if let Some(path) = log {
        output::write_result(path, &outcome.bisect_log)?;
    }
    let summary = outcome.summary();
    let summary = ci::shown(&summary);
    let _ = writeln!(anstream::stderr());
    if args.results().contains(&Some(Path::new(output::STDOUT))) {
        let _ = write!(anstream::stderr(), "{summary}");
    } else {
        output::expect_written(write!(anstream::stdout(), "{summary}"));
    }
    Ok(())
}
