//! Several ranks: started by `--processes`, or by a launcher's variables.

use std::{
    net::TcpListener,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::sandbox::{Ended, Sandbox, data, signal};

/// Eight steps in which nothing is random but dropout and the order of rows.
const EIGHT_STEPS: [&str; 14] = [
    "--max-steps",
    "8",
    "--per-device-train-batch-size",
    "4",
    "--learning-rate",
    "1e-3",
    "--logging-steps",
    "1",
    "--save-steps",
    "4",
    "--dropout",
    "0.2",
    "--seed",
    "3",
];

/// A run of the tiny model into the folder `run`.
pub(crate) fn train(sandbox: &Sandbox, run: &str, flags: &[&str]) -> Command {
    let mut command = sandbox.line("train --model MODEL --no-report");
    command
        .args(["--output-dir", run])
        .args(EIGHT_STEPS)
        .args(flags)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if !flags.contains(&"--train-data") {
        command.arg("--train-data").arg(data("triplets.jsonl"));
    }
    command
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Gives a command the variables of a rank.
pub(crate) fn as_rank(command: &mut Command, rank: usize, size: usize, port: u16) -> &mut Command {
    command
        .env("RANK", rank.to_string())
        .env("WORLD_SIZE", size.to_string())
        .env("LOCAL_RANK", rank.to_string())
        .env("LOCAL_WORLD_SIZE", size.to_string())
        .env("MASTER_ADDR", "127.0.0.1")
        .env("MASTER_PORT", port.to_string())
}

/// A launcher with a command, its folder and its variables.
pub(crate) fn through(mut launcher: Command, command: &Command) -> Command {
    launcher
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(command.get_current_dir().unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => launcher.env(name, value),
            None => launcher.env_remove(name),
        };
    }
    launcher
}

/// Starts a rank for each command.
pub(crate) fn start(commands: Vec<Command>) -> Vec<Child> {
    let (size, port) = (commands.len(), free_port());
    let ranks = commands.into_iter().enumerate();
    ranks
        .map(|(rank, mut command)| as_rank(&mut command, rank, size, port).spawn().unwrap())
        .collect()
}

/// How each ended, all within `limit`.
#[track_caller]
pub(crate) fn ended(mut ranks: Vec<Child>, limit: Duration) -> Vec<Ended> {
    let since = Instant::now();
    while ranks
        .iter_mut()
        .any(|rank| rank.try_wait().unwrap().is_none())
    {
        if since.elapsed() > limit {
            for rank in &mut ranks {
                let _ = rank.kill();
            }
            let outputs: Vec<Output> = ranks
                .into_iter()
                .map(|rank| rank.wait_with_output().unwrap())
                .collect();
            panic!("ranks have not ended within {limit:?}: {outputs:?}");
        }
        thread::sleep(Duration::from_millis(10));
    }
    let outputs = ranks
        .into_iter()
        .map(|rank| rank.wait_with_output().unwrap());
    outputs.map(Ended::from).collect()
}

pub(crate) const LONG: Duration = Duration::from_secs(120);
const SHORT: Duration = Duration::from_secs(10);

pub(crate) fn weights(sandbox: &Sandbox, run: &str) -> Vec<u8> {
    fs_err::read(sandbox.path(run).join("final/model.safetensors")).unwrap()
}

/// The log of a run without what is measured by the clock.
fn log(sandbox: &Sandbox, run: &str) -> Vec<serde_json::Value> {
    let text = fs_err::read_to_string(sandbox.path(run).join("metrics.jsonl")).unwrap();
    let mut entries = crate::sandbox::json_lines(&text);
    for entry in &mut entries {
        let entry = entry.as_object_mut().unwrap();
        entry.retain(|key, _| !key.ends_with("_runtime") && !key.ends_with("_per_second"));
    }
    entries
}

/// Waits until a run has logged its first step.
#[track_caller]
pub(crate) fn wait_for_a_step(sandbox: &Sandbox, run: &str) {
    let since = Instant::now();
    let metrics = sandbox.path(run).join("metrics.jsonl");
    while std::fs::metadata(&metrics).map_or(0, |metadata| metadata.len()) == 0 {
        assert!(since.elapsed() < LONG, "no step was made");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Two ranks have the bits, log and weights, of one process that makes both batches of a step. By libtorch's engine: our
/// kernels add the tokens of two batches to a gradient in another order than the sums of two ranks.
#[test]
fn two_ranks_have_the_bits_of_two_accumulated_batches() {
    let sandbox = Sandbox::new();
    // Twelve batches, so that neither leaves any out.
    let dev = data("triplets-dev.jsonl");
    let flags = [
        "--engine",
        "libtorch",
        "--train-data",
        dev.to_str().unwrap(),
        "--per-device-train-batch-size",
        "5",
    ];
    let alone = train(&sandbox, "alone", &flags)
        .args(["--gradient-accumulation-steps", "2"])
        .output()
        .unwrap();
    Ended::from(alone).ok();
    let together = train(&sandbox, "together", &flags)
        .args(["--processes", "2"])
        .output()
        .unwrap();
    let together = Ended::from(together);
    assert!(
        together.stderr.contains("rank 0 of 2 meets the others"),
        "{together:?}"
    );
    together.ok();
    assert!(weights(&sandbox, "alone") == weights(&sandbox, "together"));
    assert_eq!(log(&sandbox, "alone"), log(&sandbox, "together"));
}

/// Ranks of a launcher, as many files and as many lines of a log as of one process, and the same bits again.
#[test]
fn ranks_write_one_folder() {
    let sandbox = Sandbox::new();
    let dev = data("triplets-dev.jsonl");
    let flags = [
        "--eval-data",
        dev.to_str().unwrap(),
        "--test-data",
        dev.to_str().unwrap(),
        "--eval-strategy",
        "steps",
        "--eval-steps",
        "4",
    ];
    for run in ["first", "second"] {
        let ranks = start((0..3).map(|_| train(&sandbox, run, &flags)).collect());
        let mut stdout = ended(ranks, LONG).into_iter().map(Ended::ok);
        assert!(stdout.next().unwrap().contains("cosine_accuracy"));
        assert!(stdout.all(|text| text.is_empty()));
    }
    let mut expected = sandbox.files("first");
    expected.retain(|name| name != ".lock");
    assert_eq!(sandbox.files("second"), expected);
    assert!(
        expected.contains(&"results.json".to_owned()),
        "{expected:?}"
    );
    let csv = fs_err::read_dir(sandbox.path("first/eval")).unwrap();
    for file in csv {
        let text = fs_err::read_to_string(file.unwrap().path()).unwrap();
        // The head, and one row for each of two evaluations.
        assert_eq!(text.lines().count(), 3, "{text}");
    }
    assert_eq!(log(&sandbox, "first"), log(&sandbox, "second"));
    assert!(weights(&sandbox, "first") == weights(&sandbox, "second"));
}

/// One rank is no group: nobody listens at the address, and nobody is looked for there.
#[test]
fn one_rank_is_one_process() {
    let sandbox = Sandbox::new();
    let plain = train(&sandbox, "plain", &[]).output().unwrap();
    Ended::from(plain).ok();
    let mut command = train(&sandbox, "one", &["--processes", "1"]);
    as_rank(&mut command, 0, 1, 1);
    let one = Ended::from(
        command
            .env("MASTER_ADDR", "nowhere.invalid")
            .output()
            .unwrap(),
    );
    assert!(!one.stderr.contains("meets the others"), "{one:?}");
    one.ok();
    assert!(weights(&sandbox, "plain") == weights(&sandbox, "one"));
    assert_eq!(log(&sandbox, "plain"), log(&sandbox, "one"));
}

#[test]
fn wrong_launches_are_wrong_use() {
    let sandbox = Sandbox::new();
    let ended = |command: &mut Command| Ended::from(command.output().unwrap());
    let mut command = train(&sandbox, "run", &[]);
    ended(command.env("RANK", "0")).failed(2, &["WORLD_SIZE is not set"]);
    let mut command = train(&sandbox, "run", &["--processes", "2"]);
    let refused = ended(as_rank(&mut command, 0, 2, 1));
    refused.failed(
        2,
        &["--processes 2 starts ranks, and this process is rank 0 of 2 already"],
    );
    assert!(!sandbox.path("run").exists());
}

/// Every rank says which one differs and in what, before anything is written.
#[test]
fn ranks_that_differ_are_refused_by_name() {
    let sandbox = Sandbox::new();
    let dev = data("triplets-dev.jsonl");
    // The same name with other rows, as on another machine.
    let folder = sandbox.path("elsewhere");
    fs_err::create_dir(&folder).unwrap();
    fs_err::copy(&dev, folder.join("own.jsonl")).unwrap();
    fs_err::copy(data("triplets.jsonl"), sandbox.path("own.jsonl")).unwrap();
    let own = ["--train-data", "own.jsonl"];
    let mut elsewhere = train(&sandbox, "run", &own);
    elsewhere.current_dir(&folder);
    for (other, words) in [
        (
            train(&sandbox, "run", &["--seed", "4"]),
            "--seed is 4 and not 3",
        ),
        (elsewhere, "training data is "),
    ] {
        let first = match words {
            "training data is " => train(&sandbox, "run", &own),
            _ => train(&sandbox, "run", &[]),
        };
        for (rank, ended) in ended(start(vec![first, other]), LONG)
            .into_iter()
            .enumerate()
        {
            let who = format!("rank {rank}: rank 1 differs from rank 0: ");
            ended.failed(1, &[&who, words, "start all ranks alike"]);
        }
        assert!(!sandbox.path("run/config.toml").exists());
    }
}

/// Two runs on one port: the second is told, and the first is not disturbed.
#[test]
fn a_second_run_on_the_same_port_is_refused() {
    let sandbox = Sandbox::new();
    let port = free_port();
    let many = ["--max-steps", "100000"];
    let spawn = |run: &str, rank: usize| {
        as_rank(&mut train(&sandbox, run, &many), rank, 2, port)
            .spawn()
            .unwrap()
    };
    let first = [spawn("first", 0), spawn("first", 1)];
    wait_for_a_step(&sandbox, "first");
    let second = ended(vec![spawn("second", 0), spawn("second", 1)], LONG);
    let listens = format!("rank 0 can't listen on port {port}, which another program has");
    second[0].failed(1, &[&listens, "MASTER_PORT"]);
    let twice = format!("rank 1 has come to 127.0.0.1:{port} twice: another run meets there");
    second[1].failed(1, &[&twice, "MASTER_PORT"]);
    assert!(!sandbox.path("second/config.toml").exists());
    let [mut zero, one] = first;
    assert!(zero.try_wait().unwrap().is_none());
    signal(zero.id(), "INT");
    let codes = ended(vec![zero, one], LONG)
        .into_iter()
        .map(|ended| ended.code);
    assert_eq!(codes.collect::<Vec<_>>(), [Some(130), Some(143)]);
}

/// A signal to one rank stops all after the same step, which is saved, and goes on to the same bits.
#[test]
fn a_signal_to_one_rank_stops_all() {
    let sandbox = Sandbox::new();
    let many = ["--max-steps", "150", "--save-steps", "1000"];
    let whole = start((0..2).map(|_| train(&sandbox, "whole", &many)).collect());
    for ended in ended(whole, LONG) {
        ended.ok();
    }
    let ranks = start((0..2).map(|_| train(&sandbox, "run", &many)).collect());
    wait_for_a_step(&sandbox, "run");
    signal(ranks[1].id(), "TERM");
    for ended in ended(ranks, SHORT) {
        assert_eq!(ended.code, Some(143), "{ended:?}");
    }
    let mut checkpoints = sandbox.files("run");
    checkpoints.retain(|name| name.starts_with("checkpoint-"));
    assert_eq!(checkpoints.len(), 1, "{checkpoints:?}");
    let resumed = [&many[..], &["--resume-from-checkpoint"]].concat();
    let ranks = start((0..2).map(|_| train(&sandbox, "run", &resumed)).collect());
    for ended in ended(ranks, LONG) {
        ended.ok();
    }
    assert!(weights(&sandbox, "run") == weights(&sandbox, "whole"));
    // Alone it is another run, unless that is asked for.
    let alone = Ended::from(train(&sandbox, "run", &resumed).output().unwrap());
    alone.failed(2, &["number of ranks was 2 and is 1", "--resume-anyway"]);
}

/// The starting process passes a signal on, and ranks stop where it is gone.
#[test]
fn ranks_stop_with_the_process_that_started_them() {
    let sandbox = Sandbox::new();
    let many = ["--max-steps", "100000", "--processes", "2"];
    for name in ["TERM", "KILL"] {
        let run = format!("run-{name}");
        let mut parent = train(&sandbox, &run, &many)
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_for_a_step(&sandbox, &run);
        signal(parent.id(), name);
        let since = Instant::now();
        let status = parent.wait().unwrap();
        let lock = sandbox.path(&run).join(".lock");
        while lock.exists() {
            assert!(since.elapsed() < SHORT, "{name}: the ranks go on");
            thread::sleep(Duration::from_millis(10));
        }
        let expected = (name == "TERM").then_some(143);
        assert_eq!(status.code(), expected, "{name}");
        let files = sandbox.files(&run);
        assert!(
            files.iter().any(|file| file.starts_with("checkpoint-")),
            "{files:?}"
        );
    }
}

/// A rank that dies ends the others within seconds, by its name; the checkpoint before is there.
#[test]
fn a_rank_that_dies_is_named_by_the_others() {
    let sandbox = Sandbox::new();
    let many = ["--max-steps", "100000", "--save-steps", "2"];
    for victim in 0..3 {
        let run = format!("run-{victim}");
        let mut ranks = start((0..3).map(|_| train(&sandbox, &run, &many)).collect());
        wait_for_a_step(&sandbox, &run);
        ranks[victim].kill().unwrap();
        ranks.remove(victim).wait().unwrap();
        let words = format!("rank {victim} is gone: its process has ended without a word");
        for ended in ended(ranks, SHORT) {
            ended.failed(1, &[&words, "--resume-from-checkpoint"]);
        }
    }
    // Under one process that starts them, it says so too.
    let parent = train(&sandbox, "started", &["--processes", "2"])
        .env("SENTUNE_FAILPOINT", "sync manifest.json@1=kill")
        .output()
        .unwrap();
    let parent = Ended::from(parent);
    assert_eq!(parent.code, Some(1), "{parent:?}");
    for words in ["rank 1: rank 0 is gone", "error: rank 0 of 2: signal: 6"] {
        assert!(parent.stderr.contains(words), "{words}: {parent:?}");
    }
}

/// The names of the threads of a process.
fn threads(process: u32) -> Vec<String> {
    let threads = fs_err::read_dir(format!("/proc/{process}/task")).unwrap();
    let names = threads.map(|thread| fs_err::read_to_string(thread.unwrap().path().join("comm")));
    // Some may have ended since.
    names.flatten().map(|name| name.trim().to_owned()).collect()
}

/// Before all ranks have met, one that never comes is named by the others at the time-out, and one that was there is at
/// once.
#[test]
fn a_rank_that_is_gone_before_all_have_met_is_named_by_the_others() {
    let sandbox = Sandbox::new();
    let start_some = |ranks: &[usize], size: usize, flags: &[&str]| -> Vec<Child> {
        let port = free_port();
        let start = |&rank| {
            as_rank(&mut train(&sandbox, "run", flags), rank, size, port)
                .spawn()
                .unwrap()
        };
        ranks.iter().map(start).collect()
    };
    for missing in [1, 2] {
        let ranks = start_some(&[0, 3 - missing], 3, &["--ddp-timeout", "3"]);
        for ended in ended(ranks, SHORT) {
            let words = format!("rank {missing} of 3 did not come to 127.0.0.1:");
            ended.failed(1, &[&words, "within 3 s (--ddp-timeout)"]);
        }
    }
    for victim in 0..3 {
        // Three that wait for a fourth.
        let mut ranks = start_some(&[0, 1, 2], 4, &[]);
        let since = Instant::now();
        let is_followed = |names: &[String], rank| names.contains(&format!("watch over {rank}"));
        while !(1..3).all(|rank| is_followed(&threads(ranks[0].id()), rank)) {
            assert!(since.elapsed() < LONG, "the ranks do not come");
            thread::sleep(Duration::from_millis(10));
        }
        ranks[victim].kill().unwrap();
        ranks.remove(victim).wait().unwrap();
        let words = format!("rank {victim} is gone: its process has ended without a word");
        for ended in ended(ranks, SHORT) {
            ended.failed(1, &[&words]);
        }
    }
    assert!(!sandbox.path("run/config.toml").exists());
}

/// Rank 0 that dies when it has just begun to listen, or is stuck then, is an error of the others at the time-out.
#[test]
fn rank_0_that_listens_and_does_not_answer_is_named_by_the_others() {
    let sandbox = Sandbox::new();
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let ports = listeners
        .each_ref()
        .map(|listener| listener.local_addr().unwrap().port());
    let start = |port| {
        as_rank(
            &mut train(&sandbox, "run", &["--ddp-timeout", "6"]),
            1,
            2,
            port,
        )
        .spawn()
        .unwrap()
    };
    let ranks = ports.map(start).into();
    // The first looks whether anybody listens. The second is libtorch's, which would go on for twice the time-out, or for
    // ever where the connection does not end.
    let [dead, stuck] = listeners.map(|listener| {
        let connections = [(); 2].map(|()| listener.accept().unwrap());
        (listener, connections)
    });
    drop(dead);
    for (ended, port) in ended(ranks, SHORT).into_iter().zip(ports) {
        let words = format!("nobody answers at 127.0.0.1:{port} within 6 s (--ddp-timeout)");
        ended.failed(
            1,
            &[&words, "where rank 0 or the launcher serves the ranks"],
        );
    }
    drop(stuck);
}

/// Runs two ranks, the second with a failpoint.
fn with_failpoint(
    sandbox: &Sandbox,
    run: &str,
    rank: usize,
    failpoint: &str,
    flags: &[&str],
) -> Vec<Ended> {
    let mut commands: Vec<Command> = (0..2).map(|_| train(sandbox, run, flags)).collect();
    commands[rank].env("SENTUNE_FAILPOINT", failpoint);
    ended(start(commands), LONG)
}

/// A number of one rank that is not finite keeps all from making the step, or ends all.
#[test]
fn a_number_that_is_not_finite_is_so_for_all() {
    let sandbox = Sandbox::new();
    for number in ["loss", "gradient"] {
        let failpoint = format!("{number}@3=nan");
        let run = format!("skipped-{number}");
        let ranks = with_failpoint(&sandbox, &run, 1, &failpoint, &["--skip-nonfinite", "1"]);
        for ended in ranks {
            ended.ok();
        }
        let skipped = log(&sandbox, &run)
            .into_iter()
            .find(|entry| entry.get("skipped_loss").is_some());
        let skipped = skipped.unwrap();
        assert_eq!(skipped["step"], 3, "{skipped}");
        let run = format!("ended-{number}");
        for ended in with_failpoint(&sandbox, &run, 1, &failpoint, &[]) {
            ended.failed(1, &["at step 3", "NaN"]);
        }
    }
}

/// A rank whose memory is full has all begin the step again, at whatever point it was.
#[test]
fn memory_that_is_full_on_one_rank_is_no_end() {
    let sandbox = Sandbox::new();
    // Of each batch of rank 1 in turn: two in each step.
    for (loss, places) in [("mnrl", 3..=4), ("mnrl:gather_across_devices=true", 2..=5)] {
        let flags = [
            "--loss",
            loss,
            "--auto-micro-batch",
            "--gradient-accumulation-steps",
            "2",
        ];
        let whole = format!("whole-{}", loss.len());
        let ranks = start((0..2).map(|_| train(&sandbox, &whole, &flags)).collect());
        for ended in ended(ranks, LONG) {
            ended.ok();
        }
        for place in places {
            let run = format!("run-{}-{place}", loss.len());
            let failpoint = format!("memory@{place}=0");
            for ended in with_failpoint(&sandbox, &run, 1, &failpoint, &flags) {
                ended.ok();
            }
            let (found, expected) = (log(&sandbox, &run), log(&sandbox, &whole));
            for (found, expected) in found.iter().zip(&expected) {
                let (Some(found), Some(expected)) =
                    (found["loss"].as_f64(), expected["loss"].as_f64())
                else {
                    continue;
                };
                assert!(
                    (found - expected).abs() < 1e-4 * expected,
                    "{run}: {found}, {expected}"
                );
            }
        }
    }
    // Where it can't be cut smaller, it is the end of all.
    let ranks = with_failpoint(&sandbox, "ended", 1, "memory@2=0", &[]);
    ranks[0].failed(
        1,
        &["rank 0: rank 1 failed: step 2: the GPU's memory is full"],
    );
    ranks[1].failed(1, &["rank 1: step 2: the GPU's memory is full"]);
}

/// A save that fails on rank 0 ends all, with its words.
#[test]
fn a_failed_save_ends_all() {
    let sandbox = Sandbox::new();
    let ranks = with_failpoint(&sandbox, "run", 0, "sync manifest.json@1=error:28", &[]);
    ranks[0].failed(1, &["the disk is full"]);
    ranks[1].failed(1, &["rank 1: rank 0 failed: ", "the disk is full"]);
    // So does one of the final model, when all steps are made.
    let ranks = with_failpoint(&sandbox, "final", 0, "rename final@1=error:28", &[]);
    ranks[0].failed(1, &["the disk is full"]);
    ranks[1].failed(1, &["rank 1: rank 0 failed: ", "the disk is full"]);
}

/// As torchrun starts ranks anew after a failure: they go on by themselves. An error goes to its file.
#[test]
fn restarted_ranks_go_on_by_themselves() {
    let sandbox = Sandbox::new();
    let whole = start((0..2).map(|_| train(&sandbox, "whole", &[])).collect());
    for ended in ended(whole, LONG) {
        ended.ok();
    }
    let error_file = sandbox.path("error.json");
    let attempt = |n: &str| {
        let mut commands: Vec<Command> = (0..2).map(|_| train(&sandbox, "run", &[])).collect();
        for command in &mut commands {
            command.env("TORCHELASTIC_RESTART_COUNT", n);
            command.env("TORCHELASTIC_ERROR_FILE", &error_file);
        }
        commands
    };
    let mut first = attempt("0");
    first[0].env("SENTUNE_FAILPOINT", "loss@6=nan");
    for ended in ended(start(first), LONG) {
        assert_eq!(ended.code, Some(1), "{ended:?}");
    }
    let error = fs_err::read_to_string(&error_file).unwrap();
    let error: serde_json::Value = serde_json::from_str(&error).unwrap();
    let words = error["message"]["message"].as_str().unwrap();
    assert!(
        words.starts_with("sentune: ") && words.contains("at step 6"),
        "{words}"
    );
    let seconds = error["message"]["extraInfo"]["timestamp"].as_str().unwrap();
    assert!(seconds.parse::<u64>().unwrap() > 1_700_000_000);
    let second = ended(start(attempt("1")), LONG);
    assert!(
        second[0].stderr.contains("going on from run/checkpoint-4"),
        "{second:?}"
    );
    for ended in second {
        ended.ok();
    }
    assert!(weights(&sandbox, "run") == weights(&sandbox, "whole"));
    assert_eq!(log(&sandbox, "run"), log(&sandbox, "whole"));
    // A run that is complete is not begun again.
    for ended in ended(start(attempt("2")), LONG) {
        ended.ok();
    }
}

/// A rank that is stuck is an error of the others at the time-out.
#[test]
fn a_rank_that_is_stuck_is_an_error_at_the_time_out() {
    let sandbox = Sandbox::new();
    let many = ["--max-steps", "100000", "--ddp-timeout", "4"];
    let mut ranks = start((0..2).map(|_| train(&sandbox, "run", &many)).collect());
    wait_for_a_step(&sandbox, "run");
    signal(ranks[1].id(), "STOP");
    let first = ended(vec![ranks.remove(0)], SHORT).remove(0);
    first.failed(
        1,
        &["no answer from another rank within 4 s", "--ddp-timeout"],
    );
    let mut stuck = ranks.remove(0);
    stuck.kill().unwrap();
    stuck.wait().unwrap();
    // One that never comes is an error too.
    let mut command = train(&sandbox, "other", &["--ddp-timeout", "1"]);
    let alone = as_rank(&mut command, 0, 2, free_port()).output().unwrap();
    Ended::from(alone).failed(1, &["rank 1 of 2 did not come to 127.0.0.1:"]);
    assert!(!sandbox.path("other/config.toml").exists());
}
