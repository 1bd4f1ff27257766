//! Tests 2 and 4: going on from every step, and from what is left of a damaged checkpoint.

use super::*;

/// Test 2: a run from the checkpoint of every step ends as the run that made the checkpoints.
#[test]
fn resumed_from_every_step() {
    let sandbox = Sandbox::new();
    let whole = Training::sixty(&sandbox, "whole").and(&["--save-steps", "1"]);
    whole.run(&[]).ok();
    let expected = whole.result();
    assert_eq!(checkpoints(&whole.folder()), (1..=60).collect::<Vec<_>>());
    let n = count(3, 60);
    let mut n_same = 0;
    for i in 1..=n {
        let step = i * 60 / n;
        let resumed = Training::sixty(&sandbox, "resumed");
        let checkpoint = whole.folder().join(format!("checkpoint-{step}"));
        resumed
            .run(&["--resume-from-checkpoint", checkpoint.to_str().unwrap()])
            .ok();
        // From the last step there is nothing left to do, and so nothing to save.
        if step == 60 {
            copy_folder(&checkpoint, &resumed.folder().join("checkpoint-60"));
        }
        expected.assert_same(&resumed.result(), &format!("from step {step}"));
        fs_err::remove_dir_all(resumed.folder()).unwrap();
        n_same += 1;
    }
    report("steps resumed from bit for bit", n_same, n);
}

/// A way to spoil a checkpoint.
fn spoil(kind: u64, newest: &Path, older: &Path, random: &mut Random) -> String {
    let files = [
        "manifest.json",
        "model.safetensors",
        "optimizer.safetensors",
        "trainer_state.json",
        "config.json",
        "tokenizer.json",
    ];
    let name = files[random.below(files.len() as u64) as usize];
    let path = newest.join(name);
    let mut bytes = fs_err::read(&path).unwrap();
    let at = random.below(bytes.len() as u64) as usize;
    match kind {
        0..=4 => {
            bytes[at] ^= 1 << random.below(8);
            fs_err::write(&path, &bytes).unwrap();
            format!("a bit of {name} at {at} flipped")
        }
        5 => {
            fs_err::write(&path, &bytes[..at]).unwrap();
            format!("{name} cut off at {at}")
        }
        6 => {
            let end = bytes.len().min(at + 4096);
            // A page that is zero already is none that was lost.
            bytes[at] ^= 0xff;
            bytes[at + 1..end].fill(0);
            fs_err::write(&path, &bytes).unwrap();
            format!("a page of {name} at {at} lost")
        }
        7 => {
            fs_err::remove_file(&path).unwrap();
            format!("{name} missing")
        }
        8 => {
            // Files that are the same in every checkpoint may be swapped.
            let name = files[random.below(4) as usize];
            fs_err::copy(older.join(name), newest.join(name)).unwrap();
            format!("{name} from an older checkpoint")
        }
        _ => {
            let manifest = newest.join("manifest.json");
            let text = fs_err::read_to_string(&manifest).unwrap();
            let version = 2 + random.below(1000);
            let text = text.replace(
                "\"format_version\": 1",
                &format!("\"format_version\": {version}"),
            );
            fs_err::write(&manifest, text).unwrap();
            format!("format version {version}")
        }
    }
}

/// Test 4: of a damaged checkpoint nothing is ever loaded: the run goes on from the one before, and says so, and
/// ends as if nothing had been. Where it is the only one, the run is refused.
#[test]
fn damaged_checkpoints_are_passed_over() {
    let sandbox = Sandbox::new();
    let flags = words("--max-steps 4 --save-steps 2 --learning-rate 1e-3 --num-threads 1");
    let whole = Training::new(&sandbox, "whole", &flags);
    whole.run(&[]).ok();
    let expected = whole.result();
    let n = count(10, 1000);
    let mut random = Random::new(4);
    let mut n_passed = 0;
    for i in 0..n {
        let damaged = Training::new(&sandbox, "damaged", &flags);
        let folder = damaged.folder();
        copy_folder(&whole.folder(), &folder);
        fs_err::remove_dir_all(folder.join("final")).unwrap();
        let (older, newest) = (folder.join("checkpoint-2"), folder.join("checkpoint-4"));
        let what = spoil(i as u64 % 10, &newest, &older, &mut random);
        let is_alone = i % 4 == 3;
        if is_alone {
            fs_err::remove_dir_all(&older).unwrap();
        }
        let ended = damaged.run(&["--resume-from-checkpoint"]);
        if is_alone {
            ended.failed(1, &["holds no checkpoint that is whole", "checkpoint-4: "]);
            assert!(!folder.join("final").exists(), "{what}: {ended:?}");
        } else {
            assert_eq!(ended.code, Some(0), "{what}: {ended:?}");
            let says = |part: &str| assert!(ended.stderr.contains(part), "{what}: {ended:?}");
            says(" WARN checkpoint damaged/checkpoint-4: ");
            says("going on from damaged/checkpoint-2");
            expected.assert_same(&damaged.result(), &what);
        }
        fs_err::remove_dir_all(&folder).unwrap();
        n_passed += 1;
    }
    report("damaged checkpoints passed over or refused", n_passed, n);
}

/// A difference from the checkpoint's run is named, and accepted only with a flag.
#[test]
fn another_run_is_named_and_refused() {
    let sandbox = Sandbox::new();
    let flags = words("--max-steps 4 --save-steps 2 --num-threads 1");
    let run = Training::new(&sandbox, "run", &flags);
    run.run(&[]).ok();
    let other_model = sandbox.copy_of_model();
    let weights = other_model.join("model.safetensors");
    let mut bytes = fs_err::read(&weights).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs_err::write(&weights, bytes).unwrap();
    let pairs = data("triplets-dev.jsonl");
    let cases: [(&[&str], &str); 7] = [
        (&["--seed", "7"], "--seed was 42 and is 7"),
        (
            &["--learning-rate", "1e-3"],
            "--learning-rate was 0.00005 and is 0.001",
        ),
        (&["--loss", "triplet"], "loss was MultipleNegativesRanking"),
        (
            &["--dropout", "0.2"],
            "dropout was 0.1 (attention: 0.1) and is 0.2 (attention: 0.2)",
        ),
        (
            &["--max-seq-length", "50"],
            "sentence_bert_config.json of the starting model was sha256",
        ),
        (
            &["--model", other_model.to_str().unwrap()],
            "model.safetensors of the starting model was sha256",
        ),
        (
            &["--train-data", pairs.to_str().unwrap()],
            "training data was sha256",
        ),
    ];
    for (change, part) in cases {
        let resume = [change, &["--resume"]].concat();
        let config = fs_err::read(run.folder().join("config.toml")).unwrap();
        run.run(&resume).failed(
            2,
            &["checkpoint-4 is of another run", part, "--resume-anyway"],
        );
        assert!(fs_err::read(run.folder().join("config.toml")).unwrap() == config);
    }
    let ended = run.run(&[
        "--max-steps",
        "6",
        "--train-data",
        pairs.to_str().unwrap(),
        "--resume",
        "--resume-anyway",
    ]);
    assert!(
        ended
            .stderr
            .contains("WARN going on although the training data was"),
        "{ended:?}"
    );
    ended.ok();
    assert_eq!(checkpoints(&run.folder()), [2, 4, 6]);
}

/// A run that ended before its first checkpoint starts again, and one that is not there is not made up.
#[test]
fn without_a_checkpoint() {
    let sandbox = Sandbox::new();
    let run = Training::new(&sandbox, "run", &["--max-steps", "2", "--num-threads", "1"]);
    run.run(&["--resume"])
        .failed(1, &["run holds no checkpoint; leave the flag out to start"]);
    assert!(!run.folder().exists());
    let failed = run.run_with("make .writing@1=kill", &[]);
    assert_eq!(failed.status.signal(), Some(6), "{failed:?}");
    assert!(checkpoints(&run.folder()).is_empty());
    let ended = run.run(&["--resume"]);
    assert!(
        ended
            .stderr
            .contains("ended before its first checkpoint: starting it again"),
        "{ended:?}"
    );
    ended.ok();
    assert_eq!(checkpoints(&run.folder()), [2]);
}
