//! Tests 1 and 3: processes that end in the middle of anything.

use std::thread;

use super::*;

/// Test 1: SIGKILL at random moments, a third of them while a checkpoint is being written. The run that goes on
/// ends as one that was never killed.
#[test]
fn killed_at_random_moments() {
    let sandbox = Sandbox::new();
    let whole = Training::sixty(&sandbox, "whole").and(&["--save-total-limit", "2"]);
    let started = Instant::now();
    whole.run(&[]).ok();
    let duration = started.elapsed();
    let expected = whole.result();

    let n = count(3, 200);
    let mut random = Random::new(1);
    let (mut n_killed, mut n_same) = (0, 0);
    while n_killed < n {
        let killed = Training {
            run: format!("killed-{n_killed}"),
            flags: whole.flags.clone(),
            sandbox: &sandbox,
        };
        let mut child = killed.start(&[]);
        if n_killed % 3 == 2 {
            for _ in 0..=random.below(10) {
                wait_for_save(&mut child, &killed.folder());
                thread::sleep(Duration::from_micros(random.below(4000)));
            }
        } else {
            thread::sleep(duration.mul_f64(random.below(1000) as f64 / 1000.0));
        }
        let has_ended = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        if !has_ended {
            n_killed += 1;
            let before = names(&killed.folder());
            killed.go_on();
            let what = format!("kill {n_killed}, which left {before:?}");
            expected.assert_same(&killed.result(), &what);
            let left: Vec<String> = names(&killed.folder())
                .into_iter()
                .filter(|name| name.starts_with('.'))
                .collect();
            assert!(left.is_empty(), "{what}: {left:?} are left");
            n_same += 1;
        }
        fs_err::remove_dir_all(killed.folder()).ok();
    }
    report("SIGKILLs resumed bit for bit", n_same, n);
}

/// Six steps with a checkpoint every second.
fn six_steps<'s>(sandbox: &'s Sandbox, run: &str) -> Training<'s> {
    let flags = words("--max-steps 6 --save-steps 2 --logging-steps 2");
    Training::new(sandbox, run, &flags).and(&words(
        "--save-total-limit 1 --learning-rate 1e-3 --num-threads 1",
    ))
}

/// Test 3: the process ends at every place of a run that touches a file: before each open, after half of each
/// write, before each sync, rename and removal. What is left is gone on from.
#[test]
fn killed_at_every_failpoint() {
    let sandbox = Sandbox::new();
    let whole = six_steps(&sandbox, "whole");
    whole.run(&[]).ok();
    let expected = whole.result();
    // Every how manyth place.
    let stride = count(61, 1);

    let mut n_killed = 0;
    for place in (1..).step_by(stride) {
        let killed = six_steps(&sandbox, "killed");
        let failed = killed.run_with(&format!("*@{place}=kill"), &[]);
        if failed.status.success() {
            break;
        }
        assert_eq!(failed.status.signal(), Some(6), "place {place}: {failed:?}");
        killed.go_on();
        expected.assert_same(&killed.result(), &format!("place {place}"));
        fs_err::remove_dir_all(killed.folder()).unwrap();
        n_killed += 1;
    }
    assert!(n_killed >= 3 && n_killed * stride > 120, "{n_killed}");

    // Again where a damaged checkpoint is replaced by a good one of the same step.
    let template = six_steps(&sandbox, "template").and(&["--save-total-limit", "9"]);
    template.run(&[]).ok();
    fs_err::remove_dir_all(template.folder().join("final")).unwrap();
    fs_err::write(
        template.folder().join("checkpoint-4/model.safetensors"),
        "damaged",
    )
    .unwrap();
    fs_err::write(
        template.folder().join("checkpoint-6/manifest.json"),
        "damaged",
    )
    .unwrap();
    for place in (1..).step_by(stride) {
        let killed = six_steps(&sandbox, "replaced");
        copy_folder(&template.folder(), &killed.folder());
        let failed = killed.run_with(&format!("*@{place}=kill"), &["--resume"]);
        if failed.status.success() {
            break;
        }
        assert_eq!(failed.status.signal(), Some(6), "place {place}: {failed:?}");
        killed.go_on();
        expected.assert_same(&killed.result(), &format!("replaced, place {place}"));
        fs_err::remove_dir_all(killed.folder()).unwrap();
        n_killed += 1;
    }
    report("places of a save killed at", n_killed, n_killed);
}

/// One trainer a folder: the second is refused and told who has it, and the first goes on.
#[test]
fn a_second_trainer_is_refused() {
    let sandbox = Sandbox::new();
    let first = six_steps(&sandbox, "run").and(&["--max-steps", "100000"]);
    let mut child = first.start(&[]);
    while !first.folder().join("metrics.jsonl").exists() {
        assert!(child.try_wait().unwrap().is_none());
        thread::sleep(Duration::from_millis(5));
    }
    let n = count(2, 100);
    let mut n_refused = 0;
    for _ in 0..n {
        let ended = first.run(&["--overwrite-output-dir"]);
        let holder = format!("run is in use by process {}", child.id());
        ended.failed(1, &["--output-dir", &holder]);
        n_refused += 1;
    }
    assert!(child.try_wait().unwrap().is_none());
    signal(child.id(), "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    report("second trainers refused", n_refused, n);
}

/// Training goes on while a checkpoint is written: nine more steps are made before a slow disk has taken it.
#[test]
fn a_slow_disk_does_not_stall_training() {
    let sandbox = Sandbox::new();
    let run =
        six_steps(&sandbox, "run").and(&words("--max-steps 60 --save-steps 50 --logging-steps 1"));
    let ended = run.run_with("sync manifest.json@1=sleep:3000", &[]);
    assert!(ended.status.success(), "{ended:?}");
    let place = |part: &str| {
        let place = ended.stderr.find(part);
        place.unwrap_or_else(|| panic!("`{part}` is not in: {ended:?}"))
    };
    assert!(
        place(" step 59/60") < place("saved run/checkpoint-50"),
        "{ended:?}"
    );
    assert!(place("saved run/checkpoint-50") < place("saved run/checkpoint-60"));
}
