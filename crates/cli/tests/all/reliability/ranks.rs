//! Test 8: ranks that end in the middle of anything.

use std::thread;

use super::*;
use crate::ranks::{as_rank, free_port};

/// The limit for the ranks that are left.
const LIMIT: Duration = Duration::from_secs(10);

impl Training<'_> {
    /// Starts as many ranks of it.
    fn start_ranks(&self, size: usize, more: &[&str], failpoint: Option<&str>) -> Vec<Child> {
        let port = free_port();
        let ranks = (0..size).map(|rank| {
            let mut command = self.command(more);
            if let Some(failpoint) = failpoint.filter(|_| rank == 0) {
                command.env("SENTUNE_FAILPOINT", failpoint);
            }
            as_rank(&mut command, rank, size, port)
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        });
        ranks.collect()
    }

    /// Takes the run up again with as many ranks, with what is on the disk.
    fn go_on_with_ranks(&self, size: usize) {
        let more: &[&str] = match self.folder().join("config.toml").exists() {
            true => &["--resume-from-checkpoint"],
            false => &[],
        };
        for rank in self.start_ranks(size, more, None) {
            Ended::from(rank.wait_with_output().unwrap()).ok();
        }
    }
}

/// How ranks ended after one of them was gone: the longest time, and the messages.
#[track_caller]
fn survivors(mut ranks: Vec<Child>, what: &str) -> (Duration, Vec<Ended>) {
    let since = Instant::now();
    while ranks
        .iter_mut()
        .any(|rank| rank.try_wait().unwrap().is_none())
    {
        if since.elapsed() > LIMIT {
            for rank in &mut ranks {
                let _ = rank.kill();
            }
            panic!("{what}: a rank has not ended within {LIMIT:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
    let waited = since.elapsed();
    let ended = ranks
        .into_iter()
        .map(|rank| Ended::from(rank.wait_with_output().unwrap()));
    (waited, ended.collect())
}

/// One of two or three ranks is killed at a random moment. The others end within ten seconds and name it, unless it was
/// after the last step; the ranks that go on end as those that were never killed.
#[test]
fn a_random_rank_is_killed() {
    let sandbox = Sandbox::new();
    let n = count(2, 50);
    let mut random = Random::new(8);
    let (mut n_same, mut n_named, mut slowest) = (0, 0, Duration::ZERO);
    for size in [2, 3] {
        // That is also how long they wait for one that dies before all have met.
        let whole =
            Training::sixty(&sandbox, &format!("whole-{size}")).and(&["--ddp-timeout", "7"]);
        let started = Instant::now();
        whole.go_on_with_ranks(size);
        let duration = started.elapsed();
        let expected = whole.result();
        let mut n_killed = 0;
        while n_killed < n / 2 {
            let killed = Training {
                run: format!("killed-{size}-{n_killed}"),
                flags: whole.flags.clone(),
                sandbox: &sandbox,
            };
            let mut ranks = killed.start_ranks(size, &[], None);
            thread::sleep(duration.mul_f64(random.below(950) as f64 / 1000.0));
            let victim = random.below(size as u64) as usize;
            let mut victim_process = ranks.remove(victim);
            let has_ended = victim_process.try_wait().unwrap().is_some();
            victim_process.kill().unwrap();
            victim_process.wait().unwrap();
            let what = format!("kill {n_killed} of rank {victim} of {size}");
            let (waited, ended) = survivors(ranks, &what);
            if has_ended {
                fs_err::remove_dir_all(killed.folder()).ok();
                continue;
            }
            n_killed += 1;
            slowest = slowest.max(waited);
            let are_done = ended.iter().all(|ended| ended.code == Some(0));
            if !are_done {
                for ended in &ended {
                    ended.failed(1, &[&format!("rank {victim} ")]);
                }
                n_named += 1;
            }
            killed.go_on_with_ranks_if_begun(size);
            expected.assert_same(&killed.result(), &what);
            n_same += 1;
            fs_err::remove_dir_all(killed.folder()).unwrap();
        }
    }
    say(&format!(
        "{n_named} of {n_same} kills came before the end and were named by all others, the slowest of whom took {slowest:.2?}"
    ));
    report("ranks killed and resumed bit for bit", n_same, n / 2 * 2);
}

impl Training<'_> {
    /// Goes on with a run that may have ended.
    fn go_on_with_ranks_if_begun(&self, size: usize) {
        if !self.folder().join("results.json").exists() {
            self.go_on_with_ranks(size);
        }
    }
}

/// Rank 0 ends at places of a save: the other ends within ten seconds and names it, and the run goes on from the last
/// checkpoint that is whole.
#[test]
fn rank_0_is_killed_while_it_saves() {
    let sandbox = Sandbox::new();
    let flags = [
        "--max-steps",
        "6",
        "--save-steps",
        "2",
        "--save-total-limit",
        "1",
    ];
    let training = |run: &str| {
        Training::new(&sandbox, run, &flags).and(&["--learning-rate", "1e-3", "--num-threads", "1"])
    };
    let whole = training("whole");
    whole.go_on_with_ranks(2);
    let expected = whole.result();
    let n = count(1, 10);
    let mut random = Random::new(9);
    let mut n_passed = 0;
    while n_passed < n {
        let killed = training("killed");
        let place = 5 + random.below(110);
        let mut ranks = killed.start_ranks(2, &[], Some(&format!("*@{place}=kill")));
        let first = ranks.remove(0).wait_with_output().unwrap();
        let what = format!("place {place}");
        assert_eq!(first.status.signal(), Some(6), "{what}: {first:?}");
        let (_, ended) = survivors(ranks, &what);
        ended[0].failed(1, &["rank 1: rank 0 is gone"]);
        killed.go_on_with_ranks(2);
        expected.assert_same(&killed.result(), &what);
        fs_err::remove_dir_all(killed.folder()).unwrap();
        n_passed += 1;
    }
    report(
        "kills of rank 0 while it saves, resumed bit for bit",
        n_passed,
        n,
    );
}
