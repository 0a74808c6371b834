//! What is done to trials: each suite does one kind of harm, at every failpoint where that has a meaning.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use millstream::failpoints::POINTS;

use crate::Options;
use crate::dice::Dice;
use crate::power::{self, Kind};
use crate::query::{Place, Whole};
use crate::trial::Trial;
use crate::verdict::Verdict;

/// One kind of harm.
pub struct Suite {
    pub name: &'static str,
    /// Whether it is done to every query, or to one, another for each point and seed.
    every_query: bool,
    /// Whether it is done at each failpoint; else the point is a name and no more.
    at_points: bool,
    harm: fn(&Job<'_>, &Trial, &mut Verdict),
}

pub const SUITES: &[Suite] = &[
    Suite { name: "kill", every_query: true, at_points: true, harm: kill },
    Suite { name: "kill-twice", every_query: false, at_points: true, harm: kill_twice },
    Suite { name: "kill-anytime", every_query: true, at_points: false, harm: kill_anytime },
    Suite { name: "power-cut", every_query: false, at_points: true, harm: power_cut },
    Suite { name: "zombie", every_query: false, at_points: true, harm: zombie },
    Suite { name: "terminate", every_query: false, at_points: true, harm: terminate },
    Suite { name: "failing-sync", every_query: true, at_points: false, harm: failing_sync },
    Suite { name: "failing-write", every_query: true, at_points: false, harm: failing_write },
    Suite { name: "full-disk", every_query: true, at_points: false, harm: full_disk },
];

/// How long to wait between two looks at another process.
const LOOK: Duration = Duration::from_millis(2);

/// One trial.
pub struct Job<'a> {
    pub suite: &'static str,
    harm: fn(&Job<'_>, &Trial, &mut Verdict),
    whole: &'a Whole,
    point: &'static str,
    seed: u64,
}

impl Suite {
    /// The trials of this suite.
    pub fn jobs<'a>(&self, place: &'a Place, options: &Options) -> Vec<Job<'a>> {
        if options.suite.as_deref().is_some_and(|name| name != self.name) {
            return Vec::new();
        }
        let points = if self.at_points { POINTS } else { &["batch.before_plan"] };
        let wanted = |point: &&&str| options.point.as_deref().is_none_or(|name| name == **point);
        let mut jobs = Vec::new();
        for (place_of_point, point) in points.iter().enumerate().filter(|(_, point)| wanted(point)) {
            for seed in options.seeds() {
                let passing = place.passing(point);
                let chosen = (place_of_point + seed as usize) % passing.len().max(1);
                let asked_for = options.query.is_some();
                let wholes =
                    passing.into_iter().enumerate().filter(|(at, _)| self.every_query || asked_for || *at == chosen);
                let job = |(_, whole)| Job { suite: self.name, harm: self.harm, whole, point, seed };
                jobs.extend(wholes.map(job));
            }
        }
        jobs
    }
}

impl Job<'_> {
    pub fn name(&self) -> String {
        format!("{} of {} at {}, seed {}", self.suite, self.whole.query.name, self.point, self.seed)
    }

    /// The command that runs this trial alone.
    pub fn command(&self) -> String {
        let Self { suite, whole, point, seed, .. } = self;
        format!(
            "cargo test --features kafka,failpoints --test crash -- --suite {suite} --query {} --point {point} --seed {seed}",
            whole.query.name
        )
    }

    /// Does the harm, starts the query until it is done, and compares.
    pub fn run(&self) -> Verdict {
        let trial = self.whole.trial(&format!("{}-{}-{}", self.suite, self.point, self.seed));
        let mut verdict = Verdict::default();
        (self.harm)(self, &trial, &mut verdict);
        match trial.finish() {
            Ok(()) => verdict.compare(&trial, &self.whole.end),
            Err(why) => verdict.note(why),
        }
        if verdict.is_clean() {
            fs::remove_dir_all(&trial.folder).unwrap();
        }
        verdict
    }

    fn dice(&self) -> Dice {
        Dice::new(self.seed, &format!("{}{}{}", self.suite, self.whole.query.name, self.point))
    }

    /// A pass of the job's point that a whole run makes.
    fn pass(&self, dice: &mut Dice) -> u64 {
        1 + dice.below(self.whole.passes[self.point])
    }
}

/// The process dies at the point.
fn kill(job: &Job<'_>, trial: &Trial, verdict: &mut Verdict) {
    let pass = job.pass(&mut job.dice());
    match trial.dies(job.point, pass) {
        true => verdict.kills += 1,
        false => verdict.note(format!("pass {pass} of {} was not reached:\n{}", job.point, trial.log())),
    }
}

/// The process dies anywhere, and the next one at one of the first passes of the point: in recovery or soon after.
fn kill_twice(job: &Job<'_>, trial: &Trial, verdict: &mut Verdict) {
    let mut dice = job.dice();
    let first: Vec<(&String, &u64)> = job.whole.passes.iter().collect();
    let (point, passes) = first[dice.below(first.len() as u64) as usize];
    verdict.kills += usize::from(trial.dies(point, 1 + dice.below(*passes)));
    verdict.kills += usize::from(trial.dies(job.point, 1 + dice.below(2)));
    verdict.kills += usize::from(trial.dies("recovery.mid", 1));
}

/// The process dies at moments that nothing in it knows of.
fn kill_anytime(job: &Job<'_>, trial: &Trial, verdict: &mut Verdict) {
    const KILLS: usize = 8;
    let mut dice = job.dice();
    for _ in 0..KILLS {
        let mut child = trial.start(&[]);
        // Not to wait for something, but to strike wherever the process is by then.
        std::thread::sleep(Duration::from_millis(10 + dice.below(600)));
        let _ = child.kill();
        match child.wait().unwrap().code() {
            None => verdict.kills += 1,
            Some(_) => return,
        }
    }
}

/// The process dies at the point, and what it had not synced is gone: all of it, or by the toss of a coin.
fn power_cut(job: &Job<'_>, trial: &Trial, verdict: &mut Verdict) {
    let mut dice = job.dice();
    let pass = job.pass(&mut dice);
    verdict.kills +=
        cut_at(trial, job.point, pass, &[], if job.seed % 2 == 1 { Kind::Nothing } else { Kind::Some(dice) });
}

/// Runs the trial until the point, with these variables, and cuts the power there. Returns how many died.
pub fn cut_at(trial: &Trial, point: &str, pass: u64, variables: &[(&str, &str)], kind: Kind) -> usize {
    power::everything_is_durable(trial);
    let (signal, notes) = (format!("{point}:{pass}:KILL"), power::notes(trial));
    let mut all = vec![("MILLSTREAM_SIGNAL", signal.as_str()), (power::VARIABLE, notes.to_str().unwrap())];
    all.extend(variables);
    let died = trial.run(&all).code().is_none();
    power::cut(trial, kind);
    usize::from(died)
}

/// The process stops at the point, another runs the query to its end, and the first wakes.
fn zombie(job: &Job<'_>, trial: &Trial, verdict: &mut Verdict) {
    let pass = job.pass(&mut job.dice());
    let mut first = trial.start(&[("MILLSTREAM_SIGNAL", &format!("{}:{pass}:STOP", job.point))]);
    if !stands_still(&mut first) {
        return verdict.note(format!("pass {pass} of {} was not reached:\n{}", job.point, trial.log()));
    }
    if let Err(why) = trial.finish() {
        verdict.note(why);
    }
    verdict.overtaken = Some(1);
    send("CONT", &first);
    let status = first.wait().unwrap();
    let log = trial.log();
    let fenced = status.code() == Some(1) && (log.contains("taken over") || log.contains("another process"));
    // Where nothing was left to do there was nothing to be fenced from.
    if !fenced && !status.success() {
        verdict.note(format!("the process that was taken over ended with {status}:\n{log}"));
    }
}

/// Waits until the process is stopped; returns false where it ended.
fn stands_still(child: &mut Child) -> bool {
    let stat = format!("/proc/{}/stat", child.id());
    loop {
        let text = fs::read_to_string(&stat).unwrap_or_default();
        match text.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()) {
            Some('T') => return true,
            _ if child.try_wait().unwrap().is_some() => return false,
            _ => std::thread::sleep(LOOK),
        }
    }
}

fn send(signal: &str, child: &Child) {
    let sent = Command::new("sh").args(["-c", "kill -s \"$1\" \"$2\"", "sh", signal, &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

/// The process is asked to end at the point.
fn terminate(job: &Job<'_>, trial: &Trial, verdict: &mut Verdict) {
    let pass = job.pass(&mut job.dice());
    let status = trial.run(&[("MILLSTREAM_SIGNAL", &format!("{}:{pass}:TERM", job.point))]);
    // 0 where the query was at its end anyway. Before the command listens, the signal ends it as a kill does.
    if !matches!(status.code(), None | Some(0 | 130)) {
        verdict.note(format!("it ended with {status} and not with 130:\n{}", trial.log()));
    }
}

/// A sync fails: the query ends and says of what, and the next run goes on.
fn failing_sync(job: &Job<'_>, trial: &Trial, verdict: &mut Verdict) {
    failing(job, trial, verdict, "disk.sync_fails");
}

/// A write fails.
fn failing_write(job: &Job<'_>, trial: &Trial, verdict: &mut Verdict) {
    failing(job, trial, verdict, "disk.write_fails");
}

fn failing(job: &Job<'_>, trial: &Trial, verdict: &mut Verdict, fault: &str) {
    const TIMES: u64 = 6;
    let mut dice = job.dice();
    for _ in 0..TIMES {
        let before = trial.log().len();
        let order = format!("{fault}={}*off->1*return", dice.below(60));
        let status = trial.run(&[("FAILPOINTS", &order)]);
        let log = trial.log();
        let said = &log[before..];
        let disk = trial.disk().display().to_string();
        match status.code() {
            Some(1) if said.contains("a test made this fail") && said.contains(&disk) => {}
            // The fault lay beyond the end.
            Some(0) => return,
            _ => return verdict.note(format!("{order}: it ended with {status} and does not say what failed:\n{said}")),
        }
    }
}

/// The disk is full: the query ends and names the file; with space again it goes on.
fn full_disk(job: &Job<'_>, trial: &Trial, verdict: &mut Verdict) {
    const TIMES: u64 = 4;
    let mut dice = job.dice();
    let free: Vec<String> = (0..TIMES).map(|_| (8 + dice.below(250)).to_string()).collect();
    // A disk of its own, seen by these processes alone; what lies on it is brought back at the end.
    let script = r#"set -e
        disk=$1 command=$2 sql=$3; shift 3
        mount -t tmpfs -o size=64m none "$disk"
        for free in "$@"; do
            space=$(df --output=avail -k "$disk" | tail -1)
            head -c $(( (space - free) * 1024 )) /dev/zero > "$disk/ballast"
            code=0; "$command" run "$sql" --lanes 2 2>&1 || code=$?
            echo "ended with $code"
            rm "$disk/ballast"
        done
        cp -a "$disk" "$disk.kept""#;
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    command.arg(trial.disk()).arg(env!("CARGO_BIN_EXE_millstream")).arg(trial.script()).args(&free);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return verdict.note(format!("no disk of its own: {}{said}", String::from_utf8_lossy(&output.stderr)));
    }
    let kept = Path::new(&trial.disk()).with_extension("kept");
    fs::remove_dir_all(trial.disk()).unwrap();
    fs::rename(kept, trial.disk()).unwrap();
    let ends: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("ended with ")).collect();
    let full = said.matches("free space there").count();
    if ends.contains(&"1") && full == 0 || ends.iter().any(|code| !["0", "1"].contains(code)) {
        verdict.note(format!("on a full disk it ended with {ends:?} and does not say so:\n{said}"));
    }
}
