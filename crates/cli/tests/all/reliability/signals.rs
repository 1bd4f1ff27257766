//! Test 6: signals at any moment end the program within seconds, and nothing is lost.

use std::thread;

use hub::standin::{Fault, Server, StandIn};

use super::*;

const NAMES: [(&str, i32); 3] = [("INT", 2), ("TERM", 15), ("USR1", 10)];

/// Sends the signal and waits: how long it took, and how it ended.
fn end_by(child: &mut Child, name: &str) -> (Duration, ExitStatus) {
    signal(child.id(), name);
    let sent = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return (sent.elapsed(), status);
        }
        assert!(
            sent.elapsed() < Duration::from_secs(60),
            "SIG{name} had no effect"
        );
        thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until the program listens to signals, or ends. Before that, what a signal does is up to whoever started
/// the tests: a shell in the background, for one, has SIGINT ignored.
fn wait_until_listening(child: &mut Child) {
    let listens = |status: &str| {
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        caught.is_some_and(|mask| mask & (1 << (10 - 1)) != 0)
    };
    let status = format!("/proc/{}/status", child.id());
    while Path::new(&status).exists() && child.try_wait().unwrap().is_none() {
        if listens(&std::fs::read_to_string(&status).unwrap_or_default()) {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// The work that a signal interrupts.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    /// Anything in a run with evaluations before, during and after it.
    Any,
    Save,
    Tokenizing,
    Encoding,
    Download,
}

#[test]
fn signals_at_random_moments() {
    let sandbox = Sandbox::new();
    let dev = data("triplets-dev.jsonl");
    let whole = Training::sixty(&sandbox, "whole").and(&[
        "--test-data",
        dev.to_str().unwrap(),
        "--eval-steps",
        "5",
    ]);
    let started = Instant::now();
    whole.run(&[]).ok();
    let duration = started.elapsed();
    let expected = whole.result();

    let triplets = fs_err::read_to_string(data("triplets.jsonl")).unwrap();
    let many = sandbox.write("many.jsonl", triplets.repeat(count(40, 150)));
    let lines = sandbox.write(
        "lines.txt",
        "a man eats an apple\nthe girl sings\n".repeat(count(20_000, 60_000)),
    );
    let standin = StandIn::start().unwrap();
    let mut repo = standin.model("org/tiny");
    for name in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "modules.json",
        "1_Pooling/config.json",
    ] {
        repo = repo.small(name, fs_err::read(model().join(name)).unwrap());
    }
    repo.large(
        "model.safetensors",
        fs_err::read(model().join("model.safetensors")).unwrap(),
    );

    let n = count(5, 200);
    let moments = [
        Moment::Any,
        Moment::Save,
        Moment::Tokenizing,
        Moment::Encoding,
        Moment::Download,
    ];
    let mut random = Random::new(6);
    let (mut n_passed, mut n_running, mut slowest) = (0, 0, Duration::ZERO);
    for i in 0..n {
        let moment = moments[i % moments.len()];
        let (name, number) = NAMES[i / moments.len() % NAMES.len()];
        let run = match moment {
            Moment::Any | Moment::Save => Training {
                run: "run".to_owned(),
                flags: whole.flags.clone(),
                sandbox: &sandbox,
            },
            _ => Training::new(
                &sandbox,
                "run",
                &[
                    "--max-steps",
                    "2",
                    "--train-data",
                    many.to_str().unwrap(),
                    "--token-cache=false",
                ],
            ),
        };
        let mut command = match moment {
            Moment::Encoding => {
                let mut command =
                    sandbox.line(&format!("encode --model MODEL --input {}", lines.display()));
                command.args(["--output", "embeddings.npy"]);
                command
            }
            Moment::Download => {
                standin.fail(
                    Server::Storage,
                    "",
                    1,
                    Fault::Drip(Duration::from_millis(1)),
                );
                let mut command = run.command(&["--model", "org/tiny"]);
                command
                    .env("HF_ENDPOINT", standin.endpoint())
                    .env_remove("HF_HUB_OFFLINE");
                command
            }
            _ => run.command(&[]),
        };
        let mut child = start(&mut command);
        wait_until_listening(&mut child);
        if moment == Moment::Save {
            wait_for_save(&mut child, &run.folder());
            thread::sleep(Duration::from_micros(random.below(3000)));
        } else {
            thread::sleep(duration.mul_f64(random.below(1000) as f64 / 1000.0));
        }
        let (waited, status) = end_by(&mut child, name);
        let what = format!("SIG{name}, {moment:?}: {status:?} after {waited:?}");
        let was_ended = status.code() == Some(128 + number) || status.signal() == Some(number);
        assert!(was_ended || status.success(), "{what}");
        assert!(waited < Duration::from_secs(5), "{what}");
        n_running += usize::from(was_ended);
        slowest = slowest.max(waited);
        match moment {
            Moment::Any | Moment::Save => {
                run.go_on_if_begun();
                expected.assert_same(&run.result(), &what);
            }
            Moment::Tokenizing => run.go_on_if_begun(),
            Moment::Encoding => {
                let whole = !sandbox.path("embeddings.npy").exists() || status.success();
                assert!(whole, "{what}: a half of the embeddings");
                let _ = fs_err::remove_file(sandbox.path("embeddings.npy"));
            }
            Moment::Download => {
                // A signal that came before the request has left the fault to the next one.
                standin.heal();
                let output = run
                    .command(&["--model", "org/tiny", "--overwrite-output-dir"])
                    .env("HF_ENDPOINT", standin.endpoint())
                    .env_remove("HF_HUB_OFFLINE")
                    .output()
                    .unwrap();
                Ended::from(output).ok();
                fs_err::remove_dir_all(sandbox.path("hub")).unwrap();
            }
        }
        if run.folder().exists() {
            fs_err::remove_dir_all(run.folder()).unwrap();
        }
        n_passed += 1;
    }
    say(&format!(
        "{n_running} of {n} signals came before the end; the slowest exit took {slowest:.2?}"
    ));
    report("signals answered within 5 s and resumed", n_passed, n);
}

impl Training<'_> {
    /// Goes on with a run that may have ended, or not have begun.
    fn go_on_if_begun(&self) {
        if !self.folder().join("results.json").exists() {
            self.go_on();
        }
    }
}

/// While the process waits for what never comes, a signal still ends it.
#[test]
fn a_signal_ends_what_waits_for_input() {
    let sandbox = Sandbox::new();
    let mut child = sandbox
        .line("encode --model MODEL --input - --output -")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take();
    wait_until_listening(&mut child);
    thread::sleep(Duration::from_millis(300));
    let (waited, status) = end_by(&mut child, "TERM");
    drop(stdin);
    assert!(
        status.code() == Some(143) || status.signal() == Some(15),
        "{status:?}"
    );
    assert!(waited < Duration::from_secs(5), "{waited:?}");
}

/// The first signal waits for the checkpoint, however long the disk takes; the second does not, and what is there
/// goes on.
#[test]
fn a_second_signal_ends_at_once() {
    let sandbox = Sandbox::new();
    let whole = Training::sixty(&sandbox, "whole");
    whole.run(&[]).ok();
    let run = Training::sixty(&sandbox, "run");
    let mut command = run.command(&[]);
    // The third checkpoint is the slow one.
    command.env("SENTUNE_FAILPOINT", "sync manifest.json@3=sleep:60000");
    let mut child = start(&mut command);
    let is_at_the_manifest = || {
        let is_slow = |name: &String| {
            name.starts_with(".writing-") && run.folder().join(name).join("manifest.json").exists()
        };
        checkpoints(&run.folder()) == [3, 6] && names(&run.folder()).iter().any(is_slow)
    };
    while !is_at_the_manifest() {
        assert!(child.try_wait().unwrap().is_none());
        thread::sleep(Duration::from_millis(2));
    }
    signal(child.id(), "INT");
    thread::sleep(Duration::from_secs(1));
    let was_waiting = child.try_wait().unwrap().is_none();
    let (waited, status) = end_by(&mut child, "TERM");
    assert!(was_waiting, "{status:?}");
    assert_eq!(status.code(), Some(143));
    assert!(waited < Duration::from_secs(1), "{waited:?}");
    assert_eq!(checkpoints(&run.folder()), [3, 6]);
    run.go_on();
    whole
        .result()
        .assert_same(&run.result(), "after two signals");
}
