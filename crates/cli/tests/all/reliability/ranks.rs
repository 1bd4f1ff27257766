//! Test 8: ranks that end in the middle of anything, and ranks across a network that fails.

use std::{io::Read, thread};

use super::*;
use crate::ranks::{
    LONG, as_rank, ended, free_port, start, through, train, wait_for_a_step, weights,
};

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

#[test]
fn one_of_two_ranks_is_killed() {
    kill_one_of(2, 8);
}

#[test]
fn one_of_three_ranks_is_killed() {
    kill_one_of(3, 12);
}

/// One of the ranks is killed at a random moment. The others end within ten seconds and name it, unless it was after the
/// last step; the ranks that go on end as those that were never killed.
fn kill_one_of(size: usize, seed: u64) {
    // That is how long the others wait for one that dies before all have met.
    const IMPATIENT: [&str; 2] = ["--ddp-timeout", "4"];
    let sandbox = Sandbox::new();
    let n = count(1, 25);
    let mut random = Random::new(seed);
    let (mut n_same, mut n_named, mut slowest) = (0, 0, Duration::ZERO);
    let whole = Training::sixty(&sandbox, "whole");
    let started = Instant::now();
    whole.go_on_with_ranks(size);
    let duration = started.elapsed();
    let expected = whole.result();
    while n_same < n {
        let killed = Training {
            run: format!("killed-{n_same}"),
            flags: whole.flags.clone(),
            sandbox: &sandbox,
        };
        let mut ranks = killed.start_ranks(size, &IMPATIENT, None);
        thread::sleep(duration.mul_f64(random.below(950) as f64 / 1000.0));
        let victim = random.below(size as u64) as usize;
        let mut victim_process = ranks.remove(victim);
        let has_ended = victim_process.try_wait().unwrap().is_some();
        victim_process.kill().unwrap();
        victim_process.wait().unwrap();
        let what = format!("kill {n_same} of rank {victim} of {size}");
        let (waited, ended) = survivors(ranks, &what);
        if has_ended {
            fs_err::remove_dir_all(killed.folder()).ok();
            continue;
        }
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
    say(&format!(
        "{n_named} of {n_same} kills came before the end and were named by all others, the slowest of whom took {slowest:.2?}"
    ));
    report(
        &format!("kills of one of {size} ranks, resumed bit for bit"),
        n_same,
        n,
    );
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

/// The number of a process that runs the program as a rank of a launcher, once it is there.
fn find_rank(launcher: u32, rank: usize) -> Option<u32> {
    let is_rank = |number: u32| {
        let folder = format!("/proc/{number}");
        let parent = std::fs::read_to_string(format!("{folder}/stat")).ok()?;
        // After the name, which ends in a parenthesis: the state, then the parent.
        let parent = parent.rsplit_once(')')?.1.split_whitespace().nth(1)?;
        let variables = std::fs::read(format!("{folder}/environ")).ok()?;
        let mut variables = variables.split(|&byte| byte == 0);
        let wanted = format!("RANK={rank}");
        (parent.parse() == Ok(launcher) && variables.any(|one| one == wanted.as_bytes()))
            .then_some(number)
    };
    let processes = fs_err::read_dir("/proc").unwrap();
    processes
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .find_map(is_rank)
}

/// torchrun starts all ranks again when one of two is killed at a random moment, and they go on by themselves to the bits
/// of those that were never killed.
#[test]
fn torchrun_starts_killed_ranks_again() {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut torchrun = std::env::split_paths(&path).map(|folder| folder.join("torchrun"));
    let Some(torchrun) = torchrun.find(|file| file.is_file()) else {
        say("torchrun: skipped, for PATH has none");
        return;
    };
    let sandbox = Sandbox::new();
    let whole = Training::sixty(&sandbox, "whole");
    let begun = Instant::now();
    whole.go_on_with_ranks(2);
    let duration = begun.elapsed();
    let expected = whole.result();
    let n = count(1, 10);
    let mut random = Random::new(10);
    let mut n_same = 0;
    while n_same < n {
        let killed = Training {
            run: "killed".to_owned(),
            flags: whole.flags.clone(),
            sandbox: &sandbox,
        };
        let mut launcher = Command::new(&torchrun);
        launcher.args([
            "--standalone",
            "--nproc-per-node",
            "2",
            "--max-restarts",
            "3",
        ]);
        launcher.args(["--monitor-interval", "0.1", "--no-python"]);
        let launcher = through(launcher, &killed.command(&[]))
            .env("LOGLEVEL", "INFO")
            .spawn()
            .unwrap();
        let rank = random.below(2) as usize;
        let since = Instant::now();
        let victim = loop {
            if let Some(victim) = find_rank(launcher.id(), rank) {
                break victim;
            }
            assert!(since.elapsed() < LONG, "torchrun starts no rank");
            thread::sleep(Duration::from_millis(10));
        };
        thread::sleep(duration.mul_f64(random.below(900) as f64 / 1000.0));
        let kill = ["-KILL", &victim.to_string()];
        Command::new("kill").args(kill).output().unwrap();
        let what = format!("kill {n_same} of rank {rank}");
        let launcher = ended(vec![launcher], LONG).remove(0);
        let was_restarted = launcher.stderr.contains("will restart worker group");
        launcher.ok();
        expected.assert_same(&killed.result(), &what);
        fs_err::remove_dir_all(killed.folder()).unwrap();
        // Otherwise the rank had ended before.
        n_same += usize::from(was_restarted);
    }
    report(
        "ranks killed under torchrun, whose restart had the same bits",
        n_same,
        n,
    );
}

/// Two machines, which are network namespaces joined by a cable, until dropped.
struct Network {
    names: [String; 2],
    /// The program that is the cable, where the kernel has none that loses packets.
    cable: Option<Child>,
}

impl Network {
    /// The address of the first.
    const FIRST: &str = "10.231.7.1";

    /// The reason where there can be none.
    fn new(name: &str) -> Result<Self, String> {
        let number = std::process::id();
        let network = Self {
            names: ["a", "b"].map(|end| format!("sentune-{number}-{name}-{end}")),
            cable: None,
        };
        let [a, b] = &network.names;
        sh(&format!("ip netns add {a} && ip netns add {b}"))?;
        sh(&format!(
            "ip link add cable netns {a} type veth peer name cable netns {b}"
        ))?;
        network.address()?;
        Ok(network)
    }

    /// One whose packets are late by 3 ms, give or take 2, and of which every fiftieth is lost.
    fn lossy() -> Result<Self, String> {
        let mut network = Self::new("lossy")?;
        let [a, b] = network.names.clone();
        let netem = "netem delay 3ms 2ms loss 2%";
        let of_kernel = [&a, &b].map(|name| {
            sh(&format!(
                "ip netns exec {name} tc qdisc add dev cable root {netem}"
            ))
        });
        if of_kernel.iter().all(Result::is_ok) {
            return Ok(network);
        }
        sh(&format!("ip -n {a} link del cable"))?;
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/all/reliability/cable.py"
        );
        let mut program = Command::new("python3");
        program.args([script, &a, &b, "3", "2", "0.02"]);
        program.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut cable = program.spawn().map_err(|error| error.to_string())?;
        let mut ready = [0; 6];
        let stdout = cable.stdout.as_mut().ok_or("no pipe")?;
        let is_ready = stdout.read_exact(&mut ready).is_ok();
        network.cable = Some(cable);
        if !is_ready {
            return Err("the kernel has no netem, and python3 can make no TUN device".to_owned());
        }
        network.address()?;
        Ok(network)
    }

    /// Gives the ends of the cable their addresses.
    fn address(&self) -> Result<(), String> {
        for (i, name) in self.names.iter().enumerate() {
            let address = format!("10.231.7.{}/24", i + 1);
            sh(&format!("ip -n {name} addr add {address} dev cable"))?;
            sh(&format!(
                "ip -n {name} link set cable up && ip -n {name} link set lo up"
            ))?;
        }
        Ok(())
    }

    /// The packets that came into the cable and those that were lost in it, where the kernel did not make it.
    fn packets(mut self) -> Option<(u64, u64)> {
        let mut cable = self.cable.take()?;
        drop(cable.stdin.take());
        let output = cable.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (all, lost) = text.trim().split_once(' ').unwrap();
        Some((all.parse().unwrap(), lost.parse().unwrap()))
    }

    /// The ranks of a run, one on each machine.
    fn start(&self, sandbox: &Sandbox, run: &str, flags: &[&str]) -> Vec<Child> {
        let port = free_port();
        let ranks = self.names.iter().enumerate().map(|(rank, name)| {
            let mut there = Command::new("ip");
            there.args(["netns", "exec", name]);
            as_rank(
                &mut through(there, &train(sandbox, run, flags)),
                rank,
                2,
                port,
            )
            .env("MASTER_ADDR", Self::FIRST)
            .env("LOCAL_RANK", "0")
            .env("LOCAL_WORLD_SIZE", "1")
            .spawn()
            .unwrap()
        });
        ranks.collect()
    }

    #[track_caller]
    fn cut(&self) {
        sh(&format!("ip -n {} link set cable down", self.names[0])).unwrap();
    }

    #[track_caller]
    fn mend(&self) {
        sh(&format!("ip -n {} link set cable up", self.names[0])).unwrap();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(cable) = &mut self.cable {
            let _ = cable.kill();
            let _ = cable.wait();
        }
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

fn sh(command: &str) -> Result<(), String> {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// A run across two machines has the bits of one within one machine; so has one whose packets are late and lost. A cut
/// cable is an error of both at the time-out, from which the run goes on to the same bits; one that is mended in time is
/// no error.
#[test]
fn two_machines_across_a_network() {
    let networks = Network::new("good").and_then(|good| Ok((good, Network::lossy()?)));
    let (network, lossy) = match networks {
        Ok(networks) => networks,
        Err(reason) => {
            say(&format!(
                "two machines: skipped, for only root may make networks, with iproute2: {reason}"
            ));
            return;
        }
    };
    let sandbox = Sandbox::new();
    let flags = ["--max-steps", "100", "--save-steps", "10"];
    for ended in ended(
        start((0..2).map(|_| train(&sandbox, "whole", &flags)).collect()),
        LONG,
    ) {
        ended.ok();
    }
    let whole = weights(&sandbox, "whole");
    for ended in ended(network.start(&sandbox, "across", &flags), LONG) {
        ended.ok();
    }
    assert!(weights(&sandbox, "across") == whole);

    let n = count(1, 5);
    for i in 0..n {
        let run = format!("lossy-{i}");
        for ended in ended(lossy.start(&sandbox, &run, &flags), 3 * LONG) {
            ended.ok();
        }
        assert!(weights(&sandbox, &run) == whole, "{run}");
    }
    if let Some((n_packets, n_lost)) = lossy.packets() {
        assert!(n_lost > 0, "of {n_packets} packets none was lost");
        say(&format!("{n_lost} of {n_packets} packets were lost"));
    }
    report("runs with late and lost packets, the same bits", n, n);

    let impatient = [&flags[..], &["--ddp-timeout", "8"]].concat();
    let resumed = [&flags[..], &["--resume-from-checkpoint"]].concat();
    let mut random = Random::new(11);
    let mut slowest = Duration::ZERO;
    for i in 0..n {
        let run = format!("cut-{i}");
        let ranks = network.start(&sandbox, &run, &impatient);
        let step = 10 * (1 + random.below(4));
        let checkpoint = sandbox.path(&run).join(format!("checkpoint-{step}"));
        let since = Instant::now();
        while !checkpoint.exists() {
            assert!(since.elapsed() < LONG, "{run}: no checkpoint {step}");
            thread::sleep(Duration::from_millis(2));
        }
        network.cut();
        let since = Instant::now();
        for ended in ended(ranks, Duration::from_secs(20)) {
            ended.failed(1, &["no answer from another rank within 8 s"]);
        }
        slowest = slowest.max(since.elapsed());
        network.mend();
        for ended in ended(network.start(&sandbox, &run, &resumed), LONG) {
            ended.ok();
        }
        assert!(weights(&sandbox, &run) == whole, "{run}");
    }
    say(&format!(
        "the slowest end after a cut took {slowest:.2?}, with a time-out of 8 s"
    ));
    report(
        "cut cables told at the time-out, and gone on from to the same bits",
        n,
        n,
    );

    for i in 0..n {
        let run = format!("mended-{i}");
        let ranks = network.start(&sandbox, &run, &flags);
        wait_for_a_step(&sandbox, &run);
        network.cut();
        thread::sleep(Duration::from_secs(1));
        network.mend();
        for ended in ended(ranks, LONG) {
            ended.ok();
        }
        assert!(weights(&sandbox, &run) == whole, "{run}");
    }
    report(
        "cables mended after a second, no error and the same bits",
        n,
        n,
    );
}
